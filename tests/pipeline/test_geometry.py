"""Pixel conventions, proven on patterns that know their own coordinates."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from realdrag import geometry as g


def waves(x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """A smooth pattern [..., 3] at any points, 27.5..227.5."""
    tone = 2 * np.pi / period
    planes = [np.sin(tone * x), np.sin(tone * y + 1), np.sin(tone * 0.7 * (x + y))]
    return 127.5 + 100 * np.stack(planes, axis=-1)


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return x, y


def shift_between(seen: np.ndarray, meant: np.ndarray) -> np.ndarray:
    """By how much `seen` [h, w, 3] is moved against `meant`, (x, y) in pixels: least squares on the gradients."""
    slope_y, slope_x = np.gradient(meant, axis=(0, 1))
    slopes = np.column_stack([slope_x.ravel(), slope_y.ravel()])
    return -np.linalg.lstsq(slopes, (seen - meant).ravel(), rcond=None)[0]


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    turn = np.deg2rad(degrees)
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]])


def test_transform_maps_points_as_the_matrix_does() -> None:
    matrix = similarity(1.7, 31, 5.5, -2.25)
    points = np.array([[0, 0], [3.25, -7.5], [1000, 2000]])
    whole = np.column_stack([points, np.ones(3)]) @ matrix.T
    np.testing.assert_allclose(g.transform(matrix, points), whole[:, :2])
    np.testing.assert_allclose(g.transform(np.linalg.inv(matrix), g.transform(matrix, points)), points, atol=1e-9)
    # A quarter turn from x to y: rows are not mistaken for columns.
    np.testing.assert_allclose(g.transform(similarity(2, 90, 0, 0), np.array([[1.0, 0.0]])), [[0, 2]], atol=1e-12)


@pytest.mark.parametrize(("source", "target"), [(512, 64), (64, 256), (100, 33), (7, 7)])
def test_a_change_of_size_keeps_the_edges(source: int, target: int) -> None:
    matrix = g.resize_matrix(source, target)
    corners = np.array([[-0.5, -0.5], [source - 0.5, source - 0.5], [(source - 1) / 2, -0.5]])
    expected = [[-0.5, -0.5], [target - 0.5, target - 0.5], [(target - 1) / 2, -0.5]]
    np.testing.assert_allclose(g.transform(matrix, corners), expected, atol=1e-12)
    np.testing.assert_allclose(matrix @ g.resize_matrix(target, source), np.eye(3), atol=1e-12)
    assert g.scale_of(matrix) == pytest.approx(target / source)


def test_scale_of_a_turned_map() -> None:
    assert g.scale_of(similarity(0.37, 123, 4, 5)) == pytest.approx(0.37)
    assert g.scale_of(np.diag([-2.0, 2.0, 1.0])) == pytest.approx(2)


@pytest.mark.parametrize("degrees", [0, 20, -135])
def test_the_corners_of_a_quad_are_the_edges_of_the_square(degrees: float) -> None:
    turn = similarity(80, degrees, 300.25, 200.5)
    quad = g.transform(turn, np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]], float))  # tl, bl, br, tr
    matrix = g.quad_to_square(quad, 64)
    low, high = -0.5, 63.5
    np.testing.assert_allclose(
        g.transform(matrix, quad), [[low, low], [low, high], [high, high], [high, low]], atol=1e-9
    )
    np.testing.assert_allclose(g.transform(matrix, np.array([[300.25, 200.5]])), [[31.5, 31.5]], atol=1e-9)
    assert g.scale_of(matrix) == pytest.approx(64 / 160)


@pytest.mark.parametrize("colours", [0, 3])
def test_no_map_changes_nothing(colours: int) -> None:
    shape = (40, 40, colours) if colours else (40, 40)
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(g.warp(picture, np.eye(3), 40), picture)
    np.testing.assert_array_equal(g.resize(picture, 40), picture)


def test_whole_pixels_are_shifted_exactly_and_the_border_is_a_mirror() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    out = g.warp(picture, similarity(1, 0, -7, -3), 30)  # photo (7, 3) comes to (0, 0)
    np.testing.assert_array_equal(out, picture[3:33, 7:37])
    out = g.warp(picture, similarity(1, 0, 6, 4), 30)  # 6 columns and 4 rows are beyond the picture
    np.testing.assert_array_equal(out[4:, 6:], picture[:26, :24])
    np.testing.assert_array_equal(out[4:, :6], picture[:26, :6][:, ::-1])
    np.testing.assert_array_equal(out[:4, 6:], picture[:4, :24][::-1])


@pytest.mark.parametrize("degrees", [0.0, 23.0])
@pytest.mark.parametrize("reduction", [1.0, 2.0, 3.3, 20.0, 1 / 3])
@pytest.mark.parametrize(("offset", "tolerance"), [(0.5, 0.03), (0.3, 0.06)])
def test_a_warped_picture_shows_what_the_map_says(
    reduction: float, degrees: float, offset: float, tolerance: float
) -> None:
    """Each pixel has the value of the pattern at the point the inverse map names.

    OpenCV's cubic kernel (a = −0.75) reads a slope up to 0.05 px beside the point, but right in the middle of two.
    """
    size, period = (96 if reduction < 10 else 40), 24 * max(reduction, 0.5)
    side = round(size * reduction * 1.5)
    photo = waves(*grid(side, side), period).round().astype(np.uint8)
    middle = (side - 1) // 2 + offset
    matrix = similarity(1 / reduction, degrees, 0, 0)
    matrix[:2, 2] = size // 2 - matrix[:2, :2] @ [middle, middle]
    seen = g.warp(photo, matrix, size)
    assert seen.dtype == np.uint8
    assert seen.shape == (size, size, 3)
    x, y = grid(size, size)
    there = g.transform(np.linalg.inv(matrix), np.stack([x, y], -1).reshape(-1, 2)).reshape(size, size, 2)
    meant = waves(there[..., 0], there[..., 1], period)
    assert np.abs(shift_between(seen.astype(float), meant)).max() < tolerance
    assert np.abs(seen - meant).mean() < 2


@pytest.mark.parametrize(("reduction", "tolerance"), [(4, 1), (3.3, 8), (20, 1)])
def test_reducing_averages_the_area(reduction: float, tolerance: float) -> None:
    """Fine detail becomes its mean, not a sample of it."""
    size = 32
    side = round(size * reduction)
    x, y = grid(side, side)
    board = np.where((x + y) % 2 == 0, 0, 255).astype(np.uint8)
    out = g.warp(board, g.resize_matrix(side, size) if side % size == 0 else similarity(size / side, 0, 0, 0), size)
    assert np.abs(out[2:-2, 2:-2].astype(float) - 127.5).max() <= tolerance


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("target", [32, 45, 64, 200])
def test_resize_keeps_centres_and_dtype(target: int, dtype: type) -> None:
    picture = waves(*grid(90, 90), 40).astype(dtype)
    out = g.resize(picture, target)
    assert out.dtype == dtype
    assert out.shape == (target, target, 3)
    x, y = grid(target, target)
    meant = waves((x + 0.5) * 90 / target - 0.5, (y + 0.5) * 90 / target - 0.5, 40)
    inner = slice(target // 8, -target // 8)
    assert np.abs(shift_between(out[inner, inner].astype(float), meant[inner, inner])).max() < 0.02


def test_resize_averages_when_reducing() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    np.testing.assert_allclose(g.resize(board, 16), 127.5, atol=0.5)


def test_sample_reads_pixels_at_their_centres_and_replicates_the_edge() -> None:
    picture = np.random.default_rng(2).random((9, 12, 2)).astype(np.float32)
    x, y = grid(9, 12)
    np.testing.assert_allclose(g.sample(picture, x, y), picture, atol=1e-6)
    np.testing.assert_allclose(g.sample(picture, np.array([[40.0, -40.0]]), np.array([[4.0, 4.0]]))[0], [
        picture[4, -1], picture[4, 0],
    ], atol=1e-6)  # fmt: skip
    ramp = np.tile(np.arange(12, dtype=np.float32) * 10, (9, 1))
    assert g.sample(ramp, np.array([[5.5]]), np.array([[4.5]]))[0, 0] == pytest.approx(55, abs=0.01)


def features_of(array: np.ndarray) -> torch.Tensor:
    """[h, w, c] → [1, c, h, w]."""
    return torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)[None]


def test_features_on_a_ramp_are_their_coordinates() -> None:
    """Also on a map that is not square: x goes with the width."""
    x, y = grid(24, 40)
    ramp = features_of(np.stack([x, y], -1))
    points = torch.tensor([[0.0, 0.0], [39.0, 23.0], [7.25, 3.5], [38.9, 0.1], [12.0, 22.75]])
    torch.testing.assert_close(g.sample_features(ramp, points), points, atol=1e-4, rtol=0)


def test_features_at_the_border_are_those_of_the_edge() -> None:
    """Not half of them: the published code pads with zeros."""
    ones = torch.ones(1, 3, 16, 16)
    points = torch.tensor([[-0.5, -0.5], [15.5, 15.5], [-3.0, 8.0], [8.0, 20.0], [0.0, 15.4]])
    torch.testing.assert_close(g.sample_features(ones, points), torch.ones(5, 3))


def test_features_agree_with_opencv_s_bilinear() -> None:
    rng = np.random.default_rng(3)
    array = rng.random((16, 16, 4)).astype(np.float32)
    points = rng.uniform(-0.5, 15.5, (200, 2)).astype(np.float32)
    points = (points * 32).round() / 32  # OpenCV's own step
    seen = g.sample_features(features_of(array), torch.from_numpy(points)).numpy()
    meant = cv2.remap(array, points[:, :1], points[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
    np.testing.assert_allclose(seen, meant, atol=1e-4)


def test_features_give_gradients_to_map_and_points() -> None:
    x, y = grid(8, 8)
    ramp = features_of(np.stack([x, 3 * y], -1)).requires_grad_()
    points = torch.tensor([[3.3, 4.6]], requires_grad=True)
    g.sample_features(ramp, points).sum().backward()
    torch.testing.assert_close(points.grad, torch.tensor([[1.0, 3.0]]), atol=1e-4, rtol=0)
    assert ramp.grad is not None
    assert int((ramp.grad != 0).sum()) == 8  # four neighbours, two channels
    assert float(ramp.grad.sum()) == pytest.approx(2)


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0), (1.0, 17), (2.3, 180), (0.4, -31), (0.08, 5)])
def test_unwarp_undoes_warp_in_its_place(scale: float, degrees: float) -> None:
    """A picture of 96 px laid on a photo, larger or smaller than it is there, shows what it showed, unmoved."""
    to_picture = similarity(scale, degrees, 3.3, -2.6)
    to_photo = np.linalg.inv(to_picture)
    middle = g.transform(to_photo, np.array([[47.5, 47.5]]))[0]
    half = 30 / scale
    x0, y0 = np.floor(middle - half * 0.6).astype(int)
    x1, y1 = np.ceil(middle + half * 0.6).astype(int)
    period = max(16.0, 4 * scale)
    picture = waves(*grid(96, 96), period).astype(np.float32)
    x, y = grid(y1 - y0, x1 - x0)
    there = g.transform(to_picture, np.stack([x + x0, y + y0], -1).reshape(-1, 2)).reshape(*x.shape, 2)
    seen = g.unwarp(picture, to_picture, (int(x0), int(y0), int(x1), int(y1)))
    meant = waves(there[..., 0], there[..., 1], period)
    assert np.abs(seen - meant).mean() < 2.5
    if min(seen.shape[:2]) > 8:  # OpenCV's kernels know places to 1/32 px
        assert np.hypot(*shift_between(seen, meant)) < 0.03


@pytest.mark.parametrize("side", [256, 360])
@pytest.mark.parametrize("degrees", [0, 12, 180])
def test_crop_paste_crop_keeps_the_crop(astronaut: np.ndarray, side: int, degrees: float) -> None:
    """Of an unedited crop: at least 45 dB at its own resolution, and not a fiftieth of a pixel of shift."""
    turn = np.deg2rad(degrees)
    half = side / 2 * np.array([np.cos(turn), np.sin(turn)])
    down, middle = np.array([-half[1], half[0]]), np.array([255.8, 255.3])
    corners = [middle - half - down, middle - half + down, middle + half + down, middle + half - down]
    to_crop = g.quad_to_square(np.array(corners), side)
    crop = g.warp(astronaut, to_crop, side, sharp=True)
    again = g.warp(g.unwarp(crop, to_crop, (0, 0, 512, 512)), to_crop, side, sharp=True)
    inner = np.s_[40:-40, 40:-40]
    a, b = (c[inner].astype(float) for c in (crop, again))
    assert 10 * np.log10(255**2 / np.square(a - b).mean()) > 45
    assert np.hypot(*shift_between(b, a)) <= 0.02
