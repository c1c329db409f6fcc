"""The routes: one page, its files, the sessions' pictures, and a WebSocket for each page."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi import Path as PathPart
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from realdrag.errors import InputError, RealdragError, WorkError, failure_of
from realdrag.terminal import plain
from realdrag.web.engine import Engine, Machine
from realdrag.web.folder import KINDS, new_session, put_mask
from realdrag.web.guard import Guard
from realdrag.web.messages import MESSAGE
from realdrag.web.preview import Preview
from realdrag.web.sessions import Page, Session, Sessions, public

STATIC = Path(__file__).parent / "static"
MOST_BYTES = 100 << 20  # of a photo
MOST_MASK_BYTES = 16 << 20
MOST_UPLOADS = 4  # at once
UPLOAD_SECONDS, CHUNK_SECONDS = 300.0, 20.0  # for all of an upload, and for its next part
SWEEP_SECONDS = 2.0
STATUS = {"no-session": 404, "too-large": 413, "full": 503, "busy": 409, "slow": 408}
# What a page may fetch of a session → the file.
FILES = {
    "view": "view.jpg",
    "after": "after.png",
    "aligned": "aligned.png",
    "inverted": "inverted.png",
    "mask": "draft-mask.png",
    "report": "report.png",
    "recipe": "recipe.toml",
    "film-gif": "film.gif",
    "film-mp4": "film.mp4",
    "film-png": "film.png",
    **{f"edited-{kind}": name for kind, name in KINDS.items()},
}

Key = Annotated[str, PathPart(pattern="^[0-9a-f]{32}$")]


class App:
    """The server's parts, and the routes on them."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.uploads = 0
        self.sessions: Sessions

    def build(self, token: str | None) -> Guard:
        """The ASGI application."""
        routes = FastAPI(lifespan=self._life, docs_url=None, redoc_url=None, openapi_url=None)
        routes.add_exception_handler(RealdragError, self._failed)
        routes.add_exception_handler(Exception, self._failed)
        routes.add_exception_handler(HTTPException, self._not_found)
        routes.add_exception_handler(RequestValidationError, self._not_found)
        routes.get("/")(self._page)
        routes.get("/api/sessions")(self._list)
        routes.post("/api/sessions", status_code=201)(self._upload)
        routes.delete("/api/sessions/{key}")(self._delete)
        routes.get("/api/sessions/{key}/{what}")(self._file)
        routes.put("/api/sessions/{key}/mask")(self._mask)
        routes.websocket("/api/sessions/{key}/live")(self._live)
        routes.mount("/static", StaticFiles(directory=STATIC))
        return Guard(routes, token)

    @contextlib.asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        engine = Engine(self.machine)

        def drawn(key: str, frame: bytes) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(show, key, frame)

        def show(key: str, frame: bytes) -> None:
            if (session := self.sessions.open.get(key)) is not None:
                for page in session.pages:
                    page.show(frame)

        preview = Preview(replace(self.machine, threads=None).editor(), drawn)
        self.sessions = Sessions(engine, preview)
        engine.start()
        preview.start()
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            preview.close()
            engine.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sessions.sweep()

    async def _page(self) -> FileResponse:
        return FileResponse(STATIC / "index.html")

    async def _list(self) -> list[dict[str, Any]]:
        return self.sessions.kept()

    async def _upload(self, request: Request, name: str = "photo") -> dict[str, str]:
        """The body is the file; `name` is shown, and is no path."""
        if self.uploads >= MOST_UPLOADS:
            raise WorkError("other photos are being uploaded", "try again in a moment", code="full")
        self.uploads += 1
        try:
            data = await body(request, MOST_BYTES)
        finally:
            self.uploads -= 1
        key = await asyncio.to_thread(new_session, plain(name)[-200:], data)
        self.sessions.prune()
        return {"id": key}

    async def _delete(self, key: Key) -> Response:
        self.sessions.delete(key)
        return Response(status_code=204)

    async def _file(self, key: Key, what: str) -> FileResponse:
        file = self.sessions.path(key) / FILES.get(what, "")
        if what not in FILES or not file.is_file():
            raise InputError("there is no such file", code="no-session")
        return FileResponse(file)

    async def _mask(self, key: Key, request: Request) -> Response:
        session = self.sessions.get(key)
        data = await body(request, MOST_MASK_BYTES)
        await asyncio.to_thread(put_mask, session.work, data)
        return Response(status_code=204)

    async def _live(self, socket: WebSocket, key: str) -> None:
        try:
            session, page = self.sessions.enter(key)
        except RealdragError as error:
            await socket.accept()
            await socket.close(4404 if error.code == "no-session" else 4503, error.message)
            return
        await socket.accept()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(send(socket, page))
                both.create_task(receive(socket, session, page))
        except* (WebSocketDisconnect, RuntimeError, WorkError):  # gone, or too slow; RuntimeError: sent after the end
            pass
        finally:
            self.sessions.leave(session, page)

    async def _failed(self, request: Request, error: Exception) -> JSONResponse:
        # What is none of ours is logged by the server, and not told to strangers.
        failure = error if isinstance(error, RealdragError) else WorkError("the server failed")
        status = STATUS.get(failure.code, 400 if isinstance(failure, InputError) else 500)
        return JSONResponse({"error": public(failure, self.sessions.folder)}, status)

    async def _not_found(self, request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return JSONResponse({"error": {"code": "no-page", "message": "there is no such page", "hint": ""}}, status)


async def body(request: Request, most: int) -> bytes:
    """All of a request's body; an error for one that is too large or too slow, as soon as that is known."""
    too_large = InputError("the file is too large", f"at most {most >> 20} MB are taken", code="too-large")
    if int(request.headers.get("content-length") or 0) > most:
        raise too_large
    parts, size, stream = list[bytes](), 0, aiter(request.stream())
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            while True:
                async with asyncio.timeout(CHUNK_SECONDS):
                    part = await anext(stream)
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except StopAsyncIteration:
        pass
    except TimeoutError as error:
        raise InputError("the upload takes too long", "try again", code="slow") from error
    except ClientDisconnect as error:
        raise InputError("the upload was broken off", "try again", code="slow") from error
    if not size:
        raise InputError("the file is empty", "choose a photo")
    return b"".join(parts)


async def send(socket: WebSocket, page: Page) -> None:
    """Events and pictures to the page, as fast as it takes them."""
    while True:
        news = await page.next()
        await (socket.send_text(news) if isinstance(news, str) else socket.send_bytes(news))


async def receive(socket: WebSocket, session: Session, page: Page) -> None:
    """What the page asks for."""
    while True:
        text = await socket.receive_text()
        try:
            message = MESSAGE.validate_json(text)
        except ValidationError:
            session.fail(InputError("the page and the server do not fit together", "reload the page", code="message"))
            continue
        try:
            session.do(message, page)
        except Exception as error:  # noqa: BLE001 — one message that fails must not end the page's others
            if not isinstance(error, RealdragError):
                traceback.print_exc(file=sys.stderr)
            session.fail(failure_of(error))
