"""Where the photo may follow the edit, and how far: mask, crop and what happened, feathered inside their edges."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from realdrag.composite.motion import Change, smooth_step
from realdrag.geometry import resize_matrix, transform, unwarp
from realdrag.settings import CompositeSettings
from realdrag.values import Alignment, Photo

FAINTEST = 1 / 64  # of what happened: Lanczos' kernel rings by less

Box = tuple[int, int, int, int]
Map = npt.NDArray[np.float32]


def crop_box(photo: Photo, alignment: Alignment) -> Box:
    """The part of the photo that the crop reaches: x0, y0, x1, y1, the last exclusive; empty where x1 ≤ x0."""
    width, height = photo.size
    corners = transform(alignment.to_photo, np.array(crop_corners(alignment.size)))
    (left, top), (right, bottom) = np.floor(corners.min(0)), np.ceil(corners.max(0)) + 1
    return max(int(left), 0), max(int(top), 0), min(int(right), width), min(int(bottom), height)


def blending(
    photo: Photo,
    alignment: Alignment,
    change: Change,
    mask: Map | None,
    settings: CompositeSettings,
    box: Box,
) -> Map:
    """How far each pixel of `box` may follow the edit, 0..1: `opening`, and 0 where nothing happened."""
    opened = opening(photo, alignment, mask, settings, box)
    happened = unwarp(change.happened, resize_matrix(alignment.size, change.size) @ alignment.to_crop, box)
    opened *= np.where(happened > FAINTEST, np.minimum(happened, 1), 0)
    return opened


def opening(photo: Photo, alignment: Alignment, mask: Map | None, settings: CompositeSettings, box: Box) -> Map:
    """How far each pixel of `box` is open to any edit, 0..1: the mask, falling to 0 inside its edge and the crop's.

    mask: [h, w] 0..1 of the photo, or None. The photo's own border is no edge: nothing is beyond it that could show a
    seam.
    """
    inside = in_crop(alignment, box)
    x0, y0, x1, y1 = box
    part = None if mask is None else mask[y0:y1, x0:x1]
    if part is not None:
        inside &= (part > 0).astype(np.uint8)
    corners = transform(alignment.to_photo, np.array(crop_corners(alignment.size)))
    feather = settings.feather * float(np.hypot(*(corners[1] - corners[0])))
    # Beyond the box lies the photo's border, or a pixel that is outside: neither is further away than the feather.
    depth = cv2.distanceTransform(framed(inside, photo, box), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # A region thinner than two feathers would never open: there the feather is half its depth.
    depth /= np.float32(max(min(feather, float(depth.max(initial=0)) / 2), 1e-6))
    alpha = smooth_step(depth)
    if part is not None:
        alpha *= part
    return alpha


def in_crop(alignment: Alignment, box: Box) -> npt.NDArray[np.uint8]:
    """1 for the pixels of `box` that lie wholly in the crop, and in what a letterbox shows."""
    x0, y0, x1, y1 = box
    corners = transform(alignment.to_photo, np.array(crop_corners(alignment.size)))
    inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
    # A sixteenth of a pixel less: where an edge lies at half a pixel, OpenCV counts the one beyond it as inside.
    sixteenths = np.round((corners - (x0, y0)) * 16 - np.sign(corners - corners.mean(0)))
    cv2.fillConvexPoly(inside, sixteenths.astype(np.int32), 1, shift=4)
    if alignment.shown is not None:
        left, top, right, bottom = alignment.shown
        x, y = np.arange(x0, x1), np.arange(y0, y1)[:, None]
        shown = (x >= left - 0.5) & (x <= right + 0.5) & (y >= top - 0.5) & (y <= bottom + 0.5)
        inside &= shown.astype(np.uint8)
    return inside


def framed(inside: npt.NDArray[np.uint8], photo: Photo, box: Box) -> npt.NDArray[np.uint8]:
    """`inside` with a pixel more all round: open where that is beyond the photo, closed where the photo goes on."""
    width, height = photo.size
    x0, y0, x1, y1 = box
    out = np.pad(inside, 1)
    out[0], out[-1] = y0 == 0, y1 == height
    out[:, 0] |= x0 == 0
    out[:, -1] |= x1 == width
    return out


def crop_corners(size: int) -> list[tuple[float, float]]:
    """The corners of a picture of `size` px, clockwise from the top left."""
    low, high = -0.5, size - 0.5
    return [(low, low), (high, low), (high, high), (low, high)]
