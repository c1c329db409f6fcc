"""The four commands and the edit, work folders that are whole or stale, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realdrag.api import Editor

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]

DRAG = "215,120:210,112"
OTHER = "215,120:222,118"
COMMAND = [sys.executable, "-c", "from realdrag.cli import main; main()"]


def heeding_ctrl_c() -> None:
    """For `preexec_fn`: a shell's background job, which the tests may be, ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# As `COMMAND`, but Ctrl-C comes at a given step of a given stretch, as a signal.
AT_STEP = """
import os, signal, sys
from realdrag import cli, terminal
stretch, step = os.environ["AT"].split()
told = terminal.TerminalProgress.step
def interrupted(self, done, note=""):
    told(self, done, note)
    if (self.name, done) == (stretch, int(step)):
        os.kill(os.getpid(), signal.SIGINT)
terminal.TerminalProgress.step = interrupted
cli.main()
"""


@pytest.fixture
def drags(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each drag that is computed from now on."""
    made: list[Any] = []
    drag = Editor.drag

    def counted(self: Editor, *arguments: Any, **options: Any) -> Any:
        made.append(options["previous"])
        return drag(self, *arguments, **options)

    monkeypatch.setattr(Editor, "drag", counted)
    return made


@pytest.fixture(autouse=True)
def kept(request: pytest.FixtureRequest) -> None:
    """The finished result under a name that no test writes to."""
    if "here" in request.fixturenames:
        folder = request.getfixturevalue("here")
        shutil.copy(folder / "out.png", folder / "finished.png")


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_edit_is_its_four_stages(
    finished: tuple[Path, Path], tmp_path: Path, process: Run, quick: Path, contents: Contents
) -> None:
    """Each in a process of its own, on an empty store: every byte the same."""
    for name in ("a.png", "mask.png"):
        shutil.copy(finished[0] / name, tmp_path)
    for command in (
        ["align", "a.png", "-w", "work"],
        ["invert", "-w", "work"],
        ["drag", "-w", "work", "--drag", DRAG, "--mask", "mask.png"],
        ["composite", "-w", "work", "-o", "out.png"],
    ):
        ran = process(*command, "--quiet", cwd=tmp_path)
        assert (ran.code, ran.err) == (0, ""), command
    one, four = contents(finished[0]), contents(tmp_path)
    assert one.pop("work/result.json")
    assert four.pop("work/result.json")
    assert one.keys() == four.keys()
    assert {name for name in one if one[name] != four[name]} == set()


def test_what_is_done_is_not_done_again(here: Path, cli: Run, drags: list[Any]) -> None:
    before = times(here / "work")
    assert cli("align", "a.png", "-w", "work").code == 0
    assert cli("invert", "-w", "work", "--json").code == 0
    assert cli("drag", "-w", "work", "--drag", DRAG, "--mask", "mask.png").code == 0
    assert times(here / "work") == before
    assert drags == []


def test_the_report_is_the_same_for_the_edit_and_the_command_and_is_made_again_from_the_store(
    here: Path, cli: Run, contents: Contents
) -> None:
    ran = cli("edit", "a.png", "-o", "2.png", "--drag", DRAG, "--mask", "mask.png", "--report", "one.png", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["verdict"].startswith(("inside", "at the edge", "outside"))
    record = json.loads(cli("invert", "-w", "work", "--report", "two.png", "--json").out)
    assert record["cache"] == "hit"
    assert record["verdict"] == json.loads(ran.out)["verdict"]
    files = contents(here)
    assert files["one.png"] == files["two.png"]


def test_a_photo_outside_the_model_s_domain_is_told(here: Path, cli: Run) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png")
    ran = cli("edit", "noise.png", "--whole", "-o", "3.png", "--drag", "40,40:44,44")
    assert ran.code == 0
    assert "the photo lies outside the model's domain" in ran.err
    assert "--model" in ran.err


def test_strength_is_the_same_for_the_edit_and_the_commands(
    here: Path, cli: Run, drags: list[Any], contents: Contents
) -> None:
    """An edit at a strength, and a drag taken to it afterwards, without dragging again: every byte the same."""
    drag = ["--drag", DRAG, "--mask", "mask.png"]
    assert cli("edit", "a.png", "-o", "out.png", *drag, "-w", "half", "--strength", "0.5", "--quiet").code == 0
    assert drags == [None]
    for again in (["--strength", "1.5"], ["--strength", "0"], [*drag, "--strength", "0.5"]):
        assert cli("drag", "-w", "work", *again).code == 0
    assert cli("composite", "-w", "work", "-o", "out.png").code == 0
    assert drags == [None]
    assert contents(here / "half") == contents(here / "work")
    assert Path("out.png").read_bytes() != Path("finished.png").read_bytes()
    assert json.loads(Path("work/drag.json").read_text())["strength"] == 0.5


def test_strength_1_again_is_the_drag_as_it_was(here: Path, cli: Run, drags: list[Any], contents: Contents) -> None:
    before = contents(here / "work")
    assert cli("drag", "-w", "work", "--strength", "0.4").code == 0
    assert contents(here / "work")["dragged.png"] != before["dragged.png"]
    ran = cli("composite", "-w", "work", "-o", "less.png")
    assert ran.code == 0
    assert cli("drag", "-w", "work", "--drag", DRAG, "--mask", "mask.png").code == 0  # 1 is what it is without a word
    assert cli("composite", "-w", "work", "-o", "out.png").code == 0
    assert contents(here / "work") == before
    assert drags == []


def test_strength_0_is_the_photo_to_the_byte(here: Path, cli: Run) -> None:
    assert cli("edit", "a.png", "-o", "0.png", "--drag", DRAG, "--strength", "0").code == 0
    assert Path("0.png").read_bytes() == Path("a.png").read_bytes()


def test_another_strength_makes_the_result_stale_no_more_than_a_drag_does(here: Path, cli: Run) -> None:
    """And what is shown without a strength is the one that the folder holds."""
    assert cli("drag", "-w", "work", "--strength", "0.5", "--film", "half.png").code == 0
    assert "strength 0.5" in cli("drag", "-w", "work", "--plot", "p.png").out
    assert json.loads(Path("work/drag.json").read_text())["strength"] == 0.5


def test_going_on_from_a_strength_begins_there_and_strength_0_is_still_the_photo(
    here: Path, cli: Run, drags: list[Any]
) -> None:
    assert cli("drag", "-w", "work", "--strength", "0.5").code == 0
    assert cli("drag", "-w", "work", "--drag", "215,118:222,118", "--continue").code == 0
    assert [previous.strength for previous in drags] == [0.5]
    assert cli("drag", "-w", "work", "--strength", "0").code == 0
    assert cli("composite", "-w", "work", "-o", "0.png").code == 0
    assert Path("0.png").read_bytes() == Path("a.png").read_bytes()
    assert len(drags) == 1


def test_strength_needs_a_drag_to_be_of(here: Path, cli: Run) -> None:
    assert cli("align", "a.png", "-w", "fresh").code == 0
    assert cli("invert", "-w", "fresh").code == 0
    ran = cli("drag", "-w", "fresh", "--strength", "0.5")
    assert (ran.code, ran.out) == (2, "")
    assert "drag was not run" in ran.err


def test_a_drag_with_another_mask_is_another_drag(here: Path, cli: Run, drags: list[Any]) -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[60:180, 150:290] = 255
    Image.fromarray(mask).save("wider.png")
    assert cli("drag", "-w", "work", "--drag", DRAG, "--mask", "wider.png").code == 0
    assert cli("drag", "-w", "work", "--drag", DRAG).code == 0
    assert not Path("work/mask.png").exists()
    assert drags == [None, None]


def test_a_mask_that_was_laid_into_the_folder_is_noticed(here: Path, cli: Run, drags: list[Any]) -> None:
    assert cli("drag", "-w", "work", "--drag", DRAG).code == 0
    shutil.copy("mask.png", "work/mask.png")
    assert cli("composite", "-w", "work", "-o", "2.png").code == 2
    assert cli("drag", "-w", "work", "--drag", DRAG).code == 0
    assert cli("composite", "-w", "work", "-o", "2.png").code == 0


def test_continue_goes_on_from_the_last_drag(here: Path, cli: Run, drags: list[Any]) -> None:
    first = json.loads(Path("work/drag.json").read_text())
    x, y = first["handles"][0]["end"]
    mask = Path("work/mask.png").read_bytes()
    ran = cli("drag", "-w", "work", "--continue", "--drag", f"{x},{y}:{x + 6},{y}", "--json")
    assert ran.code == 0
    (previous,) = drags
    assert previous is not None
    np.testing.assert_allclose(previous.handles[0].end, [x, y])
    assert Path("work/mask.png").read_bytes() == mask, "its mask holds on"
    assert json.loads(ran.out)["handles"][0]["start"] == [x, y]
    assert cli("composite", "-w", "work", "-o", "2.png").code == 0


def test_another_photo_starts_anew(here: Path, cli: Run, astronaut: Any) -> None:
    Image.fromarray(astronaut[:, ::-1]).save("b.jpg", quality=95)
    assert cli("align", "b.jpg", "-w", "work").code == 0
    assert not Path("work/photo.png").exists()
    assert Path("work/photo.jpg").read_bytes() == Path("b.jpg").read_bytes()
    ran = cli("drag", "-w", "work", "--drag", DRAG)
    assert ran.code == 2
    assert "realdrag invert -w work" in ran.err


def test_a_photo_that_lay_in_the_folder_is_used_and_never_replaced(here: Path, cli: Run, contents: Contents) -> None:
    Path("album").mkdir()
    shutil.copy("a.png", "album/photo.png")
    assert cli("edit", "album/photo.png", "-o", "2.png", "--drag", DRAG, "-w", "album").code == 0
    assert Path("album/photo.png").read_bytes() == Path("a.png").read_bytes()
    Image.open("a.png").save("a.jpg")
    before = contents(here)
    ran = cli("edit", "a.jpg", "-o", "3.png", "--drag", DRAG, "-w", "album")
    assert ran.code == 2
    assert "photo.png of another origin" in ran.err
    assert contents(here) == before


def test_a_folder_of_other_things_is_no_work_folder(here: Path, cli: Run, contents: Contents) -> None:
    """`-w .` beside one's own mask.png must not cost the mask."""
    before = contents(here)
    ran = cli("edit", "a.png", "-o", "2.png", "--drag", DRAG, "--mask", "mask.png", "-w", ".")
    assert ran.code == 2
    assert "mask.png of another origin" in ran.err
    assert contents(here) == before


def picture() -> bytes:
    Image.new("RGB", (64, 64), (9, 8, 7)).save("x.png")
    data = Path("x.png").read_bytes()
    Path("x.png").unlink()
    return data


@pytest.mark.parametrize(
    ("name", "data", "command", "named"),
    [
        ("align.json", None, "invert -w work", "realdrag align PHOTO -w work"),
        ("align.json", b"{", "invert -w work", "realdrag align PHOTO -w work"),
        ("aligned.png", None, "invert -w work", "realdrag align PHOTO -w work"),
        ("aligned.png", b"other", "invert -w work", "realdrag align PHOTO -w work"),
        ("aligned.png", b"other", f"drag -w work --drag {OTHER}", "realdrag align PHOTO -w work"),
        ("photo.png", None, f"drag -w work --drag {OTHER}", "realdrag align PHOTO -w work"),
        ("invert.json", None, f"drag -w work --drag {OTHER}", "realdrag invert -w work"),
        ("inverted.png", b"other", f"drag -w work --drag {OTHER}", "realdrag invert -w work"),
        ("inverted.png", None, "composite -w work -o 2.png", "realdrag invert -w work"),
        ("drag.json", None, "composite -w work -o 2.png", "realdrag drag --drag … -w work"),
        ("drag.json", None, f"drag -w work --continue --drag {OTHER}", "realdrag drag --drag … -w work"),
        ("drag.safetensors", b"other", f"drag -w work --continue --drag {OTHER}", "realdrag drag --drag … -w work"),
        ("dragged.png", b"other", "composite -w work -o 2.png", "realdrag drag --drag … -w work"),
        ("mask.png", None, "composite -w work -o 2.png", "realdrag drag --drag … -w work"),
    ],
)
def test_a_stage_names_the_one_to_run_first(
    here: Path, cli: Run, contents: Contents, name: str, data: bytes | None, command: str, named: str
) -> None:
    path = Path("work", name)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(picture() if data == b"other" and name.endswith(".png") else data)
    before = contents(here)
    ran = cli(*command.split())
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert named in ran.err
    assert contents(here) == before


def test_a_damaged_folder_heals_when_the_stages_run_again(here: Path, cli: Run, contents: Contents) -> None:
    whole = contents(here / "work")
    for name in ("aligned.png", "inverted.png", "drag.safetensors", "dragged.png", "mask.png", "photo.png"):
        Path("work", name).write_bytes(b"damaged")
        if name == "photo.png":
            Path("work", name).unlink()
        edit = ["edit", "a.png", "-o", "2.png", "--drag", DRAG, "--mask", "mask.png", "-w", "work"]
        assert cli(*edit).code == 0, name
        healed = contents(here / "work")
        assert {n for n in whole if healed[n] != whole[n]} <= {"result.json"}, name


def test_a_folder_that_was_aligned_anew_is_not_composited_with_the_old_drag(here: Path, cli: Run) -> None:
    assert cli("align", "a.png", "-w", "work", "--whole").code == 0
    ran = cli("composite", "-w", "work", "-o", "2.png")
    assert ran.code == 2
    assert "realdrag invert -w work" in ran.err


def test_a_copied_folder_goes_on_elsewhere(here: Path, cli: Run) -> None:
    shutil.move("work", "moved")
    assert cli("composite", "-w", "moved", "-o", "2.png").code == 0
    assert Path("2.png").read_bytes() == Path("out.png").read_bytes()


def test_a_latent_that_this_store_lacks(here: Path, cli: Run, own_home: Path) -> None:
    shutil.rmtree(own_home / "latents")
    ran = cli("drag", "-w", "work", "--drag", OTHER)
    assert ran.code == 2
    assert "realdrag invert -w work" in ran.err


def test_two_edits_at_once_in_one_folder(here: Path, own_home: Path) -> None:
    """One after the other: the folder is the second's, whole, and both results are right."""
    edits = [
        subprocess.Popen(
            [*COMMAND, "edit", "a.png", "-o", f"{n}.png", "--drag", drag, "-w", "both"], stderr=subprocess.PIPE
        )
        for n, drag in enumerate((DRAG, OTHER))
    ]
    for edit in edits:
        assert edit.communicate(timeout=120)[1] is not None
        assert edit.returncode == 0
    record = json.loads(Path("both/drag.json").read_text())
    assert record["handles"][0]["target"] in ([210, 112], [222, 118])
    last = record["handles"][0]["target"] == [222, 118]
    result = json.loads(Path("both/result.json").read_text())
    assert result["output"] == f"{int(last)}.png"
    assert Path("0.png").read_bytes() != Path("1.png").read_bytes()


# Interruptions.


def whole(folder: Path) -> None:
    """Nothing half-written: JSONs parse, pictures load, no temporary files."""
    for path in folder.rglob("*"):
        assert not path.name.startswith("."), path
        assert path.suffix not in (".tmp", ".part"), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()


def test_ctrl_c_while_inverting(finished: tuple[Path, Path], tmp_path: Path, own_home: Path, process: Run) -> None:
    """Exit 130, one line; the next run goes on where it was, and ends with the bytes of a run without a break."""
    shutil.copy(finished[0] / "a.png", tmp_path)
    config = '[align]\ndetector = "cascade"\n[inversion]\nperceptual = "embedded"\nsteps_w = 3\n'
    (tmp_path / "c.toml").write_text(config + 'steps_w_plus = 30\ntune = "none"\n[drag]\nlr = 0.02\nmax_steps = 12\n')
    edit = ["edit", "a.png", "-o", "out.png", "--drag", DRAG, "-w", "work", "--config", "c.toml"]
    assert process(*edit, cwd=tmp_path).code == 0
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "work").iterdir()}
    result = (tmp_path / "out.png").read_bytes()
    for path in (tmp_path / "work", own_home / "latents"):
        shutil.rmtree(path)
    (tmp_path / "out.png").unlink()

    child = subprocess.Popen(
        [*COMMAND, *edit],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_ctrl_c,
    )
    assert child.stderr is not None
    timer = threading.Timer(100, child.kill)
    timer.start()
    for line in child.stderr:
        if line.startswith("w:"):
            time.sleep(0.4)  # into the next phase
            child.send_signal(signal.SIGINT)
            break
    out, err = child.communicate()
    timer.cancel()
    assert (child.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if line.startswith("realdrag: interrupted")] == err.splitlines()[-1:]
    assert "Traceback" not in err
    assert not (tmp_path / "out.png").exists()
    whole(tmp_path)
    whole(own_home)
    assert len(list(own_home.glob("latents/*.part.safetensors"))) == 1
    assert len(list(own_home.glob("latents/*.safetensors"))) == 1, "a checkpoint is no entry"

    again = process(*edit, cwd=tmp_path)
    assert again.code == 0
    assert "w: " not in again.err, "the first phase is not made again"
    assert (tmp_path / "out.png").read_bytes() == result
    now = {path.name: path.read_bytes() for path in (tmp_path / "work").iterdir()}
    assert {name for name in wanted if now.get(name) != wanted[name]} == set()
    assert not list(own_home.glob("latents/*.part.safetensors"))


