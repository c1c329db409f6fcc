"""The store of latents: made once, found again by everything that determines them.

One file a latent, `<home>/latents/<key>.safetensors`: the tensors `w_plus`, `picture`, `delta.<parameter>`,
and a header with `format`, `key`, `model_sha256`, `loss`, `metrics`, `about`, `created`, `checksum`. Beside
it, while it is made, lie `<key>.part.safetensors` (the state of an interrupted optimisation) and a lock. A
latent is data about a face: folders are created readable by their owner alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import functools
import hashlib
import itertools
import json
import os
import stat
import threading
import time
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realdrag.errors import WorkError
from realdrag.progress import Progress, Silent
from realdrag.values import Latent

if TYPE_CHECKING:
    from _typeshed import DataclassInstance, ReadableBuffer
    from filelock import BaseFileLock
    from torch import Tensor

    _Part = tuple[str, str, Sequence[int], ReadableBuffer]  # name, type, shape, bytes

FORMAT = 1  # of keys and entries; raise it when a stage computes something else from the same settings
LEASE_S = 30.0  # a lease that has not moved for so long belongs to a dead process
ABANDONED_S = 3600.0  # a temporary file this old belongs to a dead process
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def home() -> Path:
    """REALDRAG_HOME, else the user's data folder; created for its owner alone where there is none."""
    import platformdirs

    chosen = os.environ.get("REALDRAG_HOME")
    folder = Path(chosen).expanduser() if chosen else platformdirs.user_data_path("realdrag", appauthor=False)
    return _owned(folder)


def _owned(folder: Path, mode: int = 0o700) -> Path:
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


