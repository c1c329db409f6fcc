"""From a photo to the aligned crop: of one face, or of what a model without faces is given."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from realdrag import geometry
from realdrag.align.detectors import Box, Detector, Face, largest_first
from realdrag.align.quad import quad_from_box, quad_from_landmarks, square, upright
from realdrag.errors import InputError, NoFaceError
from realdrag.geometry import Points
from realdrag.settings import Aligner
from realdrag.values import Alignment

# FFHQ's own resolution: no generator was trained on more, and the photo's detail comes back in the composite.
MAX_CROP = 1024
# A side of a face box in photo pixels below which there is nothing to edit.
MIN_BOX = 8
FACELESS: tuple[Aligner, ...] = ("square", "letterbox")
ELSE_HINT = "give a face box with --box X0,Y0,X1,Y1, or take the whole picture with --whole"


def align(
    rgb: npt.NDArray[np.uint8],
    detector: Detector | None,
    *,
    model_resolution: int,
    face: int | None = None,
    box: Box | None = None,
    whole: bool = False,
    aligner: Aligner = "ffhq",
) -> Alignment:
    """The aligned crop of `rgb` [h, w, 3] uint8 sRGB, and where it lies.

    Under the aligners "ffhq" and "ffhq-upright" (the same square, not turned) it is that of one face: the detector's
    largest, or its number `face` (counted from 1, the largest first), or the one in `box` (x0, y0, x1, y1; inclusive
    photo pixels), where the detector may still read its landmarks; with `whole` it is the largest centred square, face
    or not. At most one of the three is given; `detector` may be None with one of the last two.
    Under "square" and "letterbox" no face is looked for and `detector` is not used: see `align_region`.
    The crop has the quad's own size up to 1024 px, and never less than `model_resolution`.
    """
    if (face is not None) + (box is not None) + whole > 1:
        raise InputError("face, box and whole exclude each other", "give only one of --face, --box and --whole")
    if aligner in FACELESS:
        if face is not None:
            hint = "say where with --box X0,Y0,X1,Y1, or choose --aligner ffhq"
            raise InputError(f"there is no face {face}: the aligner {aligner} looks for none", hint)
        return align_region(rgb, aligner, model_resolution=model_resolution, box=box, whole=whole)
    if whole:
        return _cropped(rgb, whole_quad(rgb), None, "whole", model_resolution)
    if box is not None:
        check_box(box, rgb)
        found = Face(box) if detector is None else detector.face_in(rgb, box)
        name = "box" if detector is None or found.landmarks is None else detector.name
    elif detector is None:
        raise InputError("no face detector was given", ELSE_HINT)
    else:
        found, name = find_face(rgb, detector, face), detector.name
    quad = quad_from_box(found.box) if found.landmarks is None else quad_from_landmarks(found.landmarks)
    return _cropped(rgb, upright(quad) if aligner == "ffhq-upright" else quad, found, name, model_resolution)


def align_region(
    rgb: npt.NDArray[np.uint8], aligner: Aligner, *, model_resolution: int, box: Box | None = None, whole: bool = False
) -> Alignment:
    """The crop under an aligner that looks for no face.

    "square": the square around `box` that just holds it, or the photo's largest centred one; beyond the photo lies its
    mirror image. "letterbox": all of `box`, or of the photo, in the middle of a square, the rest black. With `whole`
    the largest centred square under both.
    """
    height, width = rgb.shape[:2]
    if box is not None:
        check_box(box, rgb)
    if whole or (box is None and aligner == "square"):
        return _cropped(rgb, whole_quad(rgb), None, aligner, model_resolution)
    x0, y0, x1, y1 = region = box or (0.0, 0.0, width - 1.0, height - 1.0)
    half = max(x1 - x0 + 1, y1 - y0 + 1) / 2
    quad = square(np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([half, 0.0]))
    if aligner == "square":
        return _cropped(rgb, quad, Face(region), aligner, model_resolution)
    shown = (max(x0, 0.0), max(y0, 0.0), min(x1, width - 1.0), min(y1, height - 1.0))
    done = _cropped(rgb, quad, Face(shown), aligner, model_resolution)
    return replace(done, crop=geometry.cut_off(done.crop, done.to_crop, shown))


def find_face(rgb: npt.NDArray[np.uint8], detector: Detector, face: int | None) -> Face:
    """Face number `face` of the photo (from 1, the largest first), or the largest."""
    faces = largest_first(detector.detect(rgb))
    if not faces:
        raise NoFaceError(f"no face was found (detector: {detector.name})", ELSE_HINT)
    number = 1 if face is None else face
    if not 1 <= number <= len(faces):
        counted = "1 face was" if len(faces) == 1 else f"{len(faces)} faces were"
        raise InputError(
            f"there is no face {number}: {counted} found (detector: {detector.name})",
            f"give --face 1 … {len(faces)}, the largest first" if len(faces) > 1 else "leave --face out",
        )
    return faces[number - 1]


def check_box(box: Box, rgb: npt.NDArray[np.uint8]) -> None:
    """InputError unless `box` is at least `MIN_BOX` pixels wide and high and has a pixel in common with the photo."""
    height, width = rgb.shape[:2]
    x0, y0, x1, y1 = box
    text = ",".join(f"{value:g}" for value in box)
    if not (all(map(math.isfinite, box)) and x1 > x0 and y1 > y0):
        raise InputError(f"the box {text} is empty", "give left, top, right and bottom in photo pixels")
    if min(x1 - x0, y1 - y0) + 1 < MIN_BOX:
        raise InputError(f"the box {text} is too small", f"a box is at least {MIN_BOX} pixels wide and high")
    if x1 < 0 or y1 < 0 or x0 > width - 1 or y0 > height - 1:
        raise InputError(f"the box {text} lies outside the photo", f"the photo has {width} × {height} pixels")


def whole_quad(rgb: npt.NDArray[np.uint8]) -> Points:
    """The quad of the largest centred square of the photo."""
    height, width = rgb.shape[:2]
    return square(np.array([(width - 1) / 2, (height - 1) / 2]), np.array([min(width, height) / 2, 0.0]))


def _cropped(
    rgb: npt.NDArray[np.uint8], quad: Points, face: Face | None, detector: str, model_resolution: int
) -> Alignment:
    """The `Alignment` for a quad [4, 2]."""
    side = float(np.linalg.norm(quad[3] - quad[0]))
    # 1e-6: a side of 512 that the arithmetic made 512.0000001 is 512
    size = max(model_resolution, min(math.ceil(side - 1e-6), MAX_CROP))
    to_crop = geometry.quad_to_square(quad, size)
    return Alignment(
        to_crop=to_crop,
        crop=geometry.warp(rgb, to_crop, size, sharp=True),
        landmarks=None if face is None else face.landmarks,
        box=None if face is None else face.box,
        detector=detector,
        confidence=None if face is None else face.confidence,
    )
