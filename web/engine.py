"""The one process that computes, and the queue before it: a task of each session in turn.

A process, so that what is computed never holds up the pages, and so that a crash in a library ends one task and not
the server. It keeps one `Editor`: the model is loaded once, for all sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from realdrag.errors import RealdragError, WorkError, failure_of
from realdrag.settings import Settings
from realdrag.web.tasks import Task, Teller

if TYPE_CHECKING:
    from realdrag.api import Editor

MOST_WAITING = 64  # tasks of all sessions together; more would wait for minutes
GIVE_UP = 3.0  # seconds that a process is given to end by itself


@dataclass(frozen=True)
class Machine:
    """What the editor's process computes with; as the flags of `edit`."""

    model: str | None
    settings: Settings
    device: str
    threads: int | None
    precision: str

    def editor(self) -> Editor:
        """An editor that computes so."""
        from realdrag.api import Editor

        return Editor(
            model=self.model,
            settings=self.settings,
            device=self.device,
            threads=self.threads,
            precision=self.precision,
        )


class Client(Protocol):
    """Whose task it is."""

    path: Path

    def waits(self, before: int) -> None:
        """So many tasks are before this one's."""

    def begins(self, task: Task) -> None:
        """The task is being done."""

    def told(self, what: str, values: Any) -> None:
        """The task tells something (`Teller`)."""

    def ended(self, task: Task, values: dict[str, Any] | None, error: RealdragError | None) -> None:
        """The task is over, with what it came to or why not; both None: it was stopped."""


class Engine:
    """Runs tasks one at a time; to be used from the event loop alone."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.waiting = dict[Client, Task]()  # the next one first: one of each client, in the order they asked
        self.now: tuple[Client, Task] | None = None
        self.alive = self.closed = False

    def start(self) -> None:
        """Start the process; it loads the model while the user still looks at the page."""
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.stop_now: Event = context.Event()
        self.process = context.Process(target=serve, args=(theirs, self.stop_now, self.machine), daemon=True)
        self.process.start()
        self.alive = True
        theirs.close()
        threading.Thread(target=self._read, args=(self.pipe, asyncio.get_running_loop()), daemon=True).start()

    def close(self) -> None:
        """End the process; what it is doing goes on where it was, next time."""
        self.closed = True
        self.waiting.clear()
        self.stop_now.set()
        self.pipe.close()
        self.process.join(GIVE_UP)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def submit(self, client: Client, task: Task) -> None:
        """Do `task` in its turn; WorkError where too much is waiting, or this client's last task is not done."""
        if client in self.waiting or (self.now and self.now[0] is client):
            raise WorkError("this photo is being worked on", "stop that first", code="busy")
        if len(self.waiting) >= MOST_WAITING:
            raise WorkError("too many people are waiting", "try again in a minute", code="full")
        self.waiting[client] = task
        self._next()
        self._tell_places()

    def stop(self, client: Client) -> None:
        """End the client's task, or take it out of the queue."""
        if (task := self.waiting.pop(client, None)) is not None:
            client.ended(task, None, None)
            self._tell_places()
        elif self.now and self.now[0] is client:
            self.stop_now.set()

    def _tell_places(self) -> None:
        for before, client in enumerate(self.waiting, 1):
            client.waits(before)

    def _next(self) -> None:
        if self.now is None and self.waiting and not self.closed:
            if not self.alive:
                self.start()
            client = next(iter(self.waiting))
            self.now = client, self.waiting.pop(client)
            self.stop_now.clear()
            client.begins(self.now[1])
            try:
                self.pipe.send((client.path, self.now[1]))
            except OSError:
                return  # the process has died: its reader says so
            self._tell_places()

    def _read(self, pipe: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: what the process says, until it ends."""
        what, values = "", None
        while what != "died":
            try:
                what, values = pipe.recv()
            except (OSError, EOFError, TypeError):  # TypeError: closed by us while it was read
                what, values = "died", None
            try:
                loop.call_soon_threadsafe(self._heard, what, values)
            except RuntimeError:  # the loop is closed
                return

    def _heard(self, what: str, values: Any) -> None:
        if self.closed:
            return
        if what == "died":
            self.alive = False
            error = WorkError("the engine was killed", "the machine may be short of memory", code="killed")
            self._end(None, error)
        elif what == "ended":
            self._end(*values)
        elif self.now is not None:
            self.now[0].told(what, values)

    def _end(self, values: dict[str, Any] | None, error: RealdragError | None) -> None:
        if self.now is None:
            return
        (client, task), self.now = self.now, None
        client.ended(task, values, error)
        self._next()


def serve(pipe: Connection, stop: Event, machine: Machine) -> None:
    """The process: one task after another, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its process
    from realdrag.devices import keep_pages

    keep_pages()
    editor = machine.editor()
    with contextlib.suppress(Exception):  # the first task says why it cannot be loaded
        _ = editor.spread
    while True:
        try:
            path, task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            ended = done(editor, path, task, Teller(lambda what, values: pipe.send((what, values)), stop.is_set))
            pipe.send(("ended", ended))
        except OSError:  # nobody listens any more
            return


def done(editor: Editor, path: Path, task: Task, teller: Teller) -> tuple[dict[str, Any] | None, RealdragError | None]:
    """What the task came to, or its error, or neither where it was stopped."""
    from realdrag.web.work import perform

    try:
        return perform(editor, path, task, teller), None
    except KeyboardInterrupt:
        return None, None
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 — one task's failure is its page's matter
        if not isinstance(error, RealdragError):
            traceback.print_exc(file=sys.stderr)
        return None, failure_of(error)
