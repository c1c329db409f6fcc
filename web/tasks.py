"""What sessions ask of the engine, and how it tells what it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from realdrag.values import Moment


@dataclass(frozen=True)
class Open:
    """Read the upload and find its faces; align the largest."""


@dataclass(frozen=True)
class Align:
    """As `realdrag align`."""

    face: int | None = None
    box: tuple[float, float, float, float] | None = None
    whole: bool = False


@dataclass(frozen=True)
class Further:
    """The edited photo as one to go on with, `choice` of it."""

    choice: Align


@dataclass(frozen=True)
class Invert:
    """As `realdrag invert`."""


@dataclass(frozen=True)
class Run:
    """As `realdrag drag`, on top of the drag that is shown. points: x, y, x2, y2 each; masked: by draft-mask.png."""

    points: tuple[tuple[float, float, float, float], ...]
    moves: tuple[tuple[str, float], ...]
    masked: bool


@dataclass(frozen=True)
class Place:
    """As `realdrag drag --step --strength`."""

    step: int | None
    strength: float


@dataclass(frozen=True)
class Back:
    """As `realdrag drag --undo` (−1) and `--redo` (+1)."""

    by: int


@dataclass(frozen=True)
class Save:
    """As `realdrag composite -o … --save-recipe`."""

    kind: str


@dataclass(frozen=True)
class Film:
    """As `realdrag drag --film`."""

    kind: str


@dataclass(frozen=True)
class Report:
    """As `realdrag invert --report`."""


Task: TypeAlias = Open | Align | Further | Invert | Run | Place | Back | Save | Film | Report

EVERY = 0.1  # seconds between what is told of progress


class Teller:
    """A task's `Progress`, and what else it tells while it runs. send: (what, values); stopped: asked at each step."""

    def __init__(self, send: Callable[[str, Any], None], stopped: Callable[[], bool]) -> None:
        self.send, self.stopped = send, stopped
        self.breaks = True  # whether a stop interrupts the task; a drag ends by itself, with a result
        self.plan = dict[str, int]()  # steps of the stretches to come, for the time left
        self.name, self.total, self.started, self.told, self.shown = "", 0, 0.0, 0.0, 0.0

    def begin(self, name: str, total: int) -> None:
        self.name, self.total, self.started = name, total, time.monotonic()
        self.plan.pop(name, None)

    def step(self, done: int, note: str = "") -> None:
        if self.breaks and self.stopped():
            raise KeyboardInterrupt
        now = time.monotonic()
        if now - self.told >= EVERY or done == self.total:
            self.told = now
            left = (now - self.started) / max(done, 1) * (self.total - done + sum(self.plan.values()))
            self.send("progress", {"name": self.name, "done": done, "total": self.total, "note": note, "left": left})

    def end(self) -> None: ...

    def say(self, message: str) -> None:
        self.send("say", message)

    def sharpened(self, w_plus: npt.NDArray[np.float32]) -> None:
        """Where the inversion is."""
        if (now := time.monotonic()) - self.shown >= EVERY:
            self.shown = now
            self.send("sharpened", w_plus)

    def moved(self, moment: Moment) -> None:
        """Where the drag is."""
        self.send("moved", moment)
