"""What changed between two pictures of the generator: dense motion, and the change that motion cannot explain.

Both pictures come from one generator, so light is nearly constant between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from realdrag.composite.flow import find_motion, follow_motion
from realdrag.geometry import resize, sample

# The side at which motion is sought is the generator's own, but within these: smaller pictures are enlarged.
LEAST_SIDE, FLOW_SIZE = 128, 256
# A change counts from the first on, and wholly from the second, in grey levels of its local mean.
FAINT, PLAIN = 8.0, 24.0
MEAN = 1 / 64  # over which the mean is taken, in sides: along edges the flow's errors cancel in it
# The same for a change so large that what was there before is gone, its detail too.
NEW, WHOLLY_NEW = 40.0, 88.0
# A small generator's colours wander where its light does not: blue chins, purple lips. So colour counts less.
COLOUR_SHARE = 0.4
# Larger changes are bent towards this many levels: what a small generator adds beyond them is seen as a patch.
MOST = 24.0
# What moves by the first or more is in the region, in sides of the crop, if it touches what moves by the second, or by
# half of the longest way: a generator never holds still altogether.
MOVING, MOVED = 0.002, 0.0075
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709

Field = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Change:
    """Of pictures of s px, all float32.

    motion: [s, s, 2] where each pixel came from, less its own place (x, y), in pixels of s.
    residue: [s, s, 3] what is to be added after moving, sRGB levels; 0 where motion explains all.
    new: [s, s] 0..1, how much of a pixel was not there before.
    happened: [s, s] 0..1: where something moved or is new, 1; falling to 0 around it.
    """

    motion: Field
    residue: Field
    new: Field
    happened: Field

    @property
    def size(self) -> int:
        """s."""
        return int(self.motion.shape[0])

    def reduced(self, size: int) -> Change:
        """The same in pictures of `size` px if that is less: maps are not to be finer than what they are laid on."""
        if size >= self.size:
            return self
        motion = resize(self.motion, size) * np.float32(size / self.size)
        return Change(motion, *(resize(each, size) for each in (self.residue, self.new, self.happened)))


def find_change(
    inverted: npt.NDArray[np.uint8],
    dragged: npt.NDArray[np.uint8],
    *,
    grow: float,
    share: float,
    motion: Field | float | None = None,
) -> Change:
    """From the inverted to the dragged picture, both [r, r, 3] uint8.

    grow: how far the region reaches beyond what moved, in sides. share: 0..1, how much of the residue is taken.
    motion: that of the change a moment ago, 0 where there was none: from it the way is short, for a picture that moves
    while it is watched.
    """
    size = min(max(inverted.shape[0], LEAST_SIDE), FLOW_SIZE)
    before, after = (resize(picture.astype(np.float32), size) for picture in (inverted, dragged))
    motion = find_motion(before, after) if motion is None else follow_motion(before, after, motion)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    residue = after - sample(before, x + motion[..., 0], y + motion[..., 1])
    strength = np.abs(cv2.GaussianBlur(residue, (0, 0), MEAN * size)).max(2)
    light = (residue @ LUMA)[..., None]
    residue = light + COLOUR_SHARE * (residue - light)
    residue = MOST * np.tanh(residue / MOST) * smooth_step((strength - FAINT) / (PLAIN - FAINT))[..., None] * share
    new = smooth_step((strength - NEW) / (WHOLLY_NEW - NEW)) * np.float32(share)
    length = np.hypot(motion[..., 0], motion[..., 1]) / size
    happened = around(touched(length) | (share * strength > PLAIN), grow * size)
    return Change(motion, np.asarray(residue, np.float32), np.asarray(new, np.float32), happened)


def touched(length: Field) -> npt.NDArray[np.bool_]:
    """Where motion of `length` [s, s], in sides, is more than the generator's unrest: hysteresis."""
    far = length >= max(min(MOVED, float(length.max()) / 2), MOVING)
    _, labels = cv2.connectedComponents((length >= MOVING).astype(np.uint8))
    return np.asarray(np.isin(labels, np.unique(labels[far])) & (length >= MOVING))


def around(core: npt.NDArray[np.bool_], reach: float) -> Field:
    """1 on `core` [s, s], falling smoothly to 0 at `reach` pixels from it."""
    if not core.any():
        return np.zeros(core.shape, np.float32)
    away = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return smooth_step(1 - away / max(reach, 1.0))


def smooth_step(t: npt.NDArray[np.floating[Any]]) -> Field:
    """0 up to t = 0, 1 from t = 1, level at both ends."""
    t = np.clip(t, 0, 1, dtype=np.float32)
    rest = 3 - 2 * t
    rest *= t
    rest *= t
    return np.asarray(rest, np.float32)
