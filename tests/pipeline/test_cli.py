"""Wrong input, what is printed where, and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]

DRAG = "215,120:210,112"
EDIT = ["edit", "a.png", "-o", "new.png", "-w", "new"]
DRAGGED = [*EDIT, "--drag", DRAG]

# Arguments, a word of the message, its code under --json.
WRONG: dict[str, tuple[list[str], str, str]] = {
    "no photo there": (["edit", "gone.png", "-o", "new.png", "--drag", DRAG], "no such file", "no-file"),
    "a folder": (["edit", "work", "-o", "new.png", "--drag", DRAG], "is a folder", "not-an-image"),
    "text": (["edit", "text.jpg", "-o", "new.png", "--drag", DRAG], "is no image", "not-an-image"),
    "cut short": (["edit", "cut.jpg", "-o", "new.png", "--drag", DRAG], "cut short", "truncated"),
    "no face": (["edit", "plain.png", "-o", "new.png", "-w", "new", "--drag", "9,9:12,9"], "no face", "no-face"),
    "no face to align": (["align", "plain.png", "-w", "new"], "no face", "no-face"),
    "handle outside the photo": ([*EDIT, "--drag", "512,9:40,9"], "outside the photo", "point"),
    "target outside the photo": ([*EDIT, "--drag", "215,120:210,-9"], "outside the photo", "point"),
    "one handle twice": ([*EDIT, "--drag", "215,120:210,112", "--drag", "215,120:220,112"], "two places", "point"),
    "handle outside the crop": ([*EDIT, "--drag", "20,500:30,500"], "outside the crop", "point"),
    "handle outside the mask": ([*DRAGGED, "--mask", "lower.png"], "lets nothing move", "point"),
    "mask of another size": ([*DRAGGED, "--mask", "plain.png"], "the photo is 512×512", "mask-size"),
    "black mask": ([*DRAGGED, "--mask", "black.png"], "nothing to move", "mask-empty"),
    "no mask there": ([*DRAGGED, "--mask", "gone.png"], "no such file", "no-file"),
    "malformed drag": ([*EDIT, "--drag", "215,120"], "X,Y:X2,Y2", "drag"),
    "landmark without landmarks": ([*EDIT, "--drag", "48+0,0:210,112"], "landmark 48 is not known", "input"),
    "no drag": (EDIT, "nothing to drag", "input"),
    "unknown move": ([*EDIT, "--move", "smlie=1"], "did you mean smile?", "move"),
    "move without a number": ([*EDIT, "--move", "smile"], "NAME=NUMBER", "move"),
    "move out of range": ([*EDIT, "--move", "turn=90"], "not between -10 and 10", "move"),
    "one move twice": ([*EDIT, "--move", "smile=1", "--move", "smile=0.5"], "given twice", "move"),
    "move without landmarks": ([*EDIT, "--move", "smile=1"], "the cascade detector finds none", "landmarks"),
    "snap without landmarks": ([*DRAGGED, "--snap"], "--snap needs the landmarks", "landmarks"),
    "moves of no face": (["moves", "plain.png", "--move", "smile=1"], "no face", "no-face"),
    "moves without a move": (["moves", "a.png"], "--move NAME=NUMBER", "usage"),
    "moves in no work folder": (["moves", "-w", "gone", "--move", "smile=1"], "realdrag align PHOTO", "input"),
    "strength too large": ([*DRAGGED, "--strength", "1.6"], "not between 0 and 1.5", "strength"),
    "negative strength": (["drag", "-w", "work", "--strength", "-0.1"], "not between 0 and 1.5", "strength"),
    "no strength": ([*DRAGGED, "--strength", "nan"], "not between 0 and 1.5", "strength"),
    "strength of no drag": (["drag", "-w", "dir.png", "--strength", "1"], "align was not run", "stale"),
    "film of another kind": ([*DRAGGED, "--film", "f.avi"], ".mp4, .gif, .png", "suffix"),
    "film in no folder": ([*DRAGGED, "--film", "gone/f.gif"], "does not exist", "unwritable"),
    "film over the result": ([*DRAGGED, "--film", "new.png"], "another file of this edit", "overwrite"),
    "film over the photo": ([*DRAGGED, "--film", "a.png"], "another file of this edit", "overwrite"),
    "film over the folder's": (
        ["drag", "-w", "work", "--film", "work/dragged.png"],
        "the work folder's own",
        "overwrite",
    ),
    "film over a work folder's photo": (["drag", "-w", "work", "--film", "a.png"], "a.png: is the photo", "overwrite"),
    "film over the plot": ([*DRAGGED, "--film", "p.png", "--plot", "p.png"], "another file", "overwrite"),
    "plot of another kind": ([*DRAGGED, "--plot", "p.gif"], ".png, .svg, .pdf", "suffix"),
    "unknown preset": ([*DRAGGED, "--preset", "fats"], "did you mean fast?", "input"),
    "unknown config key": ([*DRAGGED, "--config", "key.toml"], "did you mean max_steps?", "input"),
    "no config there": ([*DRAGGED, "--config", "gone.toml"], "gone.toml", "input"),
    "unknown flag": ([*DRAGGED, "--drga", "1"], "--drag", "usage"),
    "unknown command": (["edti"], "edti", "usage"),
    "no photo named": (["edit", "-o", "new.png"], "PHOTO", "usage"),
    "bad number": ([*DRAGGED, "--max-steps", "many"], "--max-steps", "usage"),
    "negative number": ([*DRAGGED, "--max-steps", "-1"], "max_steps is -1", "input"),
    "bad feather": ([*DRAGGED, "--feather", "nan"], "feather is nan", "input"),
    "bad box": ([*DRAGGED, "--box", "1,2,3"], "--box '1,2,3'", "box"),
    "empty box": ([*DRAGGED, "--box", "9,9,3,3"], "is empty", "input"),
    "box elsewhere": ([*DRAGGED, "--box", "900,900,999,999"], "outside the photo", "input"),
    "box and whole": ([*DRAGGED, "--box", "9,9,99,99", "--whole"], "exclude each other", "input"),
    "no such face": ([*DRAGGED, "--face", "9"], "no face 9", "input"),
    "face zero": ([*DRAGGED, "--face", "0"], "no face 0", "input"),
    "unknown detector": ([*DRAGGED, "--detector", "x"], "detector is 'x'", "input"),
    "unknown block": ([*DRAGGED, "--block", "b7"], "'b7'", "input"),
    "unknown device": ([*DRAGGED, "--device", "foo"], "'foo'", "input"),
    "unknown precision": ([*DRAGGED, "--precision", "x"], "'x'", "input"),
    "fp16 on a processor": ([*DRAGGED, "--device", "cpu", "--precision", "fp16"], "fp16 is slow", "input"),
    "no threads": ([*DRAGGED, "--threads", "0"], "0 threads", "input"),
    "output under a file": (
        ["edit", "a.png", "-o", "text.jpg/x.png", "--drag", DRAG],
        "cannot be written",
        "unwritable",
    ),
    "output in no folder": (["edit", "a.png", "-o", "gone/x.png", "--drag", DRAG], "does not exist", "unwritable"),
    "output is a folder": (["edit", "a.png", "-o", "dir.png", "--drag", DRAG], "is a folder", "unwritable"),
    "output name too long": (
        ["edit", "a.png", "-o", "x" * 300 + ".png", "--drag", DRAG],
        "cannot be written",
        "unwritable",
    ),
    "unknown suffix": (["edit", "a.png", "-o", "new.gif", "--drag", DRAG], ".webp", "suffix"),
    "output is the photo": (["edit", "a.png", "-o", "./a.png", "--drag", DRAG], "a.png itself", "overwrite"),
    "output is the photo by a link": (["edit", "a.png", "-o", "link.png", "--drag", DRAG], "a.png itself", "overwrite"),
    "output is the mask": (
        ["edit", "a.png", "-o", "mask.png", "--drag", DRAG, "--mask", "mask.png"],
        "mask.png itself",
        "overwrite",
    ),
    "output is the folder's": (
        ["edit", "a.png", "-o", "work/dragged.png", "--drag", DRAG, "-w", "work"],
        "the work folder's own",
        "overwrite",
    ),
    "composite over the photo": (["composite", "-w", "work", "-o", "a.png"], "is the photo", "overwrite"),
    "composite over the copy": (["composite", "-w", "work", "-o", "work/photo.png"], "is the", "overwrite"),
    "composite suffix": (["composite", "-w", "work", "-o", "new.bmp"], ".webp", "suffix"),
    "work folder is a file": (
        ["edit", "a.png", "-o", "new.png", "--drag", DRAG, "-w", "text.jpg"],
        "is a file",
        "unwritable",
    ),
    "work folder under a file": (["align", "a.png", "-w", "text.jpg/work"], "is a file", "unwritable"),
    "report suffix": ([*DRAGGED, "--report", "new.jpg"], ".png", "suffix"),
    "report over the result": (
        ["edit", "a.png", "-o", "new.png", "--drag", DRAG, "--report", "new.png"],
        "another file of this edit",
        "overwrite",
    ),
    "report over the folder's": (
        ["invert", "-w", "work", "--report", "work/inverted.png"],
        "the work folder's own",
        "overwrite",
    ),
    "no work folder": (["invert", "-w", "gone"], "realdrag align PHOTO -w gone", "input"),
    "no work folder to drag in": (["drag", "-w", "gone", "--drag", DRAG], "realdrag align PHOTO -w gone", "input"),
    "an empty work folder": (
        ["composite", "-w", "dir.png", "-o", "new.png"],
        "realdrag align PHOTO -w dir.png",
        "stale",
    ),
    "nothing inverted": (["invert", "-w", "dir.png"], "realdrag align PHOTO -w dir.png", "stale"),
    "nothing to drag": (["drag", "-w", "work"], "nothing to drag", "input"),
    "drag outside the crop": (["drag", "-w", "work", "--drag", "20,500:30,500"], "outside the crop", "point"),
    "drag with a wrong mask": (["drag", "-w", "work", "--drag", DRAG, "--mask", "plain.png"], "512×512", "mask-size"),
    "drag in no block": (["drag", "-w", "work", "--drag", DRAG, "--block", "b7"], "'b7'", "input"),
    "no model there": ([*DRAGGED, "--model", "gone.safetensors"], "no model file", "input"),
    "unknown model": ([*DRAGGED, "--model", "faces-182"], "faces-128", "input"),
    "model of another kind": ([*DRAGGED, "--model", "text.jpg"], "text.jpg: not a checkpoint", "input"),
    "model is no safetensors": ([*DRAGGED, "--model", "bad.safetensors"], "not a realdrag", "input"),
    "model to align with": (["align", "a.png", "-w", "new", "--model", "bad.safetensors"], "not a realdrag", "input"),
    "model is an encoder": ([*DRAGGED, "--model", "encoder.safetensors"], "encoder.safetensors", "input"),
}


@pytest.fixture
def wrongs(here: Path) -> Path:
    """What the wrong commands name."""
    from realdrag.weights import resolve_model

    Path("text.jpg").write_text("not a picture")
    Image.open("a.png").save("a.jpg")
    Path("cut.jpg").write_bytes(Path("a.jpg").read_bytes()[:20000])
    Image.new("RGB", (64, 48), (30, 90, 200)).save("plain.png")
    Image.new("L", (512, 512)).save("black.png")
    lower = np.zeros((512, 512), np.uint8)
    lower[300:] = 255
    Image.fromarray(lower).save("lower.png")
    Path("key.toml").write_text("[drag]\nmax_step = 3\n")
    Path("bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    encoder = resolve_model(None).encoder_path
    assert encoder is not None
    Path("encoder.safetensors").symlink_to(encoder)
    Path("dir.png").mkdir()
    Path("link.png").symlink_to("a.png")
    return here


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input(name: str, wrongs: Path, cli: Run, contents: Contents) -> None:
    """Exit code 2, one line on stderr that says what to do, nothing on stdout, nothing written."""
    arguments, words, code = WRONG[name]
    before = contents(wrongs)
    plain = cli(*arguments)
    assert (plain.code, plain.out) == (2, ""), plain.err
    (line,) = plain.err.splitlines()
    assert line.startswith("realdrag: ")
    assert words in line
    in_json = cli(*arguments, "--json")
    assert in_json.code == 2
    (error,) = json.loads(in_json.out).values()
    assert error.keys() == {"code", "message", "hint"}
    assert error["code"] == code
    assert in_json.err == plain.err
    assert contents(wrongs) == before


def test_stderr_is_for_talk_and_stdout_for_the_result(here: Path, process: Run) -> None:
    """In a pipe: no control characters, whatever the environment says."""
    ran = process("edit", "a.png", "-o", "2.png", "--drag", DRAG, env=os.environ | {"FORCE_COLOR": "1"})
    assert ran.code == 0
    (result,) = ran.out.splitlines()
    assert result.startswith("2.png  ")
    assert any(line.startswith("drag: ") for line in ran.err.splitlines())
    assert all(c.isprintable() or c == "\n" for c in ran.err + ran.out)


def test_quiet_and_json_together_print_one_object(here: Path, process: Run) -> None:
    ran = process("edit", "a.png", "-o", "2.png", "--drag", DRAG, "--quiet", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["output"] == "2.png"


def test_every_stage_prints_its_record(here: Path, cli: Run) -> None:
    assert json.loads(cli("align", "a.png", "-w", "work", "--json").out)["detector"] == "cascade"
    assert json.loads(cli("invert", "-w", "work", "--json").out)["cache"] == "hit"
    record = json.loads(cli("drag", "-w", "work", "--drag", DRAG, "--mask", "mask.png", "--json").out)
    assert record["version"] == 1
    assert record["trace"][0].keys() == {"step", "distances", "loss", "confidences"}
    common = ["--device", "cpu", "--threads", "1", "--precision", "fp32"]
    result = json.loads(cli("composite", "-w", "work", "-o", "2.png", *common, "--json").out)
    assert result["outside_max_difference"] == 0


def test_names_of_every_kind(here: Path, process: Run) -> None:
    """Spaces, other scripts, control characters, bytes that are no text; on a stdout that knows ASCII only."""
    for name in ("mein Foto ü 写真.png", "two\nlines\x1b[31m.png", os.fsdecode(b"byte\xff.png")):
        Path("a.png").rename(name)
        env = os.environ | {"PYTHONIOENCODING": "ascii"}
        ran = process("edit", name, "-o", f"o{name}", "--drag", DRAG, "-w", f"w{name}", "--quiet", env=env)
        assert (ran.code, ran.err) == (0, "")
        assert len(ran.out.splitlines()) == 1
        assert "\x1b" not in ran.out
        assert Path(f"o{name}").is_file()
        Path(name).rename("a.png")


def test_the_last_of_repeated_flags_counts_and_drags_add_up(here: Path, cli: Run) -> None:
    again = ["--drag", "240,118:244,112", "-o", "first.png", "-o", "last.png"]
    ran = cli("edit", "a.png", "--drag", DRAG, *again, "--json")
    assert len(json.loads(ran.out)["handles"]) == 2
    assert Path("last.png").exists()
    assert not Path("first.png").exists()


def test_a_fault_of_ours_is_one_line_and_a_traceback_on_demand(
    here: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realdrag import api

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("broken\nfor good")

    monkeypatch.setattr(api.Editor, "align", broken)
    ran = cli("edit", "a.png", "-o", "2.png", "--drag", DRAG)
    assert (ran.code, ran.out) == (1, "")
    assert len(ran.err.splitlines()) == 1
    assert "broken for good" in ran.err
    assert "Traceback" in cli("edit", "a.png", "-o", "2.png", "--drag", DRAG, "--debug").err


def test_help_and_version(cli: Run) -> None:
    assert cli("--version").out.startswith("realdrag 0")
    for command in ("edit", "align", "invert", "drag", "composite", "doctor"):
        ran = cli(command, "--help")
        assert (ran.code, ran.err) == (0, "")
        assert "--json" in ran.out


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from realdrag.cli import run; run(['edit', '--help']); print(sorted(sys.modules), file=sys.stderr)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    for heavy in ("torch", "numpy", "cv2", "PIL", "skimage"):
        assert f"'{heavy}'" not in modules


def test_moves_are_listed(cli: Run) -> None:
    from realdrag.drag import MOVES

    lines = cli("moves").out.splitlines()
    assert [line.split()[0] for line in lines] == list(MOVES)
    listed = json.loads(cli("moves", "--json").out)["moves"]
    assert [(m["name"], m["low"], m["high"]) for m in listed] == [(m.name, m.low, m.high) for m in MOVES.values()]


def test_help_names_the_moves(cli: Run) -> None:
    shown = " ".join(cli("edit", "--help").out.split())
    assert "smile, open-mouth, jaw" in shown


def test_what_moves_prints_is_what_edit_takes(here: Path, cli: Run) -> None:
    """The same drag, to the byte, from the photo and from the work folder."""
    moves = ["--move", "smile=0.5", "--move", "jaw=-1", "--detector", "embedded"]
    assert cli("edit", "a.png", "-o", "1.png", *moves, "-w", "w1", "--quiet").code == 0
    printed = cli("moves", "a.png", *moves)
    assert printed.out == cli("moves", "-w", "w1", *moves).out
    flags = printed.out.split()
    assert flags[::2] == ["--drag"] * 6
    assert cli("edit", "a.png", "-o", "2.png", *flags, "--detector", "embedded", "-w", "w2", "--quiet").code == 0
    assert Path("1.png").read_bytes() == Path("2.png").read_bytes()
    assert Path("w1/drag.safetensors").read_bytes() == Path("w2/drag.safetensors").read_bytes()
    record = json.loads(Path("w1/drag.json").read_text())
    assert record["moves"] == [
        {"name": "smile", "number": 0.5, "handles": [0, 1]},
        {"name": "jaw", "number": -1, "handles": [2, 3, 4, 5]},
    ]
    listed = json.loads(cli("moves", "-w", "w1", *moves, "--json").out)["drags"]
    assert [each["handle"] for each in listed] == [handle["start"] for handle in record["handles"]]
    assert listed[0]["moves"] == ["smile"]


def test_snapping_is_said_and_recorded(here: Path, cli: Run) -> None:
    two = ["--drag", "200,139:190,130", "--drag", "215,20:215,25", "--snap", "--detector", "embedded"]
    ran = cli("edit", "a.png", "-o", "1.png", *two, "-w", "w")
    assert ran.code == 0
    said = [line for line in ran.err.splitlines() if line.startswith("--snap: ")]
    assert len(said) == 2
    assert "→ landmark 48 at " in said[0]
    assert "215,20 stays" in said[1]
    record = json.loads(Path("w/drag.json").read_text())
    assert record["snapped"] == [{"handle": 0, "landmark": 48}]
    marks = json.loads(Path("w/align.json").read_text())["landmarks"]
    assert record["handles"][0]["start"] == pytest.approx(marks[48], abs=1e-3)
    assert record["handles"][1]["start"] == [215, 20]
