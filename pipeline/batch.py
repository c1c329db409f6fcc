"""A batch: every photo ends in a result and a row of `report.jsonl`; the same command goes on where it was stopped.

A row is written once its result is whole. At the end the report has one row for each job, in their order.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from realdrag.engines import Engine
from realdrag.errors import InputError
from realdrag.jobs import REPORT, SHEET, Job, Row
from realdrag.photo_write import write_bytes
from realdrag.places import is_url, sha256_at
from realdrag.progress import Progress, stretch
from realdrag.store import Store


@dataclass(frozen=True)
class Summary:
    """What a batch came to. skipped: of `ok`, those that an earlier run had done. rate: photos a second of this run."""

    jobs: int
    ok: int
    failed: int
    skipped: int
    seconds: float
    rate: float
    report: str
    sheet: str | None

    @property
    def line(self) -> str:
        """For people."""
        earlier = f" ({self.skipped} of them before)" if self.skipped else ""
        bad = f", {self.failed} failed (see {self.report})" if self.failed else ""
        return f"{self.ok} of {self.jobs} done{earlier}{bad}, {self.seconds:.0f} s, {self.rate:.2f} photos a second"

    def about(self) -> dict[str, object]:
        """As `--json` prints it."""
        return asdict(self)


class Report:
    """The rows of `report.jsonl`, by result: its path from the report's folder, however OUT was written."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder.absolute(), folder / REPORT
        self.rows = dict[str, Row]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        except OSError as error:
            raise InputError(
                f"{self.path}: {error.strerror or error}", "choose another -o", code="unwritable"
            ) from error
        for line in lines:
            try:
                row = json.loads(line)
                self.rows[row["result"]] = row
            except (ValueError, KeyError, TypeError):
                continue  # cut off in the middle: that photo is done again
        if lines:
            self._write(list(self.rows.values()))  # whole lines to add to

    def name(self, job: Job) -> str:
        """What a job's row lies under."""
        return job.output if is_url(job.output) else os.path.relpath(job.output, self.folder)

    def of(self, job: Job) -> Row:
        """The job's row, empty where it has none."""
        return self.rows.get(self.name(job), {})

    def add(self, job: Job, row: Row) -> None:
        """One row more, on the disk before this returns."""
        row = {**row, "result": self.name(job)}
        self.rows[row["result"]] = row
        with self.path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self, jobs: Sequence[Job]) -> None:
        """One row for each job, in their order; rows of other jobs come first."""
        wanted = {self.name(job) for job in jobs}
        others = [row for result, row in self.rows.items() if result not in wanted]
        self._write([*others, *map(self.of, jobs)])

    def _write(self, rows: Sequence[Row]) -> None:
        write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows), self.path)

    def done(self, job: Job) -> bool:
        """Whether an earlier run did this very job and its result is as it was written."""
        row = self.of(job)
        if row.get("status") != "ok" or row.get("job") != job.key:
            return False
        sums = row.get("photo_sha256"), row.get("output_sha256")
        return None not in sums and sums == (sha256_at(job.photo), sha256_at(job.output))


def run_batch(jobs: Sequence[Job], engine: Engine, folder: Path, progress: Progress) -> Summary:
    """Do what is not done yet, and report. folder: of the report (and of the results, where they are files).

    Raises InputError where another batch is at work on that folder.
    """
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    with Store(progress=progress).lock_if_free(f"batch-{name}") as ours:
        if not ours:
            raise InputError(
                f"{folder}: another batch is at work there", "wait for it, or choose another -o", code="busy"
            )
        return _run(jobs, engine, folder, progress)


def _run(jobs: Sequence[Job], engine: Engine, folder: Path, progress: Progress) -> Summary:
    from realdrag.contact import contact_sheet

    report = Report(folder)
    left = [job for job in jobs if not report.done(job)]
    skipped = len(jobs) - len(left)
    if skipped:
        progress.say(f"{skipped} of {len(jobs)} photos were done before")
    for beside in {str(Path(job.output).parent) for job in left if not is_url(job.output)}:
        clear(Path(beside))
    began, failed = time.monotonic(), 0
    with (
        interruptible() as stopped,
        stretch(progress, "photos", len(jobs)) as bar,
        closing(engine.run(left)) as ended,  # type: ignore[type-var]
    ):
        for k, (job, row) in enumerate(ended, 1):
            report.add(job, row)
            if stopped():
                raise KeyboardInterrupt
            failed += row["status"] == "failed"
            rate = k / (time.monotonic() - began)
            note = f"{rate:.2f}/s, {(len(left) - k) / rate / 60:.0f} min left"
            bar.step(skipped + k, f"{note}, {failed} failed" if failed else note)
    seconds = time.monotonic() - began
    report.close(jobs)
    good = [row for job in jobs if (row := report.of(job))["status"] == "ok"]
    sheet = folder / SHEET if contact_sheet(good, folder / SHEET) else None
    return Summary(
        jobs=len(jobs),
        ok=len(good),
        failed=len(jobs) - len(good),
        skipped=skipped,
        seconds=round(seconds, 3),
        rate=round(len(left) / seconds, 4) if left else 0.0,
        report=str(report.path),
        sheet=None if sheet is None else str(sheet),
    )


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed inside: what it raises can get lost in a callback of a library, and nobody presses it
    twice for every photo.
    """
    pressed = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def clear(folder: Path) -> None:
    """Take away what workers that were killed left beside results."""
    for file in folder.glob(".realdrag-*"):
        file.unlink(missing_ok=True)
