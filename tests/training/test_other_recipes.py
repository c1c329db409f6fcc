"""What may break unseen in the recipes of landmarks and perceptual loss: geometry, folding, blocks, distortions."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from realdrag.align.embedded import CROP_SHARE, CROP_SIDE
from realdrag.align.landmarks import LandmarkNet
from realdrag.align.quad import quad_from_landmarks

Script = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """A training script as a module; they import each other by bare names."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "training"))
    yield importlib.import_module
    for name in ("landmarks", "perceptual", "faces", "lpips_teacher"):
        sys.modules.pop(name, None)


def points_of_a_face() -> np.ndarray:
    """68 points in roughly the right places of a 128 px picture, [68, 2]."""
    points = np.random.default_rng(0).uniform(45, 80, (68, 2))
    points[36:42], points[42:48] = (48, 59), (79, 59)
    points[48], points[54] = (53, 94), (75, 94)
    return points


def jpeg(picture: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


def blockiness(picture: np.ndarray) -> float:
    """How much larger steps are across the borders of blocks than within."""
    steps = np.abs(np.diff(picture.astype(float), axis=1)).mean((0, 2))
    across = np.zeros(len(steps), bool)
    across[7::8] = True
    return float(steps[across].mean() / steps[~across].mean())


def test_deblocking_takes_the_grid_out_and_leaves_the_picture(script: Script) -> None:
    y, x = np.mgrid[:128, :128]
    plain = np.stack([90 + 60 * np.sin(x / 9), 120 + 60 * np.cos(y / 7), 100 + 0.6 * x], -1)
    plain = (plain + np.random.default_rng(0).normal(0, 6, plain.shape)).clip(0, 255).astype(np.uint8)
    deblocked = script("faces").deblocked
    bad, good = jpeg(plain, 12), jpeg(plain, 92)
    mended, raw = deblocked(bad), np.asarray(Image.open(io.BytesIO(bad)))
    assert blockiness(raw) > 1.5
    assert blockiness(mended) - 1 < 0.5 * (blockiness(raw) - 1)
    assert np.abs(mended.astype(float) - raw).mean() < 5
    np.testing.assert_array_equal(deblocked(good), np.asarray(Image.open(io.BytesIO(good))))


def test_a_straight_crop_shows_the_quad(script: Script) -> None:
    points = points_of_a_face()
    matrix = script("landmarks").crop_matrix(points, 0.0, 1.0, np.zeros(2))
    corners = quad_from_landmarks(points) @ matrix[:, :2].T + matrix[:, 2]
    reach = CROP_SIDE / CROP_SHARE / 2
    middle = (CROP_SIDE - 1) / 2
    low, high = middle - reach, middle + reach
    np.testing.assert_allclose(corners, [[low, low], [low, high], [high, high], [high, low]], atol=1e-6)


def test_roll_scale_and_shift_do_what_they_say(script: Script) -> None:
    points = points_of_a_face()
    straight = script("landmarks").crop_matrix(points, 0.0, 1.0, np.zeros(2))
    other = script("landmarks").crop_matrix(points, 30.0, 1.3, np.array([0.1, 0.0]))
    between = other[:, :2] @ np.linalg.inv(straight[:, :2])
    assert np.sqrt(np.linalg.det(between)) == pytest.approx(1.3)
    assert np.rad2deg(np.arctan2(between[1, 0], between[0, 0])) == pytest.approx(30)
    centre = quad_from_landmarks(points).mean(0)
    moved = (other - straight)[:, :2] @ centre + (other - straight)[:, 2]
    np.testing.assert_allclose(moved, [0.1 * CROP_SIDE, 0], atol=1e-9)


def test_folding_the_normalisation_changes_nothing(script: Script) -> None:
    torch.manual_seed(0)
    trained = LandmarkNet(nn.BatchNorm2d)
    with torch.no_grad():
        for _ in range(3):
            trained(torch.randn(4, 3, 128, 128))  # statistics of its own
        for module in trained.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        plain = LandmarkNet().eval()
        plain.load_state_dict(script("landmarks").folded(trained))
        x = torch.randn(2, 3, 128, 128)
        for a, b in zip(plain(x), trained.eval()(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_every_distortion_harms_more_when_it_is_stronger(script: Script) -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64] / 64
    picture = np.stack([np.sin(9 * x), np.cos(7 * y), np.sin(20 * x * y)], -1).astype(np.float32) * 0.8
    other = rng.uniform(-1, 1, picture.shape).astype(np.float32)
    for distort in script("perceptual").DISTORTIONS:
        weak, strong = (
            np.mean([np.abs(distort(picture, s, rng, other) - picture).mean() for _ in range(12)]) for s in (0.1, 0.8)
        )
        assert 0 <= weak < strong, distort.__name__
