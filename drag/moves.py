"""Drags of a face by name: from its landmarks to the handles and targets that a user would have placed.

Everything is computed in the face's own frame: the origin between the eyes, x from the eye on the picture's left to the
other, y towards the chin, the distance of the eyes as unit. So a face that is turned, larger or elsewhere in the photo
gets the same drags, turned, larger and elsewhere. Landmarks are numbered as in 300-W.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from realdrag.errors import InputError
from realdrag.geometry import Points

# Landmark → how far it moves, (x, y) in the face's frame.
Offsets = dict[int, tuple[float, float]]

# The landmarks used below that come in pairs: the one on the picture's left, and its mirror image.
MIRROR = {3: 13, 5: 11, 6: 10, 18: 25, 19: 24, 20: 23, 21: 22, 37: 44, 38: 43, 40: 47, 41: 46, 48: 54}

# A handle farther from every landmark than this, in distances of the eyes, was not meant for one.
SNAP_REACH = 0.25


@dataclass(frozen=True)
class Move:
    """A named drag.

    does: what a positive number does, and what a negative one. unit: of the number; low … high: what is sensible.
    offsets: (landmarks [68, 2] in the face's frame, number) → how far each handle moves.
    """

    name: str
    does: str
    unit: str
    low: float
    high: float
    offsets: Callable[[Points, float], Offsets]


def by_number(left: Offsets, middle: Offsets | None = None) -> Callable[[Points, float], Offsets]:
    """Offsets that grow with the number: `left` and their mirror images, and `middle`."""
    whole = dict(middle or {})
    for landmark, (x, y) in left.items():
        whole[landmark], whole[MIRROR[landmark]] = (x, y), (-x, y)
    return lambda _, number: {landmark: (x * number, y * number) for landmark, (x, y) in whole.items()}


# Landmark → how far it lies before the plane of the eyes on a usual head, in distances of the eyes.
DEPTHS = {30: 0.45, 57: 0.22, 8: 0.12, 2: -0.9, 14: -0.9}


def turn_offsets(face: Points, degrees: float) -> Offsets:
    """A rotation about the vertical axis through the middle of the eyes, where FFHQ's crop holds a face fast."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return {k: (float(face[k, 0]) * (cosine - 1) + depth * sine, 0.0) for k, depth in DEPTHS.items()}


def open_mouth_offsets(face: Points, number: float) -> Offsets:
    """The lower lip, and the chin less far. The lips of a closed mouth cannot come nearer.

    While it opens the upper lip goes up a little, or it would come along.
    """
    if number > 0:
        return {57: (0.0, 0.16 * number), 8: (0.0, 0.11 * number), 51: (0.0, -0.03 * number)}
    down = number * max(float(face[66, 1] - face[62, 1]), 0.0)
    return {57: (0.0, down), 8: (0.0, 0.7 * down)}


# The one table of moves. What each achieves on the embedded model is measured in docs/design.md.
TABLE = (
    Move(
        "smile",
        "the corners of the mouth outwards and up; negative: inwards and down",
        "1 is a broad smile",
        -1,
        1.5,
        by_number({48: (-0.12, -0.085)}),
    ),
    Move(
        "open-mouth",
        "the lower lip and the chin down; negative: up, to where the lips meet",
        "1 is wide open, -1 closed",
        -1,
        1,
        open_mouth_offsets,
    ),
    Move(
        "jaw",
        "the sides of the jaw outwards; negative: inwards",
        "1 is much",
        -1,
        1,
        by_number({3: (-0.17, 0), 5: (-0.17, 0)}),
    ),
    Move(
        "chin",
        "the chin down; negative: up",
        "1 is much",
        -1,
        1,
        by_number({6: (0, 0.14)}, {8: (0, 0.18)}),
    ),
    Move(
        "eyes",
        "the lids apart",
        "1 is wide open",
        0,
        1,
        by_number({37: (0, -0.05), 38: (0, -0.05), 40: (0, 0.02), 41: (0, 0.02)}),
    ),
    Move(
        "brows",
        "the brows up",
        "1 is clearly raised",
        0,
        1.5,
        by_number({18: (0, -0.09), 19: (0, -0.09), 20: (0, -0.09), 21: (0, -0.09)}),
    ),
    Move(
        "turn",
        "the head to the picture's right; negative: to its left",
        "degrees",
        -10,
        10,
        turn_offsets,
    ),
)
MOVES = {move.name: move for move in TABLE}


@dataclass(frozen=True, eq=False)
class Pairs:
    """What moves come to: handles and targets [n, 2] in photo pixels, and the landmark of each handle.

    moves: the names of those that drag it, one or more.
    """

    handles: Points
    targets: Points
    landmarks: tuple[int, ...]
    moves: tuple[tuple[str, ...], ...]


def expand(moves: Mapping[str, float], landmarks: Points) -> Pairs:
    """The pairs for `moves` (name → number) on a face with `landmarks` [68, 2], photo pixels.

    A landmark that two moves drag is one handle, its offsets added. Raises InputError for an unknown name, a number
    out of range, and landmarks that are no face.
    """
    landmarks = np.asarray(landmarks, np.float64)
    to_photo, origin = face_frame(landmarks)
    face = (landmarks - origin) @ np.linalg.inv(to_photo).T
    offsets, names = dict[int, Points](), dict[int, list[str]]()
    for name, number in moves.items():
        for landmark, offset in find(name, number).offsets(face, number).items():
            offsets[landmark] = offsets.get(landmark, np.zeros(2)) + np.array(offset)
            names.setdefault(landmark, []).append(name)
    moved = {k: offset for k, offset in offsets.items() if offset.any()}
    handles = landmarks[list(moved)].reshape(-1, 2)
    return Pairs(
        handles,
        handles + np.array(list(moved.values())).reshape(-1, 2) @ to_photo.T,
        tuple(moved),
        tuple(tuple(names[k]) for k in moved),
    )


def find(name: str, number: float) -> Move:
    """The move `name`, if `number` suits it; else InputError."""
    if name not in MOVES:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), MOVES, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(MOVES)}"
        raise InputError(f"--move {name}: there is no such move", hint, code="move")
    move = MOVES[name]
    if not move.low <= number <= move.high:
        message = f"--move {name}={number:g}: is not between {move.low:g} and {move.high:g}"
        raise InputError(message, f"{move.unit}; {move.does}", code="move")
    return move


def face_frame(landmarks: Points) -> tuple[Points, Points]:
    """The map [2, 2] of vectors in the face's frame to photo pixels, and the frame's origin (2,) there."""
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    x = right - left
    if not (np.isfinite(landmarks).all() and x.any()):
        raise InputError("the landmarks do not form a face", "give the points with --drag")
    return np.stack([x, [-x[1], x[0]]], axis=1), (left + right) / 2


def snap(handles: Points, landmarks: Points) -> list[int | None]:
    """For each of `handles` [n, 2] the number of the landmark [68, 2] to take instead; all in photo pixels.

    None where the nearest is farther than a quarter of the distance of the eyes. No landmark is taken twice: it is the
    nearest handle's, and the others stay.
    """
    reach = SNAP_REACH * float(np.linalg.norm(face_frame(landmarks)[0][:, 0]))
    distances = np.linalg.norm(handles[:, None] - landmarks, axis=2)  # [n, 68]
    nearest, near = distances.argmin(1), distances.min(1)
    found: list[int | None] = [None] * len(handles)
    for i in np.argsort(near, kind="stable"):
        if near[i] <= reach and int(nearest[i]) not in found:
            found[i] = int(nearest[i])
    return found
