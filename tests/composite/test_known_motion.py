"""Motions whose truth is known, as `benchmarks/composite.py` measures them: here on one photo that tests may use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from realdrag.composite.grain import find_grain
from realdrag.composite.motion import find_change
from realdrag.geometry import resize
from realdrag.photo import from_array


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Any]:
    """The benchmark's module."""
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))
    yield importlib.import_module("composite")
    sys.modules.pop("composite", None)


@pytest.fixture(scope="session")
def face(astronaut: np.ndarray) -> np.ndarray:
    """Her face and hair, [512, 512, 3]."""
    return resize(np.ascontiguousarray(astronaut[0:224, 110:334]), 512)


def counted(bench: Any, field: np.ndarray) -> np.ndarray:
    """Where a motion counts: over a pixel, and from within the picture."""
    counts = (np.hypot(field[..., 0], field[..., 1]) > 1) & (np.hypot(bench.U - 0.5, bench.V - 0.5) < 0.44)
    return np.asarray(counts)


def missed(bench: Any, scene: np.ndarray, field: np.ndarray) -> float:
    """The mean end-point error of the motion that a scene of 64 px shows, in pixels of 512."""
    small = resize(scene, bench.SMALL), resize(bench.moved(scene, field), bench.SMALL)
    change = find_change(*small, grow=0.04, share=1.0)
    found = resize(change.motion * change.happened[..., None], bench.SIDE) * bench.SIDE / change.size
    return float(np.hypot(*np.moveaxis(found - field, -1, 0))[counted(bench, field)].mean())


@pytest.mark.parametrize("name", ["rotation by 5°", "jaw drop", "local push"])
def test_a_known_motion_is_found_and_the_result_is_near_the_truth(bench: Any, face: np.ndarray, name: str) -> None:
    field = bench.FIELDS[name]
    truth, counts = bench.moved(face, field), counted(bench, field)
    small = resize(face, bench.SMALL), resize(truth, bench.SMALL)
    assert missed(bench, face, field) <= 1.0  # on this face a cheek is plain; on the mean of portraits see below
    photo, alignment = from_array(face), bench.crop_of(face)
    ours, paste = bench.edited(photo, alignment, *small), bench.pasted(photo, alignment, small[1])
    assert bench.psnr(ours, truth, counts) >= bench.psnr(paste, truth, counts) + 6
    assert bench.energy(ours, counts) == pytest.approx(bench.energy(truth, counts), rel=0.1)
    assert bench.energy(paste, counts) < 0.3 * bench.energy(truth, counts)


def test_on_portraits_the_mean_error_is_below_eight_tenths_of_a_pixel(bench: Any, shared: Path) -> None:
    paths = sorted((shared / "portraits").glob("*.jpg"))[::12]
    if not paths:
        pytest.skip("no portraits there")
    for name in bench.JUDGED:
        errors = [missed(bench, bench.scene(str(path)), bench.FIELDS[name]) for path in paths]
        assert np.mean(errors) <= 0.8, name


def test_what_does_not_move_is_left_to_the_bit_without_a_mask(bench: Any, face: np.ndarray) -> None:
    small = resize(face, bench.SMALL), resize(bench.moved(face, bench.push()), bench.SMALL)
    done = bench.edited(from_array(face), bench.crop_of(face), *small)
    differs = (done != face).any(2)
    assert not differs[:128].any()  # the push is in the lower left
    assert not differs[:, 400:].any()
    assert differs[300:420, 140:250].mean() > 0.8


def test_new_parts_have_the_photo_s_grain() -> None:
    rng = np.random.default_rng(1)
    grey = np.full((300, 300, 3), 120.0)
    grey[:, 150:] += 40
    grainy = np.clip(grey + rng.normal(0, 5, grey.shape), 0, 255).astype(np.uint8)
    tile = find_grain(grainy, 1.0).tile
    assert tile.std() == pytest.approx(5, rel=0.25)
    assert abs(np.corrcoef(tile[..., 0].ravel(), tile[..., 1].ravel())[0, 1]) < 0.2  # coloured as the photo's
    assert np.abs((tile[:, 1:] * tile[:, :-1]).mean() / np.square(tile).mean()) < 0.2
    assert find_grain(np.full((300, 300, 3), 120, np.uint8), 1.0).tile.std() < 0.01
    assert find_grain(grainy, 0.0).tile.std() == 0
    assert find_grain(grainy[:5, :5], 1.0).tile.std() == 0  # too small to tell


def test_the_seam_of_a_mask_through_the_motion_does_not_show(bench: Any, face: np.ndarray) -> None:
    mask = (((bench.U - 0.5) / 0.2) ** 2 + ((bench.V - 0.72) / 0.14) ** 2 < 1).astype(np.float32)
    inside = (mask > 0).astype(np.uint8)
    band = cv2.dilate(inside, np.ones((5, 5), np.uint8)) != cv2.erode(inside, np.ones((5, 5), np.uint8))
    small = resize(face, bench.SMALL), resize(bench.moved(face, bench.jaw()), bench.SMALL)
    done = bench.edited(from_array(face), bench.crop_of(face), *small, mask)
    steep = []
    for picture in (face, done):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        x, y = (cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
        steep.append(np.percentile(np.hypot(x, y)[band], 95))
    assert steep[1] <= 1.05 * steep[0]
    np.testing.assert_array_equal(done[mask == 0], face[mask == 0])
    assert (done != face)[mask > 0].mean() > 0.5


def test_a_motion_is_followed_quickly_and_nearly_as_well(bench: Any, face: np.ndarray) -> None:
    """A picture that moves while it is watched: each change starts from the one before."""
    before, change = resize(face, 128), None
    for share in np.linspace(0.1, 1, 10):
        after = resize(bench.moved(face, share * bench.FIELDS["jaw drop"]), 128)
        motion = 0.0 if change is None else change.motion
        change = find_change(before, after, grow=0.04, share=1.0, motion=motion)
    whole = find_change(before, after, grow=0.04, share=1.0)
    assert change is not None
    error = np.hypot(*np.moveaxis(change.motion - whole.motion, -1, 0))
    length = np.hypot(*np.moveaxis(whole.motion, -1, 0))
    assert error.mean() < 0.5 < length.max() / 4
    assert np.abs(change.happened - whole.happened).mean() < 0.05
