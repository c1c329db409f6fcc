"""What realdrag finds on this machine, and what to do about what is missing.

Each check stands alone and imports what it looks at: where a library cannot be loaded, that is its finding.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TESTED = ((3, 11), (3, 13))  # Python, first and last
ROOM = 2e9  # bytes: a backbone to fetch, latents with their deltas, results


@dataclass(frozen=True)
class Finding:
    """One line about this machine. ok: None is worth knowing, no fault. advice: what to do, or ""."""

    name: str
    ok: bool | None
    value: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything looked at, in the order to be shown. Tries the network anew (at most 5 s)."""
    findings = []
    for name, check in CHECKS.items():
        try:
            findings += list(check())
        except Exception as error:  # noqa: BLE001 - whatever a library raises is what was to be found out
            findings.append(Finding(name, False, _line(error), getattr(error, "hint", "")))
    return findings


def _line(error: Exception) -> str:
    text = getattr(error, "message", str(error))
    return " ".join(text.split()) or type(error).__name__


def _python() -> Iterator[Finding]:
    here = sys.version_info[:2]
    value = ".".join(map(str, sys.version_info[:3]))
    low, high = (".".join(map(str, version)) for version in TESTED)
    advice = "" if TESTED[0] <= here <= TESTED[1] else f"tested with {low} to {high}"
    yield Finding("python", (None if here > TESTED[1] else False) if advice else True, value, advice)


def _realdrag() -> Iterator[Finding]:
    yield Finding("realdrag", True, importlib.metadata.version("realdrag"))


def _torch() -> Iterator[Finding]:
    import torch

    kinds = ["cpu"]
    if torch.cuda.is_available():
        kinds.insert(0, f"cuda ({torch.cuda.get_device_name()})")
    if torch.backends.mps.is_available():
        kinds.insert(0, "mps")
    yield Finding("torch", True, f"{torch.__version__}, devices: {', '.join(kinds)}")


def _processor() -> Iterator[Finding]:
    import torch

    from realdrag.devices import bf16

    value = f"{torch.get_num_threads()} threads of {os.cpu_count()}, bfloat16: {bf16()}"
    yield Finding("processor", True, value)


def _opencv() -> Iterator[Finding]:
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        # "libGL.so.1: cannot open shared object file": the package is there, the system's libraries are not.
        system = ".so" in str(error)
        packages = "apt-get install libgl1 libglib2.0-0 libxcb1"
        yield Finding("opencv", False, _line(error), packages if system else "pip install opencv-python")
    else:
        yield Finding("opencv", True, cv2.__version__)


def _torchvision() -> Iterator[Finding]:
    from realdrag.devices import import_torchvision

    yield Finding("torchvision", True, import_torchvision().__version__)


def _lpips() -> Iterator[Finding]:
    from realdrag.devices import import_lpips

    import_lpips()
    yield Finding("lpips", True, importlib.metadata.version("lpips"))


def _face_alignment() -> Iterator[Finding]:
    from realdrag.devices import import_torchvision

    import_torchvision()
    importlib.import_module("face_alignment")
    yield Finding("face-alignment", True, importlib.metadata.version("face-alignment"))


def _fan() -> Iterator[Finding]:
    from realdrag.weights import FAN, checkpoints, present

    missing = [remote for remote in FAN if not present(remote)]
    if missing:
        advice = f"fetched when online, or put {' and '.join(r.url for r in missing)} into {checkpoints()}"
        names = ", ".join(remote.name for remote in missing)
        yield Finding("face-alignment's weights", None, f"missing: {names}", advice)
    else:
        yield Finding("face-alignment's weights", True, str(checkpoints()))


def _backbones() -> Iterator[Finding]:
    from realdrag.weights import BACKBONES, checkpoints, present

    found = [name for name, remote in BACKBONES.items() if present(remote)]
    if found:
        yield Finding("perceptual backbones", True, ", ".join(found))
    else:
        advice = f"fetched when online, or put {BACKBONES['vgg'].url} into {checkpoints()}"
        yield Finding("perceptual backbones", None, "none: the embedded loss stands in", advice)


def _network() -> Iterator[Finding]:
    from realdrag.network import recheck

    for (host, port), reason in recheck().items():
        advice = "weights that are missing cannot be fetched" if reason else ""
        yield Finding(f"network: {host}:{port}", None if reason else True, reason or "reachable", advice)


def _model() -> Iterator[Finding]:
    from realdrag.weights import load_encoder, load_generator, load_landmarks, load_perceptual, resolve_model

    model = resolve_model(None)
    import torch

    cpu = torch.device("cpu")
    size = load_generator(model, cpu).config.img_resolution
    encoder = "with encoder" if load_encoder(model, cpu) else "without encoder"
    load_landmarks()
    load_perceptual("embedded", cpu)
    value = f"{model.name}, {size} px, {encoder}, sha256 {model.sha256[:12]}; landmarks; perceptual"
    yield Finding("embedded models", True, value)


def _home() -> Iterator[Finding]:
    from realdrag.store import home

    folder = home()
    latents = [p for p in folder.glob("latents/*.safetensors") if not p.name.endswith(".part.safetensors")]
    damaged = len(list(folder.glob("latents/*.damaged-*")))
    megabytes = sum(path.stat().st_size for path in latents) / 1e6
    value = f"{folder}, {len(latents)} latents, {megabytes:.1f} MB"
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        advice = "set REALDRAG_HOME to a folder that you can write to"
        yield Finding("home", False, f"{value}, not writable: {error.strerror}", advice)
        return
    if damaged:
        yield Finding(
            "home", None, f"{value}, {damaged} damaged", "`realdrag latents prune --older-than 90d` removes them"
        )
    else:
        yield Finding("home", True, value)


def _config() -> Iterator[Finding]:
    from realdrag.presets import config_path, load

    path = config_path()
    preset, _ = load()
    yield Finding("config file", True, f"{path if path.exists() else f'none at {path}'}, preset {preset}")


def _space() -> Iterator[Finding]:
    from realdrag.store import home

    free = shutil.disk_usage(home()).free
    enough = free >= ROOM
    advice = "" if enough else f"make room, {ROOM / 1e9:.0f} GB or more, or set REALDRAG_HOME to another disk"
    yield Finding("free space", enough, f"{free / 1e9:.1f} GB at {home()}", advice)


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": _python,
    "realdrag": _realdrag,
    "torch": _torch,
    "processor": _processor,
    "opencv": _opencv,
    "torchvision": _torchvision,
    "lpips": _lpips,
    "face-alignment": _face_alignment,
    "face-alignment's weights": _fan,
    "perceptual backbones": _backbones,
    "network": _network,
    "embedded models": _model,
    "home": _home,
    "config file": _config,
    "free space": _space,
}
