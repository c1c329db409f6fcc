"""The embedded landmarks on real pictures: scikit-image's astronaut in many guises, and the held-out faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from realdrag.align import EmbeddedDetector, align
from realdrag.align.embedded import MIRROR, find_landmarks
from realdrag.align.quad import quad_from_landmarks
from realdrag.errors import NoFaceError
from realdrag.geometry import quad_to_square, transform, warp
from realdrag.weights import load_landmarks

Picture = np.ndarray
# Read off the astronaut by eye: the pupils, the tip of the nose, the corners of the mouth, the chin.
SEEN = {
    "pupils": [(202.5, 100), (246.2, 102.8)],
    "nose": [(224.2, 123.7)],
    "mouth": [(202.3, 139.2), (246.2, 138.7)],
    "chin": [(225.3, 177.8)],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def detector() -> EmbeddedDetector:
    return EmbeddedDetector(load_landmarks())


@pytest.fixture(scope="module")
def astronaut() -> Picture:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def upright(detector: EmbeddedDetector, astronaut: Picture) -> np.ndarray:
    """The astronaut's landmarks as found in the photo itself."""
    (face,) = detector.detect(astronaut)
    assert face.landmarks is not None
    return face.landmarks


def eyes(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0)))


def error(found: np.ndarray | None, points: np.ndarray) -> float:
    """Mean distance over the landmarks, in distances of the eyes."""
    assert found is not None
    return float(np.linalg.norm(found - points, axis=1).mean()) / eyes(points)


def turned(picture: Picture, degrees: float, scale: float = 1.0) -> tuple[Picture, np.ndarray]:
    """The picture turned about its middle, and the 3×3 map that did it."""
    h, w = picture.shape[:2]
    matrix = np.vstack([cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), degrees, scale), [0, 0, 1]])
    return cv2.warpAffine(picture, matrix[:2], (w, h), borderMode=cv2.BORDER_REFLECT), matrix


def test_the_astronauts_face_is_where_one_sees_it(upright: np.ndarray) -> None:
    where = {
        "pupils": [upright[36:42].mean(0), upright[42:48].mean(0)],
        "nose": [upright[30]],
        "mouth": [upright[48], upright[54]],
        "chin": [upright[8]],
    }
    for name, points in SEEN.items():
        assert np.linalg.norm(np.subtract(where[name], points), axis=1).max() < 0.12 * eyes(upright), name


def test_a_mirrored_face_has_mirrored_landmarks(
    detector: EmbeddedDetector, astronaut: Picture, upright: np.ndarray
) -> None:
    (face,) = detector.detect(np.ascontiguousarray(astronaut[:, ::-1]))
    assert face.landmarks is not None
    back = face.landmarks[MIRROR] * [-1, 1] + [astronaut.shape[1] - 1, 0]
    assert error(back, upright) < 0.03


@pytest.mark.parametrize("degrees", [-160, -90, -60, -40, -20, 15, 35, 75, 130, 180])
def test_turned_faces_are_found_and_their_crop_stands_upright(
    detector: EmbeddedDetector, astronaut: Picture, upright: np.ndarray, degrees: float
) -> None:
    # the head alone: turned, the photo's corners would be mirrored into it
    picture, matrix = turned(astronaut[:300, 60:400], degrees, 0.9)
    done = align(picture, detector, model_resolution=64)
    points = transform(matrix, upright - [60, 0])
    assert error(done.landmarks, points) < 0.06
    pupils = transform(done.to_crop, np.array([points[36:42].mean(0), points[42:48].mean(0)])) / done.size
    np.testing.assert_allclose(pupils, [[0.38, 0.47], [0.62, 0.47]], atol=0.04)


def smaller(picture: Picture) -> Picture:
    """A face 40 px wide, enlarged again."""
    h, w = picture.shape[:2]
    return cv2.resize(cv2.resize(picture, (round(w * 0.43), round(h * 0.43)), interpolation=cv2.INTER_AREA), (w, h))


def compressed(picture: Picture) -> Picture:
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 15])[1], cv2.IMREAD_COLOR)


def covered(picture: Picture) -> Picture:
    """A bar over the mouth."""
    return cv2.rectangle(picture.copy(), (195, 136), (260, 152), (30, 30, 30), -1)


