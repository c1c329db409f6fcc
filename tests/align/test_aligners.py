"""The squares of models without faces, and of faces that are not turned: where they lie, and what is black."""

from __future__ import annotations

import numpy as np
import pytest

from realdrag import geometry
from realdrag.align import Face, align, quad_from_box, quad_from_landmarks
from realdrag.errors import InputError
from realdrag.settings import Aligner

SIZE = 64


class Fixed:
    """A detector that has found one face."""

    name = "fixed"

    def __init__(self, face: Face) -> None:
        self.face = face

    def detect(self, rgb: np.ndarray) -> list[Face]:
        return [self.face]

    def face_in(self, rgb: np.ndarray, box: tuple[float, float, float, float]) -> Face:
        return Face(box, self.face.landmarks)


def waves(height: int, width: int) -> np.ndarray:
    """A smooth pattern [h, w, 3] between 60 and 200."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return np.rint(pattern(x, y)).astype(np.uint8)


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    planes = [np.sin(x / 9), np.sin(y / 9), np.sin((x + y) / 11)]
    return 130 + 70 * np.stack(planes, axis=-1)


def turned_landmarks(degrees: float) -> np.ndarray:
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (-40, 0), (40, 0)
    points[48], points[54] = (-30, 80), (30, 80)
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ matrix.T + (200, 150)


def corners(done: object) -> np.ndarray:
    """The crop's top-left and bottom-right corner in the photo."""
    low, high = -0.5, done.size - 0.5  # type: ignore[attr-defined]
    return geometry.transform(done.to_photo, np.array([[low, low], [high, high]]))  # type: ignore[attr-defined]


# Faces that are not turned.


@pytest.mark.parametrize("degrees", [0.0, 25.0, -140.0])
def test_upright_is_the_same_square_unturned(degrees: float) -> None:
    face = Face((150, 100, 249, 199), turned_landmarks(degrees))
    quad = quad_from_landmarks(turned_landmarks(degrees))
    done = align(waves(300, 400), Fixed(face), model_resolution=SIZE, aligner="ffhq-upright")
    assert (done.detector, done.landmarks is face.landmarks) == ("fixed", True)
    np.testing.assert_allclose(done.to_crop[0, 1], 0, atol=1e-12)
    assert done.to_crop[0, 0] > 0
    np.testing.assert_allclose(corners(done).mean(0), quad.mean(0), atol=1e-9)
    side = np.linalg.norm(quad[3] - quad[0])
    np.testing.assert_allclose(corners(done)[1] - corners(done)[0], side, atol=1e-9)
    turned = align(waves(300, 400), Fixed(face), model_resolution=SIZE, aligner="ffhq")
    assert turned.size == done.size
    assert (degrees == 0) == np.allclose(turned.to_crop, done.to_crop)


def test_upright_in_a_box_without_landmarks_is_the_boxs_square() -> None:
    box = (100.0, 80.0, 199.0, 179.0)
    done = align(waves(300, 400), None, model_resolution=SIZE, box=box, aligner="ffhq-upright")
    quad = quad_from_box(box)
    np.testing.assert_allclose(corners(done), [quad[0], quad[2]], atol=1e-9)


# Squares.


@pytest.mark.parametrize("whole", [False, True])
def test_square_is_the_largest_centred_one(whole: bool) -> None:
    photo = waves(300, 400)
    done = align(photo, None, model_resolution=SIZE, aligner="square", whole=whole)
    assert (done.detector, done.size, done.box, done.landmarks, done.shown) == ("square", 300, None, None, None)
    np.testing.assert_array_equal(done.crop, photo[:, 50:350])


@pytest.mark.parametrize(
    ("box", "low", "high"),
    [
        ((40, 60, 139, 159), (39.5, 59.5), (139.5, 159.5)),
        ((40, 60, 139, 109), (39.5, 34.5), (139.5, 134.5)),  # 100 × 50: the longer side counts
        ((40.25, 60, 89.25, 159), (14.75, 59.5), (114.75, 159.5)),
    ],
)
def test_square_around_a_box(
    box: tuple[float, float, float, float], low: tuple[float, float], high: tuple[float, float]
) -> None:
    done = align(waves(300, 400), None, model_resolution=SIZE, aligner="square", box=box)
    assert (done.detector, done.box, done.size, done.shown) == ("square", box, 100, None)
    np.testing.assert_allclose(corners(done), [low, high], atol=1e-9)
    assert_shows_the_photo(done)


def assert_shows_the_photo(done: object, rows: slice = slice(None), columns: slice = slice(None)) -> None:
    """Crop pixels are the pattern at the photo points that the map names, and not half a pixel beside them."""
    size = done.size  # type: ignore[attr-defined]
    y, x = np.mgrid[:size, :size].astype(np.float64)
    back = geometry.transform(done.to_photo, np.stack([x, y], -1).reshape(-1, 2))  # type: ignore[attr-defined]
    px, py = (back[:, n].reshape(size, size) for n in (0, 1))
    seen = done.crop[rows, columns].astype(float)  # type: ignore[attr-defined]
    right = np.abs(seen - pattern(px, py)[rows, columns]).mean()
    for shift in (-0.5, 0.5):
        assert right < 0.4 * np.abs(seen - pattern(px + shift, py + shift)[rows, columns]).mean()


