"""Locks between processes: the system's where there are any, else a lease.

A lock's file is gone when nobody holds it. Removing such a file is known to go wrong when another process has opened
it already and waits: it would get a lock on a file without a name, and a third one a lock on a new file. So whoever
tries a lock or removes its file holds a second one for that moment, `guard`, whose file stays.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

LEASE_S = 30.0  # a lease that has not moved for so long belongs to a dead process
POLL_S = 0.05  # between two looks at another's lock, as filelock's own
GUARD = "guard"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}

Release = Callable[[], None]


@contextlib.contextmanager
def held(path: Path, mode: int, waiting: Callable[[], None] | None) -> Iterator[bool]:
    """Alone with `path`, a file `*.lock` of permissions `mode` in a folder that exists.

    `waiting` is called once if it is another's at first; None: do not wait, and yield False. Raises OSError.
    """
    try:
        release = _native(path, mode, waiting)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        lease = _Lease(path.with_suffix(".lease"))
        release = lease.release if lease.acquire(waiting) else None
    if release is None:
        yield False
        return
    try:
        yield True
    finally:
        release()


def _native(path: Path, mode: int, waiting: Callable[[], None] | None) -> Release | None:
    from filelock import Timeout

    lock, guard = _file_lock(path, mode), _file_lock(path.with_name(GUARD), mode)

    def tried() -> bool:
        with guard.acquire(poll_interval=POLL_S / 10), contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
        return lock.is_locked

    def release() -> None:
        try:
            with guard.acquire(poll_interval=POLL_S / 10), contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink(missing_ok=True)
        finally:
            lock.release()

    if not tried():
        if waiting is None:
            return None
        waiting()
        while not tried():
            time.sleep(POLL_S)
    return release


def _file_lock(path: Path, mode: int) -> BaseFileLock:
    from filelock import FileLock

    # filelock's own stand-in warns, and never expires when its holder was on another machine.
    try:
        return FileLock(path, mode=mode, fallback_to_soft=False)
    except TypeError:  # before filelock 4
        return FileLock(path, mode=mode)


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

    def acquire(self, waiting: Callable[[], None] | None) -> bool:
        """Whether the lease is ours, at once or after waiting; `waiting` as in `held`."""
        if not self._create():
            if waiting is None:
                return False
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
        return True

    def release(self) -> None:
        """Removes the file unless another has taken over."""
        self.done.set()
        self.thread.join()
        with contextlib.suppress(OSError):  # it expires by itself
            if self._ours():
                self.path.unlink(missing_ok=True)


def remove_unheld(path: Path) -> bool:
    """Removes a lock file that a version without guards left; whether it did. Raises OSError."""
    from filelock import Timeout

    lock = _file_lock(path, path.stat().st_mode & 0o666)
    try:
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError):
        return False
    try:
        path.unlink(missing_ok=True)
    finally:
        lock.release()
    return True
