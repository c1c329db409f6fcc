"""The square of the photo that becomes the crop, as the FFHQ data set defines it.

A quad is [4, 2] float64 in photo pixels: top-left, bottom-left, bottom-right, top-right, always a square. FFHQ
computes it in the landmarks' own coordinates and shifts it by ½ for Pillow, which counts from pixel edges; our pixel
centres are whole numbers, so nothing is shifted here.
"""

from __future__ import annotations

import numpy as np

from realdrag.errors import InputError
from realdrag.geometry import Points

Box = tuple[float, float, float, float]

# Below this length in pixels of photo an axis has no direction worth following.
MIN_AXIS = 1.0

# Side of the quad, and its centre minus the box's (x, y), in sides of the box; see `quad_from_box`.
BOX_TO_QUAD = 1.56
BOX_OFFSET = (0.0, -0.092)


def quad_from_landmarks(landmarks: Points) -> Points:
    """FFHQ's quad [4, 2] from `landmarks` [68, 2] (300-W order), both in photo pixels.

    The x axis is the line of the eyes averaged with the normal of the line from eyes to mouth; half a side is the
    larger of twice the distance of the eyes and 1.8 times that from eyes to mouth; the centre lies a tenth of the way
    from the eyes to the mouth (`recreate_aligned_images` in ffhq-dataset).
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape != (68, 2):
        raise ValueError(f"expected landmarks of shape (68, 2), got {landmarks.shape}")
    left_eye, right_eye = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    eyes = (left_eye + right_eye) / 2
    between_eyes = right_eye - left_eye
    to_mouth = (landmarks[48] + landmarks[54]) / 2 - eyes
    x = between_eyes + np.array([to_mouth[1], -to_mouth[0]])
    shortest = min(np.linalg.norm(between_eyes), np.linalg.norm(x))
    if not (np.isfinite(landmarks).all() and shortest >= MIN_AXIS):
        raise InputError("the landmarks do not form a face", "give a face box with --box X0,Y0,X1,Y1")
    x *= max(2.0 * np.linalg.norm(between_eyes), 1.8 * np.linalg.norm(to_mouth)) / np.linalg.norm(x)
    return square(eyes + 0.1 * to_mouth, x)


def quad_from_box(box: Box) -> Points:
    """The upright quad [4, 2] for a face box (x0, y0, x1, y1; inclusive photo pixels).

    Measured with `CascadeDetector` on 70 FFHQ-aligned portraits, where the true quad is the whole picture
    (`benchmarks/boxes.py`): its side is 1.435 box sides (median; quartiles 1.385 and 1.488), its centre lies 0.092 box
    sides above the box's (0.082 and 0.104) and 0.001 beside it (−0.008 and 0.005; taken as 0). On photographs of real
    people the ratio is 1.47, 1.56 in the upper quartile: that is taken, since a crop that is too wide costs a little
    detail but one that is too narrow cuts the chin off. A box that is not square counts with the mean of its sides.
    """
    x0, y0, x1, y1 = box
    width, height = x1 - x0 + 1, y1 - y0 + 1
    side = (width + height) / 2
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + np.array(BOX_OFFSET) * side
    return square(centre, np.array([BOX_TO_QUAD * side / 2, 0.0]))


def upright(quad: Points) -> Points:
    """The square [4, 2] of the same centre and size as `quad` whose sides are the photo's rows and columns (FFHQ-U)."""
    return square(quad.mean(axis=0), np.array([float(np.linalg.norm(quad[3] - quad[0])) / 2, 0.0]))


def square(centre: Points, x: Points) -> Points:
    """The quad around `centre` (2,) whose right edge's middle lies at `centre + x`."""
    y = np.array([-x[1], x[0]])
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
