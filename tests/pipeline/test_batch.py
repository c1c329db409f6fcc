"""Many photos: each ends in a result and a row, none stops the others, and what was done is not done again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realdrag import engines
from realdrag.batch import Report, run_batch
from realdrag.contact import square
from realdrag.engine_ray import Cluster, taken
from realdrag.engines import Local, workers_for
from realdrag.errors import WorkError
from realdrag.jobs import Job, Row
from realdrag.progress import Silent
from realdrag.store import Store
from realdrag.worker import Machine, Worker

Run = Callable[..., Any]
DRAGS = ["215,120:210,112"]
PROCESS = [sys.executable, "-c", "from realdrag.cli import main; main()"]
COMMAND = ["batch", "jobs.jsonl", "-o", "out", "--workers", "2"]


@pytest.fixture
def folder(here: Path, astronaut: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos whose latents are not known, one that is none, one that is missing; jobs.jsonl names them all."""
    names = ["a.png", "with space.png", "ü.png", "empty.jpg", "missing.jpg"]
    for k, name in enumerate(names[1:3]):
        Image.fromarray(np.clip(astronaut.astype(int) + k + 1, 0, 255).astype(np.uint8)).save(name)
    Path("empty.jpg").touch()
    rows = [{"photo": name, "drags": DRAGS} for name in names]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return here


def report() -> list[Row]:
    return [json.loads(line) for line in Path("out/report.jsonl").read_text().splitlines()]


def test_each_photo_ends_in_a_result_or_a_reason_and_is_not_done_again(folder: Path, cli: Run) -> None:
    ran = cli(*COMMAND, "--json")
    assert ran.code == 1, ran.err
    summary = json.loads(ran.out)
    assert (summary["jobs"], summary["ok"], summary["failed"], summary["skipped"]) == (5, 3, 2, 0)
    rows = report()
    assert [(row["status"], (row["error"] or {}).get("code")) for row in rows] == [
        ("ok", None), ("ok", None), ("ok", None), ("failed", "not-an-image"), ("failed", "no-file"),
    ]  # fmt: skip
    alone = cli("edit", "with space.png", "-o", "alone.png", "--drag", *DRAGS, "--threads", "1", "--json")
    assert Path("alone.png").read_bytes() == Path("out/with space.png").read_bytes()
    assert set(json.loads(alone.out)) <= set(rows[1])
    with Image.open("out/contact-sheet.jpg") as sheet:
        assert sheet.width > 3 * 2 * 128

    Path("out/ü.png").write_bytes(b"damaged")
    Image.new("RGB", (64, 64)).save("missing.jpg")
    times = {name: Path("out", name).stat().st_mtime_ns for name in ("a.png", "with space.png")}
    again = json.loads(cli(*COMMAND, "--json").out)
    assert (again["skipped"], again["ok"]) == (2, 3)
    assert times == {name: Path("out", name).stat().st_mtime_ns for name in times}
    assert [(row["error"] or {}).get("code") for row in report()] == [None, None, None, "not-an-image", "no-face"]
    with Image.open("out/ü.png") as image:
        image.load()


def test_another_edit_is_another_job(folder: Path, cli: Run) -> None:
    Path("jobs.jsonl").write_text(json.dumps({"photo": "a.png", "drags": DRAGS}))
    assert cli(*COMMAND).code == 0
    first = Path("out/a.png").read_bytes()
    assert json.loads(cli(*COMMAND, "--json").out)["skipped"] == 1
    assert json.loads(cli(*COMMAND, "--strength", "0.5", "--json").out)["skipped"] == 0
    assert Path("out/a.png").read_bytes() != first
    assert len(report()) == 1


