"""The crop: where it lies to a fraction of a pixel, how it is reduced, and every way to ask for one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from realdrag import geometry
from realdrag.align import Face, align, quad_from_box, quad_from_landmarks
from realdrag.errors import InputError, NoFaceError


class Fixed:
    """A detector that has found `faces`."""

    name = "fixed"

    def __init__(self, *faces: Face) -> None:
        self.faces = list(faces)

    def detect(self, rgb: np.ndarray) -> list[Face]:
        return list(self.faces)


def waves(height: int, width: int, period: float) -> np.ndarray:
    """A smooth pattern [h, w, 3] that knows its own coordinates."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return wave_at(x, y, period).round().astype(np.uint8)


def wave_at(x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    tone = 2 * np.pi / period
    planes = [np.sin(tone * x), np.sin(tone * y), np.sin(tone * (x + y))]
    return 127.5 + 100 * np.stack(planes, axis=-1)


def shift_between(seen: np.ndarray, meant: np.ndarray) -> np.ndarray:
    """By how much `seen` [h, w, c] is moved against `meant`, (x, y) in pixels: least squares on the gradients."""
    slope_y, slope_x = np.gradient(meant, axis=(0, 1))
    slopes = np.column_stack([slope_x.ravel(), slope_y.ravel()])
    return -np.linalg.lstsq(slopes, (seen - meant).ravel(), rcond=None)[0]


def turned_landmarks(centre: tuple[float, float], eyes: float, degrees: float) -> np.ndarray:
    """[68, 2]: a face with `eyes` px between them, turned about `centre`."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (-eyes / 2, 0), (eyes / 2, 0)
    points[48], points[54] = (-0.4 * eyes, eyes), (0.4 * eyes, eyes)
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ matrix.T + centre


@pytest.mark.parametrize("reduction", [1.0, 2.0, 4.0, 5.3, 0.4])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_crop_shows_what_the_map_says(reduction: float, degrees: float) -> None:
    """Each crop pixel has the value of the pattern at the photo point that `to_photo` names: no half-pixel shift."""
    size = 128
    side = size * reduction
    photo = waves(1100, 1100, period=max(24.0, 8 * reduction))
    face = turned_landmarks((540.3, 520.7), eyes=100.0, degrees=degrees)
    quad = quad_from_landmarks(face)
    centre = quad.mean(axis=0)
    quad = centre + (quad - centre) * side / np.linalg.norm(quad[3] - quad[0])
    to_crop = geometry.quad_to_square(quad, size)
    crop = geometry.warp(photo, to_crop, size).astype(np.float64)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    back = geometry.transform(np.linalg.inv(to_crop), np.column_stack([x.ravel(), y.ravel()]))
    px, py = back[:, 0].reshape(size, size), back[:, 1].reshape(size, size)
    period = max(24.0, 8 * reduction)
    for shift in (-0.5, 0.5):  # such a shift of the crop would be seen
        step = shift * reduction
        worse = np.abs(crop - wave_at(px + step, py + step, period)).mean()
        assert np.abs(crop - wave_at(px, py, period)).mean() < 0.35 * worse
    # OpenCV samples at 32nds of a pixel, cut down, so some hundredths remain
    np.testing.assert_allclose(shift_between(crop, wave_at(px, py, period)), 0, atol=0.07)


@pytest.mark.parametrize(("eyes", "size"), [(40.0, 256), (90.0, 360), (300.0, 1024)])
def test_crop_and_back_again(eyes: float, size: int) -> None:
    """Photo → crop → photo gives the photo; the crop has the quad's size, between the model's and 1024 px."""
    photo = waves(round(8 * eyes), round(8 * eyes), period=40)
    middle = photo.shape[0] / 2
    face = turned_landmarks((middle, middle - eyes / 10), eyes, 9.0)
    done = align(photo, Fixed(Face((0, 0, 9, 9), face)), model_resolution=256)
    assert done.size == size
    assert done.landmarks is face
    np.testing.assert_allclose(done.to_photo @ done.to_crop, np.eye(3), atol=1e-9)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    back = cv2.warpAffine(done.crop, done.to_crop[:2], photo.shape[1::-1], flags=flags).astype(np.float64)
    reach = int(eyes)
    inner = np.s_[int(middle) - reach : int(middle) + reach, int(middle) - reach : int(middle) + reach]
    assert np.abs(back[inner] - photo[inner]).mean() < 1.5
    np.testing.assert_allclose(shift_between(back[inner], photo[inner].astype(np.float64)), 0, atol=0.03)


def test_a_fine_checkerboard_becomes_grey() -> None:
    tile = np.indices((1024, 1024)).sum(axis=0) % 2 * 255
    photo = np.repeat(tile[..., None], 3, axis=2).astype(np.uint8)
    # The quad is 4096 px wide and the crop 1024: reduced four times. The third of a pixel keeps the crop's pixel
    # centres away from the corners of the tiles, where any interpolation gives grey.
    done = align(photo, None, model_resolution=64, box=box_for_quad((511.8, 511.8), 4096))
    inner = done.crop[400:624, 400:624].astype(np.float64)
    assert np.abs(inner - 127.5).max() <= 1.5


def box_for_quad(centre: tuple[float, float], side: float) -> tuple[float, float, float, float]:
    """The box whose quad has this centre and side."""
    unit = quad_from_box((0, 0, 99, 99))
    offset = (unit.mean(axis=0) - 49.5) / 100
    box_side = side / (np.linalg.norm(unit[3] - unit[0]) / 100)
    x, y = np.array(centre) - offset * box_side
    reach = (box_side - 1) / 2
    return (x - reach, y - reach, x + reach, y + reach)


def test_box_is_the_one_used() -> None:
    photo = waves(300, 400, 30)
    done = align(photo, None, model_resolution=64, box=(100, 80, 199, 179))
    assert (done.detector, done.box, done.landmarks, done.confidence) == ("box", (100, 80, 199, 179), None, None)
    corners = geometry.transform(done.to_crop, quad_from_box((100, 80, 199, 179)))
    edge = done.size - 0.5
    np.testing.assert_allclose(corners, [[-0.5, -0.5], [-0.5, edge], [edge, edge], [edge, -0.5]], atol=1e-9)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((50, 50, 50, 90), "empty"),
        ((90, 50, 50, 90), "empty"),
        ((float("nan"), 0, 50, 50), "empty"),
        ((0, 0, float("inf"), 50), "empty"),
        ((50, 50, 56, 90), "too small"),
        ((400, 50, 500, 150), "outside"),
        ((50, -90, 150, -1), "outside"),
    ],
)
def test_wrong_boxes(box: tuple[float, float, float, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        align(waves(300, 400, 30), None, model_resolution=64, box=box)


@pytest.mark.parametrize("box", [(50, 50, 57, 90), (399, 50, 500, 150), (-90, -90, 0, 0)])
def test_boxes_just_right(box: tuple[float, float, float, float]) -> None:
    assert align(waves(300, 400, 30), None, model_resolution=64, box=box).size >= 64


@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 300), (256, 256)])
def test_whole_is_the_largest_centred_square(height: int, width: int) -> None:
    photo = waves(height, width, 30)
    done = align(photo, None, model_resolution=64, whole=True)
    side = min(height, width)
    assert (done.detector, done.box, done.size) == ("whole", None, side)
    if (width - side) % 2 == (height - side) % 2 == 0:
        top, left = (height - side) // 2, (width - side) // 2
        np.testing.assert_array_equal(done.crop, photo[top : top + side, left : left + side])
    else:
        np.testing.assert_allclose(
            geometry.transform(done.to_photo, np.array([[(side - 1) / 2] * 2])), [[(width - 1) / 2, (height - 1) / 2]]
        )


def test_outside_is_the_mirror_image() -> None:
    photo = waves(200, 200, 30)
    photo[:, :20] = 255
    done = align(photo, None, model_resolution=64, box=box_for_quad((0, 100), 128))
    to_photo = geometry.transform(done.to_photo, np.array([[0.0, 64.0]]))[0]
    assert to_photo[0] < -60
    np.testing.assert_array_equal(done.crop[:, 50:78], 255)  # 20 px on both sides of the border
    assert done.crop[:, :40].std() > 30


@pytest.mark.parametrize(("height", "width"), [(10, 10), (1, 1), (1, 50), (9, 3000)])
def test_tiny_and_narrow_photos(height: int, width: int) -> None:
    photo = np.full((height, width, 3), 77, np.uint8)
    for done in (
        align(photo, None, model_resolution=64, whole=True),
        align(photo, None, model_resolution=64, box=(-200, -200, 5, 5)),
        align(photo, None, model_resolution=64, box=(0, 0, 7, 7)),
    ):
        assert done.crop.dtype == np.uint8
        assert done.crop.shape == (done.size, done.size, 3)
        np.testing.assert_array_equal(done.crop, 77)


def test_faces_are_numbered_by_size() -> None:
    photo = waves(300, 400, 30)
    small, large, middle = Face((0, 0, 49, 49)), Face((200, 100, 299, 199), None, 0.7), Face((100, 0, 169, 69))
    detector = Fixed(small, large, middle)
    assert align(photo, detector, model_resolution=64).box == large.box
    assert align(photo, detector, model_resolution=64, face=1).confidence == 0.7
    assert align(photo, detector, model_resolution=64, face=2).box == middle.box
    done = align(photo, detector, model_resolution=64, face=3)
    assert (done.box, done.detector, done.confidence) == (small.box, "fixed", None)
    for number in (0, -1, 4):
        with pytest.raises(InputError, match="3 faces were found") as raised:
            align(photo, detector, model_resolution=64, face=number)
        assert not isinstance(raised.value, NoFaceError)
    with pytest.raises(InputError, match="1 face was found"):
        align(photo, Fixed(small), model_resolution=64, face=2)


def test_no_face() -> None:
    with pytest.raises(NoFaceError, match=r"no face was found \(detector: fixed\)") as raised:
        align(waves(90, 90, 30), Fixed(), model_resolution=64, face=2)
    assert "--box" in raised.value.hint
    assert "--whole" in raised.value.hint


def test_what_cannot_be_asked() -> None:
    photo = waves(90, 90, 30)
    with pytest.raises(InputError, match="no face detector"):
        align(photo, None, model_resolution=64)
    with pytest.raises(InputError, match="exclude"):
        align(photo, None, model_resolution=64, whole=True, box=(0, 0, 50, 50))
    with pytest.raises(InputError, match="exclude"):
        align(photo, Fixed(Face((0, 0, 9, 9))), model_resolution=64, whole=True, face=1)
    with pytest.raises(InputError, match="landmarks"):
        align(photo, Fixed(Face((0, 0, 9, 9), np.ones((68, 2)))), model_resolution=64)
