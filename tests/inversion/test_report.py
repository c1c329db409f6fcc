"""What a person reads and looks at after an inversion."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from realdrag.inversion import draw, verdict
from realdrag.values import Latent

CURVES = {
    "w": {"perceptual": [0.5, 0.4], "pixels": [0.3, 0.25]},
    "w+": {"perceptual": [0.3, 0.2, 0.1], "prior": [0.01, 0.01, 0.01]},
}


def latent(side: int = 32) -> Latent:
    picture = np.full((side, side, 3), 90, np.uint8)
    metrics = {"lpips": None, "psnr": 21.5, "ssim": 0.71, "domain": 0.6}
    return Latent(np.zeros((8, 64), np.float32), None, picture, "", "embedded", metrics, CURVES)


def drawn(crop: np.ndarray, found: Latent) -> np.ndarray:
    with Image.open(io.BytesIO(draw(crop, found))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_photo_picture_and_difference_stand_side_by_side() -> None:
    crop = np.full((64, 64, 3), 90, np.uint8)
    crop[:, 32:] = 120
    picture = drawn(crop, latent())
    height, width = picture.shape[:2]
    row, third = int(height * 0.35), width // 3
    left, right = (
        (picture[row, k * third + third // 4] for k in range(3)),
        (picture[row, k * third + 3 * third // 4] for k in range(3)),
    )
    assert [int(p[0]) for p in left] == [90, 90, 0]
    assert [int(p[0]) for p in right] == [120, 90, 120]  # four times thirty


def test_a_report_is_the_same_each_time_and_of_a_size_to_look_at() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert draw(crop, latent()) == draw(crop, latent())
    assert drawn(crop, latent()).shape[1] >= 900


def test_curves_in_any_order_are_drawn_in_that_of_the_work() -> None:
    turned = {phase: dict(reversed(terms.items())) for phase, terms in reversed(CURVES.items())}
    assert draw(latent().picture, replace(latent(), curves=turned)) == draw(latent().picture, latent())


def test_the_curves_are_drawn() -> None:
    crop = latent().picture
    without = drawn(crop, replace(latent(), curves={}))
    below = slice(int(len(without) * 0.6), None)
    assert (drawn(crop, latent())[below] != without[below]).any(2).sum() > 1000


@pytest.mark.parametrize(
    ("domain", "begins"), [(0.3, "inside"), (0.8, "inside"), (0.85, "at the edge of"), (1.4, "outside"), (None, "")]
)
def test_the_verdict_says_how_far_outside_and_what_to_try(domain: float | None, begins: str) -> None:
    words = verdict({"lpips": 0.1, "domain": domain})
    assert words.startswith(begins)
    if domain is not None:
        assert f"{domain:g} times" in words
    if begins == "outside":
        assert "--box" in words
        assert "--model" in words
    assert verdict({"lpips": 0.1}) == ""


def test_the_verdict_tells_an_inversion_that_failed() -> None:
    assert "unlike the photo" in verdict({"domain": 0.5, "psnr": 12.0})
    assert "unlike" not in verdict({"domain": 0.5, "psnr": 19.0})
