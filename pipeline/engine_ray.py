"""A batch's jobs on a Ray cluster: one actor for each GPU, or for each group of cores.

Actors load their models once; models that do not come with the package reach the nodes through the object store. An
actor has one job at a time (the others wait here), and one that dies, with its node or alone, gives its job back.
Results are written by rename, so what it was writing is not there. Latents lie in the driver's REALDRAG_HOME: a folder
that all nodes see, or one of each node's own under that name; a photo goes to the same actor again if that is free.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdrag.engines import THREADS, killed
from realdrag.errors import InputError, WorkError
from realdrag.jobs import Job, Row
from realdrag.recipe import from_text

if TYPE_CHECKING:
    from realdrag.worker import Machine

TRIES = 4  # a job whose actors died so often is at fault itself, or the cluster is
PATIENCE_S = 120  # without any actor: the cluster has no room
AHEAD = 64  # jobs looked at for one that the free actor had before


class Actor:
    """A worker in a process of the cluster."""

    def __init__(self, machine: Machine, home: str, models: dict[str, Any]) -> None:
        os.environ["REALDRAG_HOME"] = home
        os.environ.update(dict.fromkeys(THREADS, str(machine.threads)))
        import ray

        from realdrag.library import folder
        from realdrag.photo_write import write_bytes
        from realdrag.worker import Worker

        for name, data in models.items():
            if not (folder() / name).is_file():
                write_bytes(ray.get(data), folder() / name)
        self.worker = Worker(machine)

    def ready(self) -> int:
        """Answered once models and imports are there: the process's number."""
        return os.getpid()

    def do(self, job: Job) -> Row:
        """The job's row."""
        return self.worker.do(job)


class Cluster:
    """The engine. workers: None takes as many as the cluster has GPUs, or else groups of cores."""

    def __init__(self, machine: Machine, workers: int | None, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("--engine ray: Ray is not here", "pip install 'realdrag[ray]'", code="extra") from error
        self.ray, self.machine, self.workers, self.address = ray, machine, workers, address

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
        if not jobs:
            return
        ours = not self.ray.is_initialized()
        if ours:
            self._connect()
        try:
            yield from self._spread(jobs)
        finally:
            if ours:
                self.ray.shutdown()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a user's photos is anyone else's matter
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address is None:
                self.ray.init(include_dashboard=False, **quiet)
            else:
                self.ray.init(address=self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise WorkError(f"no Ray cluster at {self.address or 'this machine'}: {error}"[:300]) from error

    def _spread(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
        lost = self.ray.exceptions.RayActorError
        waiting, tries = deque(jobs), dict[Job, int]()
        starting, running = dict[Any, int](), dict[Any, tuple[int, Job]]()
        actors, idle, refused = dict[int, Any](), list[int](), 0
        count = min(self.workers or self._room(), len(jobs))
        make = self._maker(jobs, count)

        def begin(number: int) -> None:
            actors[number] = make()
            starting[actors[number].ready.remote()] = number

        def give(number: int) -> None:
            if not waiting:
                idle.append(number)  # a job may come back from an actor that is lost
            else:
                job = taken(waiting, number, count)
                tries[job] = tries.get(job, 0) + 1
                running[actors[number].do.remote(job)] = number, job

        for number in range(count):
            begin(number)
        while waiting or running:
            done, _ = self.ray.wait([*starting, *running], timeout=PATIENCE_S)
            if not done and not running:
                raise WorkError(f"the cluster gave no worker in {PATIENCE_S} s", "see `ray status`")
            for reference in done:
                number, job = running.pop(reference) if reference in running else (starting.pop(reference), None)
                try:
                    answer = self.ray.get(reference)
                except lost as error:
                    refused += job is None
                    if refused >= TRIES * count:
                        raise WorkError(f"no worker can start on the cluster: {last_line(error)}") from error
                    begin(number)  # on another node, or once there is room
                    if job is None:
                        continue
                    if tries[job] < TRIES:
                        waiting.appendleft(job)
                        if idle:
                            give(idle.pop())
                    else:
                        yield job, killed(job, f"its worker was lost {TRIES} times")
                    continue
                refused = 0
                if job is not None:
                    yield job, answer
                give(number)

    def _maker(self, jobs: Sequence[Job], count: int) -> Any:
        """A function that asks for one actor more. With more of them than GPUs, they share these: while one has its
        photo composited by the processor, another computes (`benchmarks/scale.md`).
        """
        from realdrag.store import home

        share = min(1.0, self._gpus() / count)
        kind = self.ray.remote(Actor).options(num_cpus=self.machine.threads, num_gpus=share)
        models = {name: self.ray.put(path.read_bytes()) for name, path in own_models_of(jobs).items()}
        return lambda: kind.remote(self.machine, str(home()), models)

    def _gpus(self) -> int:
        return 0 if self.machine.device == "cpu" else int(self.ray.cluster_resources().get("GPU", 0))

    def _room(self) -> int:
        return self._gpus() or max(1, int(self.ray.cluster_resources().get("CPU", 1)) // self.machine.threads)


def last_line(error: BaseException) -> str:
    """What it says in the end: the lines before are Ray's own and the traceback."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:200]


def taken(waiting: deque[Job], number: int, count: int) -> Job:
    """The next job for actor `number` of `count`: the first whose photo is that one's, else the first."""
    for k in range(min(AHEAD, len(waiting))):
        if int(hashlib.sha256(os.fsencode(waiting[k].photo)).hexdigest(), 16) % count == number:
            job = waiting[k]
            del waiting[k]
            return job
    return waiting.popleft()


def own_models_of(jobs: Sequence[Job]) -> dict[str, Path]:
    """File name → file of the models that the nodes may lack: those of the user's folder, with their encoders."""
    from realdrag.library import own_models
    from realdrag.weights import resolve_model

    files, known = dict[str, Path](), own_models()
    for name in {from_text(text, "the recipe").model for text in {job.recipe for job in jobs}}:
        model = resolve_model(name)
        if name in known:
            files |= {path.name: path for path in (model.path, model.encoder_path) if path is not None}
        elif name is not None and Path(name).exists():
            hint = "put it there with `realdrag models convert`, and give its name"
            raise InputError(f"{name}: a cluster takes models of the models folder", hint, code="model")
    return files
