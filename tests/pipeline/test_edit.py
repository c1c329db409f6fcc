"""An edit of every kind of photo: the size, the kind and everything outside the mask stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageCms

import realdrag
from realdrag.inversion import optimise

Run = Callable[..., Any]
Array = npt.NDArray[Any]

DRAG = "215,120:210,112"
DRAGS = [((215.0, 120.0), (210.0, 112.0))]
KEYS = {"photo", "output", "work", "seconds", "cache", "detector", "loss", "model", "inversion", "handles", "outcome"}
KEYS |= {"steps", "changed", "outside_max_difference"}


def pixels(path: Path) -> Array:
    """What a file shows, decoded by Pillow, or by OpenCV where that is 16 bit."""
    deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if deep is not None and deep.dtype == np.uint16:
        return deep
    with Image.open(path) as image:
        return np.asarray(image)


def differs(a: Array, b: Array) -> Array:
    """[h, w] bool."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    different = a != b
    return different.any(2) if different.ndim == 3 else different


@pytest.fixture
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a step of an inversion from now on fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an inversion step was made")

    monkeypatch.setattr(optimise.Phases, "run", refuse)


def test_the_demo_edit_with_the_default_settings(
    tmp_path: Path, astronaut: Array, mouth: Array, cli: Run, request: pytest.FixtureRequest
) -> None:
    """The whole promise on one photo, as a user who has just installed it meets it; the second drag is fast."""
    photo, mask, output = tmp_path / "a.png", tmp_path / "mask.png", tmp_path / "out.png"
    Image.fromarray(astronaut).save(photo)
    Image.fromarray(mouth).save(mask)
    original = photo.read_bytes()
    ran = cli("edit", photo, "-o", output, "--drag", DRAG, "--mask", mask, "--json")
    assert ran.code == 0
    report = json.loads(ran.out)  # fails where anything else is on stdout
    check_report(report, photo, output)
    assert report["cache"] == "miss"
    assert (report["detector"], report["loss"], report["model"]["name"]) == ("embedded", "embedded", "faces-128")
    assert report["inversion"]["psnr"] > 20
    changed = differs(pixels(output), astronaut)
    assert changed[mouth > 0].any()
    assert not changed[mouth == 0].any()
    rows, columns = np.nonzero(changed)
    assert report["changed"] == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert photo.read_bytes() == original

    request.getfixturevalue("no_steps")
    second = cli("edit", photo, "-o", tmp_path / "2.png", "--drag", "215,120:222,118", "--mask", mask, "--json")
    assert second.code == 0
    assert json.loads(second.out)["cache"] == "hit"
    assert differs(pixels(tmp_path / "2.png"), pixels(output)).any()


def check_report(report: dict[str, Any], photo: Path, output: Path) -> None:
    assert report.keys() >= KEYS
    assert (report["photo"], report["output"], report["work"]) == (str(photo), str(output), None)
    seconds = report["seconds"]
    assert seconds.keys() == {"align", "invert", "drag", "composite", "total"}
    parts = sum(value for name, value in seconds.items() if name != "total")
    assert parts - 0.01 <= seconds["total"] < parts + 10
    assert report["model"].keys() == {"name", "sha256"}
    assert len(report["model"]["sha256"]) == 64
    assert report["inversion"].keys() == {"lpips", "psnr", "ssim", "domain"}
    (handle,) = report["handles"]
    assert handle.keys() == {"start", "target", "end", "distance_start", "distance_end", "confidence"}
    assert (handle["start"], handle["target"]) == ([215, 120], [210, 112])
    assert handle["distance_start"] == pytest.approx(np.hypot(5, 8), abs=1e-3)
    assert handle["distance_end"] == pytest.approx(np.hypot(*np.subtract(handle["end"], handle["target"])), abs=2e-3)
    assert report["outcome"] in set(realdrag.Outcome)
    assert report["steps"] > 0
    assert report["outside_max_difference"] == 0


