"""Finding faces: a small protocol and the detectors behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from realdrag.geometry import Matrix, resize_matrix, scale_of, transform, warp

Picture = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Windows = npt.NDArray[np.floating[Any]]  # [n, 3]: centre x, centre y, side; pixels of the picture named


@dataclass(frozen=True, eq=False)
class Face:
    """A face that was found.

    box: (x0, y0, x1, y1), photo pixels, inclusive, so its sides are x1 − x0 + 1 and y1 − y0 + 1.
    landmarks: [68, 2] photo pixels in the 300-W order, or None. confidence: the detector's own, 0..1, or None.
    """

    box: Box
    landmarks: npt.NDArray[np.floating[Any]] | None = None
    confidence: float | None = None

    @property
    def area(self) -> float:
        """Photo pixels that the box covers."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0 + 1) * (y1 - y0 + 1)


class Detector(Protocol):
    """Finds the faces of a photo, in any order (`align` sorts them)."""

    @property
    def name(self) -> str:
        """What `Alignment.detector` will say."""

    def detect(self, rgb: Picture) -> list[Face]:
        """The faces of a photo [h, w, 3] uint8 sRGB; an empty list if there are none."""

    def face_in(self, rgb: Picture, box: Box) -> Face:
        """The face in a box that someone gave (inclusive photo pixels), with landmarks where they can be read."""


def largest_first(faces: list[Face]) -> list[Face]:
    """As faces are numbered."""
    return sorted(faces, key=lambda face: face.area, reverse=True)


@dataclass(frozen=True, eq=False)
class Looked:
    """A detector that has looked at one photo: `faces`, the largest first. Boxes are still looked into."""

    detector: Detector
    faces: tuple[Face, ...]

    @classmethod
    def at(cls, rgb: Picture, detector: Detector) -> Looked:
        """`detector`, once it has looked at `rgb`."""
        return cls(detector, tuple(largest_first(detector.detect(rgb))))

    @property
    def name(self) -> str:
        """The detector's."""
        return self.detector.name

    def detect(self, rgb: Picture) -> list[Face]:
        """What was found."""
        return list(self.faces)

    def face_in(self, rgb: Picture, box: Box) -> Face:
        """As the detector reads it."""
        return self.detector.face_in(rgb, box)


def reduced(picture: Picture, longest: int) -> tuple[Picture, Matrix]:
    """`picture` [h, w(, 3)] averaged down to a long side of `longest` px at most, and the 3×3 map from the result's
    pixels back to those of `picture` (each axis has its own scale, since sides are whole pixels).
    """
    h, w = picture.shape[:2]
    if max(h, w) <= longest:
        return picture, np.eye(3)
    small_w, small_h = (max(1, round(side * longest / max(h, w))) for side in (w, h))
    small = np.asarray(cv2.resize(picture, (small_w, small_h), interpolation=cv2.INTER_AREA), np.uint8)
    back = resize_matrix(small_w, w)
    back[1] = resize_matrix(small_h, h)[1]
    return small, back


# The search: windows of 24 px (the smallest the cascade knows) and more, each 1.2 times the one before, on a
# picture of this long side: boxes from 5 % of it. Finding nothing, once more in finer detail, in wider steps.
WINDOW, WINDOW_GROWTH = 24, 1.2
SEARCH_SIDE, SEARCH_STEP = 480, 1.3
FINE_SIDE, FINE_STEP = 1600, 1.6
# The check: what was found is cut out so that its box is so many pixels wide, at these rolls (degrees), each
# mirrored too, and all windows of nearly its size are tried. The number that say "face" tells faces from chance.
CHECK_SIDES, CHECK_ROLLS, CHECK_GROWTH = (40, 52), (-10.0, 0.0, 10.0), 1.08
CHECK_MARGIN = 0.45  # of the box's side, beyond it on each side of the cut-out
FEW_VOTES = 3  # of the first of the twelve cut-outs and its mirror image: most chance finds have none at all
# 70 aligned portraits have 350 votes in the median, all but three (in shadow, or turned far) more than 85; textures
# without a face 30 at most where their box is large, up to 60 where it is a few per cent of the picture.
SURE_VOTES, LEAST_VOTES, TYPICAL_VOTES = 85, 35, 350
FINE_VOTES = 150  # the finer search tries ten times the windows, and stones have had 146
LEAST_SHARE = 0.15  # of the long side: a face with fewer votes than is sure must be as large


