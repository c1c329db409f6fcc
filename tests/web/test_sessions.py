"""The queue, and what is kept of sessions, without a process behind them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realdrag.errors import InputError, RealdragError, WorkError
from realdrag.settings import Settings
from realdrag.web import sessions as kept
from realdrag.web import tasks
from realdrag.web.engine import MOST_WAITING, Engine, Machine
from realdrag.web.folder import new_session
from realdrag.web.messages import Draft, Run
from realdrag.web.preview import Preview
from realdrag.web.sessions import KEPT, MOST_EVENTS, MOST_PAGES, Page, Session, Sessions, public
from realdrag.web.tasks import Teller


class Pipe:
    """Takes what the engine is sent."""

    def __init__(self) -> None:
        self.sent = list[tuple[Path, tasks.Task]]()

    def send(self, job: tuple[Path, tasks.Task]) -> None:
        self.sent.append(job)


class Flag:
    """The stop flag."""

    def __init__(self) -> None:
        self.on = False

    def set(self) -> None:
        self.on = True

    def clear(self) -> None:
        self.on = False


class Asker:
    """A client that notes what it hears."""

    def __init__(self, name: str) -> None:
        self.path, self.heard = Path(name), list[Any]()

    def waits(self, before: int) -> None:
        self.heard.append(before)

    def begins(self, task: tasks.Task) -> None:
        self.heard.append("begins")

    def told(self, what: str, values: Any) -> None:
        self.heard.append(what)

    def ended(self, task: tasks.Task, values: Any, error: RealdragError | None) -> None:
        self.heard.append("stopped" if values is None and error is None else "ended")


@pytest.fixture
def engine() -> Engine:
    made = Engine(Machine(None, Settings(), "cpu", 1, "fp32"))
    made.pipe, made.stop_now, made.alive = Pipe(), Flag(), True  # type: ignore[assignment]
    return made


def order(engine: Engine) -> list[str]:
    """Whose tasks were sent to the process."""
    return [path.name for path, _ in engine.pipe.sent]  # type: ignore[attr-defined]


def test_sessions_take_turns(engine: Engine) -> None:
    """One that asks again and again waits behind each other one."""
    greedy, others = Asker("greedy"), [Asker(name) for name in "abc"]
    engine.submit(greedy, tasks.Invert())
    for other in others:
        engine.submit(other, tasks.Invert())
    for _ in range(3):
        client, _ = engine.now  # type: ignore[misc]
        engine._heard("ended", ({}, None))
        if client is greedy:
            engine.submit(greedy, tasks.Invert())
    assert order(engine) == ["greedy", "a", "b", "c"]
    assert others[2].heard == [3, 2, 2, 1, "begins"]
    engine._heard("ended", ({}, None))
    assert order(engine)[-1] == "greedy"


def test_one_task_of_a_session_at_a_time_and_not_too_many_of_all(engine: Engine) -> None:
    first, second = Asker("first"), Asker("second")
    engine.submit(first, tasks.Invert())
    engine.submit(second, tasks.Invert())
    for client in (first, second):
        with pytest.raises(WorkError, match="being worked on"):
            engine.submit(client, tasks.Invert())
    for i in range(MOST_WAITING - 1):
        engine.submit(Asker(str(i)), tasks.Invert())
    with pytest.raises(WorkError, match="too many"):
        engine.submit(Asker("last"), tasks.Invert())


def test_a_stop_takes_a_task_out_of_the_queue_or_ends_it(engine: Engine) -> None:
    first, second = Asker("first"), Asker("second")
    engine.submit(first, tasks.Invert())
    engine.submit(second, tasks.Invert())
    engine.stop(second)
    assert second.heard[-1] == "stopped"
    assert not engine.stop_now.on  # type: ignore[attr-defined]
    engine.stop(first)
    assert engine.stop_now.on  # type: ignore[attr-defined]
    engine._heard("ended", (None, None))
    assert first.heard[-1] == "stopped"
    engine.submit(second, tasks.Invert())
    assert not engine.stop_now.on, "the next task is not stopped with it"  # type: ignore[attr-defined]


def test_a_stop_interrupts_all_but_a_drag() -> None:
    teller = Teller(lambda *_: None, lambda: True)
    teller.begin("w", 10)
    with pytest.raises(KeyboardInterrupt):
        teller.step(1)
    teller.breaks = False
    teller.step(2)


def test_the_time_left_counts_what_is_still_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], list[Any]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    teller = Teller(lambda what, values: told.append(values), lambda: False)
    teller.plan = {"w": 10, "w+": 40, "tune": 50}
    teller.begin("w", 10)
    now[0] = 5.0
    teller.step(5)
    assert told[-1]["left"] == pytest.approx(95)
    teller.begin("w+", 40)
    now[0] = 45.0
    teller.step(40)
    assert told[-1]["left"] == pytest.approx(50)


# Sessions.


class Nobody:
    """An engine and a preview that do nothing."""

    def submit(self, *_: Any) -> None: ...

    def stop(self, *_: Any) -> None: ...

    def forget(self, *_: Any) -> None: ...

    def wish(self, *_: Any) -> None: ...


@pytest.fixture
def sessions(own_home: Path) -> Sessions:
    return Sessions(Nobody(), Nobody())  # type: ignore[arg-type]


def test_the_sessions_used_last_are_kept(sessions: Sessions, own_home: Path) -> None:
    keys = [new_session("a.png", b"x") for _ in range(KEPT + 3)]
    for age, key in enumerate(keys):
        os.utime(own_home / "sessions" / key / "opened.json", (1e9 + age, 1e9 + age))
    sessions.get(keys[0])  # open: it stays
    sessions.prune()
    assert {path.name for path in (own_home / "sessions").iterdir()} == {keys[0], *keys[3:]}


@pytest.mark.parametrize("key", ["", "..", "../x", "0" * 31, "0" * 33, "G" * 32, "0" * 32])
def test_a_session_is_known_by_nothing_but_its_id(sessions: Sessions, key: str) -> None:
    with pytest.raises(InputError, match="no such session"):
        sessions.path(key)


def test_sessions_without_a_page_are_let_go(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        key = new_session("a.png", b"x")
        session, page = sessions.enter(key)
        sessions.sweep()
        assert key in sessions.open
        sessions.leave(session, page)
        sessions.sweep()
        assert key in sessions.open, "a reload takes a moment"
        session.left -= kept.GRACE + 1
        session.busy = {"task": "invert"}
        stopped = list[Session]()
        monkeypatch.setattr(sessions.engine, "stop", stopped.append, raising=False)
        sessions.sweep()
        assert stopped == [session]
        session.ended(tasks.Invert(), None, None)
        sessions.sweep()
        assert not sessions.open
        await asyncio.gather(*session.background)

    asyncio.run(story())


def test_pages_are_counted(sessions: Sessions) -> None:
    async def story() -> None:
        key = new_session("a.png", b"x")
        for _ in range(MOST_PAGES):
            sessions.enter(key)
        with pytest.raises(WorkError, match="too many pages"):
            sessions.enter(key)
        await asyncio.gather(*sessions.open[key].background)

    asyncio.run(story())


def test_a_page_that_reads_too_slowly_is_let_go_and_takes_no_memory() -> None:
    async def story() -> None:
        page = Page()
        for i in range(1000):
            page.show(bytes([i % 256]))
        assert await page.next() == bytes([999 % 256]), "only the latest picture is kept"
        for i in range(MOST_EVENTS + 1):
            page.tell(str(i))
        with pytest.raises(WorkError):
            await page.next()

    asyncio.run(story())


def test_errors_say_nothing_of_this_machine(own_home: Path) -> None:
    path = own_home / "sessions" / "x"
    seen = public(InputError(f"{path}: drag was not run", f"run `realdrag drag -w {path}`"), path)
    assert seen == {"code": "input", "message": "drag was not run", "hint": ""}
    seen = public(WorkError(f"cannot write {own_home / 'latents'}: no space left", "make room"), path)
    assert str(own_home) not in seen["message"]
    assert seen["hint"] == "make room"


def test_a_draft_is_kept(sessions: Sessions) -> None:
    key = new_session("a.png", b"x")
    session = sessions.get(key)
    session.do(Draft(do="draft", points=((1, 2, 3, 4),), masked=True), Page())
    assert json.loads((session.path / "draft.json").read_text())["points"] == [[1, 2, 3, 4]]


def test_moves_at_zero_are_no_moves(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Any]()
    monkeypatch.setattr(sessions.engine, "submit", lambda client, task: asked.append(task), raising=False)
    session = sessions.get(new_session("a.png", b"x"))
    session.do(Run(do="drag", moves={"smile": 0.5, "turn": 0}), Page())
    assert asked == [tasks.Run((), (("smile", 0.5),), False)]


def test_a_preview_draws_the_latest_wish_of_each_and_outlives_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = list[tuple[str, bytes]]()
    from realdrag.api import Editor

    preview = Preview(Editor(), lambda session, frame: drawn.append((session, frame)))

    def draw(session: str, path: Path, wish: Any) -> bytes:
        if wish == "fails":
            raise ValueError("a picture that cannot be")
        return str(wish).encode()

    preview._draw = draw  # type: ignore[method-assign]
    for wish in (1, 2, 3):
        preview.wish("a", tmp_path, wish)  # type: ignore[arg-type]
    preview.wish("b", tmp_path, "fails")  # type: ignore[arg-type]
    preview.wish("c", tmp_path, 4)  # type: ignore[arg-type]
    preview.wish("d", tmp_path, 5)  # type: ignore[arg-type]
    preview.forget("d")
    preview.start()
    deadline = time.monotonic() + 30
    while len(drawn) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    preview.close()
    assert drawn == [("a", b"3"), ("c", b"4")]
    assert "a picture that cannot be" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
