"""Fetching a public model: whole, or to be gone on with, and the same file ever after."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from realdrag import conversion, download, library
from realdrag.errors import InputError, WorkError
from realdrag.library import Entry, pull
from realdrag.network import Offline
from realdrag.progress import Silent

BODY = b"\x80\x04" + random.Random(0).randbytes(3_000_000)
OTHER = b"\x80\x04" + random.Random(1).randbytes(3_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
CUT = 2_000_000


class Told(Silent):
    """Keeps what was said and shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []
        self.open = self.total = 0

    def say(self, message: str) -> None:
        self.lines.append(message)

    def begin(self, name: str, total: int) -> None:
        self.open, self.total = self.open + 1, total

    def step(self, done: int, note: str = "") -> None:
        self.steps.append(done)

    def end(self) -> None:
        self.open -= 1


class Server(ThreadingHTTPServer):
    """Serves `body` at /model.pkl. ranges: it knows Range; if_range: and If-Range; cuts: after how many bytes of each
    answer to hang up; asked: the Range of each request. gate: answers wait for it.
    """

    daemon_threads = True
    body, etag, modified = BODY, '"one"', ""
    status, kind, length = 200, "application/octet-stream", True
    ranges = if_range = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def entry(self) -> Entry:
        url = f"http://127.0.0.1:{self.server_port}/model.pkl"
        return Entry("things-8", "things", 8, url, 3, "CC0", "letterbox", "a note")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        server.asked.append(asked)
        server.gate.wait(20)
        validator = self.headers.get("If-Range", "")
        same = validator in (server.etag, server.modified) or not server.if_range
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges and same else 0
        body = server.body[start:]
        status = server.status
        if start:
            status = 206 if body else 416
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        for name, value in (("ETag", server.etag), ("Last-Modified", server.modified), ("Content-Type", server.kind)):
            if value:
                self.send_header(name, value)
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a page is refused after its first bytes
            self.wfile.write(body[: server.cuts.pop(0) if server.cuts else len(body)])

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.gate.set()
        running.shutdown()


@pytest.fixture(autouse=True)
def folder(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models; no proxies, no pauses, small pieces, and a conversion that wants BODY or OTHER."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSE_S", 0)
    monkeypatch.setattr(download, "CHUNK", 1 << 14)
    monkeypatch.setattr(conversion, "convert", fake_convert)
    return own_home / "models"


def fake_convert(source: Path, target: Path, about: Mapping[str, str]) -> Any:
    from safetensors.numpy import save_file

    if source.read_bytes() not in (BODY, OTHER):
        raise InputError(f"{source}: is no checkpoint", "give another")
    save_file({}, target, {**about, "source_sha256": conversion.file_sha256(source)})
    return SimpleNamespace(notes=("it lacks its noise",), config=SimpleNamespace(img_resolution=8))


def header(path: Path) -> dict[str, str]:
    return conversion.safetensors_header(path)


