"""Fetching files, without waiting long, or again and again, for a network that is not there.

Before anything is fetched its host is tried: a plain connection, at most PROBE_S. A host that does not
answer, and a URL that answers with an error, are remembered in `<home>/network.json` for a day.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from realdrag.errors import WorkError
from realdrag.progress import Progress
from realdrag.store import home, write_whole

PROBE_S = 4.5  # to find out whether a host answers
PATIENCE_S = 0.5  # a refusal within this time is reported without waiting for the other hosts
TIMEOUT_S = (5.0, 30.0)  # of a download: to connect, and between two pieces of data
REMEMBERED_S = 24 * 3600.0
ABANDONED_S = 3600.0  # a part that nobody has written to for so long belongs to a dead process

TORCH = "https://download.pytorch.org/models/"
FAN = "https://www.adrianbulat.com/downloads/python-fan/"
SITES = (TORCH, FAN)

Address = tuple[str, int]


class Offline(WorkError):  # noqa: N818 - a state of the machine rather than a fault
    """The network, or the host asked for, cannot be reached."""

    code = "offline"


class _Bar:
    """What pooch takes for a progress bar; says how much comes once that is known."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name = progress, name
        self.total = self.done = 0
        self.begun = self.shown = False

    def update(self, count: int) -> None:
        if not self.begun:
            self.begun = self.shown = True
            size = f", {self.total / 1e6:.0f} MB" if self.total else ""
            self.progress.say(f"fetching {self.name}{size}, once")
            self.progress.begin(f"fetching {self.name}", self.total)
        self.done += count
        done = min(self.done, self.total) if self.total else self.done
        self.progress.step(done, f"{done / 1e6:.0f} MB")

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        if self.shown:
            self.shown = False
            self.progress.end()


def fetch(url: str, folder: Path, name: str, sha256_prefix: str, progress: Progress) -> Path:
    """`folder/name`, downloaded from `url` unless it is there: only ever whole and with the right hash.

    Offline when the host cannot be reached; WorkError when it answers with anything but that file. Either is
    remembered for a day; a connection lost half-way is not.
    """
    final = folder / name
    if final.is_file():
        return final
    if failure := _failures().get(url):
        raise WorkError(f"{url} failed within the last day ({failure[1]})", "`realdrag doctor` forgets that")
    _reach(url)
    import requests

    part = folder / f".{name}.{uuid.uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder, name)
        try:
            with part.open("xb") as file:
                _download(url, file, progress)
            with part.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if not sha256.startswith(sha256_prefix):
                raise _failed(url, f"its sha256 begins with {sha256[:16]}, not {sha256_prefix}", folder)
            part.replace(final)
        finally:
            part.unlink(missing_ok=True)
    except requests.RequestException as error:  # before OSError: requests' are such
        response = error.response
        reason = f"HTTP {response.status_code}" if response is not None else _line(error)
        raise _failed(url, reason, folder) from error
    except OSError as error:
        hint = "set TORCH_HOME to a folder that has room and can be written"
        raise WorkError(f"cannot write {final}: {error.strerror or error}", hint) from error
    return final


def _download(url: str, file: IO[bytes], progress: Progress) -> None:
    """The body of `url` into `file`. requests.RequestException when it does not come, or not whole."""
    import pooch
    import requests

    bar = _Bar(progress, Path(urlsplit(url).path).name)
    try:
        pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 20, timeout=TIMEOUT_S)(url, file, None)
    except requests.RequestException as error:
        if bar.begun:
            raise WorkError(f"{url}: the connection was lost", "try again") from error
        raise
    finally:
        bar.close()


def _failed(url: str, reason: str, folder: Path) -> WorkError:
    _remember({url: reason})
    return WorkError(f"{url} could not be fetched: {reason}", f"put the file into {folder}")


def _sweep(folder: Path, name: str) -> None:
    """Removes parts that a killed process left."""
    with contextlib.suppress(FileNotFoundError):  # another process may sweep too
        for old in folder.glob(f".{name}.*.part"):
            if time.time() - old.stat().st_mtime > ABANDONED_S:
                old.unlink()


