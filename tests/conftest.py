"""Every test has a home of its own and no network; what is slow to make is made once and copied."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

DRAG = "215,120:210,112"  # the corner of the astronaut's mouth
COMMAND = [sys.executable, "-c", "from realdrag.cli import main; main()"]
# The smallest settings that still go through every phase: what is tested here is not how good the likeness is.
QUICK = """
[align]
detector = "cascade"
[inversion]
perceptual = "embedded"
steps_w = 2
steps_w_from_mean = 2
steps_w_plus = 3
tune_steps = 2
[drag]
lr = 0.02
max_steps = 12
"""


class Ran(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def forget_network(home: Path) -> None:
    """A home that remembers that no host answers: nothing is tried, nothing waits."""
    from realdrag.network import SITES, address

    home.mkdir(parents=True, exist_ok=True)
    hosts = {"{}:{}".format(*address(site)): [time.time(), "tests have no network"] for site in SITES}
    (home / "network.json").write_text(json.dumps(hosts))


def isolated(root: Path) -> dict[str, str]:
    """The environment of a user whose folders lie under `root`."""
    forget_network(root / "home")
    return {
        "REALDRAG_HOME": str(root / "home"),
        "TORCH_HOME": str(root / "torch"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "XDG_CONFIG_HOME": str(root / "config"),
    }


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own REALDRAG_HOME, outside `tmp_path`, whose listing tests compare."""
    root = tmp_path_factory.mktemp("user")
    for name, value in isolated(root).items():
        monkeypatch.setenv(name, value)
    for name in ("REALDRAG_CONFIG", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return root / "home"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's folder of shared files (REALDRAG_SHARED, else beside the checkout)."""
    folder = Path(os.environ.get("REALDRAG_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set REALDRAG_SHARED")
    return folder


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""
    from realdrag.cli import run

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ran(code, *capfd.readouterr())

    return call


@pytest.fixture
def process() -> Run:
    """Runs a command in a process of its own."""

    def call(*arguments: object, **options: Any) -> Ran:
        command = [*COMMAND, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def quick_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file with the smallest settings."""
    path = tmp_path_factory.mktemp("config") / "quick.toml"
    path.write_text(QUICK)
    return path


@pytest.fixture
def quick(quick_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The smallest settings in force."""
    monkeypatch.setenv("REALDRAG_CONFIG", str(quick_file))
    return quick_file


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """scikit-image's portrait, [512, 512, 3] uint8."""
    from skimage.data import astronaut

    return np.asarray(astronaut(), np.uint8)


@pytest.fixture(scope="session")
def mouth() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A mask around the mouth, [512, 512] uint8."""
    mask = np.zeros((512, 512), np.uint8)
    mask[80:160, 175:270] = 255
    return mask


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, astronaut: Any, mouth: Any, quick_file: Path
) -> tuple[Path, Path]:
    """A folder with a.png, mask.png, out.png and the work folder `work` of that edit; and the home with its latent."""
    folder, root = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("user")
    Image.fromarray(astronaut).save(folder / "a.png")
    Image.fromarray(mouth).save(folder / "mask.png")
    edit = ["edit", "a.png", "-o", "out.png", "--drag", DRAG, "--mask", "mask.png", "-w", "work", "--quiet"]
    environment = os.environ | isolated(root) | {"REALDRAG_CONFIG": str(quick_file)}
    subprocess.run([*COMMAND, *edit], cwd=folder, env=environment, check=True, timeout=120)
    return folder, root / "home"


@pytest.fixture
def here(
    finished: tuple[Path, Path], tmp_path: Path, own_home: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of that folder as the current one; the latent is in the store, the quick settings are in force."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    shutil.copytree(finished[1], own_home, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(folder: Path) -> dict[str, bytes]:
    """Name → content of every file below, and every folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """`listing`, to compare folders with."""
    return listing
