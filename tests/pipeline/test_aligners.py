"""Whole edits under each aligner: what may be dragged, what stays, and what is done again when it changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from realdrag import weights
from realdrag.api import Editor
from realdrag.conversion import safetensors_header
from realdrag.errors import InputError
from realdrag.settings import AlignSettings, Settings

Run = Callable[..., Any]
WIDTH, HEIGHT = 640, 400


@pytest.fixture
def wide(astronaut: Any, tmp_path: Path, quick: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """wide.png, 640 × 400, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(astronaut).resize((WIDTH, WIDTH)).crop((0, 0, WIDTH, HEIGHT)).save("wide.png")
    return tmp_path


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """The embedded model in a file whose header says that it is a letterboxed one's."""
    return relabelled(tmp_path / "cars.safetensors", aligner="letterbox")


def relabelled(path: Path, **about: str) -> Path:
    model = weights.resolve_model(None)
    header = {key: value for key, value in safetensors_header(model.path).items() if key != "aligner"}
    save_file(load_file(model.path), path, header | about)
    return path


def difference() -> Any:
    return np.abs(np.asarray(Image.open("out.png")).astype(int) - np.asarray(Image.open("wide.png"))).max(2)


@pytest.mark.parametrize(
    ("flags", "detector", "within"),
    [
        (["--aligner", "ffhq-upright", "--box", "210,60,330,180"], "box", (110, 0, 430, 250)),
        (["--aligner", "square"], "square", (120, 0, 519, 399)),
        (["--aligner", "square", "--box", "180,-60,399,90"], "square", (180, 0, 399, 125)),
        (["--aligner", "letterbox"], "letterbox", (0, 0, 639, 399)),
        (["--aligner", "letterbox", "--box", "100,20,459,289"], "letterbox", (100, 20, 459, 289)),
    ],
)
def test_an_edit_changes_nothing_outside_what_the_model_saw(
    flags: list[str], detector: str, within: tuple[int, int, int, int], wide: Path, cli: Run
) -> None:
    x0, y0, x1, y1 = within
    y = min(150, y1 - 10)
    drag = ["--drag", f"270,{y}:258,{y - 14}"]
    ran = cli("edit", "wide.png", "-o", "out.png", *drag, *flags, "-w", "work", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert (report["detector"], report["outside_max_difference"]) == (detector, 0)
    changed = difference()
    assert changed.any()
    changed[y0 : y1 + 1, x0 : x1 + 1] = 0
    assert not changed.any()
    assert json.loads(Path("work/align.json").read_bytes())["detector"] == detector
    # The stages one by one agree.
    assert cli("composite", "-w", "work", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--aligner", "square", "--drag", "40,150:258,136"], "outside the crop"),
        (["--aligner", "letterbox", "--box", "100,20,459,289", "--drag", "270,300:270,280"], "outside the crop"),
        (["--aligner", "letterbox", "--box", "100,20,459,289", "--drag", "270,280:270,300"], "outside the crop"),
        (["--aligner", "letterbox", "--drag", "270,400:270,380"], "outside the photo"),
        (["--aligner", "square", "--face", "1", "--drag", "270,150:258,136"], "looks for none"),
        (["--aligner", "sqare", "--drag", "270,150:258,136"], "aligner is 'sqare'"),
    ],
)
def test_what_is_refused(flags: list[str], says: str, wide: Path, cli: Run) -> None:
    ran = cli("edit", "wide.png", "-o", "out.png", *flags)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert [path.name for path in wide.iterdir()] == ["wide.png"]


def test_the_mask_lets_nothing_move_in_the_bars(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from realdrag import api, drag
    from realdrag.values import Alignment

    seen: dict[str, Any] = {}
    monkeypatch.setattr(drag, "drag", lambda *_, **given: seen.update(given))
    editor = Editor(settings=Settings(align=AlignSettings(aligner="letterbox")))
    photo = api.open("wide.png")
    alignment = editor.align(photo)
    assert isinstance(alignment, Alignment)
    latent: Any = type("Latent", (), {"delta": None})
    editor.drag(photo, alignment, latent, [((270, 150), (258, 136))], mask=np.ones((HEIGHT, WIDTH), np.float32))
    movable = seen["movable"]
    assert (movable[120:520] == 1).all()
    assert not movable[:120].any()
    assert not movable[520:].any()


def test_the_model_says_which_aligner(wide: Path, cars: Path, tmp_path: Path) -> None:
    assert Editor().aligner == "ffhq"
    assert Editor(model=str(cars)).aligner == "letterbox"
    assert Editor(model=str(cars), settings=Settings(align=AlignSettings(aligner="square"))).aligner == "square"
    assert Editor(model=str(relabelled(tmp_path / "old.safetensors"))).aligner == "ffhq"
    strange = relabelled(tmp_path / "strange.safetensors", aligner="diagonal")
    with pytest.raises(InputError, match=r"unknown aligner 'diagonal'; say which with --aligner"):
        _ = Editor(model=str(strange)).aligner
    assert Editor(model=str(strange), settings=Settings(align=AlignSettings(aligner="square"))).aligner == "square"


def test_no_detector_is_loaded_without_faces(wide: Path, cars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a detector was loaded")

    monkeypatch.setattr(Editor, "_detector", never)
    from realdrag import api

    assert Editor(model=str(cars)).align(api.open("wide.png")).detector == "letterbox"


def test_another_aligner_makes_the_work_stale(wide: Path, cars: Path, cli: Run) -> None:
    align = ["align", "wide.png", "-w", "work"]
    assert cli(*align, "--aligner", "square").code == 0
    assert cli("invert", "-w", "work").code == 0
    square = Path("work/aligned.png").read_bytes()
    assert cli(*align, "--aligner", "letterbox").code == 0
    assert Path("work/aligned.png").read_bytes() != square
    ran = cli("drag", "-w", "work", "--drag", "270,150:258,136")
    assert ran.code == 2
    assert "aligned.png changed since invert was run" in ran.err
    # What was chosen holds for any model; what the model chose, for that model alone.
    assert cli("invert", "-w", "work", "--model", cars).code == 0
    assert cli(*align, "--model", cars).code == 0
    assert cli("invert", "-w", "work", "--model", cars).code == 0
    ran = cli("invert", "-w", "work")
    assert ran.code == 2
    assert "aligner changed since align was run" in ran.err


def test_the_same_aligner_is_not_run_again(wide: Path, cars: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    align = ["align", "wide.png", "-w", "work", "--model", cars]
    assert cli(*align).code == 0

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("aligned again")

    monkeypatch.setattr(Editor, "align", never)
    assert cli(*align).code == 0


@pytest.mark.parametrize("aligner", ["square", "letterbox"])
def test_the_config_file_may_choose(wide: Path, cli: Run, aligner: str, quick: Path, tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text(f'[align]\naligner = "{aligner}"\n')
    ran = cli("align", "wide.png", "-w", "work", "--config", config, "--json")
    assert json.loads(ran.out)["detector"] == aligner