def test_a_second_drag_is_a_hit(here: Path, cli: Run, no_steps: None) -> None:
    ran = cli("edit", "a.png", "-o", "2.png", "--drag", "215,120:222,118", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["cache"] == "hit"


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def turned_jpeg(path: Path, rgb: Array) -> Path:
    """3000 × 2000 as displayed, with the face large at the right; stored lying on its side, with a camera's name."""
    canvas = Image.new("RGB", (3000, 2000), (90, 120, 60))
    canvas.paste(Image.fromarray(rgb).resize((1536, 1536)), (1300, 300))
    exif = Image.Exif()
    exif[274], exif[271] = 6, "A camera"
    path = path.with_suffix(".jpg")
    canvas.transpose(Image.Transpose.ROTATE_90).save(path, quality=92, exif=exif, icc_profile=SRGB)
    return path


def test_a_large_turned_jpeg(tmp_path: Path, astronaut: Array, cli: Run, quick: Path) -> None:
    photo = turned_jpeg(tmp_path / "phone", astronaut)
    mask = np.zeros((2000, 3000), np.uint8)
    mask[540:780, 1825:2110] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    edit = ["edit", photo, "--drag", "1945,660:1930,636", "--mask", tmp_path / "mask.png", "--quiet", "-o"]
    assert cli(*edit, tmp_path / "out.png").code == 0
    assert cli(*edit, tmp_path / "out.jpg").code == 0
    with Image.open(photo) as stored:
        shown = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    changed = differs(pixels(tmp_path / "out.png"), shown)
    assert changed[mask > 0].any()
    assert not changed[mask == 0].any()
    for name in ("out.png", "out.jpg"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (3000, 2000)
            assert image.getexif().get(274, 1) == 1
            assert image.getexif()[271] == "A camera"
            assert image.info["icc_profile"] == SRGB
    # What the JPEG was encoded from is what the PNG holds: only the encoder's loss lies between them.
    loss = np.abs(pixels(tmp_path / "out.jpg").astype(int) - pixels(tmp_path / "out.png"))
    assert loss.mean() < 1.5


def with_alpha(path: Path, rgb: Array) -> None:
    alpha = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    Image.fromarray(np.dstack([rgb, alpha])).save(path)


def grey(path: Path, rgb: Array) -> None:
    Image.fromarray(rgb).convert("L").save(path)


def deep(path: Path, rgb: Array) -> None:
    low = np.random.default_rng(0).integers(0, 257, rgb.shape)
    cv2.imwrite(str(path), (rgb[..., ::-1].astype(int) * 256 + np.minimum(low, 255)).astype(np.uint16))


def palette(path: Path, rgb: Array) -> None:
    Image.fromarray(rgb).quantize(200).save(path)


def profiled(path: Path, rgb: Array) -> None:
    Image.fromarray(rgb).save(path, icc_profile=SRGB, dpi=(300, 300))


KINDS = [(with_alpha, "RGBA"), (grey, "L"), (deep, "16"), (palette, "RGB"), (profiled, "RGB")]


@pytest.mark.parametrize(("make", "mode"), KINDS, ids=lambda value: getattr(value, "__name__", None))
def test_every_kind_of_photo(
    make: Callable[[Path, Array], None],
    mode: str,
    tmp_path: Path,
    astronaut: Array,
    mouth: Array,
    cli: Run,
    quick: Path,
) -> None:
    photo, mask, output = tmp_path / "photo.png", tmp_path / "mask.png", tmp_path / "out.png"
    make(photo, astronaut)
    Image.fromarray(mouth).save(mask)
    assert cli("edit", photo, "-o", output, "--drag", DRAG, "--mask", mask).code == 0
    before, after = pixels(photo), pixels(output)
    if make is palette:
        with Image.open(photo) as image:
            before = np.asarray(image.convert("RGB"))
    changed = differs(before, after)
    assert changed[mouth > 0].any()
    assert not changed[mouth == 0].any()
    if mode == "16":
        assert after.dtype == np.uint16
        assert len(np.unique(after[mouth > 0] % 257)) > 100  # 16 bits are used, not 8 spread out
    else:
        with Image.open(output) as image:
            assert image.mode == mode
    if mode == "RGBA":
        np.testing.assert_array_equal(before[..., 3], after[..., 3])
    if make is profiled:
        with Image.open(output) as image:
            assert image.info["icc_profile"] == SRGB
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_where_nothing_moves_the_file_is_copied(here: Path, cli: Run) -> None:
    """No step was made, so nothing changed: the very bytes of the photo."""
    ran = cli("edit", "a.png", "-o", "same.png", "--drag", DRAG, "--max-steps", "0", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["changed"] is None
    assert Path("same.png").read_bytes() == Path("a.png").read_bytes()
    assert cli("edit", "a.png", "-o", "same.png", "--drag", DRAG, "--max-steps", "0").code == 0, "and again"


def test_the_api_gives_the_bytes_of_the_command(here: Path, cli: Run, astronaut: Array, mouth: Array) -> None:
    wanted = (here / "out.png").read_bytes()
    sources = {
        "path": "a.png",
        "array": astronaut,
        "picture": Image.fromarray(astronaut),
        "photo": realdrag.open("a.png"),
    }
    for name, source in sources.items():
        done = realdrag.edit(source, f"{name}.png", DRAGS, mask=mouth)
        assert done.cache == "hit", name
        assert Path(f"{name}.png").read_bytes() == wanted, name
        assert done.result.outside_max_difference == 0
        assert done.seconds.keys() == {"align", "invert", "drag", "composite", "total"}


def test_the_api_writes_only_what_it_is_told_to(here: Path, contents: Any, astronaut: Array, mouth: Array) -> None:
    before = contents(here)
    done = realdrag.edit(astronaut, None, DRAGS, mask=mouth)
    assert contents(here) == before
    realdrag.save(done.result, "saved.png")
    assert Path("saved.png").read_bytes() == before["out.png"]
    work = realdrag.edit("a.png", None, DRAGS, mask="mask.png", work="kept")
    np.testing.assert_array_equal(work.result.photo.pixels, done.result.photo.pixels)
    assert json.loads(Path("kept/result.json").read_text())["output"] is None


def test_a_work_folder_of_an_array_is_like_any_other(here: Path, cli: Run, astronaut: Array, mouth: Array) -> None:
    realdrag.edit(astronaut, None, DRAGS, mask=mouth, work="kept")
    assert cli("composite", "-w", "kept", "-o", "later.png").code == 0
    assert Path("later.png").read_bytes() == (here / "out.png").read_bytes()


def test_an_editor_stage_by_stage(here: Path, astronaut: Array, mouth: Array) -> None:
    from realdrag.presets import load

    editor = realdrag.Editor(settings=load()[1])
    photo = realdrag.open(astronaut)
    alignment = editor.align(photo)
    latent, found = editor.invert(alignment)
    assert found
    weights = (mouth > 0).astype(np.float32)
    drag = editor.drag(photo, alignment, latent, DRAGS, mask=weights)
    result = editor.composite(photo, alignment, latent.picture, drag.picture, weights)
    np.testing.assert_array_equal(result.photo.pixels, pixels(here / "out.png"))


def test_the_api_takes_the_preset_of_the_config_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line does: without it the same photo would have two latents."""
    Path("c.toml").write_text('preset = "nonsense"\n')
    monkeypatch.setenv("REALDRAG_CONFIG", "c.toml")
    with pytest.raises(realdrag.InputError, match="nonsense"):
        realdrag.edit("a.png", None, DRAGS)


@pytest.mark.parametrize(
    ("drags", "words"),
    [
        ([], "nothing to drag"),
        ([(215, 120)], "is not a drag"),
        ([((215, 120, 3), (210, 112))], "is not a drag"),
        ([(("a", 1), (2, 3))], "is not a drag"),
        ([((float("nan"), 120), (210, 112))], "outside the photo"),
        ([((215, 120), (float("inf"), 112))], "outside the photo"),
    ],
)
def test_the_api_refuses_what_is_no_drag(here: Path, drags: Any, words: str) -> None:
    with pytest.raises(realdrag.InputError, match=words):
        realdrag.edit("a.png", None, drags)


def test_the_api_never_writes_over_its_photo(here: Path) -> None:
    for output in ("a.png", here / "a.png", "work/../a.png", "mask.png"):
        with pytest.raises(realdrag.InputError, match="itself"):
            realdrag.edit("a.png", output, DRAGS, mask="mask.png")
    assert Path("a.png").read_bytes() == Path("work/photo.png").read_bytes()


def test_notes_are_told_but_not_before_the_input_is_accepted(
    here: Path, cli: Run, mouth: Array, astronaut: Array
) -> None:
    Image.fromarray(astronaut).save("moving.gif", save_all=True, append_images=[Image.fromarray(astronaut[::-1])])
    refused = cli("edit", "moving.gif", "-o", "no.png", "--drag", "1,1:2,2")
    assert len(refused.err.splitlines()) == 1
    taken = cli("edit", "moving.gif", "-o", "yes.png", "--drag", DRAG)
    assert taken.code == 0
    assert "the first of 2 pictures" in taken.err


def test_what_auto_precision_stands_for_names_the_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not `auto` itself, which means another thing on another machine."""
    from realdrag import devices

    monkeypatch.setattr(devices, "fast_bf16", lambda _=None: True)
    crop = np.zeros((8, 8, 3), np.uint8)
    editors = {said: realdrag.Editor(device="cpu", precision=said) for said in ("auto", "fp32", "bf16")}
    assert editors["auto"].resolved_precision == "fp32"  # the embedded model is small
    keys = {said: editor.latent_key(crop) for said, editor in editors.items()}
    assert keys["auto"] == keys["fp32"] != keys["bf16"]
    large = realdrag.Editor(device="cpu")
    large.resolution = 256
    assert large.resolved_precision == "bf16"
    assert large.generator.dtype == torch.bfloat16
    assert large.latent_key(crop) == keys["bf16"]


def test_a_stored_latent_that_fits_no_model_is_set_aside_and_made_again(astronaut: Any, quick: Path) -> None:
    """Entries can be imported, and anybody can write a checksum."""
    from dataclasses import replace

    from realdrag.presets import load

    editor = realdrag.Editor(settings=load()[1])
    alignment = editor.align(realdrag.open(astronaut))
    sound, _ = editor.invert(alignment)
    key = editor.latent_key(alignment.crop)
    nan = sound.w_plus.copy()
    nan[0, 0] = np.nan
    for wrong in (
        {"w_plus": sound.w_plus[:, :8]},
        {"w_plus": nan},
        {"delta": {"nope": np.zeros(1, np.float16)}},
        {"picture": sound.picture[:8]},
        {"model_sha256": "0" * 64},
    ):
        editor.store.put(key, replace(sound, **wrong), {})
        latent, found = editor.invert(alignment)
        assert not found, wrong
        np.testing.assert_array_equal(latent.picture, sound.picture)
    assert editor.invert(alignment)[1]
