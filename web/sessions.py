"""Sessions: a work folder each, kept on disk; in memory only while a page looks at them or work goes on."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from realdrag.errors import InputError, RealdragError, WorkError, error_json
from realdrag.history import History
from realdrag.store import home
from realdrag.terminal import plain
from realdrag.web import messages as asked
from realdrag.web import tasks
from realdrag.web.engine import Engine
from realdrag.web.folder import described, reached, read_json, sessions_folder, write_json
from realdrag.web.preview import Looked, Moved, Preview, Sharpened
from realdrag.workfolder import WorkFolder

KEPT = 50  # folders; of more, those used longest ago that no page looks at are deleted
MOST_PAGES = 100  # open at once
GRACE = 15.0  # seconds without a page after which work is stopped: a reload takes one or two
MOST_EVENTS = 200  # that a page may lag behind before it is let go
ID = re.compile(r"[0-9a-f]{32}")


class Page:
    """One open page: the events that it has not got yet, and the latest picture."""

    def __init__(self) -> None:
        self.events, self.frame = deque[str](), b""
        self.news = asyncio.Event()
        self.lost = False

    def tell(self, event: str) -> None:
        """Send it an event, in order."""
        self.events.append(event)
        self.lost = len(self.events) > MOST_EVENTS
        self.news.set()

    def show(self, frame: bytes) -> None:
        """Send it a picture, in place of one that it has not got yet."""
        self.frame = frame
        self.news.set()

    async def next(self) -> str | bytes:
        """What to send now; events before pictures. WorkError where the page reads too slowly."""
        while not (self.events or self.frame):
            self.news.clear()
            await self.news.wait()
        if self.lost:
            raise WorkError("the page reads too slowly")
        if self.events:
            return self.events.popleft()
        frame, self.frame = self.frame, b""
        return frame


class Session:
    """A session that is open. Belongs to the event loop."""

    def __init__(self, name: str, path: Path, engine: Engine, preview: Preview) -> None:
        self.name, self.path, self.engine, self.preview = name, path, engine, preview
        self.pages = set[Page]()
        self.busy: dict[str, Any] | None = None
        self.then: tasks.Task | None = None  # to be done once what is being done has ended
        self.task: tasks.Task | None = None  # that is being done
        self.left = time.monotonic()  # when the last page was closed
        self.background = set[asyncio.Task[None]]()

    @property
    def work(self) -> WorkFolder:
        """Its folder."""
        return WorkFolder(self.path)

    def tell(self, what: str, **values: Any) -> None:
        """Send an event to all its pages."""
        event = json.dumps({"event": what} | values)
        for page in self.pages:
            page.tell(event)

    def fail(self, error: RealdragError) -> None:
        """Say what went wrong, without what belongs to this machine alone."""
        self.tell("failed", error=public(error, self.path))

    def submit(self, task: tasks.Task) -> None:
        """Do `task`; says why not where it cannot be."""
        try:
            self.engine.submit(self, task)
        except RealdragError as error:
            self.fail(error)

    def instead(self, task: tasks.Task) -> None:
        """Do `task` in place of what is being done."""
        if self.busy is None:
            self.submit(task)
        else:
            self.then = task
            self.engine.stop(self)

    # What the engine says (`engine.Client`).

    def waits(self, before: int) -> None:
        self.busy = {"task": "waiting", "before": before}
        self.tell("busy", **self.busy)

    def begins(self, task: tasks.Task) -> None:
        self.preview.forget(self.name)
        self.task = task
        self.busy = {"task": type(task).__name__.lower(), "before": 0}
        self.tell("busy", **self.busy)

    def told(self, what: str, values: Any) -> None:
        if what == "sharpened":
            self.preview.wish(self.name, self.path, Sharpened(values))
        elif what == "moved":
            masked = isinstance(self.task, tasks.Run) and self.task.masked
            self.preview.wish(self.name, self.path, Moved(values, masked))
        elif what == "viewed":
            self.soon()
        elif what == "progress":
            self.tell("progress", **values)
        elif isinstance(self.task, tasks.Run):
            self.tell("said", words=hidden(str(values), self.path).removeprefix("--move "))
        else:  # of networks and weights: for whoever started the server
            sys.stderr.write(f"{plain(values)}\n")

    def ended(self, task: tasks.Task, values: dict[str, Any] | None, error: RealdragError | None) -> None:
        self.preview.forget(self.name)
        self.busy = self.task = None
        then, self.then = self.then, None
        if error is not None:
            self.fail(error)
        elif values is None:
            self.tell("stopped")
        elif "file" in values:
            self.tell("ready", **values)
        elif "opens" in values:
            self.tell("opens", id=values["opens"])
        if then is None and values and values.get("invert"):
            then = tasks.Invert()
        if then is not None:
            self.submit(then)
        self.soon()

    def soon(self) -> None:
        """Send the state as it is on disk now, and whether work goes on."""
        self._later(self._refresh())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def _refresh(self) -> None:
        try:
            state = await asyncio.to_thread(described, self.work)
        except Exception as error:  # noqa: BLE001 — a damaged folder must not end the server
            sys.stderr.write(f"realdrag: session {self.name}: {error!r}\n")
            self.fail(WorkError("this session's files are damaged", "open the photo again"))
            return
        self.tell("state", state=state, busy=self.busy)

    # What a page asks for.

    def do(self, message: asked.Anything, page: Page) -> None:
        """Begin it; answers come as events."""
        match message:
            case asked.Align(face=face, box=box, whole=whole):
                choice = tasks.Align(face, box, whole)
                self.instead(tasks.Further(self._by_box(choice)) if History(self.work).current else choice)
            case asked.Invert():
                self.submit(tasks.Invert())
            case asked.Run(points=points, moves=moves, masked=masked):
                self.submit(tasks.Run(points, tuple((n, v) for n, v in moves.items() if v), masked))
            case asked.Stop():
                self.then = None
                self.engine.stop(self)
            case asked.Look(step=step, strength=strength):
                if self.busy is None and self.work.whole_drag():
                    self.preview.wish(self.name, self.path, Looked(step, strength))
            case asked.Place(step=step, strength=strength):
                self.instead(tasks.Place(step, strength))
            case asked.Undo():
                self.submit(tasks.Back(-1))
            case asked.Redo():
                self.submit(tasks.Back(1))
            case asked.Arrows(moves=moves):
                self._later(self._arrows(moves, page))
            case asked.Save(kind=kind):
                self.submit(tasks.Save(kind))
            case asked.Film(kind=kind):
                self.submit(tasks.Film(kind))
            case asked.Report():
                self.submit(tasks.Report())
            case asked.Draft(points=points, moves=moves, masked=masked):
                write_json(self.path / "draft.json", {"points": points, "moves": moves, "masked": masked})

    def _by_box(self, choice: tasks.Align) -> tasks.Align:
        """The same face by its place: an edit may have made another the largest."""
        faces = read_json(self.path / "opened.json").get("faces") or []
        if choice.face is None or choice.face > len(faces):
            return choice
        x0, y0, x1, y1 = faces[choice.face - 1]
        return tasks.Align(box=(x0, y0, x1, y1))

    async def _arrows(self, moves: dict[str, float], page: Page) -> None:
        from realdrag.placing import move_drags

        moves = {name: number for name, number in moves.items() if number}
        try:
            pairs = await asyncio.to_thread(lambda: move_drags(moves, self.work.alignment())) if moves else []
        except RealdragError as error:
            page.tell(json.dumps({"event": "failed", "error": public(error, self.path)}))
            return
        page.tell(json.dumps({"event": "arrows", "pairs": [[*handle, *target] for handle, target in pairs]}))


class Sessions:
    """Those on disk, and those that are open."""

    def __init__(self, engine: Engine, preview: Preview) -> None:
        self.engine, self.preview = engine, preview
        self.folder = sessions_folder()
        self.open = dict[str, Session]()

    def path(self, key: str) -> Path:
        """The folder of the session `key`; InputError where there is none."""
        path = self.folder / key
        if not ID.fullmatch(key) or not (path / "opened.json").is_file():
            raise InputError("there is no such session", "open a photo", code="no-session")
        return path

    def get(self, key: str) -> Session:
        """The session `key`, open."""
        if key not in self.open:
            self.open[key] = Session(key, self.path(key), self.engine, self.preview)
        return self.open[key]

    def enter(self, key: str) -> tuple[Session, Page]:
        """A page looks at it; WorkError where too many do already."""
        if sum(len(session.pages) for session in self.open.values()) >= MOST_PAGES:
            raise WorkError("too many pages are open", "close some, or try again later", code="full")
        session, page = self.get(key), Page()
        session.pages.add(page)
        session.soon()
        if session.busy is not None:
            session.tell("busy", **session.busy)
        elif (session.path / "upload.bin").is_file() and "view" not in read_json(session.path / "opened.json"):
            session.submit(tasks.Open())
        elif reached(session.work) == (True, False):
            session.submit(tasks.Invert())  # it was stopped
        (session.path / "opened.json").touch()
        return session, page

    def leave(self, session: Session, page: Page) -> None:
        """A page is closed."""
        session.pages.discard(page)
        session.left = time.monotonic()

    def sweep(self) -> None:
        """Let go of the sessions without a page; their work is stopped and stays where it was."""
        for key, session in list(self.open.items()):
            if not session.pages and time.monotonic() - session.left > GRACE:
                if session.busy is not None:
                    session.then = None
                    self.engine.stop(session)
                else:
                    self.preview.forget(key)
                    del self.open[key]

    def delete(self, key: str) -> None:
        """Forget a session and its files; InputError while it is being worked on."""
        path = self.path(key)
        session = self.open.get(key)
        if session is not None and session.busy is not None:
            raise InputError("this photo is being worked on", "stop that first", code="busy")
        self.preview.forget(key)
        if (gone := self.open.pop(key, None)) is not None:
            gone.tell("gone")
        shutil.rmtree(path, ignore_errors=True)

    def kept(self) -> list[dict[str, Any]]:
        """Those on disk, the one used last first. used: seconds since 1970."""
        return [
            {
                "id": path.name,
                "name": about.get("name"),
                "used": (path / "opened.json").stat().st_mtime,
                "edited": (path / "after.json").is_file(),
            }
            for path in self._by_use()
            if (about := read_json(path / "opened.json")).get("view")
        ]

    def _by_use(self) -> list[Path]:
        used = list[tuple[float, Path]]()
        for path in self.folder.iterdir():
            if ID.fullmatch(path.name) and (path / "opened.json").is_file():
                used.append(((path / "opened.json").stat().st_mtime, path))
        return [path for _, path in sorted(used, reverse=True)]

    def prune(self) -> None:
        """Delete those used longest ago, but for KEPT."""
        for path in self._by_use()[KEPT:]:
            if path.name not in self.open:
                shutil.rmtree(path, ignore_errors=True)


def public(error: RealdragError, path: Path) -> dict[str, str]:
    """An error as a page may see it: no folder of this machine, no flags of the command line."""
    about = error_json(error)
    hint = about["hint"] if "--" not in about["hint"] and "`" not in about["hint"] else ""
    return {"code": about["code"], "message": hidden(about["message"], path), "hint": hidden(hint, path)}


def hidden(words: str, path: Path) -> str:
    """`words` without the places of files."""
    words = words.replace(f"{path}: ", "").replace(str(path), "the session")
    return words.replace(str(home()), "…")