def names(folder: Path) -> list[str]:
    """Every file below, but for locks."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def hang_up(server: Server, tries: int = download.TRIES) -> None:
    """The connection is lost so often that a run gives up."""
    server.cuts = [CUT, *[0] * (tries - 1)]


DONE = ["hashes.json", "things-8.safetensors"]


def test_a_model_is_fetched_and_converted_once(server: Server, folder: Path) -> None:
    told, entry = Told(), server.entry
    done = pull(entry, told)
    assert (done.path, done.sha256, done.already) == (library.path_of("things-8"), SHA, False)
    assert names(folder) == DONE
    wanted = {"name": "things-8", "domain": "things", "aligner": "letterbox", "licence": "CC0", "url": entry.url}
    assert header(done.path) == wanted | {"source_sha256": SHA}
    (record,) = json.loads((folder / "hashes.json").read_bytes().decode()).items()
    assert (record[0], record[1]["sha256"], record[1]["size"]) == (entry.url, SHA, len(BODY))
    assert told.lines == ["fetching model.pkl, 3 MB", "things-8: it lacks its noise"]
    assert (told.total, told.steps[-1], told.open) == (4, 4, 0)
    again = pull(entry, told)
    assert (again.already, again.sha256) == (True, SHA)
    assert server.asked == [""]


def test_the_published_file_can_be_kept(server: Server, folder: Path) -> None:
    pull(server.entry, Silent(), keep=True)
    assert (folder / "model.pkl").read_bytes() == BODY
    assert names(folder) == ["hashes.json", "model.pkl", "things-8.safetensors"]


@pytest.mark.parametrize(("etag", "modified"), [('"one"', ""), ('W/"weak"', "Sat, 01 Jan 2022 00:00:00 GMT")])
def test_a_lost_connection_is_gone_on_with(server: Server, folder: Path, etag: str, modified: str) -> None:
    server.etag, server.modified = etag, modified
    server.cuts = [CUT]
    told = Told()
    assert pull(server.entry, told).sha256 == SHA
    first, rest = server.asked
    assert first == ""
    kept = int(rest.removeprefix("bytes=").removesuffix("-"))
    assert CUT - 2 * download.CHUNK < kept <= CUT
    assert told.lines[1:3] == [
        "the connection was lost at 2 MB: trying again",
        "fetching model.pkl, 3 MB, 2 MB of which are here",
    ]
    assert told.open == 0
    assert names(folder) == DONE


def test_the_next_run_goes_on_where_the_last_one_gave_up(server: Server, folder: Path) -> None:
    hang_up(server)
    with pytest.raises(WorkError, match=r"connection was lost; 2 MB are kept, the same command goes on"):
        pull(server.entry, Silent())
    assert names(folder) == [".fetched/model.pkl.part", ".fetched/model.pkl.part.json"]
    assert (folder / ".fetched" / "model.pkl.part").read_bytes() == BODY[: download.part_size(part_target(folder))]
    server.cuts = []
    assert pull(server.entry, Silent()).sha256 == SHA
    assert server.asked[-1].startswith("bytes=")
    assert names(folder) == DONE


def part_target(folder: Path) -> Path:
    return folder / ".fetched" / "model.pkl"


def test_a_part_that_was_whole_is_not_asked_for_again(server: Server, folder: Path) -> None:
    hang_up(server)
    with pytest.raises(WorkError):
        pull(server.entry, Silent())
    (folder / ".fetched" / "model.pkl.part").write_bytes(BODY)
    asked = len(server.asked)
    assert pull(server.entry, Silent()).sha256 == SHA
    assert len(server.asked) == asked


@pytest.mark.parametrize("lack", ["ranges", "etag"])
def test_a_server_that_cannot_go_on_begins_anew(server: Server, folder: Path, lack: str) -> None:
    if lack == "ranges":
        server.ranges = False
    else:
        server.etag = ""
    server.cuts = [CUT]
    if lack == "etag":  # nothing tells whether it is still the same file: the part is worth nothing
        with pytest.raises(WorkError, match="connection was lost; try again"):
            pull(server.entry, Silent())
    assert pull(server.entry, Silent()).sha256 == SHA
    assert names(folder) == DONE


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_between_comes_anew(server: Server, folder: Path, if_range: bool) -> None:
    """Also from a server that knows ranges but ignores If-Range, and would send the rest of the other file."""
    hang_up(server)
    with pytest.raises(WorkError):
        pull(server.entry, Silent())
    server.cuts, server.body, server.etag, server.if_range = [], OTHER, '"two"', if_range
    assert pull(server.entry, Silent()).sha256 == hashlib.sha256(OTHER).hexdigest()
    assert names(folder) == DONE


def test_a_file_that_became_shorter_comes_anew(server: Server, folder: Path) -> None:
    hang_up(server)
    with pytest.raises(WorkError):
        pull(server.entry, Silent())
    (folder / ".fetched" / "model.pkl.part").write_bytes(BODY[:-5])
    server.cuts, server.body, server.if_range = [], BODY[:-10], False
    with pytest.raises(WorkError, match="is no checkpoint"):
        pull(server.entry, Silent())
    assert server.asked[-2:] == [f"bytes={len(BODY) - 5}-", ""]
    assert (folder / "model.pkl.unreadable").read_bytes() == BODY[:-10]


def test_a_busy_server_costs_nothing_of_the_part(server: Server, folder: Path) -> None:
    hang_up(server)
    with pytest.raises(WorkError):
        pull(server.entry, Silent())
    before = download.part_size(part_target(folder))
    server.cuts, server.ranges, server.status = [], False, 503
    with pytest.raises(WorkError, match="HTTP 503"):
        pull(server.entry, Silent())
    assert download.part_size(part_target(folder)) == before


def test_a_server_that_says_no_size(server: Server, folder: Path) -> None:
    server.length = False
    told = Told()
    assert pull(server.entry, told).sha256 == SHA
    assert told.lines[0] == "fetching model.pkl, size unknown"


def test_another_file_later_is_refused_and_kept_aside(server: Server, folder: Path) -> None:
    done = pull(server.entry, Silent())
    done.path.unlink()
    server.body = OTHER
    other = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(WorkError, match=r"hashes\.json") as caught:
        pull(server.entry, Silent())
    assert caught.value.code == "hash"
    assert SHA in str(caught.value)
    assert other in str(caught.value)
    assert names(folder) == ["hashes.json", "model.pkl.differs"]
    # What the message says to do works.
    (folder / "hashes.json").unlink()
    (folder / "model.pkl.differs").rename(folder / "model.pkl")
    assert pull(server.entry, Silent()).sha256 == other
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"kind": "text/html; charset=utf-8"}, "a web page"),
        ({"body": b"\n <!DOCTYPE html><title>Google Drive - Virus scan warning</title>"}, "a web page"),
        ({"body": b""}, "an empty file"),
        ({"status": 404}, "HTTP 404"),
        ({"status": 204}, "HTTP 204"),
    ],
)
def test_what_is_no_file_is_refused(server: Server, folder: Path, answer: dict[str, Any], says: str) -> None:
    for name, value in answer.items():
        setattr(server, name, value)
    with pytest.raises(WorkError, match=says) as caught:
        pull(server.entry, Silent())
    assert server.entry.url in caught.value.message
    assert f"put the file into {folder} as model.pkl and run the same command" in caught.value.hint
    assert names(folder) == []


def test_what_cannot_be_read_is_set_aside_and_not_trusted(server: Server, folder: Path) -> None:
    server.body = b"\x80 something else"
    with pytest.raises(WorkError, match=r"model\.pkl\.unreadable; the same command"):
        pull(server.entry, Silent())
    assert names(folder) == ["model.pkl.unreadable"]
    server.body = BODY
    assert pull(server.entry, Silent()).sha256 == SHA


def test_what_was_fetched_is_not_fetched_again_after_a_fault(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise WorkError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "convert", full)
        with pytest.raises(WorkError, match="no room"):
            pull(server.entry, Silent())
    assert names(folder) == [".fetched/model.pkl"]
    assert pull(server.entry, Silent()).sha256 == SHA
    assert len(server.asked) == 1


def test_a_full_disk_is_said_before_anything_comes(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000))
    with pytest.raises(WorkError, match="160 MB are needed and 100 MB are free"):
        pull(server.entry, Silent())
    assert names(folder) == []


def test_offline_says_where_to_put_the_file(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/model.pkl"
    start = time.monotonic()
    with pytest.raises(Offline, match="cannot be reached") as caught:
        pull(Entry("things-8", "things", 8, url, 3, "CC0", "square"), Silent())
    assert time.monotonic() - start < 3
    assert url in caught.value.message
    assert f"put the file into {folder} as model.pkl and run the same command" in caught.value.hint


def test_a_remembered_failure_is_not_trusted(server: Server, own_home: Path) -> None:
    memory = own_home / "network.json"
    memory.write_text(json.dumps({f"127.0.0.1:{server.server_port}": [time.time(), "down"]}))
    assert pull(server.entry, Silent()).sha256 == SHA
    assert json.loads(memory.read_text()) == {}


def test_only_http(folder: Path) -> None:
    with pytest.raises(InputError, match="https://"):
        pull(Entry("things-8", "things", 8, "file:///etc/model.pkl", 3, "CC0", "square"), Silent())


def test_a_file_put_there_by_hand_is_taken(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.pkl").write_bytes(BODY)
    assert pull(server.entry, Silent()).sha256 == SHA
    assert server.asked == []
    assert names(folder) == ["hashes.json", "model.pkl", "things-8.safetensors"]


def test_another_file_put_there_by_hand_is_refused_and_stays(server: Server, folder: Path) -> None:
    pull(server.entry, Silent()).path.unlink()
    (folder / "model.pkl").write_bytes(OTHER)
    with pytest.raises(InputError, match="is not the file of 20"):
        pull(server.entry, Silent())
    assert (folder / "model.pkl").read_bytes() == OTHER


def test_an_unreadable_file_put_there_by_hand_stays(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.pkl").write_bytes(b"text")
    with pytest.raises(InputError, match="is no checkpoint"):
        pull(server.entry, Silent())
    assert names(folder) == ["model.pkl"]


@pytest.mark.parametrize("damage", ["nonsense", "[]", '{"u": 3}', '{"u": {}}'])
def test_damaged_hashes_are_not_ignored(server: Server, folder: Path, damage: str) -> None:
    folder.mkdir()
    (folder / "hashes.json").write_text(damage)
    with pytest.raises(InputError, match=r"hashes\.json: is damaged"):
        pull(server.entry, Silent())


def test_a_model_of_another_size_is_not_the_one_that_was_asked_for(server: Server, folder: Path) -> None:
    with pytest.raises(WorkError, match="a generator of 8 px, but things-16 makes 16 px"):
        pull(Entry("things-16", "things", 16, server.entry.url, 3, "CC0", "square"), Silent())
    assert not list(folder.glob("*.safetensors"))
    assert not (folder / "hashes.json").exists()


PROCESS = """
import sys
from pathlib import Path
from realdrag import conversion
from realdrag.library import Entry, pull
class Told:
    def say(self, line): print(line, flush=True)
    def begin(self, *_): pass
    step = end = begin
class Converted:
    notes = ()
    class config: img_resolution = 8
def convert(source, target, about):
    import json
    header = json.dumps({"__metadata__": about}).encode()
    target.write_bytes(len(header).to_bytes(8, "little") + header)
    return Converted
conversion.convert = convert
done = pull(Entry("things-8", "things", 8, sys.argv[1], 3, "CC0", "square"), Told())
print("already" if done.already else "fetched", flush=True)
"""


def test_two_processes_fetch_once(server: Server, folder: Path) -> None:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROCESS, server.entry.url]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    server.gate.clear()
    with start() as first:
        wait_for(lambda: bool(server.asked))
        with start() as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "another process is at work on things-8: waiting for it\n"
            server.gate.set()
            assert first.communicate(timeout=20)[0].splitlines()[-1] == "fetched"
            assert second.communicate(timeout=20)[0].splitlines()[-1] == "already"
    assert len(server.asked) == 1
    assert names(folder) == DONE


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
