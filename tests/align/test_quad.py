"""The quad: FFHQ's numbers worked out by hand, and what must hold for any face."""

from __future__ import annotations

import numpy as np
import pytest

from realdrag.align import quad_from_box, quad_from_landmarks
from realdrag.errors import InputError


def landmarks(left_eye: tuple[float, float], right_eye: tuple[float, float], mouth: tuple[float, float]) -> np.ndarray:
    """[68, 2] with eye rings around the eyes' centres and mouth corners ±15 px beside the mouth's; noise elsewhere."""
    points = np.random.default_rng(0).uniform(0, 300, (68, 2))
    ring = np.array([[-6, 0], [-3, -3], [3, -3], [6, 0], [3, 3], [-3, 3]])
    points[36:42], points[42:48] = ring + left_eye, ring + right_eye
    points[48], points[54] = (mouth[0] - 15, mouth[1]), (mouth[0] + 15, mouth[1])
    return points


def test_upright_face_by_hand() -> None:
    # e = (60, 0), m = (0, 70): x = (130, 0) → ×max(2·60, 1.8·70 = 126); centre = (130, 100) + 0.1·(0, 70)
    quad = quad_from_landmarks(landmarks((100, 100), (160, 100), (130, 170)))
    np.testing.assert_allclose(quad, [[4, -19], [4, 233], [256, 233], [256, -19]], atol=1e-9)


def test_wide_eyes_rule_by_hand() -> None:
    # e = (80, 0), m = (0, 40): 2·80 = 160 beats 72; centre = (140, 104)
    quad = quad_from_landmarks(landmarks((100, 100), (180, 100), (140, 140)))
    np.testing.assert_allclose(quad, [[-20, -56], [-20, 264], [300, 264], [300, -56]], atol=1e-9)


def test_turned_face_by_hand() -> None:
    # e = (60, 0), m = (30, 40), E = (130, 100): x = (60, 0) + (40, −30) = (100, −30), |x| = √10900;
    # half side = max(120, 1.8·50 = 90); c = (133, 104)
    x = np.array([100, -30]) / np.sqrt(10900) * 120
    y = np.array([-x[1], x[0]])
    c = np.array([133, 104])
    quad = quad_from_landmarks(landmarks((100, 100), (160, 100), (160, 140)))
    np.testing.assert_allclose(quad, [c - x - y, c - x + y, c + x + y, c + x - y], atol=1e-9)


@pytest.mark.parametrize(("degrees", "scale", "shift"), [(0, 3.7, (5, -9)), (33, 1, (0, 0)), (-120, 0.6, (900, 40))])
def test_follows_a_similarity(degrees: float, scale: float, shift: tuple[float, float]) -> None:
    turn = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    face = landmarks((103, 98), (166, 110), (121, 171))
    moved = quad_from_landmarks(face @ matrix.T + shift)
    np.testing.assert_allclose(moved, quad_from_landmarks(face) @ matrix.T + shift, atol=1e-8)


def test_aligned_template_gives_the_whole_picture() -> None:
    # facexlib's template of an FFHQ picture at 512 px; mean features, so a few per cent is all that can be asked
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (193.0, 239.9), (318.9, 240.2)
    points[48], points[54] = (201.3, 371.4), (313.1, 371.2)
    quad = quad_from_landmarks(points)
    np.testing.assert_allclose(quad, [[-0.5, -0.5], [-0.5, 511.5], [511.5, 511.5], [511.5, -0.5]], atol=0.04 * 512)


@pytest.mark.parametrize(
    "face",
    [
        landmarks((100, 100), (100, 100), (100, 150)),  # coincident eyes
        landmarks((130, 100), (100, 100), (115, 130)),  # mouth as far below as the eyes are crossed: no x axis
        np.full((68, 2), np.nan),
        np.where(np.arange(136).reshape(68, 2) == 0, np.inf, landmarks((100, 100), (160, 100), (130, 170))),
    ],
    ids=["coincident", "no axis", "nan", "one inf"],
)
def test_degenerate_landmarks(face: np.ndarray) -> None:
    with pytest.raises(InputError, match="landmarks"):
        quad_from_landmarks(face)


def test_wrong_shape_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match=r"\(68, 2\)"):
        quad_from_landmarks(np.zeros((5, 2)))


def test_box_gives_the_measured_square() -> None:
    """Upright, square, and of the size and place that `quad_from_box` records."""
    quad = quad_from_box((100, 200, 199, 299))  # 100 px wide, centre (149.5, 249.5)
    x, y = quad.mean(axis=0)
    reach = (quad[2, 0] - quad[0, 0]) / 2
    assert 138 <= 2 * reach <= 160
    assert 147 <= x <= 152
    assert 7 <= 249.5 - y <= 11
    np.testing.assert_allclose(quad - (x, y), np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * reach, atol=1e-9)


def test_box_scales_with_the_photo() -> None:
    # edges at 9.5 and 49.5, and at three times that
    small, large = quad_from_box((10, 20, 49, 59)), quad_from_box((29, 59, 148, 178))
    np.testing.assert_allclose((small + 0.5) * 3 - 0.5, large, atol=1 + 1e-9)
    np.testing.assert_allclose((small[2] - small[0]) * 3, large[2] - large[0], atol=1e-9)
