"""`realdrag serve`: binds, says where, opens the browser, and serves until Ctrl-C."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import signal
import socket
import sys
import threading
import webbrowser

import uvicorn

from realdrag.errors import InputError
from realdrag.values import Photo
from realdrag.web.app import App
from realdrag.web.engine import Machine
from realdrag.web.folder import new_session

PORTS = range(8765, 8785)  # tried in turn where none is named
MOST_MESSAGE = 1 << 20  # bytes of a WebSocket message: 200 points take 20 kB


def run(machine: Machine, photo: Photo | None, host: str, port: int | None, show: bool) -> None:
    """Serve until interrupted. photo: opened at once. show: in the user's browser."""
    listener = bound(host, port)
    token = None if is_local(host) else secrets.token_urlsafe(24)
    port = listener.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}/"
    app = App(machine)
    server = uvicorn.Server(
        uvicorn.Config(
            app.build(token),
            log_level="warning",
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=MOST_MESSAGE,
            limit_concurrency=400,
            timeout_graceful_shutdown=2,
            server_header=False,
        )
    )
    opened = "" if photo is None else f"#{new_session(photo.name, photo.data)}"
    start = f"{address}{f'?token={token}' if token else ''}{opened}"
    sys.stderr.write(f"realdrag: the editor is at {start} (Ctrl-C ends it)\n")
    if token:
        sys.stderr.write("realdrag: whoever has this address can see and edit all photos in this editor\n")
    if show:
        threading.Timer(0.5, webbrowser.open, (start,)).start()
    # uvicorn ends well, then raises the signal again: that would leave the engine's semaphores behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server.run(sockets=[listener])


def is_local(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int | None) -> socket.socket:
    """A socket on the port, or on the first free one of PORTS; InputError where there is none."""
    fault: OSError | None = None
    for one in PORTS if port is None else (port,):
        try:
            family, kind, *_, address = socket.getaddrinfo(host, one, type=socket.SOCK_STREAM)[0]
            with contextlib.ExitStack() as failing:
                listener = failing.enter_context(socket.socket(family, kind))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                failing.pop_all()
        except (OSError, OverflowError) as error:
            fault = error if isinstance(error, OSError) else OSError(str(error))
            continue
        listener.listen(128)
        return listener
    words = f"port {port}" if port is not None else f"ports {PORTS[0]} to {PORTS[-1]}"
    why = fault.strerror or fault if fault else "?"
    raise InputError(f"{host}, {words}: cannot be listened on: {why}", "give another --port or --host", code="port")