@pytest.mark.parametrize("at", ["w+ 2", "tune 1", "drag 2", "composite 1"])
def test_ctrl_c_anywhere(here: Path, own_home: Path, cli: Run, contents: Contents, at: str) -> None:
    shutil.rmtree("work")
    Path("out.png").unlink()
    if not at.startswith(("drag", "composite")):
        shutil.rmtree(own_home / "latents")
    edit = ["edit", "a.png", "-o", "out.png", "--drag", DRAG, "--mask", "mask.png", "-w", "work", "--quiet"]
    environment = os.environ | {"AT": at}
    child = subprocess.run(
        [sys.executable, "-c", AT_STEP, *edit],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=heeding_ctrl_c,
    )
    assert (child.returncode, child.stdout) == (130, "")
    assert child.stderr.splitlines() == ["realdrag: interrupted; what was finished is kept, the same command goes on"]
    whole(here)
    whole(own_home)
    assert not Path("out.png").exists()
    assert cli(*edit).code == 0
    assert Path("out.png").read_bytes() == Path("finished.png").read_bytes()


def test_an_interruption_under_json(here: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Editor, "composite", interrupted)
    ran = cli("composite", "-w", "work", "-o", "2.png", "--json")
    assert ran.code == 130
    assert json.loads(ran.out)["error"]["code"] == "interrupted"
    assert len(ran.err.splitlines()) == 1
