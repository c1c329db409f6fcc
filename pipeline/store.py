"""The store of latents: made once, found again by everything that determines them.

One file a latent, `<home>/latents/<key>.safetensors`: the tensors `w_plus`, `picture` (a WebP file's bytes),
`delta.<parameter>` and `curve.<phase>/<term>`, and a header with `format`, `key`, `model_sha256`, `loss`, `metrics`,
`about`, `created`, `checksum`. Beside it, while it is made, lies `<key>.part.safetensors` (the state of an
interrupted optimisation), and what was found damaged as `<key>.damaged-N`. Locks lie in `<home>/locks`. When a latent
was last used is its file's time. A latent is data about a face: folders are created readable by their owner alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import functools
import hashlib
import io
import itertools
import json
import os
import stat
import time
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realdrag.errors import WorkError
from realdrag.locks import held
from realdrag.progress import Progress, Silent
from realdrag.settings import InversionSettings
from realdrag.values import Latent

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from torch import Tensor

    _Part = tuple[str, str, Sequence[int], ReadableBuffer]  # name, type, shape, bytes

# Of keys: raise it when a stage computes something else from the same settings, or keys are made otherwise. Older
# entries then have names that nobody asks for, and processes of two versions at once never want the same one.
KEY_FORMAT = 3
FORMAT = 2  # of entries: how their files are laid out
LARGEST = 4096  # px: the side of a picture
ABANDONED_S = 3600.0  # a temporary file this old belongs to a dead process

# When a setting has a say in the latent; one that is not here always has.
_MATTERS: Mapping[str, Callable[[InversionSettings], bool]] = {
    "perceptual": lambda settings: False,  # a choice; the loss that it came to stands in the key by itself
    "steps_w_plus": lambda settings: settings.space == "w+",
    "tune_rank": lambda settings: settings.tune == "lowrank",
    **dict.fromkeys(
        ("tune_layers", "tune_steps", "tune_lr", "tune_stop", "tune_pixel_weight", "locality"),
        lambda settings: settings.tune != "none",
    ),
}


def home() -> Path:
    """REALDRAG_HOME, else the user's data folder; created for its owner alone where there is none."""
    import platformdirs

    chosen = os.environ.get("REALDRAG_HOME")
    folder = Path(chosen).expanduser() if chosen else platformdirs.user_data_path("realdrag", appauthor=False)
    return owned(folder)


def owned(folder: Path, mode: int = 0o700) -> Path:
    """`folder`, created with `mode` where there is none; one that exists keeps its mode."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def _unwritable(path: Path, error: OSError) -> WorkError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "set REALDRAG_HOME to a folder " + ("on a disk with room" if full else "that you can write to")
    return WorkError(f"cannot write {path}: {error.strerror or error}", hint)


def write_whole(path: Path, data: ReadableBuffer, *, sync: bool = True) -> None:
    """`path` holds `data`, or what it held before, however the process ends. WorkError if unwritable.

    sync: also if the machine itself stops; costs milliseconds.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):  # another process may sweep too
            for old in path.parent.glob(f".{path.name}.*.tmp"):
                if time.time() - old.stat().st_mtime > ABANDONED_S:
                    old.unlink()
        try:
            readers = _mode(path.parent) & 0o666
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, readers)) as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    if not sync:
        return
    with contextlib.suppress(OSError):  # Windows opens no folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def what_matters(settings: InversionSettings) -> dict[str, object]:
    """The settings that have a say in the latent, as a key holds them: all but those of `_MATTERS` that have none."""
    hints = typing.get_type_hints(type(settings))
    # A field of type float may hold the integer 1: it is the same setting as 1.0.
    return {
        f.name: float(getattr(settings, f.name)) if hints[f.name] is float else getattr(settings, f.name)
        for f in dataclasses.fields(settings)
        if f.name not in _MATTERS or _MATTERS[f.name](settings)
    }


def latent_key(
    crop: npt.NDArray[np.uint8], model_sha256: str, settings: InversionSettings, extra: Mapping[str, str]
) -> str:
    """sha256 (hex) over all that determines a latent.

    crop: [size, size, 3] uint8. extra: what was chosen while running (the actual loss, precision, kind of device, …).
    """
    header = {
        "format": KEY_FORMAT,
        "crop": [*crop.shape, crop.dtype.name],
        "model": model_sha256,
        "settings": what_matters(settings),
        "extra": dict(extra),
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(crop).data)
    return digest.hexdigest()


