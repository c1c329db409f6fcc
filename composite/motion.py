"""What changed between two pictures of the generator: dense motion, and the change that motion cannot explain.

Both pictures come from one generator, so light is constant between them and the flow is clean.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from realdrag.geometry import resize, sample

FLOW_SIZE = 256  # smaller pictures are enlarged to it: DIS finds sub-pixel motion of theirs
SMOOTHING = 4.0  # pixels of FLOW_SIZE
# Motion below the first is the flow's own noise and gives way to stillness, above the second it counts whole.
STILL, MOVING = 0.2, 0.8  # pixels of FLOW_SIZE
# The same for change, in grey levels: residues of the flow along edges reach about 6.
FAINT, PLAIN = 6.0, 24.0
# A small generator's colours wander where its light does not: blue chins, purple lips. So colour counts less.
COLOUR_SHARE = 0.4
# Larger changes are bent towards this many levels: what a small generator adds beyond them is seen as a bright or
# grey patch, and it swallows the photo's detail (teeth). It costs a mouth that opens some of its depth.
MOST = 24.0
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709

Field = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Change:
    """motion: [s, s, 2] where each pixel came from, less its own place (x, y), pixels of s = FLOW_SIZE.
    residue: [s, s, 3] what is to be added after moving, sRGB levels; 0 where motion explains all.
    """

    motion: Field
    residue: Field


def find_change(inverted: npt.NDArray[np.uint8], dragged: npt.NDArray[np.uint8]) -> Change:
    """From the inverted to the dragged picture, both [r, r, 3] uint8."""
    size = FLOW_SIZE
    before = resize(inverted.astype(np.float32), size)
    after = resize(dragged.astype(np.float32), size)
    motion = find_motion(before, after)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    residue = after - sample(before, x + motion[..., 0], y + motion[..., 1])
    strength = cv2.GaussianBlur(np.abs(residue).max(2), (0, 0), SMOOTHING)
    residue *= np.clip((strength - FAINT) / (PLAIN - FAINT), 0, 1)[..., None]
    light = (residue @ LUMA)[..., None]
    change = light + COLOUR_SHARE * (residue - light)
    return Change(motion, np.asarray(MOST * np.tanh(change / MOST), np.float32))


def find_motion(before: Field, after: Field) -> Field:
    """Backward flow [s, s, 2]: pixel p of `after` came from p + motion of `before`.

    DIS optical flow (Kroeger et al. 2016) both ways; where the two disagree, the neighbours that agree decide.
    """
    grey_before, grey_after = (
        cv2.cvtColor(x.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for x in (before, after)
    )
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    back = dis.calc(grey_after, grey_before, None)
    forth = dis.calc(grey_before, grey_after, None)
    size = before.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    returned = sample(forth, x + back[..., 0], y + back[..., 1])
    trust = np.exp(-np.square(back + returned).sum(2) / 4)
    weight = cv2.GaussianBlur(trust, (0, 0), SMOOTHING)[..., None]
    motion = cv2.GaussianBlur(back * trust[..., None], (0, 0), SMOOTHING) / (weight + 1e-3)
    length = np.hypot(motion[..., 0], motion[..., 1])[..., None]
    return np.asarray(motion * np.clip((length - STILL) / (MOVING - STILL), 0, 1), np.float32)
