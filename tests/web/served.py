"""A real server on a real port, with the smallest settings, and a page's side of its protocol."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

CODE = "from realdrag.cli import main; main()"
# As the other tests' smallest settings, but with landmarks, for moves and snapping.
QUICK = """
[align]
detector = "embedded"
[inversion]
perceptual = "embedded"
steps_w = 2
steps_w_plus = 3
tune_steps = 2
[drag]
max_steps = 25
"""


class Server:
    """`realdrag serve` in a process of its own."""

    def __init__(self, home: Path, *flags: str) -> None:
        self.home, self.flags = home, flags
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", CODE, "serve", "--no-open", "--port", "0", *self.flags]
        self.log = (self.home.parent / "serve.log").open("w+b")
        self.process = subprocess.Popen(command, stderr=self.log, env=os.environ | environment(self.home))
        deadline = time.monotonic() + 60
        while "the editor is at " not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, "it does not start"
            time.sleep(0.05)
        self.address = self.said().partition("the editor is at ")[2].split()[0]
        self.base = self.address.partition("?")[0].partition("#")[0].rstrip("/")
        while True:
            try:
                httpx.get(self.base)
                return
            except httpx.TransportError:
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.05)

    def said(self) -> str:
        """What it has written so far."""
        return (self.home.parent / "serve.log").read_text()

    def stop(self, how: int = signal.SIGINT) -> int:
        """End it; its exit code."""
        self.process.send_signal(how)
        self.log.close()
        return self.process.wait(30)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request as the server's own page makes it."""
        headers = {"origin": self.base} | options.pop("headers", {})
        return httpx.request(method, self.base + path, headers=headers, timeout=60, **options)

    def upload(self, file: Path) -> str:
        """A new session's id."""
        answer = self.ask("POST", f"/api/sessions?name={file.name}", content=file.read_bytes())
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    @contextmanager
    def live(self, key: str) -> Iterator[Page]:
        """A page that looks at a session."""
        address = f"{self.base.replace('http', 'ws')}/api/sessions/{key}/live"
        with connect(address, origin=self.base, max_size=None) as socket:  # type: ignore[arg-type]
            yield Page(socket)


class Page:
    """What a page gets and asks."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames = list[dict[str, Any]]()
        self.events = list[dict[str, Any]]()

    def ask(self, **message: Any) -> None:
        """Send a message."""
        self.socket.send(json.dumps(message))

    def until(self, wanted: Callable[[dict[str, Any]], object], seconds: float = 60) -> dict[str, Any]:
        """The next event that is `wanted`; pictures on the way are kept."""
        deadline = time.monotonic() + seconds
        while True:
            got = self.socket.recv(timeout=max(deadline - time.monotonic(), 0.01))
            if isinstance(got, bytes):
                (length,) = struct.unpack("<I", got[:4])
                self.frames.append(json.loads(got[4 : 4 + length]) | {"picture": got[4 + length :]})
                continue
            event = json.loads(got)
            self.events.append(event)
            if wanted(event):
                return dict(event)

    def idle(self, wanted: Callable[[dict[str, Any]], object] = lambda state: True) -> dict[str, Any]:
        """The state once nothing is being done, and it is as `wanted`."""
        return dict(self.until(lambda e: e["event"] == "state" and e["busy"] is None and wanted(e["state"]))["state"])

    def fails(self) -> dict[str, str]:
        """The error that comes next, once its state has come too."""
        error = self.until(lambda event: event["event"] == "failed")["error"]
        self.idle()
        return dict(error)

    def ready(self) -> dict[str, Any]:
        """The state once the face can be dragged."""
        return self.idle(lambda state: state["inverted"])


def environment(home: Path) -> dict[str, str]:
    """A user of their own, who has no network."""
    root = home.parent
    home.mkdir(parents=True, exist_ok=True)
    (root / "quick.toml").write_text(QUICK)
    from realdrag.network import SITES, address

    hosts = {"{}:{}".format(*address(site)): [time.time(), "tests have no network"] for site in SITES}
    (home / "network.json").write_text(json.dumps(hosts))
    return {
        "REALDRAG_HOME": str(home),
        "REALDRAG_CONFIG": str(root / "quick.toml"),
        "TORCH_HOME": str(root / "torch"),
        "XDG_CACHE_HOME": str(root / "cache"),
    }
