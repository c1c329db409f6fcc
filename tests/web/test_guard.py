"""Who is let in, and who is not."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from realdrag.web.guard import Guard
from realdrag.web.server import is_local

LOCAL = "http://127.0.0.1:8765"


async def anything(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers everything."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"secret"})


def ask(method: str, url: str, token: str | None = None, **options: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=Guard(anything, token))
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.request(method, url, **options)

    return asyncio.run(call())


def socket(headers: dict[str, str], token: str | None = None) -> str:
    """What a WebSocket with these headers is answered: the type of the first message."""
    sent = list[dict[str, Any]]()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(Guard(anything, token)(scope, None, send))  # type: ignore[arg-type]
    return str(sent[0]["type"])


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765", "localhost"])
def test_this_machine_may_look(host: str) -> None:
    answer = ask("GET", f"{LOCAL}/", headers={"host": host})
    assert (answer.status_code, answer.text) == (200, "secret")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "192.168.1.7"],
)
def test_a_name_that_was_made_to_point_here_gets_nothing(host: str) -> None:
    """DNS rebinding: the browser thinks it talks to evil.example, whose address is now 127.0.0.1."""
    answer = ask("GET", f"{LOCAL}/", headers={"host": host})
    assert answer.status_code == 421
    assert "secret" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://127.0.0.1",
        "https://127.0.0.1:8765.evil.example",
        None,
    ],
)
def test_other_sites_pages_change_nothing(method: str, origin: str | None) -> None:
    answer = ask(method, f"{LOCAL}/", headers={} if origin is None else {"origin": origin})
    assert answer.status_code == 403


def test_its_own_page_may_change_things() -> None:
    assert ask("POST", f"{LOCAL}/", headers={"origin": LOCAL}).status_code == 200


def test_other_sites_pages_open_no_socket() -> None:
    own = {"host": "127.0.0.1:8765", "origin": LOCAL}
    assert socket(own) == "websocket.accept"
    assert socket(own | {"origin": "http://evil.example"}) == "websocket.close"
    assert socket({"host": "127.0.0.1:8765"}) == "websocket.close"
    assert socket({"host": "evil.example", "origin": "http://evil.example"}) == "websocket.close"


def test_a_token_is_asked_for_and_taken_once() -> None:
    there = "http://box.lan:8765"
    assert ask("GET", f"{there}/", "right").status_code == 401
    assert ask("GET", f"{there}/?token=wrong", "right").status_code == 401
    assert ask("GET", f"{there}/", "right", headers={"cookie": "realdrag=wrong"}).status_code == 401
    let_in = ask("GET", f"{there}/?token=right", "right")
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert ask("GET", f"{there}/", "right", headers={"cookie": "realdrag=right"}).text == "secret"
    assert socket({"host": "box.lan", "origin": "http://box.lan"}, "right") == "websocket.close"
    known = {"host": "box.lan", "origin": "http://box.lan", "cookie": "realdrag=right"}
    assert socket(known, "right") == "websocket.accept"
    assert socket(known | {"origin": "http://evil.example"}, "right") == "websocket.close"


def test_a_token_means_nothing_where_none_is_needed() -> None:
    assert ask("GET", f"{LOCAL}/?token=x").status_code == 401
    assert ask("GET", f"{LOCAL}/?token=").status_code == 200


def test_answers_tell_browsers_to_keep_others_out() -> None:
    for answer in (ask("GET", f"{LOCAL}/"), ask("GET", f"{LOCAL}/", headers={"host": "evil.example"})):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.1.7", False), ("box.lan", False), ("", False)),
    ],
)
def test_only_loopback_needs_no_token(host: str, local: bool) -> None:
    assert is_local(host) is local
