"""Who may ask: a page of this server's own, on a host name that is this server's, with the token where one is needed.

A page of any site can send requests to 127.0.0.1, and one whose name was made to point there (DNS rebinding) could also
read the answers. Browsers tell both apart by `Host` and `Origin`.
"""

from __future__ import annotations

import hmac
import json
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost", "::1")
COOKIE = "realdrag"
SAFE = ("GET", "HEAD")
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware. token: None where only this machine can reach the server."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what may pass, with the headers that keep other sites out."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["type"] == "http" and (words := parse_qs(scope["query_string"].decode("latin-1")).get("token")):
            await self._let_in(words[0], scope, send)
            return
        if (refused := self._refusal(scope, headers)) is not None:
            await refuse(scope, send, *refused)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.decode("latin-1") not in HEADERS]
                message = {**message, "headers": [*kept, *encoded(HEADERS)]}
            await send(message)

        await self.app(scope, receive, marked)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and words, or None."""
        host = headers.get("host", "")
        if self.token is None and hostname(host) not in LOCAL:
            return 421, "this server answers to 127.0.0.1 and localhost only"
        if self.token is not None and not self._known(headers):
            return 401, "open the address with the token that `realdrag serve` printed"
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE
        if changes and not same_origin(headers.get("origin", ""), host):
            return 403, "requests that change something must come from this server's own page"
        return None

    def _known(self, headers: Headers) -> bool:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        given = cookies[COOKIE].value if COOKIE in cookies else ""
        return self._right(given)

    def _right(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    async def _let_in(self, given: str, scope: Scope, send: Send) -> None:
        """Swaps the token in an address for a cookie, so that it stays in no history and no bookmark."""
        if not self._right(given):
            await refuse(scope, send, 401, "the token is another one")
            return
        cookie = f"{COOKIE}={given}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"
        found = {"location": scope["path"], "set-cookie": cookie, **HEADERS}
        await send({"type": "http.response.start", "status": 303, "headers": encoded(found)})
        await send({"type": "http.response.body", "body": b""})


def hostname(host: str) -> str:
    """The name in a `Host` header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def same_origin(origin: str, host: str) -> bool:
    """Whether the page at `origin` was this server's."""
    return bool(host) and origin in (f"http://{host}", f"https://{host}")


async def refuse(scope: Scope, send: Send, status: int, words: str) -> None:
    """An error as the routes give it; a WebSocket is not opened."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": words})
        return
    body = json.dumps({"error": {"code": "refused", "message": words, "hint": ""}}).encode()
    about = {"content-type": "application/json", "content-length": str(len(body)), **HEADERS}
    await send({"type": "http.response.start", "status": status, "headers": encoded(about)})
    await send({"type": "http.response.body", "body": body})


def encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """As ASGI has them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