@pytest.mark.parametrize(
    "harm",
    [
        lambda x: np.repeat(x.mean(2, keepdims=True), 3, 2).astype(np.uint8),
        lambda x: cv2.GaussianBlur(x, (0, 0), 2.5),
        smaller,
        compressed,
        covered,
        lambda x: (x * 0.35).astype(np.uint8),
    ],
    ids=["grey", "blurred", "small", "compressed", "covered", "dark"],
)
def test_harm_does_not_move_the_landmarks(
    detector: EmbeddedDetector, astronaut: Picture, upright: np.ndarray, harm: Callable[[Picture], Picture]
) -> None:
    (face,) = detector.detect(harm(astronaut))
    assert error(face.landmarks, upright) < 0.06


def test_a_face_at_the_border(detector: EmbeddedDetector, astronaut: Picture, upright: np.ndarray) -> None:
    picture = astronaut[40:, 150:]  # the hair is cut off
    done = align(picture, detector, model_resolution=64)
    assert error(done.landmarks, upright - [150, 40]) < 0.06


@pytest.mark.parametrize("name", ["coffee", "brick", "chelsea"])
def test_what_is_no_face_is_not_found(detector: EmbeddedDetector, name: str) -> None:
    picture = getattr(skimage.data, name)()
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, 2)
    with pytest.raises(NoFaceError):
        align(picture, detector, model_resolution=64)


def test_the_confidence_tells_faces_from_what_is_none(astronaut: Picture, upright: np.ndarray) -> None:
    net, quad = load_landmarks(), quad_from_landmarks(upright)
    there = find_landmarks(net, astronaut, quad)
    elsewhere = find_landmarks(net, astronaut, quad + np.array([120, 250]))  # the suit
    assert there is not None
    assert there.confidence > 0.6
    assert elsewhere is None or elsewhere.confidence < 0.3


def test_held_out_faces_agree_with_their_labels(shared: Path) -> None:
    """Labels of another network, on faces that training never saw; the bound is the project's."""
    with np.load(shared / "faces" / "faces-128.npz") as data:
        ends, raw, labels = data["ends"], data["jpegs"], data["landmarks"][:40]
    net, errors, turned_errors = load_landmarks(), [], []
    rng = np.random.default_rng(0)
    for start, end, points in zip([0, *ends[:39]], ends[:40], labels, strict=True):
        picture = cv2.cvtColor(cv2.imdecode(raw[start:end], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        quad = quad_from_landmarks(points)
        look = find_landmarks(net, picture, quad)
        errors.append(error(None if look is None else look.points, points))
        rough = quad.mean(0) + (quad - quad.mean(0)) * rng.uniform(0.6, 1.4) + rng.uniform(-10, 10, 2)
        look = find_landmarks(net, picture, rough, rng.uniform(-45, 45))
        turned_errors.append(error(None if look is None else look.points, points))
    assert np.mean(errors) < 0.035
    assert np.mean(turned_errors) < 0.05


def test_landmarks_do_not_depend_on_the_crops_size(astronaut: Picture, upright: np.ndarray) -> None:
    """The same face three times as large: the same places, to a hundredth of the eyes' distance."""
    quad = quad_from_landmarks(upright)
    centre = quad.mean(0)
    wide = centre + (quad - centre) * 1.6
    to_large = quad_to_square(wide, 900)
    large = warp(astronaut, to_large, 900)
    small = find_landmarks(load_landmarks(), astronaut, quad)
    again = find_landmarks(load_landmarks(), large, transform(to_large, quad))
    assert small is not None
    assert again is not None
    assert error(again.points, transform(to_large, small.points)) < 0.015


@pytest.mark.parametrize("degrees", [30, -120, 180])
def test_a_given_box_is_straightened_by_its_landmarks(
    detector: EmbeddedDetector, astronaut: Picture, upright: np.ndarray, degrees: float
) -> None:
    picture, matrix = turned(astronaut[:300, 60:400], degrees, 0.9)
    points = transform(matrix, upright - [60, 0])
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    done = align(picture, detector, model_resolution=64, box=(x0, y0, x1, y1))
    assert done.detector == "embedded"
    assert error(done.landmarks, points) < 0.06


def test_a_box_around_no_face_stays_a_box(detector: EmbeddedDetector, astronaut: Picture) -> None:
    box = (300.0, 300.0, 400.0, 400.0)  # the suit
    done, plain = (align(astronaut, each, model_resolution=64, box=box) for each in (detector, None))
    assert (done.detector, done.landmarks) == ("box", None)
    np.testing.assert_array_equal(done.to_crop, plain.to_crop)