def _checksum(parts: Iterable[_Part], header: Mapping[str, str]) -> str:
    """sha256 over a header and tensors (name, type, shape, bytes), in the order of the names."""
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name, dtype, shape, data in sorted(parts, key=lambda part: part[0]):
        digest.update(json.dumps([name, dtype, list(shape)]).encode())
        digest.update(data)
    return digest.hexdigest()


def _array_parts(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[_Part]:
    return ((name, a.dtype.name, a.shape, a.tobytes()) for name, a in arrays.items())


def _tensor_parts(tensors: Mapping[str, Tensor]) -> Iterator[_Part]:
    import torch

    # As bytes: numpy has no bfloat16.
    return ((k, str(t.dtype), t.shape, t.reshape(-1).view(torch.uint8).numpy().data) for k, t in tensors.items())


class DamagedError(Exception):
    """A file of the store is not what was written."""


class OtherVersionError(DamagedError):
    """It is what another version of realdrag wrote."""


def read_header(path: Path) -> dict[str, str]:
    """What the header of an entry says, without its arrays and unchecked. FileNotFoundError, DamagedError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            header: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise DamagedError(str(error)) from error
    if missing := {"format", "key", "model_sha256", "loss", "metrics", "checksum"} - header.keys():
        raise DamagedError(f"its header has no {min(missing)}")
    return header


def read_entry(path: Path, key: str) -> Latent:
    """The entry `key` in a file, checked. FileNotFoundError if there is none, DamagedError if it is something else."""
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metrics = json.loads(header["metrics"])
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:  # of types that numpy lacks
        raise DamagedError(" ".join(str(error).split())[:80]) from error
    checksum = header.pop("checksum")
    if checksum != _checksum(_array_parts(arrays), header):
        raise DamagedError("its checksum is wrong")
    if header["key"] != key:
        raise DamagedError("it holds another latent")
    if header["format"] != str(FORMAT):
        raise OtherVersionError("it was made by another version of realdrag")
    if not _sound(arrays):
        raise DamagedError("it is not laid out as a latent is")
    delta = {k.removeprefix("delta."): v for k, v in arrays.items() if k.startswith("delta.")}
    curves: dict[str, dict[str, list[float]]] = {}
    for name, curve in arrays.items():
        if name.startswith("curve."):
            phase, _, term = name.removeprefix("curve.").partition("/")
            curves.setdefault(phase, {})[term] = curve.tolist()
    return Latent(
        w_plus=arrays["w_plus"],
        delta=delta or None,
        picture=unpacked(arrays["picture"]),
        model_sha256=header["model_sha256"],
        loss=header["loss"],
        metrics=metrics,
        curves=curves,
    )


def packed(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture [r, r, 3] as the bytes of a lossless WebP file: a third of its size or less, and read in no time."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", lossless=True, method=4)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def unpacked(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture that `packed` was given. DamagedError for anything else."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=["WEBP"]) as image:
            if max(image.size) > LARGEST:
                raise DamagedError("its picture is too large")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DamagedError("its picture cannot be read") from error


def _sound(arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether these can be a latent's: a file from elsewhere may have a right checksum and hold anything."""
    kinds = {name: (array.dtype.name, array.ndim) for name, array in arrays.items()}
    layout = {"w_plus": ("float32", 2), "picture": ("uint8", 1)}
    layout |= {name: ("float32", 1) for name in arrays if name.startswith("curve.")}
    return kinds.items() >= layout.items()


class Checkpoint:
    """The state of an unfinished optimisation: one safetensors file, replaced whole at each `save`."""

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self.path, self.progress, self.failed = path, progress or Silent(), False

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last, on the CPU; None when there is nothing or it is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                header: dict[str, str] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return tensors if header.get("checksum") == _checksum(_tensor_parts(tensors), {}) else None

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Replaces what was saved before; the tensors may lie anywhere, share memory and have gradients.

        Where it cannot be written that is said, once, and the work goes on: it is not lost unless interrupted.
        """
        import torch
        from safetensors.torch import save

        own = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
        try:
            write_whole(self.path, save(own, {"checksum": _checksum(_tensor_parts(own), {})}))
        except WorkError as error:
            if not self.failed:
                self.progress.say(f"{error.message}: the work goes on, but an interruption would lose it")
            self.failed = True

    def clear(self) -> None:
        """Forgets it."""
        self.path.unlink(missing_ok=True)


class Store:
    """The latents under `root`, else under `home()`; what happens to entries is told to `progress`."""

    def __init__(self, root: Path | None = None, progress: Progress | None = None) -> None:
        self.root = home() if root is None else owned(root)
        self.folder = self.root / "latents"
        self.progress = progress or Silent()

    def path(self, key: str) -> Path:
        """Where the entry `key` lies or will lie."""
        return self.folder / f"{key}.safetensors"

    def checkpoint(self, key: str) -> Checkpoint:
        """The state kept while `key` is being made."""
        return Checkpoint(self._made("latents") / f"{key}.part.safetensors", self.progress)

    def get(self, key: str, fault: Callable[[Latent], str] = lambda latent: "") -> Latent | None:
        """The latent, or None; None also for another version's.

        A damaged entry is renamed to `<key>.damaged-N`, said so, and counts as none.
        An empty delta comes back as None. fault: what makes a whole entry unusable, in words, or "": entries can come
        from elsewhere, and their checksums are anybody's to write.
        """
        path = self.path(key)
        try:
            latent = read_entry(path, key)
            if found := fault(latent):
                raise DamagedError(found)
        except (FileNotFoundError, OtherVersionError):
            return None
        except DamagedError as damage:
            aside = next(p for n in itertools.count(1) if not (p := self.folder / f"{key}.damaged-{n}").exists())
            with contextlib.suppress(FileNotFoundError):  # another process was first
                path.rename(aside)
            self.progress.say(f"a stored latent is damaged ({damage}): set aside as {aside}, it is made again")
            return None
        except OSError as error:
            raise WorkError(f"cannot read {path}: {error.strerror or error}", "see REALDRAG_HOME") from error
        with contextlib.suppress(OSError):  # only `prune` asks for it
            os.utime(path)
        return latent

    def put(self, key: str, latent: Latent, about: Mapping[str, str]) -> None:
        """Stores `latent` with `about`, notes for people. WorkError if it cannot be written."""
        from safetensors.numpy import save

        arrays: dict[str, npt.NDArray[Any]] = {"w_plus": latent.w_plus, "picture": packed(latent.picture)}
        arrays |= {f"delta.{name}": value for name, value in (latent.delta or {}).items()}
        arrays |= {
            f"curve.{phase}/{term}": np.array(curve, np.float32)
            for phase, terms in latent.curves.items()
            for term, curve in terms.items()
        }
        # The library takes the memory as it lies. (np.ascontiguousarray would turn a scalar into [1].)
        arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
        header = {
            "format": str(FORMAT),
            "key": key,
            "model_sha256": latent.model_sha256,
            "loss": latent.loss,
            "metrics": json.dumps(dict(latent.metrics)),
            "about": json.dumps(dict(about)),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        header["checksum"] = _checksum(_array_parts(arrays), header)
        self.put_bytes(key, save(arrays, header))

    def put_bytes(self, key: str, data: ReadableBuffer) -> None:
        """Stores an entry as it is. WorkError if it cannot be written."""
        self._made("latents")
        write_whole(self.path(key), data)
        with contextlib.suppress(OSError):
            self.thumbnail(key).unlink(missing_ok=True)  # of an earlier one

    def thumbnail(self, key: str) -> Path:
        """Where a small picture of the entry `key` lies, if somebody has asked for it."""
        return self.folder / "thumbnails" / f"{key}.png"

    @contextlib.contextmanager
    def lock(self, key: str, what: str = "this photo") -> Iterator[None]:
        """Only one process at a time is inside for a key: look again with `get` once there. `what` is for people."""
        with self._held(key, functools.partial(self._waiting, what)):
            yield

    @contextlib.contextmanager
    def lock_if_free(self, key: str) -> Iterator[bool]:
        """As `lock`, but where another process is inside it yields False at once."""
        with self._held(key, None) as ours:
            yield ours

    @contextlib.contextmanager
    def _held(self, key: str, waiting: Callable[[], None] | None) -> Iterator[bool]:
        folder = self._made("locks")
        path = folder / f"{key}.lock"
        with contextlib.ExitStack() as stack:
            try:
                ours = stack.enter_context(held(path, _mode(folder) & 0o666, waiting))
            except OSError as error:
                raise _unwritable(path, error) from error
            yield ours

    def _waiting(self, what: str) -> None:
        self.progress.say(f"another process is at work on {what}: waiting for it")

    def _made(self, name: str) -> Path:
        # A home that its group may write to is meant to be shared: the latents in it are too.
        mode = _mode(owned(self.root))
        return owned(self.root / name, mode & 0o2770 if mode & stat.S_IWGRP else 0o700)
