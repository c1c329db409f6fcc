"""Coordinates, and the one place that knows what each library assumes about them.

Convention, everywhere in realdrag: x to the right, y down, in pixels of the picture named; the centre of the
top-left pixel is (0, 0), so a picture of width w covers −0.5 … w−0.5. Points are float64 `[n, 2]` as (x, y).
A change of size by s is x' = (x + ½)·s − ½. Matrices are 3×3, act on column vectors (x, y, 1) and are named by
where they lead: `to_crop` maps photo pixels to crop pixels. Boxes are (x0, y0, x1, y1), inclusive pixels.

What the libraries assume:
- OpenCV `warpAffine`, `remap`: this convention. `resize`: the half-pixel rule above.
- torch `grid_sample(align_corners=False)`: −1 … 1 covers the edges, so x → (2x + 1)/w − 1.
- Pillow transforms: pixel i spans i … i+1, so its coordinates are ours plus ½ (we do not use them).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Points = npt.NDArray[np.floating[Any]]
Matrix = npt.NDArray[np.floating[Any]]

# A reduction is averaged over this many samples a side at most: beyond it the source is first reduced by area.
MAX_OVERSAMPLING = 8


def transform(matrix: Matrix, points: Points) -> Points:
    """`points` [n, 2] mapped by an affine `matrix` 3×3."""
    points = np.asarray(points, np.float64)
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def resize_matrix(source: int, target: int) -> Matrix:
    """The map of a square picture's pixels when its side goes from `source` to `target`."""
    s = target / source
    return np.array([[s, 0, (s - 1) / 2], [0, s, (s - 1) / 2], [0, 0, 1]])


def scale_of(matrix: Matrix) -> float:
    """How many target pixels one source pixel is wide (square root of the area's growth)."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))


def quad_to_square(quad: Points, size: int) -> Matrix:
    """The similarity that takes a square `quad` (top-left, bottom-left, bottom-right, top-right corners, [4, 2], in
    photo pixels) to a picture of `size` px: its edges fall on −½ and size−½.
    """
    top_left, bottom_left, _, top_right = np.asarray(quad, np.float64)
    to_photo = np.eye(3)
    to_photo[:2, 0] = (top_right - top_left) / size
    to_photo[:2, 1] = (bottom_left - top_left) / size
    to_photo[:2, 2] = top_left + (to_photo[:2, 0] + to_photo[:2, 1]) / 2
    matrix: Matrix = np.linalg.inv(to_photo)
    return matrix


def warp(picture: Array, matrix: Matrix, size: int, *, sharp: bool = False) -> Array:
    """`picture` [h, w(, c)] uint8 seen through `matrix` (its pixels → those of the result), as [size, size(, c)] uint8.

    Correct for area when reducing: the result is sampled k times finer with cubic interpolation and averaged, k the
    least integer not under the reduction. What lies outside the picture is its mirror image. sharp: Lanczos' kernel
    instead, as OpenCV's cubic one shifts what lies between pixels by up to 0.05 px; for what is laid back on a photo.
    """
    way = cv2.INTER_LANCZOS4 if sharp else cv2.INTER_CUBIC
    return _warp(picture, matrix, (size, size), way, cv2.BORDER_REFLECT)


def _warp(picture: Array, matrix: Matrix, size: tuple[int, int], way: int, border: int) -> Array:
    """`warp` to any (width, height), by OpenCV's interpolation and its way beyond the border."""
    reduction = 1 / scale_of(matrix)
    if reduction > MAX_OVERSAMPLING:
        shrunk_w = max(1, round(picture.shape[1] / reduction * MAX_OVERSAMPLING))
        shrunk_h = max(1, round(picture.shape[0] / reduction * MAX_OVERSAMPLING))
        sx, sy = shrunk_w / picture.shape[1], shrunk_h / picture.shape[0]
        picture = cv2.resize(picture, (shrunk_w, shrunk_h), interpolation=cv2.INTER_AREA)
        back = np.array([[1 / sx, 0, (1 / sx - 1) / 2], [0, 1 / sy, (1 / sy - 1) / 2], [0, 0, 1]])
        matrix = matrix @ back
        reduction = 1 / scale_of(matrix)
    k = max(1, math.ceil(reduction - 1e-6))
    fine = np.array([[k, 0, (k - 1) / 2], [0, k, (k - 1) / 2], [0, 0, 1]]) @ matrix
    width, height = size
    out = cv2.warpAffine(picture, fine[:2], (width * k, height * k), flags=way, borderMode=border)
    if k > 1:
        out = cv2.resize(out, size, interpolation=cv2.INTER_AREA)
    return np.asarray(out)


