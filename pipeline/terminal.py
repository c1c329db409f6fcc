"""What people see on stderr: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

HEARTBEAT = 30.0  # seconds between lines where there is no terminal: a log must show that work goes on


def plain(text: str) -> str:
    """One line without control characters: names of files may hold anything."""
    return "".join(" " if c.isspace() else c if c.isprintable() else ascii(c)[1:-1] for c in text)


class TerminalProgress:
    """`progress.Progress` on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.bars: Bars | None = None
        self.task = TaskID(0)
        self.name, self.total, self.done, self.note = "", 0, 0, ""
        self.started = self.beat = 0.0

    def begin(self, name: str, total: int) -> None:
        """A bar appears, if this is a terminal."""
        self.name, self.total, self.done, self.note = name, total, 0, ""
        self.started = self.beat = time.monotonic()
        # Not the console's own answer: FORCE_COLOR would bring control characters into a log.
        if not self.quiet and sys.stderr.isatty() and not self.console.is_dumb_terminal:
            self.bars = Bars(
                TextColumn("{task.description:>10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self.task = self.bars.add_task(name, total=total or None, note="")
            self.bars.start()

    def step(self, done: int, note: str = "") -> None:
        """The bar grows; without a terminal a line comes twice a minute."""
        self.done, self.note = done, note
        now = time.monotonic()
        if self.bars is not None:
            self.bars.update(self.task, completed=done, note=note)
        elif not self.quiet and now - self.beat > HEARTBEAT:
            self.beat = now
            left = (now - self.started) / max(done, 1) * max(self.total - done, 0)
            sys.stderr.write(f"{self.name}: {done} of {self.total}, {note}, at most {left:.0f} s left\n")

    def end(self) -> None:
        """The bar stays as it is; without a terminal one line says what was done."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None
        elif not self.quiet:
            note = f", {self.note}" if self.note else ""
            took = time.monotonic() - self.started
            sys.stderr.write(f"{self.name}: {self.done} of {self.total}{note} ({took:.1f} s)\n")

    def say(self, message: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            sys.stderr.write(f"{plain(message)}\n")
