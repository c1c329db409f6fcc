"""A batch on a Ray cluster of several nodes on this machine, of which some die. Minutes long; needs the extra `ray`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realdrag.batch import run_batch
from realdrag.engines import Local
from realdrag.jobs import Job
from realdrag.placing import Wanted
from realdrag.points import parse_drag
from realdrag.presets import load
from realdrag.progress import Silent
from realdrag.recipe import Recipe, Step, text
from realdrag.worker import Machine

ray = pytest.importorskip("ray", reason="pip install '.[ray]' for the tests of clusters")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

COUNT = 10


@pytest.fixture
def jobs(tmp_path: Path, astronaut: Any, quick: Path) -> list[Job]:
    """Ten photos of one face, each a little different, and a quick edit of them."""
    recipe = text(Recipe((Step(Wanted([parse_drag("215,120:210,112")])),), load()[1]))
    made = []
    for k in range(COUNT):
        photo = tmp_path / f"photo {k}.png"
        Image.fromarray(np.clip(astronaut.astype(int) + k, 0, 255).astype(np.uint8)).save(photo)
        made.append(Job(str(photo), str(tmp_path / "out" / photo.name), recipe))
    return made


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without workers of ours, and two nodes of one core."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    yield made, nodes
    ray.shutdown()
    made.shutdown()


def engine(address: str) -> Any:
    from realdrag.engine_ray import Cluster

    return Cluster(Machine("cpu", 1), None, address)


def check(folder: Path, jobs: list[Job]) -> None:
    """Every photo ended exactly once, with a whole result and nothing beside it."""
    rows = [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]
    assert [row["output"] for row in rows] == [job.output for job in jobs]
    assert [row["status"] for row in rows] == ["ok"] * len(jobs), [row["error"] for row in rows]
    for job in jobs:
        with Image.open(job.output) as image:
            image.load()
    names = {path.name for path in folder.iterdir()}
    assert names == {Path(job.output).name for job in jobs} | {"report.jsonl", "contact-sheet.jpg"}


def after_rows(folder: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    """Does `act` once the report has so many rows."""

    def wait() -> None:
        while not (folder / "report.jsonl").exists() or len((folder / "report.jsonl").read_text().splitlines()) < count:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def worker_pids() -> list[int]:
    """Processes that hold one of our actors."""
    found = subprocess.run(["pgrep", "-f", "ray::Actor"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def test_a_node_killed_in_the_middle_loses_no_photo(jobs: list[Job], cluster: Any, tmp_path: Path) -> None:
    made, nodes = cluster
    killed = after_rows(tmp_path / "out", 2, lambda: made.remove_node(nodes[0], allow_graceful=False))
    done = run_batch(jobs, engine(made.address), tmp_path / "out", Silent())
    killed.join(1)
    assert (done.ok, done.failed, killed.is_alive()) == (COUNT, 0, False)
    check(tmp_path / "out", jobs)


def test_a_worker_killed_loses_no_photo_and_results_are_those_of_one_machine(
    jobs: list[Job], cluster: Any, tmp_path: Path, own_home: Path
) -> None:
    made, _ = cluster
    killed = after_rows(tmp_path / "out", 2, lambda: os.kill(worker_pids()[0], signal.SIGKILL))
    done = run_batch(jobs, engine(made.address), tmp_path / "out", Silent())
    killed.join(1)
    assert (done.ok, killed.is_alive()) == (COUNT, False)
    check(tmp_path / "out", jobs)
    here = [Job(job.photo, str(tmp_path / "here" / Path(job.output).name), job.recipe) for job in jobs[:3]]
    run_batch(here, Local(Machine("cpu", 1), 1), tmp_path / "here", Silent())
    for a, b in zip(here, jobs, strict=False):
        assert Path(a.output).read_bytes() == Path(b.output).read_bytes()


DRIVER = """
import sys
from realdrag.cli import main
main()
"""


def test_a_driver_killed_and_started_again_goes_on(jobs: list[Job], cluster: Any, tmp_path: Path, quick: Path) -> None:
    made, _ = cluster
    lines = [{"photo": job.photo, "drags": ["215,120:210,112"]} for job in jobs]
    listed = tmp_path / "jobs.jsonl"
    listed.write_text("\n".join(map(json.dumps, lines)))
    command = [sys.executable, "-c", DRIVER, "batch", str(listed), "-o", str(tmp_path / "out"), "--engine", "ray"]
    command += ["--address", made.address, "--device", "cpu", "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after_rows(tmp_path / "out", 3, driver.kill).join(120)
    assert driver.wait(60) == -signal.SIGKILL
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr[-800:]
    summary = json.loads(again.stdout)
    assert summary["ok"] == COUNT
    assert 3 <= summary["skipped"] < COUNT
    check(tmp_path / "out", jobs)
