"""Films and plots of a drag."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

import realdrag
from realdrag.film import FIRST_SECONDS, LAST_SECONDS, MOST_FRAMES, NOW, SECONDS_A_FRAME, TARGET
from realdrag.workfolder import WorkFolder

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]
DRAG = "215,120:210,112"


def frames_of(path: Path) -> list[Image.Image]:
    with Image.open(path) as film:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]


def near(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """[n, 2], x and y of the pixels of about this colour."""
    y, x = np.nonzero(np.abs(np.asarray(picture, int) - colour).max(2) < 50)
    return np.stack([x, y], 1)


def test_a_gif_shows_each_step(here: Path, cli: Run) -> None:
    ran = cli("drag", "-w", "work", "--film", "f.gif")
    assert ran.code == 0
    drag = WorkFolder(Path("work")).drag()
    frames = frames_of(Path("f.gif"))
    assert len(frames) == drag.chosen + 1 > 3
    assert {frame.size for frame in frames} == {frames[0].size}
    assert frames[0].size[0] % 2 == 0
    with Image.open("f.gif") as film:
        assert film.info["loop"] == 0
        assert film.info["duration"] == pytest.approx(1000 * FIRST_SECONDS, abs=10)
        film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
        assert film.info["duration"] == pytest.approx(1000 * LAST_SECONDS, abs=10)


def test_the_points_lie_where_they_are(here: Path, cli: Run) -> None:
    """The dot leaves the handle for the target, whose cross stays."""
    assert cli("drag", "-w", "work", "--film", "f.gif").code == 0
    frames = frames_of(Path("f.gif"))
    work = WorkFolder(Path("work"))
    alignment, drag = work.alignment(), work.drag()
    scale = frames[0].size[0] / alignment.size
    to_crop = alignment.to_crop
    place = lambda p: ((to_crop[:2, :2] @ p + to_crop[:2, 2]) + 0.5) * scale - 0.5  # noqa: E731
    for frame, at in ((frames[0], drag.places[0, 0]), (frames[-1], drag.places[drag.chosen, 0])):
        np.testing.assert_allclose(np.median(near(frame, NOW), axis=0), place(at), atol=1.6)
    target = place(np.array(drag.handles[0].target))
    blue = near(frames[0], TARGET)
    cross = blue[np.abs(blue - target).max(1) < 9]  # there is a blue flag in the photo as well
    assert len(cross) > 8
    np.testing.assert_allclose((cross.min(0) + cross.max(0)) / 2, target, atol=2)


def test_a_contact_sheet(here: Path, cli: Run) -> None:
    assert cli("drag", "-w", "work", "--film", "f.png").code == 0
    with Image.open("f.png") as sheet:
        assert sheet.format == "PNG"
        pictures = min(WorkFolder(Path("work")).drag().chosen + 1, 12)
        assert sheet.width % min(pictures, 4) == 0
        side = sheet.width // min(pictures, 4)
        assert sheet.height == -(-pictures // 4) * side
        first = sheet.crop((0, 0, side, side)).convert("RGB")
    crop = Image.fromarray(WorkFolder(Path("work")).alignment().crop).resize((side, side), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(first, int) - np.asarray(crop)).mean() < 4  # it begins with the photo itself


def test_an_mp4(here: Path, cli: Run) -> None:
    av = pytest.importorskip("av")
    assert cli("edit", "a.png", "-o", "2.png", "--drag", DRAG, "--film", "f.mp4", "-w", "work").code == 0
    data = Path("f.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded
    with av.open(io.BytesIO(data)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.streams.video[0].codec_context.name == "h264"
    steps = WorkFolder(Path("work")).drag().chosen + 1
    assert {frame.shape for frame in frames} == {(256, 256, 3)}
    assert len(frames) == steps - 2 + round(FIRST_SECONDS / SECONDS_A_FRAME) + round(LAST_SECONDS / SECONDS_A_FRAME)


def test_without_the_library_that_is_said_before_any_work(
    here: Path, cli: Run, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    before = contents(here)
    for command in (["edit", "a.png", "-o", "2.png", "--drag", DRAG], ["drag", "-w", "work"]):
        ran = cli(*command, "--film", "f.mp4")
        assert ran.code == 2
        (line,) = ran.err.splitlines()
        assert "pip install av" in line
    assert contents(here) == before


def test_a_long_way_is_thinned_out_and_keeps_its_ends(here: Path) -> None:
    work = WorkFolder(Path("work"))
    drag = work.drag()
    editor = realdrag.Editor()
    latent = editor.store.get(work.record("invert")["key"])
    assert latent is not None
    assert drag.chosen > 2
    moments = editor.moments(latent, drag, 3)
    assert len(moments) == 3
    np.testing.assert_array_equal(moments[0][0], latent.picture)
    np.testing.assert_array_equal(moments[-1][0], drag.picture)
    np.testing.assert_array_equal(moments[-1][1], drag.places[drag.chosen])
    assert len(editor.moments(latent, drag, MOST_FRAMES)) == drag.chosen + 1


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.pdf", b"%PDF")])
def test_a_plot(name: str, start: bytes, here: Path, cli: Run) -> None:
    assert cli("edit", "a.png", "-o", "2.png", "--drag", DRAG, "--plot", name, "-w", "new").code == 0
    first = Path(name).read_bytes()
    assert first.startswith(start)
    assert cli("drag", "-w", "new", "--plot", name).code == 0
    assert Path(name).read_bytes() == first  # the same drag, the same bytes
    assert "matplotlib.pyplot" not in sys.modules


def test_a_plot_has_a_line_for_each_handle_and_one_for_the_mean(here: Path, cli: Run) -> None:
    two = ["--drag", DRAG, "--drag", "247,120:250,112"]
    assert cli("edit", "a.png", "-o", "2.png", *two, "--plot", "p.svg").code == 0
    svg = Path("p.svg").read_text()
    for words in ("215,120", "247,120", "mean", "chosen", "loss", "distance left (photo px)"):
        assert f"<!-- {words} -->" in svg


def test_a_film_of_moves_and_masks_leaves_the_rest_of_the_crop(here: Path, cli: Run) -> None:
    """Outside the mask every frame is the photo."""
    assert cli("edit", "a.png", "-o", "2.png", "--drag", DRAG, "--mask", "mask.png", "--film", "f.png").code == 0
    with Image.open("f.png") as sheet:
        side = sheet.width // 4
        tiles = [np.asarray(sheet.convert("RGB").crop((k * side, 0, (k + 1) * side, side)), int) for k in range(4)]
    top = slice(0, side // 4)  # the hair, which the mask holds
    assert all(np.array_equal(tile[top], tiles[0][top]) for tile in tiles)
    assert not np.array_equal(tiles[0], tiles[3])
