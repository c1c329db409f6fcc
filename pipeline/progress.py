"""How a stage tells its caller where it is; the caller decides what to show, and may stop it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told by the stages, shown by the command line, a page, or nobody."""

    def begin(self, name: str, total: int) -> None:
        """A stretch of `total` steps starts; `name` is a word or two for people ("w+", "drag")."""

    def step(self, done: int, note: str = "") -> None:
        """`done` steps of the stretch are finished; `note` is a short figure ("loss 0.21")."""

    def end(self) -> None:
        """The stretch is over, whether or not all its steps were needed."""

    def say(self, message: str) -> None:
        """One line that the user should read ("the network cannot be reached: …")."""


class Silent:
    """Shows nothing."""

    def begin(self, name: str, total: int) -> None: ...

    def step(self, done: int, note: str = "") -> None: ...

    def end(self) -> None: ...

    def say(self, message: str) -> None: ...


@contextmanager
def stretch(progress: Progress, name: str, total: int) -> Iterator[Progress]:
    """`begin` and, however the block is left, `end`."""
    progress.begin(name, total)
    try:
        yield progress
    finally:
        progress.end()
