"""The doctor finds what is wrong, says what to do, and survives it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from realdrag import doctor, network, presets
from realdrag.doctor import Finding, examine
from realdrag.weights import BACKBONES, FAN


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of the test's own, a network that answers, a config that is fine."""
    monkeypatch.setenv("REALDRAG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("REALDRAG_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("")
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "balanced.toml").write_text("")
    monkeypatch.setattr(presets, "_folder", lambda: folder)
    monkeypatch.setattr(network, "probe", lambda addresses: dict.fromkeys(addresses, ""))
    return tmp_path / "home"


def named(name: str) -> Finding:
    """What the check of that name alone finds."""
    (finding,) = doctor.CHECKS[name]()
    return finding


def refuse_import(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    real = importlib.import_module

    def load(wanted: str, package: str | None = None) -> ModuleType:
        if wanted == name:
            raise error
        return real(wanted, package)

    monkeypatch.setattr(importlib, "import_module", load)


def test_everything_is_looked_at_in_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_import(monkeypatch, "face_alignment", ImportError("two\nlines"))  # it takes seconds to load
    findings = examine()
    by_name = {finding.name: finding for finding in findings}
    assert len(by_name) == len(findings)
    for name in ("python", "realdrag", "torch", "opencv", "lpips", "embedded models", "home", "config file"):
        assert by_name[name].ok, by_name[name]
    assert by_name["face-alignment"] == Finding("face-alignment", False, "two lines", "")
    assert by_name["network: download.pytorch.org:443"].value == "reachable"
    assert "faces-128, 128 px, with encoder" in by_name["embedded models"].value
    assert all("\n" not in f.value + f.advice and f.value for f in findings)


def test_one_broken_check_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Finding]:
        raise OSError("libsomething.so: wrong ELF class")

    kept = {name: doctor.CHECKS[name] for name in ("python", "free space")}
    monkeypatch.setattr(doctor, "CHECKS", {"torch": broken, **kept})
    findings = examine()
    assert [f.name for f in findings] == ["torch", "python", "free space"]
    assert findings[0].ok is False
    assert findings[0].value == "libsomething.so: wrong ELF class"


def test_missing_system_libraries_name_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    refuse_import(monkeypatch, "cv2", missing)
    finding = named("opencv")
    assert finding.ok is False
    assert "libGL.so.1" in finding.value
    assert finding.advice == "apt-get install libgl1 libglib2.0-0 libxcb1"


def test_a_missing_package_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_import(monkeypatch, "cv2", ModuleNotFoundError("No module named 'cv2'"))
    assert named("opencv").advice == "pip install opencv-python"


def test_the_doctor_itself_loads_neither_opencv_nor_torch() -> None:
    code = "import sys, realdrag.doctor; print({'cv2', 'torch', 'lpips'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 10, 4), False), ((3, 11, 0), True), ((3, 13, 9), True), ((3, 14, 0), None)]
)
def test_python(version: tuple[int, int, int], ok: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    finding = named("python")
    assert finding.ok is ok
    assert bool(finding.advice) == (ok is not True)


def test_weights_that_are_there_or_not(tmp_path: Path) -> None:
    folder = tmp_path / "torch/hub/checkpoints"
    backbones, fan = named("perceptual backbones"), named("face-alignment's weights")
    assert (backbones.ok, fan.ok) == (None, None)
    assert BACKBONES["vgg"].url in backbones.advice
    assert str(folder) in fan.advice
    folder.mkdir(parents=True)
    for remote in (*FAN, BACKBONES["alex"], BACKBONES["squeeze"]):
        (folder / remote.name).write_bytes(b"")
    assert named("perceptual backbones") == Finding("perceptual backbones", True, "alex, squeeze")
    assert named("face-alignment's weights").ok


def test_an_unreachable_network_is_no_fault_and_tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "probe", lambda addresses: dict.fromkeys(addresses, "no answer in 4.5 s"))
    findings = list(doctor.CHECKS["network"]())
    assert {f.ok for f in findings} == {None}
    assert {f.value for f in findings} == {"no answer in 4.5 s"}
    monkeypatch.setattr(network, "probe", lambda addresses: dict.fromkeys(addresses, ""))
    assert {f.ok for f in doctor.CHECKS["network"]()} == {True}


def test_home_counts_its_latents(home: Path) -> None:
    (home / "latents").mkdir(parents=True)
    for name in ("a.safetensors", "b.safetensors", "c.part.safetensors", "d.lock"):
        (home / "latents" / name).write_bytes(b"x" * 500_000)
    assert named("home") == Finding("home", True, f"{home}, 2 latents, 1.0 MB")
    (home / "latents" / "e.damaged-1").write_bytes(b"")
    finding = named("home")
    assert finding.ok is None
    assert "1 damaged" in finding.value
    assert "latents prune" in finding.advice


def test_a_home_that_cannot_be_made_says_how_to_choose_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALDRAG_HOME", str(tmp_path / "config.toml" / "home"))
    monkeypatch.setattr(doctor, "CHECKS", {"home": doctor.CHECKS["home"]})
    (finding,) = examine()
    assert finding.ok is False
    assert "REALDRAG_HOME" in finding.advice


def test_a_mistake_in_the_config_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named("config file") == Finding("config file", True, f"{tmp_path / 'config.toml'}, preset balanced", "")
    (tmp_path / "config.toml").write_text("[drag]\nmax_stesp = 1\n")
    monkeypatch.setattr(doctor, "CHECKS", {"config file": doctor.CHECKS["config file"]})
    (finding,) = examine()
    assert finding.ok is False
    assert "max_stesp" in finding.value
    assert finding.advice == "did you mean max_steps?"


@pytest.mark.parametrize(("free", "ok"), [(1.9e9, False), (2.1e9, True)])
def test_free_space(free: float, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    finding = named("free space")
    assert finding.ok is ok
    assert bool(finding.advice) is not ok
