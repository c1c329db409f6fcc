"""The cascade on real pictures: scikit-image's own, and the aligned portraits where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from realdrag.align import CascadeDetector, align
from realdrag.errors import NoFaceError
from realdrag.geometry import transform

# where scikit-image's own documentation has the astronaut's face: row 70, column 175, 93 px
FACE_X, FACE_Y, FACE_SIDE = 175 + 46, 70 + 46, 93


@pytest.fixture(scope="module")
def detector() -> CascadeDetector:
    return CascadeDetector()


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def portraits() -> list[np.ndarray]:
    """Five of the aligned portraits, [640, 640, 3]."""
    shared = Path(os.environ.get("REALDRAG_SHARED", Path(__file__).parents[3] / "shared")) / "portraits"
    files = sorted(shared.glob("*.jpg"))[::15]
    if not files:
        pytest.skip("no portraits: REALDRAG_SHARED names no folder that holds them")
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def centre_and_side(box: tuple[float, float, float, float] | None) -> tuple[float, float, float]:
    assert box is not None
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0 + 1


def test_astronaut(detector: CascadeDetector, astronaut: np.ndarray) -> None:
    faces = detector.detect(astronaut)
    assert len(faces) == 1
    x, y, side = centre_and_side(faces[0].box)
    assert np.hypot(x - FACE_X, y - FACE_Y) < 0.1 * FACE_SIDE
    assert side == pytest.approx(FACE_SIDE, rel=0.15)
    done = align(astronaut, detector, model_resolution=64)
    assert done.detector == "cascade"
    # pupils and mouth, read off the picture
    seen = transform(done.to_crop, np.array([[205.0, 109.0], [246.0, 105.0], [228.0, 151.0]])) / done.size
    np.testing.assert_allclose(seen, [[0.38, 0.47], [0.62, 0.47], [0.5, 0.73]], atol=0.1)


@pytest.mark.parametrize("side", [3000, 300])
def test_boxes_are_in_photo_pixels(detector: CascadeDetector, astronaut: np.ndarray, side: int) -> None:
    photo = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA if side < 512 else cv2.INTER_CUBIC)
    scale = side / 512
    x, y, width = centre_and_side(align(photo, detector, model_resolution=64).box)
    assert np.hypot(x - FACE_X * scale, y - FACE_Y * scale) < 0.1 * FACE_SIDE * scale
    assert width == pytest.approx(FACE_SIDE * scale, rel=0.15)


def test_two_faces_the_larger_first(detector: CascadeDetector, astronaut: np.ndarray) -> None:
    face = astronaut[30:230, 120:320]  # the face's centre lies at (101, 86) of it
    photo = np.full((500, 800, 3), 120, np.uint8)
    photo[40:240, 60:260] = face
    photo[40:400, 400:760] = cv2.resize(face, (360, 360), interpolation=cv2.INTER_CUBIC)
    assert len(detector.detect(photo)) == 2
    first = align(photo, detector, model_resolution=64)
    second = align(photo, detector, model_resolution=64, face=2)
    for done, left, top, scale in ((first, 400, 40, 1.8), (second, 60, 40, 1.0)):
        x, y, side = centre_and_side(done.box)
        assert np.hypot(x - left - 101 * scale, y - top - 86 * scale) < 0.12 * FACE_SIDE * scale
        assert side == pytest.approx(FACE_SIDE * scale, rel=0.2)


def test_a_face_at_the_border(detector: CascadeDetector, astronaut: np.ndarray) -> None:
    done = align(astronaut[60:, 168:], detector, model_resolution=64)  # the quad reaches beyond two sides
    x, y, _ = centre_and_side(done.box)
    assert np.hypot(x + 168 - FACE_X, y + 60 - FACE_Y) < 0.12 * FACE_SIDE
    assert transform(done.to_photo, np.array([[-0.5, -0.5]])).max() < -5
    assert done.crop[: done.size // 12].std() > 5


@pytest.mark.parametrize("name", ["coffee", "chelsea", "brick", "grass", "rocket"])
def test_pictures_without_a_face(detector: CascadeDetector, name: str) -> None:
    picture = getattr(skimage.data, name)()
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    with pytest.raises(NoFaceError, match=r"\(detector: cascade\)"):
        align(rgb, detector, model_resolution=64)


@pytest.mark.parametrize("shape", [(10, 10), (1, 1), (23, 400), (24, 24), (400, 12)])
def test_nothing_in_tiny_photos(detector: CascadeDetector, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert detector.detect(noise) == []


def test_portraits(detector: CascadeDetector, portraits: list[np.ndarray]) -> None:
    """One face each, and the quad from its box is nearly the whole picture, which is the true one."""
    for portrait in portraits:
        faces = detector.detect(portrait)
        assert len(faces) == 1
        done = align(portrait, detector, model_resolution=64)
        centre = transform(done.to_photo, np.array([[(done.size - 1) / 2] * 2]))[0]
        assert np.abs(centre - 319.5).max() < 0.06 * 640
        assert np.linalg.det(done.to_photo[:2, :2]) ** 0.5 * done.size == pytest.approx(640, rel=0.2)


def test_portraits_pasted_small(detector: CascadeDetector, portraits: list[np.ndarray]) -> None:
    for number, (portrait, side) in enumerate(zip(portraits, (160, 110, 90, 130), strict=False)):
        photo = cv2.resize(skimage.data.coffee(), (900, 600))
        left, top = 40 + 150 * number, 300 - 60 * number
        photo[top : top + side, left : left + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
        x, y, _ = centre_and_side(align(photo, detector, model_resolution=64).box)
        assert np.hypot(x - left - 0.5 * side, y - top - 0.56 * side) < 0.1 * side
