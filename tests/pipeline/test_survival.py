"""Kill -9, a full disk and two processes at once: no latent is lost, made twice or silently wrong."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from realdrag.latents import Row, rows
from realdrag.store import Store

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and mounting")

PAUSE = 0.15  # seconds between checkpoints here; 5 in earnest
SLACK = 1.0  # seconds: a step and a save on a busy machine
# Says each step and when it was done, then whether the latent was found, and what it is.
INVERT = f"""
    import hashlib, sys, time
    from realdrag.api import Editor, open as read
    from realdrag.errors import RealdragError
    from realdrag.inversion import optimise
    from realdrag.progress import Silent
    from realdrag.settings import InversionSettings, Settings

    optimise.SAVE_EVERY = {PAUSE}

    class Teller(Silent):
        def begin(self, name, total):
            self.name = name
        def step(self, done, note=""):
            print("step", self.name, done, time.monotonic(), flush=True)
        def say(self, message):
            print("said", message, flush=True)

    def run():
        settings = InversionSettings(perceptual="embedded", steps_w=15, steps_w_plus=30, tune_steps=10)
        editor = Editor(model=sys.argv[1], settings=Settings(inversion=settings), threads=1, progress=Teller())
        try:
            latent, found = editor.invert(editor.align(read(sys.argv[2]), whole=True))
        except RealdragError as error:
            print("failed", error, flush=True)
            return
        digest = hashlib.sha256(latent.w_plus.tobytes() + latent.picture.tobytes()).hexdigest()
        print("found" if found else "made", digest, flush=True)
    """


class Step(NamedTuple):
    phase: str
    done: int
    at: float  # seconds of the machine's clock


class Child:
    """An inversion in a process of its own."""

    def __init__(self, model: Path, photo: Path, home: Path, code: str = "run()", around: tuple[str, ...] = ()) -> None:
        program = textwrap.dedent(INVERT) + textwrap.dedent(code)
        self.process = subprocess.Popen(
            [*around, sys.executable, "-c", program, str(model), str(photo)],
            env={**os.environ, "REALDRAG_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def read(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            yield self.lines[-1]

    def finish(self) -> list[str]:
        """All that it said."""
        for _ in self.read():
            pass
        _, err = self.process.communicate(timeout=60)
        assert self.process.returncode in (0, -signal.SIGKILL), err[-2000:]
        return self.lines

    def kill(self) -> None:
        self.process.kill()
        self.finish()

    @property
    def steps(self) -> list[Step]:
        words = [line.split() for line in self.lines if line.startswith("step ")]
        return [Step(name, int(done), float(at)) for _, name, done, at in words]

    def said(self, word: str) -> list[str]:
        return [line.split(maxsplit=1)[1] for line in self.lines if line.startswith(f"{word} ")]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage.data import astronaut

    path = tmp_path_factory.mktemp("photo") / "a.png"
    Image.fromarray(np.ascontiguousarray(astronaut()[60:188, 160:288])).save(path)
    return path


@pytest.fixture(scope="module")
def together(small_model: Path, photo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Child]]:
    """Two processes that were at once on one photo, done, and their home."""
    home = tmp_path_factory.mktemp("together")
    children = [Child(small_model, photo, home) for _ in range(2)]
    for child in children:
        child.finish()
    return home, children


@pytest.fixture(scope="module")
def undisturbed(together: tuple[Path, list[Child]]) -> str:
    """The digest of the latent that a run makes which nobody interrupts."""
    return next(child.said("made")[0] for child in together[1] if child.said("made"))


def sound(home: Path) -> list[Row]:
    """The store's rows, none damaged; every one that is an entry passes its check."""
    found = rows(Store(home), check=True)
    assert not [row for row in found if row.state == "damaged"], found
    return found


def lost(before: list[Step], after: list[Step]) -> float:
    """Seconds of work in `before` that were done again in `after`."""
    if not before or not after:
        return 0.0
    again = {(step.phase, step.done) for step in after}
    first = next((step for step in before if (step.phase, step.done) in again), None)
    kept = [step for step in before if (step.phase, step.done) not in again]
    return before[-1].at - (kept[-1].at if kept else before[0].at) if first else 0.0