def test_the_same_folder_by_another_name_and_from_another_place_is_the_same_batch(
    folder: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("jobs.jsonl").write_text(json.dumps({"photo": "a.png", "drags": DRAGS}))
    assert cli("batch", "jobs.jsonl", "-o", "out", "--workers", "1").code == 0
    monkeypatch.chdir(folder.parent)
    jobs = folder / "jobs.jsonl"
    again = cli("batch", jobs, "-o", f"{folder}/x/../out", "--workers", "1", "--json")
    assert json.loads(again.out)["skipped"] == 1
    monkeypatch.chdir(folder)
    assert len(report()) == 1


def test_two_batches_do_not_write_one_folder(folder: Path, cli: Run) -> None:
    name = hashlib.sha256(os.fsencode(Path("out").resolve())).hexdigest()
    with Store().lock(f"batch-{name}"):
        ran = cli(*COMMAND)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "another batch is at work there" in ran.err
    assert not Path("out").exists()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_or_killed_it_goes_on_where_it_was(folder: Path, cli: Run, how: signal.Signals) -> None:
    path = Path("out/report.jsonl")
    running = subprocess.Popen([*PROCESS, *COMMAND[:-1], "1"], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: path.exists() and path.read_text().count("\n") >= 1)
    os.killpg(running.pid, how) if how == signal.SIGINT else running.kill()
    assert running.wait(30) == (130 if how == signal.SIGINT else -how)
    if how == signal.SIGKILL:
        os.killpg(running.pid, how)  # the workers
        with path.open("ab") as file:
            file.write(b'{"photo": "a.p')  # what a row cut off in the middle looks like
        Path("out/.realdrag-0123").write_bytes(b"half a result")
    done = json.loads(cli(*COMMAND, "--json").out)
    assert (done["jobs"], done["ok"]) == (5, 3)
    assert done["skipped"] >= 1
    assert len(report()) == 5
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "a.png", "contact-sheet.jpg", "report.jsonl", "with space.png", "ü.png",
    ]  # fmt: skip


def test_a_worker_that_is_killed_costs_no_other_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(f"{k}", str(tmp_path / f"{k}.png"), "dies" if k == 1 else "") for k in range(4)]
    monkeypatch.setattr(engines, "start", nothing)
    monkeypatch.setattr(engines, "work", dies_where_asked)
    rows = dict(Local(Machine("cpu", 1), 2).run(jobs))
    assert [rows[job]["status"] for job in jobs] == ["ok", "failed", "ok", "ok"]
    assert rows[jobs[1]]["error"]["code"] == "killed"


def nothing(machine: Machine) -> None: ...


def dies_where_asked(job: Job) -> Row:
    if job.recipe == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"output": job.output, "status": "ok"}


class Listed:
    """An engine whose rows are known."""

    def __init__(self, status: str = "ok") -> None:
        self.status, self.seen = status, list[Job]()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
        self.seen = list(jobs)
        for job in reversed(jobs):
            yield job, {"photo": job.photo, "output": job.output, "job": job.key, "status": self.status, "error": None}


def test_an_interruption_that_a_library_swallowed_stops_at_the_next_photo(tmp_path: Path) -> None:
    class Deaf(Listed):
        def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
            for pair in super().run(jobs):
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(1)
                except KeyboardInterrupt:
                    yield pair

    jobs = [Job(f"{k}.jpg", str(tmp_path / f"{k}.jpg"), "") for k in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run_batch(jobs, Deaf(), tmp_path, Silent())
    assert len(Report(tmp_path).rows) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_report_is_in_the_order_of_the_jobs_and_keeps_rows_of_others(tmp_path: Path) -> None:
    other = Job("x.jpg", str(tmp_path / "x.jpg"), "")
    run_batch([other], Listed("failed"), tmp_path, Silent())
    jobs = [Job(f"{k}.jpg", str(tmp_path / f"{k}.jpg"), "") for k in range(3)]
    done = run_batch(jobs, Listed("failed"), tmp_path, Silent())
    assert (done.failed, done.sheet) == (3, None)
    assert [row["photo"] for row in Report(tmp_path).rows.values()] == ["x.jpg", "0.jpg", "1.jpg", "2.jpg"]


def test_photos_and_results_by_url(here: Path, own_home: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/in/a.png", Path("a.png").read_bytes())
    from realdrag.jobs import plan
    from realdrag.placing import Wanted
    from realdrag.points import parse_drag
    from realdrag.presets import load
    from realdrag.recipe import Recipe, Step

    recipe = Recipe((Step(Wanted([parse_drag(DRAGS[0])])),), load()[1])
    (job,) = plan("memory://in", "memory://results/deep", recipe, recipe)
    row = Worker(Machine("cpu", 1)).do(job)
    assert (row["status"], row["error"]) == ("ok", None)
    assert memory.cat_file("/results/deep/a.png")[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--move", "smile=0.5", "--recipe", "r.toml"], "--recipe says what to drag"),
        (["--workers", "0", "--move", "smile=0.5"], "at least 1"),
        (["--engine", "slurm", "--move", "smile=0.5"], "local or ray"),
        (["--address", "auto", "--move", "smile=0.5"], "--address is of --engine ray"),
        (["--move", "smlie=0.5"], "did you mean smile?"),
        ([], "give --recipe R or --move"),
    ],
)
def test_bad_flags(here: Path, cli: Run, flags: list[str], words: str) -> None:
    ran = cli("batch", ".", "-o", "results", *flags)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert words in ran.err
    assert not Path("results").exists()


def test_workers_by_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    for free, resolution, threads, count in (
        (64e9, 128, 1, 16),
        (64e9, 128, 4, 4),
        (4e9, 128, 1, 3),
        (8e9, 1024, 1, 2),
    ):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: type("", (), {"available": free}))
        assert workers_for(resolution, threads) == count
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 1e8}))
    assert workers_for(1024, 32) == 1


