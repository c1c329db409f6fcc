"""What `realdrag` offers, what importing it costs, and that packaging leaves no room out."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import realdrag

ROOT = Path(__file__).parents[2]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_name_that_is_promised_exists() -> None:
    assert len(set(realdrag.__all__)) == len(realdrag.__all__)
    for name in realdrag.__all__:
        value = getattr(realdrag, name)
        assert getattr(value, "__name__", None) == name, name
        assert value.__module__.startswith("realdrag."), name
        assert value.__doc__, name
    assert set(realdrag.__all__) <= set(dir(realdrag))


def test_the_surface_is_this_and_no_other() -> None:
    """Whoever adds or drops a name does so on purpose, and says so in the docs."""
    assert sorted(realdrag.__all__) == [
        "Alignment",
        "Drag",
        "Edit",
        "Editor",
        "Handle",
        "InputError",
        "Latent",
        "NoFaceError",
        "Outcome",
        "Photo",
        "RealdragError",
        "Result",
        "Settings",
        "StaleError",
        "WorkError",
        "edit",
        "open",
        "save",
    ]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'realdrag' has no attribute 'dragg'"):
        _ = realdrag.dragg
    assert not hasattr(realdrag, "cv2")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-800:]
    return done.stdout.strip()


LOADED = "import sys; print([m for m in ('torch', 'cv2', 'numpy', 'lpips', 'PIL', 'scipy') if m in sys.modules])"


def test_importing_realdrag_alone_loads_nothing_heavy() -> None:
    assert python(f"import realdrag, realdrag.errors, realdrag.settings, realdrag.progress; {LOADED}") == "[]"


def test_errors_and_values_need_no_torch() -> None:
    heavy = "import sys; print('torch' in sys.modules, 'cv2' in sys.modules)"
    assert python(f"from realdrag import InputError, Settings, Photo, Outcome; {heavy}") == "False False"


@pytest.mark.parametrize("room", SETUP["packages"])
def test_every_listed_package_is_importable(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__file__ is not None
    assert Path(module.__file__).name == "__init__.py"
    for name in getattr(module, "__all__", []):
        assert hasattr(module, name), f"{room}.{name}"


def test_every_room_is_listed() -> None:
    """A folder that packaging does not know is silently missing from the wheel."""
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    listed = {str(folder) for folder in SETUP["package-dir"].values()}
    assert rooms - {"tests", "benchmarks", "docs"} == listed
    assert set(SETUP["package-dir"]) == set(SETUP["packages"])


def test_it_is_typed() -> None:
    assert (Path(realdrag.__file__).parent / "py.typed").is_file()
