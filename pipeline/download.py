"""Large files, fetched in as many tries as it takes: what has come is kept, and becomes the file once it is whole.

pooch, which `network` fetches small files with, begins anew each time; so this asks with requests for the rest. Beside
`<file>.part` lies `<file>.part.json`, what the server said about the file: the rest comes only if that is still so.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from realdrag.errors import InputError, WorkError
from realdrag.network import TIMEOUT_S, ask
from realdrag.progress import Progress, stretch
from realdrag.store import write_whole

if TYPE_CHECKING:
    from requests import Response

CHUNK = 1 << 20
TRIES = 5  # in one run, each of which must bring something
PAUSE_S = 2.0  # between two tries
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class Said:
    """What a server said about a file. validator: an ETag or a date that changes with it, or ""; size: or None."""

    url: str
    validator: str
    size: int | None


def download(url: str, target: Path, progress: Progress, *, spare: int, hint: str) -> None:
    """`target` from `url`, in an existing folder, going on with what an earlier try left. One process at a time.

    spare: bytes that must be left on the disk. hint: what to do when it does not come. Offline when the host cannot be
    reached; WorkError when it sends anything but a file, the connection is lost for good, or the disk is full.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url}: is not the address of a file", "give one that begins with https:// or http://")
    ask(url, hint)
    import requests

    part = target.with_name(f"{target.name}.part")
    for left in reversed(range(TRIES)):
        before, here = _begun(url, part)
        try:
            _go_on(url, part, before, here, progress, spare, hint)
            break
        except requests.RequestException as error:  # before OSError: requests' are such
            came = _begun(url, part)[1]
            if error.response is not None:
                raise _failed(url, f"HTTP {error.response.status_code}", hint) from error
            begun = came or isinstance(error, requests.exceptions.ChunkedEncodingError)
            if not begun:
                raise _failed(url, " ".join(str(error).split()), hint) from error
            if came <= here or not left:
                kept = f"{came / 1e6:.0f} MB are kept, the same command goes on" if came else "try again"
                raise WorkError(f"{url}: the connection was lost", kept) from error
            progress.say(f"the connection was lost at {came / 1e6:.0f} MB: trying again")
            time.sleep(PAUSE_S)
        except OSError as error:
            raise WorkError(f"cannot write {part}: {error.strerror or error}", "see REALDRAG_HOME") from error
    part.replace(target)
    _about(part).unlink(missing_ok=True)


def part_size(target: Path) -> int:
    """Bytes of `target` that an unfinished download has left."""
    return _size(target.with_name(f"{target.name}.part"))


def _failed(url: str, reason: str, hint: str) -> WorkError:
    return WorkError(f"{url} could not be fetched: {reason}", hint)


def _begun(url: str, part: Path) -> tuple[Said | None, int]:
    """What was said about the part and its bytes, where it can be gone on with; else (None, 0), and it is removed."""
    said, size = _said(part), _size(part)
    if said is not None and said.url == url and said.validator and 0 < size <= (said.size or 0):
        return said, size
    part.unlink(missing_ok=True)
    return None, 0


def _go_on(url: str, part: Path, before: Said | None, start: int, progress: Progress, spare: int, hint: str) -> None:
    """`part`, of which `start` bytes are here, made whole in one try.

    requests.RequestException when it does not come, or not whole.
    """
    import requests

    if before is not None and start == before.size:
        return
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges are the file's own
    if before is not None:
        headers |= {"Range": f"bytes={start}-", "If-Range": before.validator}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise _failed(url, f"it leads to {response.url}, which is not https", hint)
        if response.status_code != 416:
            response.raise_for_status()
        if before is not None and not _continues(response, before, start):
            part.unlink()
            if response.status_code != 200:  # what comes does not fit what is here
                return _go_on(url, part, None, 0, progress, spare, hint)
            before, start = None, 0
        if response.status_code != (206 if start else 200):
            raise _failed(url, f"HTTP {response.status_code}", hint)
        said = before or _heard(url, response)
        _check_room(part, said.size, start, spare)
        chunks = response.iter_content(CHUNK)
        first = next(chunks, b"")
        if not start:
            _refuse_page(url, response, first, hint)
            part.unlink(missing_ok=True)
            write_whole(_about(part), json.dumps(asdict(said)).encode())
        with part.open("ab") as file, _shown(part, said.size, start, progress) as step:
            step(_write(file, first))
            for chunk in chunks:
                step(_write(file, chunk))
            os.fsync(file.fileno())
    if said.size is not None and _size(part) != said.size:
        raise requests.ConnectionError("the file was cut short")
    return None


def _write(file: IO[bytes], data: bytes) -> int:
    file.write(data)
    file.flush()
    return file.tell()


@contextlib.contextmanager
def _shown(part: Path, size: int | None, start: int, progress: Progress) -> Iterator[Callable[[int], None]]:
    """Progress in megabytes."""
    name = part.name.removesuffix(".part")
    total = "size unknown" if size is None else f"{size / 1e6:.0f} MB"
    progress.say(f"fetching {name}, {total}" + (f", {start / 1e6:.0f} MB of which are here" if start else ""))
    with stretch(progress, f"{name}, MB", 0 if size is None else math.ceil(size / 1e6)) as bar:
        yield lambda done: bar.step(math.ceil(done / 1e6))


def _heard(url: str, response: Response) -> Said:
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        return Said(url, "", None)  # its sizes are those of what is sent, not of the file
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    length = headers.get("Content-Length", "")
    return Said(url, validator, int(length) if length.isdecimal() else None)


def _continues(response: Response, before: Said, start: int) -> bool:
    """Whether it is the rest, from `start`, of the file that was begun. (Some servers know Range but not If-Range.)"""
    match = RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != 206 or match is None:
        return False
    now = _heard(before.url, response).validator
    return int(match[1]) == start and int(match[2]) == before.size and now in ("", before.validator)


def _check_room(part: Path, size: int | None, start: int, spare: int) -> None:
    free, needed = shutil.disk_usage(part.parent).free, (size or 0) - start + spare
    if free < needed:
        room = f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free"
        raise WorkError(f"{part.parent}: {room}", "make room, or set REALDRAG_HOME to a folder on another disk")


def _refuse_page(url: str, response: Response, first: bytes, hint: str) -> None:
    """Portals, log-ins and Drive's virus warnings answer with a page and call it a success."""
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html") or (first.lstrip()[:1] == b"<" and b"\0" not in first[:512]):
        raise _failed(url, "it answers with a web page in place of the file", hint)
    if not first:
        raise _failed(url, "it answers with an empty file", hint)


def _said(part: Path) -> Said | None:
    try:
        return Said(**json.loads(_about(part).read_bytes()))
    except (OSError, ValueError, TypeError):  # none, or not ours
        return None


def _about(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
