"""Points and boxes as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from realdrag.drag.moves import face_frame
from realdrag.errors import InputError
from realdrag.geometry import Points
from realdrag.values import Alignment

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
COMMA = r"\s*,\s*"
PLAIN = re.compile(rf"({NUMBER}){COMMA}({NUMBER})", re.ASCII)
RELATIVE = re.compile(rf"(\d+)([+-](?:\d+\.?\d*|\.\d+)){COMMA}({NUMBER})", re.ASCII)
DECIMALS = 9  # of eye distances: a point written so and read again is the same to 1e-6 px
DRAG_HINT = "write X,Y:X2,Y2 in photo pixels, from handle to target, as in 210,180:205,172"


@dataclass(frozen=True)
class Spot:
    """(x, y) in photo pixels, or, with a landmark (0..67), an offset from it in the face's own frame: along the line of
    the eyes and towards the chin, in distances of the eyes.
    """

    x: float
    y: float
    landmark: int | None = None

    def place(self, alignment: Alignment) -> tuple[float, float]:
        """Where it is in the photo."""
        if self.landmark is None:
            return self.x, self.y
        marks = alignment.landmarks
        if marks is None:
            raise InputError(
                f"landmark {self.landmark} is not known: the {alignment.detector} detector finds none",
                "give the point in photo pixels",
            )
        x, y = marks[self.landmark] + face_frame(marks)[0] @ np.array([self.x, self.y])
        return float(x), float(y)

    def __str__(self) -> str:
        """As `parse_spot` reads it."""
        x, y = (re.sub(r"\.?0+$", "", f"{v:{sign}.{DECIMALS}f}") for v, sign in ((self.x, "+"), (self.y, "")))
        return f"{x.removeprefix('+')},{y}" if self.landmark is None else f"{self.landmark}{x},{y}"


def spot_near(point: Points, landmark: int, landmarks: Points) -> Spot:
    """The `point` (x, y) as an offset from one of `landmarks` [68, 2]; all in photo pixels."""
    x, y = np.linalg.solve(face_frame(landmarks)[0], point - landmarks[landmark])
    return Spot(round(float(x), DECIMALS), round(float(y), DECIMALS), landmark)


DragSpec = tuple[Spot, Spot]


def parse_spot(text: str) -> Spot | None:
    """`X,Y` or `LANDMARK±DX,DY` ("48+0.1,-0.05"), or None."""
    text = text.strip()
    if match := PLAIN.fullmatch(text):
        return Spot(float(match[1]), float(match[2]))
    if (match := RELATIVE.fullmatch(text)) and int(match[1]) < 68:
        return Spot(float(match[2]), float(match[3]), int(match[1]))
    return None


def parse_drag(text: str) -> DragSpec:
    """`X,Y:X2,Y2`, from handle to target; InputError if it is not."""
    handle, colon, target = text.partition(":")
    start, end = parse_spot(handle), parse_spot(target)
    if not colon or start is None or end is None:
        raise InputError(f"--drag {text!r} is not a drag", DRAG_HINT, code="drag")
    if start == end:
        raise InputError(f"--drag {text!r} goes nowhere", DRAG_HINT, code="drag")
    return start, end


def parse_box(text: str | None) -> tuple[float, float, float, float] | None:
    """`X0,Y0,X1,Y1` in photo pixels, inclusive; None stays None."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(re.fullmatch(NUMBER, part.strip(), re.ASCII) for part in parts):
        raise InputError(f"--box {text!r} is not a box", "write X0,Y0,X1,Y1 in photo pixels", code="box")
    x0, y0, x1, y1 = map(float, parts)
    return x0, y0, x1, y1


def place_drags(specs: Sequence[DragSpec], alignment: Alignment) -> tuple[Points, Points]:
    """Handles and targets [n, 2] in photo pixels."""
    handles = [handle.place(alignment) for handle, _ in specs]
    targets = [target.place(alignment) for _, target in specs]
    return np.array(handles, np.float64).reshape(-1, 2), np.array(targets, np.float64).reshape(-1, 2)