def survive(small_model: Path, photo: Path, home: Path, digest: str, delays: list[float]) -> None:
    """Each child is killed so many seconds after its first step (or its start, below 0); a last one finishes."""
    before: list[Step] = []
    for delay in delays:
        child = Child(small_model, photo, home)
        if delay < 0:
            time.sleep(-delay)
        else:
            for line in child.read():
                if line.startswith("step "):
                    break
            time.sleep(delay)
        child.kill()
        assert lost(before, child.steps) <= PAUSE + SLACK, delays
        before = child.steps or before
        sound(home)
    last = Child(small_model, photo, home)
    last.finish()
    assert lost(before, last.steps) <= PAUSE + SLACK, delays
    if before and before[-1].at - before[0].at > PAUSE + SLACK / 2:
        assert ("w", 1) not in {step[:2] for step in last.steps}, "it went on, and did not begin again"
    assert (last.said("made") or last.said("found")) == [digest], "the same latent as without any interruption"
    (row,) = sound(home)
    assert row.state == "latent"
    assert sorted(path.name for path in (home / "locks").iterdir()) == ["guard"], "a killed holder's file is used again"


def test_a_kill_loses_no_more_than_is_said(small_model: Path, photo: Path, tmp_path: Path, undisturbed: str) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 — shown where the test fails
    survive(small_model, photo, tmp_path / "home", undisturbed, [random.Random(seed).uniform(0.8, 1.4)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_many_kills_lose_no_more(small_model: Path, photo: Path, tmp_path: Path, undisturbed: str, seed: int) -> None:
    """Also at the start, and around the moment when the latent is stored."""
    chance = random.Random(seed)
    delays = [chance.uniform(-2.5, 0) if chance.random() < 0.3 else chance.uniform(0, 1.0) for _ in range(4)]
    survive(small_model, photo, tmp_path / "home", undisturbed, delays)


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "optimise.Phase.restore"])
@pytest.mark.slow
def test_a_kill_in_the_middle_of_writing(
    small_model: Path, photo: Path, tmp_path: Path, undisturbed: str, where: str
) -> None:
    for count in (1, 2, 3):
        home = tmp_path / f"{count}"
        code = f"""
            import itertools, os, pathlib, signal
            left, real = itertools.count(1), {where}
            def deadly(*args, **kwargs):
                if next(left) == {count}:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            {where} = deadly
            run()
            """
        child = Child(small_model, photo, home, code)
        child.finish()
        assert child.process.returncode == -signal.SIGKILL
        sound(home)
        survive(small_model, photo, home, undisturbed, [])


def test_two_processes_on_one_photo_do_the_work_once(together: tuple[Path, list[Child]], undisturbed: str) -> None:
    home, children = together
    assert sorted(len(child.said("made")) for child in children) == [0, 1], [child.lines for child in children]
    assert [child.said("made") or child.said("found") for child in children] == [[undisturbed]] * 2
    (waiter,) = (child for child in children if not child.said("made"))
    assert not waiter.steps
    (row,) = sound(home)
    assert row.state == "latent"


# A full disk


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], tuple[str, ...]]:
    """What to put before a command so that a folder of it is a small disk of a size ("1m"), its own."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare`: no disk can be mounted")
    folder = tmp_path_factory.mktemp("disk")

    def around(place: Path, size: str) -> tuple[str, ...]:
        script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
        return ("unshare", "-rm", "sh", "-c", script, str(place))

    tried = subprocess.run([*around(folder, "1m"), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no disk can be mounted here: {tried.stderr.strip()}")
    return around


FULL = """
    import os, pathlib
    from realdrag.store import Store

    def room():
        disk = os.statvfs(home)
        return disk.f_bavail * disk.f_frsize

    def fill(leave):
        with open(home / "filler", "wb") as file:
            file.write(bytes(room() - leave))

    home = pathlib.Path(os.environ["REALDRAG_HOME"])
    fill(leave=LEAVE)
    run()
    names = sorted(path.name.partition(".")[2] for path in home.glob("latents/*"))
    print("left", names, [path.name for path in home.glob("latents/.*")], flush=True)
    (home / "filler").unlink()
    run()
    run()
    """


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(0, id="nothing fits"),
        pytest.param(60_000, id="a checkpoint fits, the latent does not", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_said_and_loses_nothing(
    small_model: Path, photo: Path, tmp_path: Path, undisturbed: str, small_disk: Any, leave: int
) -> None:
    """The optimisation goes on where its checkpoints cannot be written; a latent that cannot be stored is an error."""
    code = FULL.replace("LEAVE", str(leave))
    child = Child(small_model, photo, tmp_path, code, small_disk(tmp_path, "1m"))
    child.finish()
    (failed,) = child.said("failed")
    assert "No space left on device" in failed
    assert "on a disk with room" in failed
    assert child.said("found") == child.said("made") == [undisturbed], child.lines
    (left,) = child.said("left")
    assert ".tmp" not in left
    assert "safetensors']" not in left.replace("part.safetensors", ""), left
