"""The edit back into the photo: the photo's own pixels moved, plus what moving cannot explain; the rest untouched.

The generator's picture is small and soft, the photo sharp: the generator is asked what changed, never for pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from realdrag.composite.motion import FLOW_SIZE, Change, find_change
from realdrag.errors import WorkError
from realdrag.geometry import Array, Matrix, resize_matrix, sample, transform
from realdrag.progress import Progress, stretch
from realdrag.settings import CompositeSettings
from realdrag.values import Alignment, Photo, Result

STRIP = 256  # rows at a time: a 50-megapixel portrait must not take its size in floats many times over

# (pixels [n, m, c] in the photo's own space, change [n, m, 3] in sRGB levels) → pixels with the change.
CarryChange = Callable[[Array, Array], Array]


def composite(
    photo: Photo,
    alignment: Alignment,
    inverted: npt.NDArray[np.uint8],
    dragged: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.float32] | None,
    settings: CompositeSettings,
    *,
    carry: CarryChange,
    progress: Progress,
) -> Result:
    """The photo with what happened from `inverted` to `dragged` ([r, r, 3] uint8, the crop as the generator shows it).

    mask: [h, w] 0..1 of the photo, or None for the whole crop. `carry` brings a change of sRGB levels into the
    photo's own space. Raises WorkError if a pixel outside the mask would differ, which nothing should make happen.
    """
    before = photo.pixels
    if np.array_equal(inverted, dragged):
        return Result(photo, None, 0)
    alpha = blending(photo, alignment, mask, settings)
    after = before.copy()
    rows = np.flatnonzero(alpha.any(1))
    columns = np.flatnonzero(alpha.any(0))
    if len(rows):
        left, right = int(columns[0]), int(columns[-1]) + 1
        change = find_change(inverted, dragged)
        to_flow = resize_matrix(alignment.size, FLOW_SIZE) @ alignment.to_crop
        starts = range(int(rows[0]), int(rows[-1]) + 1, STRIP)
        with stretch(progress, "composite", len(starts)) as report:
            for n, top in enumerate(starts):
                bottom = min(top + STRIP, int(rows[-1]) + 1)
                box = (left, top, right, bottom)
                blend(before, after, alpha[top:bottom, left:right], box, change, to_flow, carry, photo.mode)
                report.step(n + 1)
    return verified(photo, after, alpha > 0 if mask is None else mask > 0)


def blending(
    photo: Photo, alignment: Alignment, mask: npt.NDArray[np.float32] | None, settings: CompositeSettings
) -> npt.NDArray[np.float32]:
    """How far each pixel may follow the edit, [h, w] 0..1: the mask, falling to 0 inside its edge and the crop's.

    The photo's own border is no edge: nothing is beyond it that could show a seam.
    """
    width, height = photo.size
    corners = transform(alignment.to_photo, np.array(crop_corners(alignment.size)))
    inside = np.zeros((height, width), np.uint8)
    # A sixteenth of a pixel less: where an edge lies at half a pixel, OpenCV counts the one beyond it as inside.
    cv2.fillConvexPoly(inside, np.round(corners * 16 - np.sign(corners - corners.mean(0))).astype(np.int32), 1, shift=4)
    if alignment.shown is not None:
        x0, y0, x1, y1 = alignment.shown
        x, y = np.arange(width), np.arange(height)[:, None]
        inside &= ((x >= x0 - 0.5) & (x <= x1 + 0.5) & (y >= y0 - 0.5) & (y <= y1 + 0.5)).astype(np.uint8)
    if mask is not None:
        inside &= (mask > 0).astype(np.uint8)
    feather = settings.feather * float(np.hypot(*(corners[1] - corners[0])))
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # A region thinner than two feathers would never open: there the feather is half its depth.
    t = np.clip(depth / max(min(feather, float(depth[inside > 0].max(initial=0)) / 2), 1e-6), 0, 1)
    alpha = t * t * (3 - 2 * t)
    return np.asarray(alpha if mask is None else alpha * mask, np.float32)


def crop_corners(size: int) -> list[tuple[float, float]]:
    """The corners of a picture of `size` px, clockwise from the top left."""
    low, high = -0.5, size - 0.5
    return [(low, low), (high, low), (high, high), (low, high)]


def blend(
    before: Array,
    after: Array,
    alpha: npt.NDArray[np.float32],
    box: tuple[int, int, int, int],
    change: Change,
    to_flow: Matrix,
    carry: CarryChange,
    mode: str,
) -> None:
    """Writes the edit into `after` within `box` (x0, y0, x1, y1; the last exclusive) where `alpha` is not 0."""
    x0, y0, x1, y1 = box
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    here = transform(to_flow, np.stack([x, y], -1).reshape(-1, 2)).reshape(*x.shape, 2).astype(np.float32)
    motion = sample(change.motion, here[..., 0], here[..., 1])
    shift = motion @ np.linalg.inv(to_flow[:2, :2]).T.astype(np.float32) * alpha[..., None]
    residue = sample(change.residue, here[..., 0], here[..., 1]) * alpha[..., None]
    colours = 1 if mode in ("L", "LA") else 3
    moved = move(before[..., :colours], x + shift[..., 0], y + shift[..., 1])
    highest = np.iinfo(before.dtype).max
    edited = np.rint(carry(moved, residue)).clip(0, highest).astype(before.dtype)
    touched = (alpha > 0) & ((shift != 0).any(2) | (residue != 0).any(2))
    region = after[y0:y1, x0:x1, :colours]
    region[touched] = edited[touched]


def move(picture: Array, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> Array:
    """`picture` [h, w, c] at (x, y) [n, m], cubic, as float32 [n, m, c]; only the part that is needed is converted."""
    margin = 3  # cubic interpolation looks two pixels ahead
    x = x.clip(-margin, picture.shape[1] - 1 + margin)  # beyond, all is the edge's colour
    y = y.clip(-margin, picture.shape[0] - 1 + margin)
    left, top = max(int(x.min()) - margin, 0), max(int(y.min()) - margin, 0)
    right, bottom = int(x.max()) + margin + 1, int(y.max()) + margin + 1
    part = np.ascontiguousarray(picture[top:bottom, left:right], np.float32)
    out = sample(part, x - left, y - top)
    return out if out.ndim == 3 else out[..., None]


def verified(photo: Photo, after: Array, allowed: npt.NDArray[np.bool_]) -> Result:
    """The result, once it is sure that nothing outside `allowed` [h, w] differs."""
    differs = (after != photo.pixels).any(2)
    outside = differs & ~allowed
    if outside.any():
        wrong = np.abs(after[outside].astype(np.int64) - photo.pixels[outside].astype(np.int64)).max()
        raise WorkError(f"a pixel outside the mask would change by {wrong}", "please report this; nothing was written")
    if not differs.any():
        return Result(photo, None, 0)
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
    return Result(replace(photo, pixels=after), box, 0)
