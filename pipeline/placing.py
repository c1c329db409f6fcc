"""From what the user names (points, moves, landmarks to snap to) to handles and targets on one photo."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from realdrag.api import Point, check_points
from realdrag.drag.moves import SNAP_REACH, Pairs, expand, find, snap
from realdrag.errors import InputError
from realdrag.geometry import Points
from realdrag.points import NUMBER, DragSpec, place_drags
from realdrag.progress import Progress
from realdrag.values import Alignment

DECIMALS = 3  # of a photo pixel: what is printed, recorded and dragged is the same


@dataclass(frozen=True)
class Wanted:
    """What to drag, before the face is known: points, moves (name → number), and whether `drags` snap to landmarks."""

    drags: Sequence[DragSpec] = ()
    moves: Mapping[str, float] = field(default_factory=dict)
    snap: bool = False

    def __bool__(self) -> bool:
        return bool(self.drags or self.moves)

    @property
    def points(self) -> list[str]:
        """`drags` as `--drag` takes them."""
        return [f"{handle}:{target}" for handle, target in self.drags]

    def check(self) -> None:
        """InputError for what no photo could make right."""
        if not self:
            raise InputError("there is nothing to drag", "give at least one --drag X,Y:X2,Y2 or --move NAME=NUMBER")
        for name, number in self.moves.items():
            find(name, number)


@dataclass(frozen=True, eq=False)
class Placed:
    """Handles and targets [n, 2] in photo pixels, and where they come from.

    snapped: handle → landmark. moved: handle → the moves that drag it. notes: what the user should read.
    """

    handles: Points
    targets: Points
    snapped: Mapping[int, int]
    moved: Mapping[int, tuple[str, ...]]
    notes: tuple[str, ...]

    def about(self, wanted: Wanted) -> dict[str, Any]:
        """`moves` and `snapped` as drag.json lists them; `handles` there are indices into its list of handles."""
        return {
            "moves": [
                {"name": name, "number": number, "handles": [i for i, names in self.moved.items() if name in names]}
                for name, number in wanted.moves.items()
            ],
            "snapped": [{"handle": i, "landmark": landmark} for i, landmark in self.snapped.items()],
        }


def parse_moves(texts: Sequence[str]) -> dict[str, float]:
    """`NAME=NUMBER`, each name once; InputError if it is not, or for a move or number that there is not."""
    moves: dict[str, float] = {}
    for text in texts:
        name, _, number = (part.strip() for part in text.partition("="))
        if not name or not re.fullmatch(NUMBER, number, re.ASCII):
            raise InputError(f"--move {text!r}: is not a move", "write NAME=NUMBER, as in smile=0.5", code="move")
        if name in moves:
            raise InputError(f"--move {name}: is given twice", "give each move once", code="move")
        find(name, float(number))
        moves[name] = float(number)
    return moves


def place(
    wanted: Wanted, alignment: Alignment, size: tuple[int, int], mask: npt.NDArray[np.float32] | None = None
) -> Placed:
    """The handles and targets on a photo of `size` (width, height), those of `drags` first, checked.

    Of the user's own points each must fit, as for `check_points`. A move's point that does not, because it lies beyond
    the crop or where the mask ([h, w] 0..1) lets nothing move, is left out, if another of that move remains.
    """
    wanted.check()
    handles: Points
    targets: Points
    handles, targets = place_drags(wanted.drags, alignment)
    snapped: dict[int, int] = {}
    notes: list[str] = []
    if wanted.snap and len(handles):
        handles, targets, snapped = snapped_points(handles, targets, landmarks_of(alignment, "--snap"), notes)
    moved: dict[int, tuple[str, ...]] = {}
    if wanted.moves:
        pairs = expanded(wanted.moves, alignment)
        kept = fitting(pairs, wanted.moves, alignment, size, mask, notes)
        moved = {len(handles) + n: pairs.moves[k] for n, k in enumerate(kept)}
        handles = np.concatenate([handles, pairs.handles[kept]])
        targets = np.concatenate([targets, pairs.targets[kept]])
    handles, targets = handles.round(DECIMALS), targets.round(DECIMALS)
    check_points(handles, targets, size, alignment, mask)
    return Placed(handles, targets, snapped, moved, tuple(notes))


def move_drags(moves: Mapping[str, float], alignment: Alignment) -> list[tuple[Point, Point]]:
    """The (handle, target) pairs of `moves`, photo pixels."""
    pairs = expanded(moves, alignment)
    return as_drags(pairs.handles, pairs.targets)


def expanded(moves: Mapping[str, float], alignment: Alignment) -> Pairs:
    """The pairs of `moves` on this face, to the thousandth of a pixel."""
    pairs = expand(moves, landmarks_of(alignment, "--move"))
    return replace(pairs, handles=pairs.handles.round(DECIMALS), targets=pairs.targets.round(DECIMALS))


def snap_drags(
    drags: Sequence[tuple[Point, Point]], alignment: Alignment, progress: Progress
) -> list[tuple[Point, Point]]:
    """`drags`, photo pixels, from the nearest landmarks; what was done is told."""
    notes = list[str]()
    handles, targets = (np.array([drag[k] for drag in drags], np.float64).reshape(-1, 2) for k in (0, 1))
    starts, ends, _ = snapped_points(handles, targets, landmarks_of(alignment, "--snap"), notes)
    for note in notes:
        progress.say(note)
    return as_drags(starts, ends)


def as_drags(handles: Points, targets: Points) -> list[tuple[Point, Point]]:
    """Points [n, 2] as pairs of numbers, to the thousandth of a pixel."""
    ends = zip(handles.round(DECIMALS).tolist(), targets.round(DECIMALS).tolist(), strict=True)
    return [((x, y), (x2, y2)) for (x, y), (x2, y2) in ends]


def landmarks_of(alignment: Alignment, flag: str) -> Points:
    """The landmarks [68, 2]; InputError, naming the flag that needs them, where there are none."""
    if alignment.landmarks is None:
        message = f"{flag} needs the landmarks of a face: the {alignment.detector} detector finds none"
        raise InputError(message, "give the points with --drag X,Y:X2,Y2", code="landmarks")
    return alignment.landmarks


def snapped_points(
    handles: Points, targets: Points, landmarks: Points, notes: list[str]
) -> tuple[Points, Points, dict[int, int]]:
    """Handles at their nearest landmarks, targets moved along, handle → landmark; what was done is added to `notes`."""
    handles, targets, snapped = handles.copy(), targets.copy(), dict[int, int]()
    for i, landmark in enumerate(snap(handles, landmarks)):
        x, y = handles[i]
        if landmark is None:
            near = f"within {SNAP_REACH:g} of the distance of the eyes, or another handle is nearer to it"
            notes.append(f"--snap: {x:g},{y:g} stays: no landmark {near}")
            continue
        targets[i] += landmarks[landmark] - handles[i]
        handles[i] = landmarks[landmark]
        snapped[i] = landmark
        notes.append(f"--snap: {x:g},{y:g} → landmark {landmark} at {handles[i, 0]:.1f},{handles[i, 1]:.1f}")
    return handles, targets, snapped


def fitting(
    pairs: Pairs,
    moves: Mapping[str, float],
    alignment: Alignment,
    size: tuple[int, int],
    mask: npt.NDArray[np.float32] | None,
    notes: list[str],
) -> list[int]:
    """Which of `pairs` can be dragged; the others are noted. InputError for a move of which nothing is left."""
    kept, faults = list[int](), dict[str, InputError]()
    for k, names in enumerate(pairs.moves):
        try:
            check_points(pairs.handles[k : k + 1], pairs.targets[k : k + 1], size, alignment, mask)
            kept.append(k)
        except InputError as fault:
            notes.append(f"--move {' and '.join(names)}: one point is left out: {fault.message}")
            faults |= dict.fromkeys(names, fault)
    for name in moves:
        if not any(name in pairs.moves[k] for k in kept):
            why = faults.get(name, InputError("it moves nothing on this face", "give another number"))
            raise InputError(f"--move {name}: {why.message}", why.hint, code="move")
    return kept