def test_an_actor_gets_its_own_photos_first() -> None:
    from collections import deque

    jobs = deque(Job(f"{k}.jpg", f"{k}.png", "") for k in range(20))
    mine = [taken(jobs, 1, 2) for _ in range(3)]
    again = deque(reversed([*jobs, *mine]))
    assert {taken(again, 1, 2).photo for _ in range(len(again))} >= {job.photo for job in mine}
    alone = deque([Job("x", "y", "")])
    assert [taken(alone, k, 1) for k in (0,)] == [Job("x", "y", "")]


class LostError(Exception):
    pass


class Ends:
    """A call of an actor, which answers or is lost."""

    def __init__(self, answer: object) -> None:
        self.answer = answer


class FakeRay:
    """Ray as the engine uses it: whatever was asked for first ends first; None never does."""

    class exceptions:  # noqa: N801
        RayActorError = LostError

    def wait(self, calls: list[Ends], timeout: float) -> tuple[list[Ends], list[Ends]]:
        ended = [call for call in calls if call.answer is not None]
        return ended[:1], []

    def get(self, call: Ends) -> object:
        if isinstance(call.answer, LostError):
            raise call.answer
        return call.answer


class FakeActor:
    """Answers with what the list says for each call, then as it should."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.ready, self.do = list(answers), self, self

    def remote(self, job: Job | None = None) -> Ends:
        answer: object = 1 if job is None else {"status": "ok", "output": job.output}
        return Ends(self.answers.pop(0) if self.answers else answer)


def on_fake_cluster(actors: list[FakeActor], jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    cluster = Cluster.__new__(Cluster)
    cluster.ray, cluster.workers, cluster.machine = FakeRay(), 2, Machine("cpu", 1)
    monkeypatch.setattr(cluster, "_maker", lambda *_: lambda: actors.pop(0))
    return {job.photo: row["status"] for job, row in cluster._spread(jobs)}


def test_a_job_that_comes_back_from_a_lost_node_goes_to_an_actor_that_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job("1", "1.png", ""), Job("2", "2.png", "")]
    pending = FakeActor(None)  # the node has gone: there is no room for another
    found = on_fake_cluster([FakeActor(), FakeActor(1, LostError()), pending], jobs, monkeypatch)
    assert found == {"1": "ok", "2": "ok"}


def test_actors_that_cannot_start_end_the_batch_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job("1", "1.png", ""), Job("2", "2.png", "")]
    actors = [FakeActor(LostError("the actor died\nModuleNotFoundError: no realdrag here")) for _ in range(100)]
    with pytest.raises(WorkError, match="no worker can start on the cluster: ModuleNotFoundError: no realdrag here"):
        on_fake_cluster(actors, jobs, monkeypatch)


def test_a_job_that_kills_every_actor_ends_and_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job("1", "1.png", "")]
    actors = [FakeActor(1, LostError()) for _ in range(10)]
    assert on_fake_cluster(actors, jobs, monkeypatch) == {"1": "failed"}


def test_the_sheet_shows_what_changed_within_the_photo() -> None:
    assert square(None, 300, 200) == (50, 0, 250, 200)
    assert square([100, 100, 150, 140], 300, 200) == (85, 80, 165, 160)
    assert square([0, 0, 50, 50], 300, 200) == (0, 0, 80, 80)
    assert square([0, 0, 300, 200], 300, 200) == (50, 0, 250, 200)