def forget_offline() -> None:
    """Hosts and files that failed are tried again."""
    (home() / "network.json").unlink(missing_ok=True)


def recheck() -> dict[Address, str]:
    """Forgets what failed and tries every host we fetch from. Address → why it does not answer, or ""."""
    forget_offline()
    answers = probe(map(address, SITES))
    _remember({_key(one): why for one, why in answers.items()})
    return answers


def _failures() -> dict[str, tuple[float, str]]:
    """What failed within the last day, "host:port" or URL → when (Unix time) and why."""
    now = time.time()
    try:
        memory = json.loads((home() / "network.json").read_bytes())
        return {key: (when, str(why)) for key, (when, why) in memory.items() if 0 <= now - when < REMEMBERED_S}
    except (OSError, WorkError, ValueError, TypeError, AttributeError):  # none yet, or not ours
        return {}


def _remember(reasons: dict[str, str]) -> None:
    """Keeps what failed and why; what did not fail ("") is forgotten."""
    known = _failures() | {key: (time.time(), why) for key, why in reasons.items()}
    memory = {key: failure for key, failure in known.items() if failure[1]}
    with contextlib.suppress(WorkError):  # then the next run asks again
        write_whole(home() / "network.json", json.dumps(memory, indent=1).encode())


def _key(one: Address) -> str:
    return "{}:{}".format(*one)


def address(url: str) -> Address:
    """Where a connection for `url` goes: its host, or the proxy that the environment names."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.netloc):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or {"https": 443, "socks5": 1080}.get(parts.scheme, 80)


def _reach(url: str) -> None:
    """Raises Offline when nobody answers for `url`, from memory or after asking."""
    wanted = address(url)
    known = _failures()
    if (failure := known.get(_key(wanted))) is not None:
        reason = failure[1]
    else:
        answers = probe({wanted} | {a for a in map(address, SITES) if _key(a) not in known}, wanted)
        _remember({_key(one): why for one, why in answers.items()})
        reason = answers[wanted]
    if reason:
        raise Offline(f"{wanted[0]} cannot be reached ({reason})", "`realdrag doctor` tries again")


def ask(url: str, hint: str) -> None:
    """Raises Offline with `hint` when nobody answers for `url` now, whatever is remembered."""
    wanted = address(url)
    reason = probe([wanted])[wanted]
    _remember({_key(wanted): reason})
    if reason:
        raise Offline(f"{wanted[0]} cannot be reached ({reason}) for {url}", hint)


def probe(addresses: Iterable[Address], wanted: Address | None = None) -> dict[Address, str]:
    """Address → why it cannot be reached, "" if it can; all at once, within PROBE_S.

    With `wanted` only until that one is decided, unless it failed slowly: then the others are given their
    time too, so that slow failures do not add up. What is undecided then is left out.
    """
    waiting, answers = set(addresses), dict[Address, str]()
    inbox: queue.Queue[tuple[Address, str]] = queue.Queue()
    start = time.monotonic()
    for one in waiting:
        # Looking up a name can hang beyond any socket's time limit: a thread does it, left behind if need be.
        threading.Thread(target=_connect, args=(one, inbox), daemon=True).start()
    while waiting:
        try:
            one, why = inbox.get(timeout=max(0.0, start + PROBE_S - time.monotonic()))
        except queue.Empty:
            return answers | dict.fromkeys(waiting, f"no answer in {PROBE_S:g} s")
        answers[one] = why
        waiting.discard(one)
        if one == wanted and (not why or time.monotonic() - start < PATIENCE_S):
            break
    return answers


def _connect(one: Address, inbox: queue.Queue[tuple[Address, str]]) -> None:
    try:
        # A host may have an address that leads nowhere before one that answers (IPv6): time for two.
        socket.create_connection(one, timeout=PROBE_S * 0.45).close()
        inbox.put((one, ""))
    except (OSError, UnicodeError) as error:
        inbox.put((one, _line(error)))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
