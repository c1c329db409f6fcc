"""Removing from the store of latents: single ones, and what has not been used for long or takes too much room.

Nothing that another process holds locked is removed. Removing is unlinking: the bytes are not overwritten.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from realdrag.errors import InputError, WorkError
from realdrag.latents import files
from realdrag.locks import remove_unheld
from realdrag.store import ABANDONED_S, Store

DAY = 86400.0
UNFINISHED_S = 7 * DAY  # nobody comes back to a checkpoint of this age
SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
SIZES |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
AGES = {"h": 3600.0, "d": DAY, "w": 7 * DAY}


@dataclass(frozen=True)
class Removed:
    """One file that is gone, or would be. what: "latent", "unfinished", "damaged", "thumbnail", "temporary", "lock"."""

    key: str
    what: str
    path: str
    bytes: int


def parse_size(text: str) -> int:
    """Bytes of "2GB", "500 MB", "1.5GiB". InputError for anything else."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in SIZES:
        raise InputError(f"{text!r} is no size", "write it like 2GB or 500MB")
    return int(float(match[1]) * SIZES[match[2]])


def parse_age(text: str) -> float:
    """Seconds of "90d", "12h", "3w". InputError for anything else."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*([a-z])", text.strip().lower())
    if match is None or match[2] not in AGES:
        raise InputError(f"{text!r} is no age", "write it like 90d, 12h or 3w")
    return float(match[1]) * AGES[match[2]]


def forget(store: Store, key: str) -> list[Removed]:
    """Unlinks all there is of a latent: entry, checkpoint, thumbnail, damaged and temporary files, lock.

    WorkError where another process is at work on it.
    """
    with store.lock_if_free(key) as ours:
        if not ours:
            raise WorkError(f"another process is at work on {key[:12]}", "wait for it, or end it first")
        parts = [(kind, path) for found, kind, path in files(store) if found == key]
        gone = [_unlinked(key, _what(kind), path) for kind, path in parts]
        gone.append(_unlinked(key, "thumbnail", store.thumbnail(key)))
        gone += [_unlinked(key, "temporary", path) for path in store.folder.glob(f".{key}.*.tmp")]
    with contextlib.suppress(OSError):
        remove_unheld(store.folder / f"{key}.lock")  # an earlier version's
    return [one for one in gone if one is not None]


def _what(kind: str) -> str:
    return {"safetensors": "latent", "part.safetensors": "unfinished"}.get(kind, "damaged")


def _unlinked(key: str, what: str, path: Path, *, dry: bool = False) -> Removed | None:
    """Removes a file; None if there is none. WorkError if it stays."""
    try:
        size = path.stat().st_size
        if not dry:
            path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkError(f"cannot remove {path}: {error.strerror or error}", "is it open, or another user's?") from error
    return Removed(key, what, str(path), size)


def prune(
    store: Store, *, keep_bytes: int | None = None, unused_s: float | None = None, dry: bool = False
) -> list[Removed]:
    """Removes latents not used for `unused_s`, then those used longest ago until the rest fits into `keep_bytes`.

    And at any rate what nobody has a use for: checkpoints of a week ago or of finished latents, damaged entries,
    thumbnails of none, temporary files and locks of dead processes. dry: only says what it would remove, but for
    locks, of which nothing can be said without trying them.
    """
    work = _Pruning(store, dry)
    work.entries(keep_bytes, unused_s)
    work.leftovers()
    work.locks()
    return work.gone


class _Pruning:
    """One run of `prune`. A file that cannot be removed is said, and the others go all the same."""

    def __init__(self, store: Store, dry: bool) -> None:
        self.store, self.dry, self.now = store, dry, time.time()
        self.gone: list[Removed] = []

    @contextlib.contextmanager
    def _free(self, key: str) -> Iterator[bool]:
        """As the store's `lock_if_free`; nothing is locked for a look."""
        if self.dry:
            yield True
            return
        with self.store.lock_if_free(key) as ours:
            yield ours

    def remove(self, key: str, what: str, path: Path) -> int:
        """Its size; 0 where it stays."""
        try:
            one = _unlinked(key, what, path, dry=self.dry)
        except WorkError as error:
            self.store.progress.say(str(error))
            return 0
        self.gone += [one] if one else []
        return one.bytes if one else 0

    def older(self, path: Path, seconds: float) -> bool:
        """Whether nobody has written to it for so long."""
        with contextlib.suppress(OSError):
            return self.now - path.stat().st_mtime > seconds
        return False

    def entries(self, keep_bytes: int | None, unused_s: float | None) -> None:
        """Those used longest ago first."""
        found = []
        for key, kind, path in files(self.store):
            with contextlib.suppress(FileNotFoundError):
                if kind == "safetensors":
                    facts, small = path.stat(), self.store.thumbnail(key)
                    found.append((facts.st_mtime, facts.st_size + (small.stat().st_size if small.exists() else 0), key))
        total = sum(size for _, size, _ in found)
        for used, _, key in sorted(found):
            old = unused_s is not None and self.now - used > unused_s
            if old or (keep_bytes is not None and total > keep_bytes):
                total -= self.entry(key, used)

    def entry(self, key: str, used: float) -> int:
        """Bytes freed: none where another process is at it, or has used it since `used`."""
        path = self.store.path(key)
        with self._free(key) as ours, contextlib.suppress(FileNotFoundError):
            if ours and path.stat().st_mtime == used:
                size = self.remove(key, "latent", path)
                return size + (self.remove(key, "thumbnail", self.store.thumbnail(key)) if size else 0)
        return 0

    def leftovers(self) -> None:
        """Checkpoints, damaged entries, thumbnails and temporary files that nobody has a use for."""
        for key, kind, path in list(files(self.store)):
            if kind == "safetensors":
                continue
            with self._free(key) as ours:
                stale = self.older(path, UNFINISHED_S) or self.store.path(key).exists()
                if ours and (stale or kind != "part.safetensors"):
                    self.remove(key, _what(kind), path)
        small = self.store.thumbnail("").parent
        for path in small.glob("*.png"):
            if not self.store.path(path.stem).exists():
                self.remove(path.stem, "thumbnail", path)
        for path in [*self.store.folder.glob(".*.tmp"), *small.glob(".*.tmp")]:
            if self.older(path, ABANDONED_S):
                self.remove("", "temporary", path)

    def locks(self) -> None:
        """Lock files that nobody holds: of killed processes, and in the latents' folder an earlier version's."""
        if self.dry:
            return
        now, before = self.store.root / "locks", self.store.folder
        for path in now.glob("*.lock"):
            with self._free(path.stem) as ours:
                size = path.stat().st_size if ours and path.exists() else None
            if size is not None:  # leaving the lock has removed its file
                self.gone.append(Removed("", "lock", str(path), size))
        for path in before.glob("*.lock"):
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                if remove_unheld(path):
                    self.gone.append(Removed("", "lock", str(path), size))
        for path in [*now.glob("*.lease"), *before.glob("*.lease")]:
            if self.older(path, ABANDONED_S):  # a living one is written to several times a minute
                self.remove("", "lock", path)
