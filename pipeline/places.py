"""Photos and results of a batch: paths, or URLs of anything that fsspec reaches (`s3://bucket/faces/1.jpg`)."""

from __future__ import annotations

import glob
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from realdrag.errors import InputError, WorkError

PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".heic", ".heif", ".bmp")


def is_url(place: str) -> bool:
    """Whether `place` is a URL, not a path."""
    return "://" in place


def sha256_at(place: str) -> str | None:
    """Of the bytes at `place`, or None if there are none."""
    try:
        if not is_url(place):
            with Path(place).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(fetched(place)).hexdigest()
    except OSError:
        return None


def fetched(place: str) -> bytes:
    """The bytes at `place`; OSError if there are none."""
    if not is_url(place):
        return Path(place).read_bytes()
    system, path = _system(place)
    return bytes(system.cat_file(path))


def stored(data: bytes, url: str) -> None:
    """`data` at a URL, in place of what was there: whole or not at all, where the store's own writes are."""
    system, path = _system(url)
    system.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
    system.pipe_file(path, data)


@contextmanager
def local(place: str, *, new: bool = False) -> Iterator[Path]:
    """A path to read the photo at `place` from, or (new) to write the one that shall lie there to."""
    if not is_url(place):
        if new:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="realdrag-") as folder:
        path = Path(folder) / PurePosixPath(place).name
        if not new:
            path.write_bytes(fetched(place))
        yield path
        if new:
            stored(path.read_bytes(), place)


def photos_in(source: str) -> list[tuple[str, str]]:
    """The photos of a folder, all levels, or of a pattern with `*`, `?`, `[…]`: (place, name below the folder), sorted.

    Raises InputError where there are none.
    """
    folder = source.rstrip("/")
    if is_url(source):
        system, path = _system(source)
        paths = system.glob(path) if glob.has_magic(path) else system.find(path)
        root = _fixed(path)
        protocol = source.partition("://")[0]
        found = [(f"{protocol}://{p.lstrip('/') if protocol != 'file' else p}", p) for p in paths]
    elif glob.has_magic(source) and not Path(source).is_dir():
        root = _fixed(source)
        found = [(p, p) for p in glob.glob(source, recursive=True) if Path(p).is_file()]  # noqa: PTH207 — absolute ones too
    else:
        root = folder
        found = [(str(p), str(p)) for p in Path(source).rglob("*") if p.is_file()]
    named = [(place, p[len(root) :].lstrip("/")) for place, p in found if PurePosixPath(p).suffix.lower() in PHOTOS]
    if not named:
        raise InputError(f"{source}: holds no photos", f"files that end in {', '.join(PHOTOS)}", code="jobs")
    return sorted(named)


def _fixed(pattern: str) -> str:
    """The folders of a pattern before its first `*`, `?` or `[`."""
    parts = pattern.split("/")
    first = next((k for k, part in enumerate(parts[:-1]) if glob.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:first]) if glob.has_magic(pattern) else pattern.rstrip("/")


def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path there."""
    try:
        import fsspec
    except ImportError as error:
        raise InputError(f"{url}: URLs need fsspec", "pip install 'realdrag[ray]', or pip install fsspec") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: cannot be reached: {error}", code="jobs") from error
    except Exception as error:
        raise WorkError(f"{url}: cannot be reached: {error}") from error
    return system, str(path)
