"""A download is whole or not there, and a network that is not there costs little, once."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from realdrag import network
from realdrag.errors import WorkError
from realdrag.network import Offline, fetch
from realdrag.progress import Silent

BODY = bytes(range(256)) * 9000
SHA = hashlib.sha256(BODY).hexdigest()


class Told(Silent):
    """Keeps what was said and shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []
        self.open = 0

    def say(self, message: str) -> None:
        self.lines.append(message)

    def begin(self, name: str, total: int) -> None:
        self.open += 1
        self.total = total

    def step(self, done: int, note: str = "") -> None:
        self.steps.append(done)

    def end(self) -> None:
        self.open -= 1


class Server(ThreadingHTTPServer):
    """Answers `/file` with BODY, `/short` with half of it, others with 404; keeps the paths asked for."""

    daemon_threads = True
    asked: list[str]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path not in ("/file", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY if self.path == "/file" else BODY[: len(BODY) // 2])

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own; no proxies and no hosts that are really out there."""
    monkeypatch.setenv("REALDRAG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(network, "SITES", ())
    return tmp_path / "home"


@pytest.fixture
def black_hole(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Looking up a name never ends, whatever time limit a socket has; the names looked up."""
    tried: list[str] = []

    def hang(host: str, *_: object, **__: object) -> None:
        tried.append(host)
        time.sleep(5)
        raise socket.gaierror("never")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(network, "PROBE_S", 0.3)
    return tried


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_file_comes_whole_with_progress_and_only_once(server: Server, tmp_path: Path) -> None:
    told = Told()
    folder = tmp_path / "new" / "folder"
    path = fetch(server.url("file"), folder, "name.pth", SHA[:8], told)
    assert path == folder / "name.pth"
    assert path.read_bytes() == BODY
    assert told.lines == ["fetching file, 2 MB, once"]
    assert told.total == len(BODY)
    assert told.steps[-1] == len(BODY)
    assert told.open == 0
    fetch(server.url("file"), folder, "name.pth", SHA[:8], told)
    assert server.asked == ["/file"]
    assert [p.name for p in folder.iterdir()] == ["name.pth"]


def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=f"sha256 begins with {SHA[:16]}, not 00000000"):
        fetch(server.url("file"), tmp_path / "to", "name", "00000000", Silent())
    assert not list((tmp_path / "to").iterdir())


def test_a_connection_lost_leaves_nothing_and_is_tried_again(server: Server, tmp_path: Path) -> None:
    told = Told()
    for n in (1, 2):
        with pytest.raises(WorkError, match="connection was lost"):
            fetch(server.url("short"), tmp_path / "to", "name", SHA[:8], told)
        assert len(server.asked) == n
    assert told.open == 0
    assert not list((tmp_path / "to").iterdir())


def test_a_kill_leaves_no_half_file_under_the_name(server: Server, tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from realdrag import network
network.SITES = ()
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
network.write_whole = lambda *_: None
from realdrag.progress import Silent
network.fetch({server.url("file")!r}, Path({str(tmp_path)!r}) / "to", "name", {SHA[:8]!r}, Silent())
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode != 0
    (part,) = (tmp_path / "to").iterdir()
    assert part.name != "name"
    old = time.time() - 2 * network.ABANDONED_S
    os.utime(part, (old, old))
    fetch(server.url("file"), tmp_path / "to", "name", SHA[:8], Silent())
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["name"]


def test_an_http_error_is_remembered_until_forgotten(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(WorkError, match="HTTP 404") as caught:
            fetch(server.url("none"), tmp_path, "name", "", Silent())
        assert not isinstance(caught.value, Offline)
    assert server.asked == ["/none"]
    network.forget_offline()
    with pytest.raises(WorkError, match="HTTP 404"):
        fetch(server.url("none"), tmp_path, "name", "", Silent())
    assert server.asked == ["/none"] * 2


def test_a_black_hole_costs_its_limit_once(
    black_hole: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "SITES", ("https://one.invalid/", "https://two.invalid/"))
    start = time.monotonic()
    for host in ("one", "two", "one"):
        with pytest.raises(Offline, match="no answer"):
            fetch(f"https://{host}.invalid/file", tmp_path, "name", "", Silent())
    assert time.monotonic() - start < 1.0  # one limit for all, not one each
    assert sorted(black_hole) == ["one.invalid", "two.invalid"]


def test_what_is_remembered_ends_after_a_day_or_when_forgotten(
    black_hole: list[str], home: Path, tmp_path: Path
) -> None:
    def attempt() -> None:
        with pytest.raises(Offline):
            fetch("https://one.invalid/file", tmp_path, "name", "", Silent())

    attempt()
    attempt()
    assert len(black_hole) == 1
    memory = json.loads((home / "network.json").read_bytes())
    memory["one.invalid:443"][0] -= network.REMEMBERED_S
    (home / "network.json").write_text(json.dumps(memory))
    attempt()
    assert len(black_hole) == 2
    network.forget_offline()
    attempt()
    assert len(black_hole) == 3
    (home / "network.json").write_bytes(b"\xff nonsense")
    attempt()
    assert len(black_hole) == 4


def test_a_refusal_is_reported_at_once_beside_a_black_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def hang(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.invalid":
            time.sleep(5)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(network, "SITES", ("https://slow.invalid/",))
    start = time.monotonic()
    with pytest.raises(Offline, match="efused"):
        fetch(f"http://127.0.0.1:{closed_port()}/file", tmp_path, "name", "", Silent())
    assert time.monotonic() - start < 1.0


def test_a_reachable_host_is_not_held_up_by_another(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(one: network.Address, inbox: Any) -> None:
        if one[0] == "slow.invalid":
            time.sleep(5)
        inbox.put((one, ""))

    monkeypatch.setattr(network, "_connect", hang)
    monkeypatch.setattr(network, "SITES", ("https://slow.invalid/",))
    start = time.monotonic()
    fetch(server.url("file"), tmp_path, "name", SHA[:8], Silent())
    assert time.monotonic() - start < 2.0


@pytest.mark.parametrize(
    ("environment", "want"),
    [
        ({}, ("host.invalid", 443)),
        ({"https_proxy": "http://proxy.invalid:3128"}, ("proxy.invalid", 3128)),
        ({"ALL_PROXY": "proxy.invalid:81"}, ("proxy.invalid", 81)),
        ({"https_proxy": "http://proxy.invalid:3128", "no_proxy": "host.invalid"}, ("host.invalid", 443)),
    ],
)
def test_the_proxy_is_tried_where_there_is_one(
    environment: dict[str, str], want: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert network.address("https://host.invalid/file") == want


def test_recheck_forgets_what_can_be_reached_again(
    server: Server, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = f"http://127.0.0.1:{closed_port()}/"
    monkeypatch.setattr(network, "SITES", (server.url(""), dead))
    home.mkdir()
    alive = f"127.0.0.1:{server.server_port}"
    (home / "network.json").write_text(json.dumps({alive: [time.time(), "was down"]}))
    with pytest.raises(Offline, match="was down"):
        fetch(server.url("file"), tmp_path, "name", SHA[:8], Silent())
    answers = network.recheck()
    assert answers[network.address(server.url(""))] == ""
    assert "efused" in answers[network.address(dead)]
    fetch(server.url("file"), tmp_path, "name", SHA[:8], Silent())


def test_a_home_that_cannot_be_written_only_costs_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REALDRAG_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(Offline):
        fetch(f"http://127.0.0.1:{closed_port()}/file", tmp_path, "name", "", Silent())


def test_a_folder_that_cannot_be_written_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="TORCH_HOME"):
        fetch(server.url("file"), tmp_path / "file" / "folder", "name", SHA[:8], Silent())