def unwarp(picture: Array, matrix: Matrix, box: tuple[int, int, int, int]) -> Array:
    """What a sharp `warp` did, undone: `picture` [s, s(, c)], uint8 or float32, on the pixels of a photo.

    matrix: photo pixels → those of the picture. box: x0, y0, x1, y1 in photo pixels, the last exclusive; the result is
    [y1 - y0, x1 - x0(, c)]. Correct for area when reducing, as `warp`; beyond the picture its edge goes on.
    """
    x0, y0, x1, y1 = box
    to_box = np.array([[1.0, 0, -x0], [0, 1, -y0], [0, 0, 1]]) @ np.linalg.inv(matrix)
    return _warp(picture, to_box, (x1 - x0, y1 - y0), cv2.INTER_LANCZOS4, cv2.BORDER_REPLICATE)


def carry(picture: Array, matrix: Matrix, size: tuple[int, int]) -> Array:
    """`picture` [h, w] float32 seen through `matrix` (its pixels → those of the result), at `size` (width, height).

    Linear, so that nothing overshoots; correct for area when reducing; beyond the picture its edge goes on.
    """
    return _warp(picture, matrix, size, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)


def cut_off(picture: Array, matrix: Matrix, box: tuple[float, float, float, float]) -> Array:
    """`picture` [s, s(, c)] uint8, black but for `box`, which `matrix` (without turning) maps to its pixels.

    A pixel that the box covers in part is darkened in proportion.
    """
    x0, y0, x1, y1 = box
    (left, top), (right, bottom) = transform(matrix, np.array([[x0 - 0.5, y0 - 0.5], [x1 + 0.5, y1 + 0.5]]))
    at = np.arange(picture.shape[0])
    rows, columns = (
        np.clip(np.minimum(at + 0.5, high) - np.maximum(at - 0.5, low), 0, 1).astype(np.float32)
        for low, high in ((top, bottom), (left, right))
    )
    share = rows[:, None] * columns[None, :]
    return np.asarray(np.rint(picture * (share[..., None] if picture.ndim == 3 else share)), picture.dtype)


def resize(picture: Array, size: int) -> Array:
    """A square `picture` [s, s(, c)] at [size, size(, c)]: by area when reducing, cubic when enlarging. Keeps dtype."""
    if picture.shape[0] == size:
        return picture
    way = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size, size), interpolation=way))


def sample(picture: Array, points_x: Array, points_y: Array) -> Array:
    """`picture` [h, w(, c)] float32 at points (each [..]), cubic, edges replicated; the shape of the points (+ c)."""
    x, y = np.asarray(points_x, np.float32), np.asarray(points_y, np.float32)
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))


def sample_sharp(picture: Array, points_x: Array, points_y: Array) -> Array:
    """As `sample`, by Lanczos' kernel of eight pixels: white noise keeps 83 % of its energy, by the cubic one 73 %;
    noise that is a little coarser (Gaussian, 0.6 px), as photos have it, 94 % and 89 %.
    """
    x, y = np.asarray(points_x, np.float32), np.asarray(points_y, np.float32)
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE))


def sample_features(features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear samples [n, c] of a feature map [1, c, h, w] at `points` [n, 2] (its pixels); edges replicated.

    The published code pads with zeros, which biases points near the border (DragGAN's `grid_sample` default).
    """
    import torch.nn.functional as F

    h, w = features.shape[2:]
    grid = (2 * points + 1) / points.new_tensor([w, h]) - 1
    grid = grid.to(features.dtype)[None, None]
    return F.grid_sample(features, grid, align_corners=False, padding_mode="border")[0, :, 0].t()
