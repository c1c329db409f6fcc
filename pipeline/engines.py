"""Who does a batch's jobs: worker processes of this machine. (`engine_ray`: those of a cluster.)"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, Protocol

from realdrag.errors import WorkError, error_json
from realdrag.jobs import Job, Row

if TYPE_CHECKING:
    from realdrag.worker import Machine, Worker

# Of a worker with `faces-128` after many photos of 640 px, and for each megapixel of a larger model's picture.
WORKER_BYTES, MEGAPIXEL_BYTES = 0.8e9, 1.5e9
TRIES = 2  # a photo whose worker was killed is tried once more: the machine may have been short of memory
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Engine(Protocol):
    """Does jobs side by side."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
        """Each job with its row, as they end; closing the iterator ends what is under way."""


class Local:
    """Worker processes of this machine, each with a model and threads of its own."""

    def __init__(self, machine: Machine, workers: int) -> None:
        self.machine, self.workers = machine, workers

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
        from pebble import ProcessPool

        waiting, tries = deque(jobs), dict[Job, int]()
        running = dict[Future[Row], Job]()
        context = get_context("spawn")  # a fork of a process with torch's threads may hang
        with environment(self.machine.threads):
            pool = ProcessPool(
                min(self.workers, len(jobs)), initializer=start, initargs=(self.machine,), context=context
            )
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * self.workers:
                        job = waiting.popleft()
                        tries[job] = tries.get(job, 0) + 1
                        running[pool.schedule(work, args=(job,))] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        job = running.pop(future)
                        row = ended(future, job)
                        if row is None and tries[job] < TRIES:
                            waiting.appendleft(job)
                        else:
                            yield job, row or killed(job, "its worker was killed, twice")
            finally:
                pool.stop()
                pool.join()


def ended(future: Future[Row], job: Job) -> Row | None:
    """A future's row; None where its worker died."""
    from pebble import ProcessExpired

    try:
        return future.result()
    except ProcessExpired:
        return None


def killed(job: Job, words: str) -> Row:
    """The row of a job whose workers died."""
    error = WorkError(words, "the machine may be short of memory: take fewer --workers", code="killed")
    row: Row = {"photo": job.photo, "output": job.output, "job": job.key, "photo_sha256": None, "seconds": {}}
    return row | {"status": "failed", "error": error_json(error)}


_worker: Worker | None = None  # of a worker process


def start(machine: Machine) -> None:
    """Make this process a worker."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    from realdrag.worker import Worker

    _worker = Worker(machine)


def work(job: Job) -> Row:
    """Do a job in a worker process."""
    assert _worker is not None
    return _worker.do(job)


@contextmanager
def environment(threads: int) -> Iterator[None]:
    """What libraries read when a worker loads them: as many threads each, so that workers do not fight."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def workers_for(resolution: int, threads: int) -> int:
    """How many workers suit this machine's cores and free memory."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = WORKER_BYTES + MEGAPIXEL_BYTES * resolution**2 / 1e6
    return max(1, min(cores // threads, int(0.8 * psutil.virtual_memory().available / each)))