class CascadeDetector:
    """scikit-image's `Cascade` with the frontal LBP file it ships; needs no download. Boxes only, no landmarks.

    The cascade alone says yes to a chance texture too often, and its own merging of windows splits faces in two.
    So windows are gathered here, and each place found is checked in a cut-out of a fixed size.
    """

    name = "cascade"

    def __init__(self) -> None:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade

        self._cascade = Cascade(lbp_frontal_face_cascade_filename())

    def detect(self, rgb: Picture) -> list[Face]:
        """Upright faces seen from the front, up to three-quarter view; box sides from 5 % of the long side, from
        1.5 % if there is none as large.
        """
        grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), np.uint8)
        fine, to_photo = reduced(grey, FINE_SIDE)
        coarse, to_fine = reduced(fine, SEARCH_SIDE)
        found = self._search(coarse, SEARCH_STEP, max(coarse.shape), fine, to_fine)
        if not found and fine is not coarse:
            largest = int(WINDOW * WINDOW_GROWTH * scale_of(to_fine))
            found = self._search(fine, FINE_STEP, largest, fine, np.eye(3))
            found = [(window, votes) for window, votes in found if votes >= FINE_VOTES]
        return [_cascade_face(window, votes, to_photo) for window, votes in found]

    def face_in(self, rgb: Picture, box: Box) -> Face:
        """The box as it is."""
        return Face(box)

    def _search(
        self, picture: Picture, step: float, largest: int, fine: Picture, to_fine: Matrix
    ) -> list[tuple[Windows, int]]:
        """Windows [3] in pixels of `fine` and their votes; looked for in `picture` up to a side of `largest`."""
        if min(picture.shape) < WINDOW:
            return []
        checked = []
        for window, _ in gather(self._windows(picture, WINDOW_GROWTH, step, WINDOW, largest)):
            place = np.append(transform(to_fine, window[None, :2])[0], window[2] * scale_of(to_fine))
            checked.append(self._check(fine, place))
        sure = [(window, votes) for window, votes in checked if votes >= SURE_VOTES and window[2] >= WINDOW]
        if sure:
            return _apart(sure)
        least = LEAST_SHARE * max(fine.shape)
        large = [(window, votes) for window, votes in checked if votes >= LEAST_VOTES and window[2] >= least]
        # by votes and side: what is no whole face (an eye and a cheek) is the smaller find
        return sorted(large, key=lambda entry: entry[1] * entry[0][2])[-1:]

    def _windows(self, picture: Picture, growth: float, step: float, smallest: int, largest: int) -> Windows:
        """All windows of `picture` that pass the cascade, unmerged (no overlap reaches a threshold above 1)."""
        sizes = (smallest, smallest), (min(largest, min(picture.shape)),) * 2
        hits = self._cascade.detect_multi_scale(
            picture, growth, step, *sizes, min_neighbor_number=1, intersection_score_threshold=2.0
        )
        rows = [(hit["c"] + (hit["width"] - 1) / 2, hit["r"] + (hit["width"] - 1) / 2, hit["width"]) for hit in hits]
        return np.array(rows, np.float64).reshape(-1, 3)

    def _check(self, picture: Picture, window: Windows) -> tuple[Windows, int]:
        """`window` moved to the mean of the windows that confirm it, and their number."""
        votes = [self._votes(picture, window, CHECK_SIDES[0], 0.0)]
        if len(votes[0]) < FEW_VOTES:
            return window, 0
        first = (CHECK_SIDES[0], 0.0)
        others = [(side, roll) for side in CHECK_SIDES for roll in CHECK_ROLLS if (side, roll) != first]
        votes += [self._votes(picture, window, side, roll) for side, roll in others]
        groups = [
            (mean, n) for mean, n in gather(np.concatenate(votes)) if overlap(window[None], mean[None])[0, 0] > 0.3
        ]
        return max(groups, key=lambda group: group[1], default=(window, 0))

    def _votes(self, picture: Picture, window: Windows, side: int, roll: float) -> Windows:
        """Windows, in pixels of `picture`, that pass in a cut-out around `window`, turned by `roll` degrees, in which
        it is `side` px wide; and in the cut-out's mirror image.
        """
        scale = side / window[2]
        size = round(side * (1 + 2 * CHECK_MARGIN))
        angle = np.deg2rad(roll)
        to_cut = np.eye(3)
        to_cut[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        to_cut[:2, 2] = (size - 1) / 2 - to_cut[:2, :2] @ window[:2]
        cut = np.asarray(warp(picture, to_cut, size), np.uint8)
        limits = int(side * 0.7), int(side * 1.45)
        plain = self._windows(cut, CHECK_GROWTH, 1.0, *limits)
        mirrored = self._windows(np.ascontiguousarray(cut[:, ::-1]), CHECK_GROWTH, 1.0, *limits)
        mirrored[:, 0] = size - 1 - mirrored[:, 0]
        votes = np.concatenate([plain, mirrored])
        back = np.asarray(np.linalg.inv(to_cut), np.float64)
        return np.column_stack([transform(back, votes[:, :2]), votes[:, 2] / scale])


def _cascade_face(window: Windows, votes: int, to_photo: Matrix) -> Face:
    """A window [3] and its votes as a face of the photo; `to_photo` from the window's pixels."""
    x, y = (float(value) for value in transform(to_photo, window[None, :2])[0])
    reach = (float(window[2]) * scale_of(to_photo) - 1) / 2
    return Face((x - reach, y - reach, x + reach, y + reach), None, min(1.0, votes / TYPICAL_VOTES))


def overlap(a: Windows, b: Windows) -> npt.NDArray[np.floating[Any]]:
    """Intersection over union of square windows a [n, 3] and b [m, 3], [n, m]."""
    lower = np.maximum((a[:, :2] - a[:, 2:] / 2)[:, None], (b[:, :2] - b[:, 2:] / 2)[None])
    upper = np.minimum((a[:, :2] + a[:, 2:] / 2)[:, None], (b[:, :2] + b[:, 2:] / 2)[None])
    shared = np.clip(upper - lower, 0, None).prod(axis=2)
    result: npt.NDArray[np.floating[Any]] = shared / (a[:, None, 2] ** 2 + b[None, :, 2] ** 2 - shared)
    return result


def gather(windows: Windows) -> list[tuple[Windows, int]]:
    """Windows [n, 3] as groups (mean window [3], number): the one that most others overlap by half takes those with
    it, then the next among the rest.
    """
    near = overlap(windows, windows) > 0.5
    left = np.ones(len(windows), bool)
    groups = []
    while left.any():
        counts = np.where(left, (near & left).sum(axis=1), 0)
        members = near[counts.argmax()] & left
        groups.append((windows[members].mean(axis=0), int(members.sum())))
        left &= ~members
    return groups


def _apart(checked: list[tuple[Windows, int]]) -> list[tuple[Windows, int]]:
    """Most votes first, without those that overlap, or lie within, one that has more."""
    kept: list[tuple[Windows, int]] = []
    for window, votes in sorted(checked, key=lambda entry: entry[1], reverse=True):
        clear = all(np.abs(window[:2] - other[:2]).max() > (window[2] + other[2]) * 0.4 for other, _ in kept)
        if clear:
            kept.append((window, votes))
    return kept