def write_whole(path: Path, data: ReadableBuffer) -> None:
    """`path` holds `data`, or what it held before, however the process ends. WorkError if unwritable."""
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
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    with contextlib.suppress(OSError):  # Windows opens no folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def latent_key(
    crop: npt.NDArray[np.uint8], model_sha256: str, settings: DataclassInstance, extra: Mapping[str, str]
) -> str:
    """sha256 (hex) over all that determines a latent.

    crop: [size, size, 3] uint8. settings: every field counts. extra: what was chosen while running (the
    actual loss, precision, kind of device, …).
    """
    hints = typing.get_type_hints(type(settings))
    # A field of type float may hold the integer 1: it is the same setting as 1.0.
    values = {
        f.name: float(getattr(settings, f.name)) if hints[f.name] is float else getattr(settings, f.name)
        for f in dataclasses.fields(settings)
    }
    header = {
        "format": FORMAT,
        "crop": [*crop.shape, crop.dtype.name],
        "model": model_sha256,
        "settings": values,
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


class _DamagedError(Exception):
    """A file of the store is not what was written."""


def _read(path: Path, key: str) -> Latent:
    """The entry `key`. FileNotFoundError if there is none, _DamagedError if it is not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            header: dict[str, str] = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _DamagedError(str(error)) from error
    checksum = header.pop("checksum", "")
    if checksum != _checksum(_array_parts(arrays), header):
        raise _DamagedError("its checksum is wrong")
    if (header["key"], header["format"]) != (key, str(FORMAT)):
        raise _DamagedError("it holds another latent")
    delta = {k.removeprefix("delta."): v for k, v in arrays.items() if k.startswith("delta.")}
    return Latent(
        w_plus=arrays["w_plus"],
        delta=delta or None,
        picture=arrays["picture"],
        model_sha256=header["model_sha256"],
        loss=header["loss"],
        metrics=json.loads(header["metrics"]),
    )


class Checkpoint:
    """The state of an unfinished optimisation: one safetensors file, replaced whole at each `save`."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
        """Replaces what was saved before; the tensors may lie anywhere, share memory and have gradients."""
        import torch
        from safetensors.torch import save

        own = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
        write_whole(self.path, save(own, {"checksum": _checksum(_tensor_parts(own), {})}))

    def clear(self) -> None:
        """Forgets it."""
        self.path.unlink(missing_ok=True)


class _Lease:
    """A lock by exclusive creation, for file systems without locks (some network folders).

    The holder writes a new number into the file several times per LEASE_S. Who waits takes over a file that
    has not changed for LEASE_S by the waiter's own clock: clocks of two machines are never compared. Should a
    holder sleep longer than that, two do the work; an entry is written whole all the same.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.token, self.done = path, uuid.uuid4().hex, threading.Event()
        self.thread = threading.Thread(target=self._refresh, daemon=True)

    def _read(self) -> str | None:
        try:
            return self.path.read_text(errors="replace")
        except FileNotFoundError:
            return None

    def _create(self) -> bool:
        try:
            with self.path.open("x") as file:
                file.write(self.token)
        except FileExistsError:
            return False
        return True

    def _ours(self) -> bool:
        return (self._read() or "").startswith(self.token)

    def _refresh(self) -> None:
        count = 0
        while not self.done.wait(LEASE_S / 6):
            with contextlib.suppress(OSError):  # the network may come back
                if not self._ours():
                    return
                count += 1
                self.path.write_text(f"{self.token} {count}")

    def acquire(self, waiting: Callable[[], None]) -> None:
        """Returns when the lease is ours; `waiting` is called once if it is another's."""
        if not self._create():
            waiting()
            seen, since = self._read(), time.monotonic()
            while not self._create():
                state = self._read()
                if state != seen:
                    seen, since = state, time.monotonic()
                elif time.monotonic() - since > LEASE_S:
                    self.path.unlink(missing_ok=True)
                time.sleep(LEASE_S / 100)
        self.thread.start()

    def release(self) -> None:
        """Removes the file unless another has taken over."""
        self.done.set()
        self.thread.join()
        with contextlib.suppress(OSError):  # it expires by itself
            if self._ours():
                self.path.unlink(missing_ok=True)


def _file_lock(path: Path, mode: int) -> BaseFileLock:
    from filelock import FileLock

    # filelock's own stand-in warns, and never expires when its holder was on another machine.
    try:
        return FileLock(path, mode=mode, fallback_to_soft=False)
    except TypeError:  # before filelock 4
        return FileLock(path, mode=mode)


class Store:
    """The latents under `root`, else under `home()`; what happens to entries is told to `progress`."""

    def __init__(self, root: Path | None = None, progress: Progress | None = None) -> None:
        self.root = home() if root is None else _owned(root)
        self.folder = self.root / "latents"
        self.progress = progress or Silent()

    def path(self, key: str) -> Path:
        """Where the entry `key` lies or will lie."""
        return self.folder / f"{key}.safetensors"

    def checkpoint(self, key: str) -> Checkpoint:
        """The state kept while `key` is being made."""
        return Checkpoint(self._made() / f"{key}.part.safetensors")

    def get(self, key: str) -> Latent | None:
        """The latent, or None. A damaged entry is renamed to `<key>.damaged-N`, said so, and counts as none.

        An empty delta comes back as None.
        """
        path = self.path(key)
        try:
            return _read(path, key)
        except FileNotFoundError:
            return None
        except _DamagedError as fault:
            aside = next(p for n in itertools.count(1) if not (p := self.folder / f"{key}.damaged-{n}").exists())
            with contextlib.suppress(FileNotFoundError):  # another process was first
                path.rename(aside)
            self.progress.say(f"a stored latent is damaged ({fault}): set aside as {aside}, it is made again")
            return None
        except OSError as error:
            raise WorkError(f"cannot read {path}: {error.strerror or error}", "see REALDRAG_HOME") from error

    def put(self, key: str, latent: Latent, about: Mapping[str, str]) -> None:
        """Stores `latent` with `about`, notes for people. WorkError if it cannot be written."""
        from safetensors.numpy import save

        arrays: dict[str, npt.NDArray[Any]] = {"w_plus": latent.w_plus, "picture": latent.picture}
        arrays |= {f"delta.{name}": value for name, value in (latent.delta or {}).items()}
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
        self._made()
        write_whole(self.path(key), save(arrays, header))

    @contextlib.contextmanager
    def lock(self, key: str, what: str = "this photo") -> Iterator[None]:
        """Only one process at a time is inside for a key: look again with `get` once there. `what` is for people."""
        path = self._made() / f"{key}.lock"
        waiting = functools.partial(self._waiting, what)
        try:
            try:
                release = self._native_lock(path, waiting)
            except (OSError, NotImplementedError) as error:
                if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                    raise
                lease = _Lease(path.with_suffix(".lease"))
                lease.acquire(waiting)
                release = lease.release
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            yield
        finally:
            release()

    def _native_lock(self, path: Path, waiting: Callable[[], None]) -> Callable[[], None]:
        from filelock import Timeout

        lock = _file_lock(path, _mode(self.folder) & 0o666)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        return lock.release

    def _waiting(self, what: str) -> None:
        self.progress.say(f"another process is at work on {what}: waiting for it")

    def _made(self) -> Path:
        # A home that its group may write to is meant to be shared: the latents in it are too.
        mode = _mode(_owned(self.root))
        return _owned(self.folder, mode & 0o2770 if mode & stat.S_IWGRP else 0o700)
