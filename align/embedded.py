"""Faces and their landmarks by the embedded network, started from the cascade's boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from realdrag.align.detectors import Box, CascadeDetector, Face, Picture, reduced
from realdrag.align.quad import quad_from_box, quad_from_landmarks
from realdrag.errors import InputError
from realdrag.geometry import Matrix, Points, quad_to_square, transform, warp

if TYPE_CHECKING:
    from realdrag.align.landmarks import LandmarkNet

# What the network looks at: a crop of so many pixels, so many times as wide as FFHQ's quad around the face.
CROP_SIDE, CROP_SHARE = 128, 1.15
# Where a look at the box and a second one, straight at what it saw, are less confident than this, the crops at all of
# these scales and rolls (degrees) are looked at.
CLEAR, SCALES, ROLLS = 0.6, (0.75, 1.0, 1.33), (-35.0, 0.0, 35.0)
# Where the cascade finds nothing upright, it is given the photo turned by these rolls, in this order; a face counts
# there from a higher confidence, since turned photos have more chance finds and no second opinion.
TURNS = ((-35.0, 35.0), (-70.0, 70.0), (-105.0, 105.0), (-140.0, 140.0, 180.0))
TURNED_SIDE = 340
# Below the first it is no face, whatever the cascade says; below the second the points are not trusted and the face
# keeps its box alone; the third is what turned photos ask for.
FACE, TRUSTED, SURE = 0.4, 0.5, 0.6
# Each point's place in the mirrored face (300-W order).
MIRROR = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)),  # jaw, brows, nose
        *(*range(45, 41, -1), 47, 46, *range(39, 35, -1), 41, 40),  # eyes
        *(*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)),  # mouth
    ]
)


@dataclass(frozen=True, eq=False)
class Look:
    """What the network saw: points [68, 2] in photo pixels, and its confidence."""

    points: Points
    confidence: float


class EmbeddedDetector:
    """scikit-image's cascade for the box, the embedded network for the landmarks; needs no download."""

    name = "embedded"

    def __init__(self, net: LandmarkNet) -> None:
        self._cascade, self._net = CascadeDetector(), net

    def detect(self, rgb: Picture) -> list[Face]:
        """The faces of `rgb` [h, w, 3] uint8 sRGB, turned in the plane by any angle.

        A face that the network does not trust (a profile, much covered) has no landmarks.
        """
        looked_at = [self._face(rgb, found.box) for found in self._cascade.detect(rgb)]
        faces = [face for face in looked_at if (face.confidence or 0.0) >= FACE]
        if faces:
            return _distinct(faces)
        for turns in TURNS:
            found = [face for roll in turns for face in self._turned(rgb, roll)]
            if found:
                return [max(found, key=lambda face: face.confidence or 0.0)]
        return []

    def face_in(self, rgb: Picture, box: Box) -> Face:
        """With landmarks where the network trusts them, turned by any angle."""
        looks = (self._face(rgb, box, roll) for roll in (0.0, 90.0, -90.0, 180.0))
        return next((face for face in looks if face.landmarks is not None), Face(box))

    def _face(self, rgb: Picture, box: Box, roll: float = 0.0) -> Face:
        """What is in `box`, turned by about `roll` degrees."""
        look = find_landmarks(self._net, rgb, quad_from_box(box), roll)
        if look is None:
            return Face(box)
        return Face(box, look.points if look.confidence >= TRUSTED else None, look.confidence)

    def _turned(self, rgb: Picture, roll: float) -> list[Face]:
        """Faces of the photo that stand upright when it is turned back by `roll` degrees."""
        small, to_photo = reduced(rgb, TURNED_SIDE)
        height, width = small.shape[:2]
        turn = _rotation(np.array([(width - 1) / 2, (height - 1) / 2]), -roll)
        size = int(np.ceil(np.hypot(width, height)))
        turn[:2, 2] += [(size - width) / 2, (size - height) / 2]
        to_small = np.asarray(np.linalg.inv(turn), np.float64)
        faces = []
        for face in self._cascade.detect(np.asarray(warp(small, turn, size), np.uint8)):
            x0, y0, x1, y1 = face.box
            centre = transform(to_photo @ to_small, np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0]
            reach = (x1 - x0) / 2 * rgb.shape[1] / width
            box = (centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
            placed = self._face(rgb, box, roll)
            if (placed.confidence or 0.0) >= SURE:
                faces.append(placed)
        return faces


def find_landmarks(net: LandmarkNet, rgb: Picture, quad: Points, roll: float = 0.0) -> Look | None:
    """The landmarks of the face about `quad` [4, 2] (photo pixels), which is turned by about `roll` degrees more.

    None when no look around it shows points that form a face.
    """
    best = _straight(net, rgb, _looks(net, rgb, [_reshaped(quad, 1.0, roll)])[0])
    if best is None or best.confidence < CLEAR:
        quads = [_reshaped(quad, scale, roll + more) for scale in SCALES for more in ROLLS]
        found = _straight(net, rgb, max(_looks(net, rgb, quads), key=lambda look: look.confidence))
        best = max((look for look in (best, found) if look), key=lambda look: look.confidence, default=None)
    return best


def _straight(net: LandmarkNet, rgb: Picture, rough: Look) -> Look | None:
    """A second look at what `rough` saw, upright and in the middle, and at its mirror image."""
    try:
        quad = quad_from_landmarks(rough.points)
    except InputError:  # the points have fallen together
        return None
    plain, mirrored = _looks(net, rgb, [quad], mirrored=True)
    return Look((plain.points + mirrored.points) / 2, (plain.confidence + mirrored.confidence) / 2)


def _looks(net: LandmarkNet, rgb: Picture, quads: list[Points], *, mirrored: bool = False) -> list[Look]:
    """One look at each of `quads`, and with `mirrored` at each one's mirror image as well."""
    import torch

    maps: list[Matrix] = [quad_to_square(_reshaped(quad, CROP_SHARE, 0.0), CROP_SIDE) for quad in quads]
    crops = np.stack([warp(rgb, to_crop, CROP_SIDE) for to_crop in maps])
    if mirrored:
        maps = maps * 2
        crops = np.concatenate([crops, crops[:, :, ::-1]])
    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)
        found, confidence = net(pixels.float() / 127.5 - 1)
    points: npt.NDArray[np.floating] = found.double().numpy()
    if mirrored:
        half = len(points) // 2
        points[half:] = points[half:, MIRROR] * [-1, 1] + [CROP_SIDE - 1, 0]
    backs = [np.asarray(np.linalg.inv(to_crop), np.float64) for to_crop in maps]
    seen = zip(backs, points, confidence.tolist(), strict=True)
    return [Look(transform(back, each), sure) for back, each, sure in seen]


def _distinct(faces: list[Face]) -> list[Face]:
    """The most confident of those whose landmarks fall together: two boxes on one face lead to the same points."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda found: found.confidence or 0.0, reverse=True):
        if not any(_same(face, other) for other in kept):
            kept.append(face)
    return kept


def _same(a: Face, b: Face) -> bool:
    if a.landmarks is None or b.landmarks is None:
        return False
    apart = np.linalg.norm(a.landmarks - b.landmarks, axis=1).mean()
    return bool(apart < np.linalg.norm(b.landmarks[36] - b.landmarks[45]) / 2)  # the outer corners of the eyes


def _rotation(centre: npt.NDArray[np.floating], degrees: float) -> Matrix:
    """3×3, about `centre` (2,), clockwise as seen on the screen."""
    angle = np.deg2rad(degrees)
    matrix = np.eye(3)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:2, 2] = centre - matrix[:2, :2] @ centre
    return matrix


def _reshaped(quad: Points, scale: float, roll: float) -> Points:
    """`quad` [4, 2] so many times as wide and turned by `roll` degrees about its centre."""
    centre = quad.mean(axis=0)
    return transform(_rotation(centre, roll), centre + (quad - centre) * scale)