def test_square_beyond_the_photo_shows_its_mirror_image() -> None:
    photo = waves(300, 400)
    done = align(photo, None, model_resolution=SIZE, aligner="square", box=(-50, 50, 49, 149))
    np.testing.assert_array_equal(done.crop[:, :50], done.crop[:, 99:49:-1])
    np.testing.assert_array_equal(done.crop[:, 50:], photo[50:150, :50])


# Letterbox.


@pytest.mark.parametrize("upright", [False, True])
def test_letterbox_holds_the_whole_photo(upright: bool) -> None:
    """As LSUN's cars: 4:3 in a square of 512 px has rows 64 to 448."""
    photo = waves(384, 512)
    if upright:
        photo = np.ascontiguousarray(photo.transpose(1, 0, 2))
    done = align(photo, None, model_resolution=SIZE, aligner="letterbox")
    assert (done.detector, done.size) == ("letterbox", 512)
    assert done.box == done.shown == (0, 0, photo.shape[1] - 1, photo.shape[0] - 1)
    crop = done.crop.transpose(1, 0, 2) if upright else done.crop
    np.testing.assert_array_equal(crop[64:448], waves(384, 512))
    assert not crop[:64].any()
    assert not crop[448:].any()


def test_letterbox_fits_a_box_and_blackens_the_rest_of_the_photo() -> None:
    photo = waves(300, 400)
    box = (100, 120, 219, 179)  # 120 × 60
    done = align(photo, None, model_resolution=SIZE, aligner="letterbox", box=box)
    assert (done.size, done.box, done.shown) == (120, box, box)
    np.testing.assert_array_equal(done.crop[30:90], photo[120:180, 100:220])
    assert not done.crop[:30].any()
    assert not done.crop[90:].any()


def test_letterbox_of_a_box_beyond_the_photo() -> None:
    done = align(waves(300, 400), None, model_resolution=SIZE, aligner="letterbox", box=(-40, 100, 59, 149))
    assert done.shown == (0, 100, 59, 149)
    np.testing.assert_array_equal(done.crop[25:75, 40:], waves(300, 400)[100:150, :60])
    assert not done.crop[:, :40].any()


def test_letterbox_to_a_fraction_of_a_pixel() -> None:
    """A bar of 74.5 px: the row on the edge is half as bright; the content lies where the map says."""
    photo = np.full((151, 300, 3), 200, np.uint8)
    done = align(photo, None, model_resolution=SIZE, aligner="letterbox")
    np.testing.assert_array_equal(done.crop[[73, 74, 75, 224, 225, 226], 7, 0], [0, 100, 200, 200, 100, 0])
    done = align(waves(171, 300), None, model_resolution=400, aligner="letterbox")  # enlarged by 4/3
    assert_shows_the_photo(done, slice(90, 310), slice(4, 396))


def test_letterbox_whole_is_the_largest_centred_square() -> None:
    photo = waves(300, 400)
    done = align(photo, None, model_resolution=SIZE, aligner="letterbox", whole=True)
    assert (done.detector, done.shown) == ("letterbox", None)
    np.testing.assert_array_equal(done.crop, photo[:, 50:350])


# What cannot be asked.


@pytest.mark.parametrize("aligner", ["square", "letterbox"])
def test_without_faces_none_is_looked_for(aligner: Aligner) -> None:
    class Never:
        name = "never"

        def detect(self, rgb: np.ndarray) -> list[Face]:
            raise AssertionError("looked for a face")

        def face_in(self, rgb: np.ndarray, box: object) -> Face:
            raise AssertionError("looked for a face")

    photo = waves(90, 120)
    for given in ({}, {"box": (10, 10, 40, 40)}, {"whole": True}):
        align(photo, Never(), model_resolution=SIZE, aligner=aligner, **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"no face 2: the aligner {aligner} looks for none; .*--box"):
        align(photo, Never(), model_resolution=SIZE, aligner=aligner, face=2)
    with pytest.raises(InputError, match="exclude"):
        align(photo, None, model_resolution=SIZE, aligner=aligner, whole=True, box=(10, 10, 40, 40))
    for box in ((30, 30, 30, 60), (0, 0, 5, 50), (200, 0, 300, 50)):
        with pytest.raises(InputError, match="the box"):
            align(photo, None, model_resolution=SIZE, aligner=aligner, box=box)


@pytest.mark.parametrize("aligner", ["square", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (9, 3000), (40, 7)])
def test_tiny_and_narrow_photos(aligner: Aligner, height: int, width: int) -> None:
    photo = np.full((height, width, 3), 77, np.uint8)
    done = align(photo, None, model_resolution=SIZE, aligner=aligner)
    assert done.crop.shape == (done.size, done.size, 3)
    assert done.crop.max() == 77 if aligner == "square" else 0 < done.crop.max() <= 77
