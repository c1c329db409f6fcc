"""The server as a page and a stranger meet it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from served import CODE, QUICK, Page, Server, environment
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

SMILE = [[203, 140, 199.5, 137], [247, 140, 250.5, 137]]


def finished(page: Page, points: Any = SMILE, **more: Any) -> dict[str, Any]:
    """The state after a drag."""
    page.ask(do="drag", points=points, **more)
    page.until(lambda event: event["event"] == "busy" and event["task"] == "run")
    return page.idle()


def white(size: tuple[int, int], box: tuple[int, int, int, int]) -> bytes:
    """A mask as the page sends it."""
    levels = np.zeros((size[1], size[0]), np.uint8)
    levels[box[1] : box[3], box[0] : box[2]] = 255
    out = io.BytesIO()
    Image.fromarray(levels).save(out, "PNG")
    return out.getvalue()


# Editing.


def test_an_edit_from_upload_to_the_saved_file(server: Server, photo: Path, tmp_path: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        state = page.ready()
        assert (state["name"], state["size"], len(state["faces"])) == ("astronaut.png", [512, 512], 1)
        assert state["aligned"]["landmarks"] is not None
        assert [frame["kind"] for frame in page.frames] in ([], ["sharpened"] * len(page.frames))
        assert server.ask("PUT", f"/api/sessions/{key}/mask", content=white((512, 512), (175, 80, 270, 170))).is_success
        state = finished(page, masked=True)
        assert state["drag"]["outcome"] in ("REACHED", "STALLED", "MAX_STEPS")
        assert state["masked"]
        moved = [frame for frame in page.frames if frame["kind"] == "moved"]
        assert moved, "nothing was seen to move"
        assert len(moved[-1]["places"]) == 2
        with Image.open(io.BytesIO(moved[-1]["picture"])) as picture:
            assert max(picture.size) <= 512
            assert 0 < np.asarray(picture)[..., 3].mean() < 255, "the photo's own pixels are not sent"
        page.ask(do="save", kind="png")
        ready = page.until(lambda event: event["event"] == "ready")
    assert (ready["file"], ready["outside"]) == ("edited", 0)
    saved = server.ask("GET", f"/api/sessions/{key}/edited-png").content
    (tmp_path / "r.toml").write_bytes(server.ask("GET", f"/api/sessions/{key}/recipe").content)
    # The command line, on another store, says the same to the byte.
    command = [sys.executable, "-c", CODE, "edit", str(photo), "-o", "cli.png", "--recipe", "r.toml", "--quiet"]
    subprocess.run(command, cwd=tmp_path, check=True, env=os.environ | environment(tmp_path / "other" / "home"))
    assert hashlib.sha256(saved).digest() == hashlib.sha256((tmp_path / "cli.png").read_bytes()).digest()


def test_a_drag_that_was_stopped_is_replayed_to_where_it_stopped(server: Server, photo: Path, tmp_path: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        page.ask(do="drag", points=[[203, 140, 190, 128]])
        page.until(lambda event: event["event"] == "progress" and event["done"] >= 2)
        page.ask(do="stop")
        state = page.idle(lambda state: state["drag"])
        assert state["drag"]["outcome"] == "CANCELLED"
        assert 0 < state["drag"]["steps"] < 25
        page.ask(do="save", kind="png")
        page.until(lambda event: event["event"] == "ready")
    (tmp_path / "r.toml").write_bytes(server.ask("GET", f"/api/sessions/{key}/recipe").content)
    command = [sys.executable, "-c", CODE, "edit", str(photo), "-o", "cli.png", "--recipe", "r.toml", "--quiet"]
    subprocess.run(command, cwd=tmp_path, check=True, env=os.environ | environment(tmp_path / "other" / "home"))
    assert server.ask("GET", f"/api/sessions/{key}/edited-png").content == (tmp_path / "cli.png").read_bytes()


def test_undo_redo_steps_and_strength(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        first = finished(page)
        second = finished(page, [[225, 150, 225, 156]])
        assert (first["history"], second["history"]) == ({"current": 1, "count": 1}, {"current": 2, "count": 2})
        page.ask(do="undo")
        undone = page.idle()
        assert undone["after"] == first["after"]
        page.ask(do="undo")
        assert page.idle()["drag"] is None
        page.ask(do="undo")
        assert "nothing to undo" in page.fails()["message"]
        page.ask(do="redo")
        assert page.idle()["after"] == first["after"]
        page.frames.clear()
        page.ask(do="look", step=3, strength=1)
        page.ask(do="place", step=3, strength=1)
        placed = page.idle()
        assert placed["drag"]["chosen"] == 3
        assert placed["after"] != first["after"]
        page.ask(do="place", strength=0.0)
        assert page.idle()["after"] is None
        page.ask(do="place", step=999)
        assert "steps 0 to" in page.fails()["message"]


def test_a_look_is_a_picture_and_changes_nothing(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        before = finished(page)
        page.frames.clear()
        page.ask(do="look", strength=0.4)
        with pytest.raises(TimeoutError):
            page.until(lambda event: True, 4)
        assert [(f["kind"], f["strength"]) for f in page.frames] == [("looked", 0.4)]
        page.ask(do="undo")
        page.idle()
        page.ask(do="redo")
        assert page.idle()["after"] == before["after"]


def test_a_mask_may_be_given_up_on_the_next_drag(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        server.ask("PUT", f"/api/sessions/{key}/mask", content=white((512, 512), (190, 130, 220, 150)))
        held = finished(page, [[203, 140, 199, 137]], masked=True)
        free = finished(page, [[225, 160, 225, 168]])
    width, wider = held["after"]["rect"][2], free["after"]["rect"][2]
    assert width <= 30 < wider


def test_moves_come_to_arrows_and_drags(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        state = page.ready()
        assert {"smile", "turn"} <= {move["name"] for move in state["moves"]}
        page.ask(do="arrows", moves={"smile": 0.5, "eyes": 0})
        pairs = page.until(lambda event: event["event"] == "arrows")["pairs"]
        assert len(pairs) == 2
        page.ask(do="arrows", moves={"smile": 9})
        assert "smile" in page.until(lambda event: event["event"] == "failed")["error"]["message"]
        state = finished(page, [], moves={"smile": 0.5})
        assert [handle["start"] for handle in state["drag"]["handles"]] == [pair[:2] for pair in pairs]


def test_a_box_and_the_whole_picture_are_taken_instead_of_the_face(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        first = page.ready()
        page.ask(do="align", whole=True)
        whole = page.idle(lambda state: state["inverted"] and state["aligned"]["detector"] == "whole")
        assert whole["aligned"]["size"] == 512
        page.ask(do="align", box=first["faces"][0])
        boxed = page.idle(lambda state: state["inverted"] and state["aligned"]["detector"] != "whole")
        assert boxed["aligned"]["size"] < 512
        page.ask(do="align", face=4)
        assert "there is no face 4" in page.fails()["message"]


def test_another_face_of_an_edited_photo_is_edited_on_top(server: Server, astronaut: Any, tmp_path: Path) -> None:
    """In a session of its own, whose photo is the first one's result; all that neither edit touched is the photo's."""
    both = np.concatenate([astronaut[:300, 60:360], astronaut[:300, 60:360][:, ::-1]], 1)
    Image.fromarray(both).save(tmp_path / "two.png")
    key = server.upload(tmp_path / "two.png")
    with server.live(key) as page:
        state = page.ready()
        assert len(state["faces"]) == 2
        left = state["aligned"]["landmarks"][30][0] < 300
        (x, y), _ = np.array(state["aligned"]["landmarks"])[[54, 48]]
        finished(page, [[x, y, x + 4, y - 3]])
        page.ask(do="align", face=2)
        other = page.until(lambda event: event["event"] == "opens")["id"]
        assert page.idle()["drag"] is not None, "the first edit is still there"
    with server.live(other) as page:
        state = page.ready()
        assert (state["name"], state["drag"]) == ("two-edited.png", None)
        assert (state["aligned"]["landmarks"][30][0] < 300) is not left
        (x, y), _ = np.array(state["aligned"]["landmarks"])[[54, 48]]
        finished(page, [[x, y, x + 4, y - 3]])
        page.ask(do="save", kind="png")
        page.until(lambda event: event["event"] == "ready")
    saved = np.asarray(Image.open(io.BytesIO(server.ask("GET", f"/api/sessions/{other}/edited-png").content)))
    changed = (saved != both).any(2)
    assert changed[:, :300].any()
    assert changed[:, 300:].any()
    assert not changed[250:].any()


def test_a_face_chosen_anew_before_any_edit_forgets_nothing_and_mixes_nothing(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        finished(page)
        page.ask(do="undo")
        page.idle()
        page.ask(do="align", whole=True)
        state = page.idle(lambda state: state["inverted"] and state["aligned"]["detector"] == "whole")
        assert state["history"] == {"current": 0, "count": 0}, "edits of another crop are not these"
        assert finished(page)["history"] == {"current": 1, "count": 1}


def test_a_stopped_inversion_goes_on_and_ctrl_c_ends_all(
    new_server: Callable[..., Server], photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "slow.toml").write_text(QUICK.replace("steps_w_plus = 3", "steps_w_plus = 90"))
    server = new_server(str(photo), "--config", str(tmp_path / "slow.toml"))
    key = server.address.partition("#")[2]  # a photo that was named is opened
    with server.live(key) as page:
        page.until(lambda event: event["event"] == "progress")
        page.ask(do="stop")
        page.until(lambda event: event["event"] == "stopped")
        assert page.idle()["inverted"] is None
        page.ask(do="invert")
        assert page.ready()["name"] == "astronaut.png"
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert server.stop() == 130  # Ctrl-C, with a page open
    _, alive = psutil.wait_procs(children, 10)
    assert not alive
    assert "Traceback" not in server.said()
    assert "leaked" not in server.said()


def test_without_a_face_the_page_is_asked(server: Server, tmp_path: Path) -> None:
    Image.fromarray(np.full((200, 300, 3), 120, np.uint8)).save(tmp_path / "plain.png")
    key = server.upload(tmp_path / "plain.png")
    with server.live(key) as page:
        state = page.idle(lambda state: state["faces"] is not None)
        assert (state["faces"], state["aligned"]) == ([], None)
        page.ask(do="align", whole=True)
        assert page.ready()["aligned"]["detector"] == "whole"


def test_films_and_reports(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        page.ask(do="report")
        page.until(lambda event: event["event"] == "ready" and event["file"] == "report")
        page.idle()
        finished(page)
        page.ask(do="film", kind="gif")
        page.until(lambda event: event["event"] == "ready" and event["file"] == "film")
    assert server.ask("GET", f"/api/sessions/{key}/report").content[:4] == b"\x89PNG"
    assert server.ask("GET", f"/api/sessions/{key}/film-gif").content[:4] == b"GIF8"


# Sessions.


def test_sessions_survive_a_reload_a_restart_and_kill(
    new_server: Callable[..., Server], photo: Path, tmp_path: Path
) -> None:
    server = new_server()
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        state = finished(page)
        page.ask(do="draft", points=[[1, 2, 3, 4]], moves={"smile": 0.5}, masked=False)
        page.ask(do="arrows", moves={})
        page.until(lambda event: event["event"] == "arrows")
    with server.live(key) as page:
        again = page.idle()
    assert again["drag"] == state["drag"]
    assert again["draft"] == {"points": [[1, 2, 3, 4]], "moves": {"smile": 0.5}, "masked": False}
    server.stop(signal.SIGKILL)
    server.start()
    assert [one["id"] for one in server.ask("GET", "/api/sessions").json()] == [key]
    with server.live(key) as page:
        assert page.idle() == again


def test_the_engine_may_be_killed(new_server: Callable[..., Server], photo: Path) -> None:
    """As a system short of memory does: the work fails, the server and the photo stay."""
    server = new_server()
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        page.ask(do="drag", points=[[203, 140, 190, 128]])
        page.until(lambda event: event["event"] == "progress")
        (engine,) = [
            child
            for child in psutil.Process(server.process.pid).children()
            if "resource_tracker" not in " ".join(child.cmdline())
        ]
        engine.kill()
        assert page.fails()["code"] == "killed"
        assert finished(page)["drag"] is not None


def test_a_tab_does_not_disturb_another(server: Server, photo: Path) -> None:
    first, second = server.upload(photo), server.upload(photo)
    with server.live(first) as one, server.live(second) as other:
        one.ready()
        other.ready()
        one.ask(do="drag", points=SMILE)
        other.ask(do="drag", points=[[225, 160, 225, 168]])
        places = [handle["start"] for handle in one.idle(lambda state: state["drag"])["drag"]["handles"]]
        others = [handle["start"] for handle in other.idle(lambda state: state["drag"])["drag"]["handles"]]
    assert (places, others) == ([[203, 140], [247, 140]], [[225, 160]])


def test_two_pages_on_one_photo_see_the_same(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as one, server.live(key) as other:
        one.ready()
        other.ready()
        one.ask(do="drag", points=SMILE)
        assert one.idle(lambda state: state["drag"]) == other.idle(lambda state: state["drag"])
        one.ask(do="drag", points=SMILE)
        other.ask(do="drag", points=SMILE)
        assert other.until(lambda event: event["event"] == "failed")["error"]["code"] == "busy"
        one.idle()


def test_a_session_can_be_forgotten(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        assert (server.home / "sessions" / key).stat().st_mode & 0o777 == 0o700
        assert server.ask("DELETE", f"/api/sessions/{key}").status_code == 204
        page.until(lambda event: event["event"] == "gone")
    assert not (server.home / "sessions" / key).exists()
    assert server.ask("GET", f"/api/sessions/{key}/view").status_code == 404
    with pytest.raises(ConnectionClosed, match="4404"), server.live(key) as page:
        page.idle()


def test_a_reload_stops_nothing(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        page.ask(do="drag", points=[[203, 140, 190, 128]])
        page.until(lambda event: event["event"] == "progress")
    with server.live(key) as page:
        assert page.idle(lambda state: state["drag"])["drag"]["outcome"] != "CANCELLED"


# Strangers.


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(server.process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_another_host_needs_the_token_that_is_printed_once(new_server: Callable[..., Server]) -> None:
    server = new_server("--host", "0.0.0.0")
    token = server.address.partition("token=")[2]
    assert len(token) >= 32
    assert server.said().count(token) == 1
    base = server.base.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{base}/api/sessions").status_code == 401
    assert httpx.get(f"{base}/static/style.css").status_code == 401
    with pytest.raises(InvalidStatus):
        connect(f"{base.replace('http', 'ws')}/api/sessions/{'0' * 32}/live", origin=base)  # type: ignore[arg-type]
    with httpx.Client(base_url=base, follow_redirects=True) as browser:
        page = browser.get(f"/?token={token}")
        assert page.status_code == 200
        assert "token" not in str(page.url)
        assert browser.get("/api/sessions").json() == []
    assert server.stop(signal.SIGTERM) == 143
    assert "leaked" not in server.said()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        "/api/sessions/../view",
        "/api/sessions/..%2f..%2fetc/view",
        "/api/sessions/{key}/..%2fupload.bin",
        "/api/sessions/{key}/upload.bin",
        "/api/sessions/{key}/opened.json",
        "/api/sessions/{key}/%2fetc%2fpasswd",
        "/api/sessions/{upper}/view",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_path_reaches_the_file_system(server: Server, photo: Path, path: str) -> None:
    key = server.upload(photo)
    raw = path.format(key=key, upper=key.upper())
    # As it is: httpx would tidy it up.
    host, port = server.base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as stranger:
        stranger.sendall(f"GET {raw} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: stranger.recv(65536), b""))
    status = int(answer.split()[1])
    assert status in (404, 405, 422), answer[:300]
    assert str(server.home).encode() not in answer
    assert b"root:" not in answer
    assert b"import" not in answer


def test_names_of_uploads_are_no_paths(server: Server, photo: Path) -> None:
    answer = server.ask("POST", "/api/sessions?name=../../../../tmp/evil%0a%1b[31m.png", content=photo.read_bytes())
    key = answer.json()["id"]
    with server.live(key) as page:
        assert "\x1b" not in page.ready()["name"]
    inside = {path.name for path in (server.home / "sessions" / key).iterdir()}
    assert "photo.png" in inside
    assert not any("evil" in name for name in inside)


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bomb(12_000, 12_000), "144 megapixels"),
        (bomb(60_000, 60_000), "million pixels"),
        (bomb(400, 400), "astronaut.png"),
        (b"<svg onload=alert(1)>", "astronaut.png"),
        (b"\xff\xd8\xff\xe0 no photo", "astronaut.png"),
    ],
    ids=["too many pixels", "a bomb", "cut short", "a page", "broken"],
)
def test_what_is_no_photo_is_refused_in_words(server: Server, data: bytes, words: str) -> None:
    key = server.ask("POST", "/api/sessions?name=astronaut.png", content=data).json()["id"]
    with server.live(key) as page:
        error = page.fails()
    assert words in error["message"]
    assert str(server.home) not in json.dumps(error)
    assert "Traceback" not in json.dumps(error)


def test_uploads_have_limits(server: Server) -> None:
    host, port = server.base.removeprefix("http://").split(":")
    head = f"POST /api/sessions HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {server.base}\r\nConnection: close\r\n"

    def answered(rest: bytes, seconds: float = 20) -> bytes:
        with socket.create_connection((host, int(port)), seconds) as stranger:
            stranger.sendall(head.encode() + rest)
            return stranger.recv(65536)

    assert b" 413 " in answered(b"Content-Length: 999999999999\r\n\r\nx")[:20], "told before it is sent"
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with socket.create_connection((host, int(port)), 60) as stranger:
        stranger.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            for _ in range(160):
                stranger.sendall(chunk)
                sent += 1
            answer = stranger.recv(65536)
        except OSError:  # it has answered and does not read on
            answer = b"HTTP/1.1 413 "
    assert b" 413 " in answer[:20], (sent, answer[:200])
    assert b" 400 " in answered(b"Content-Length: 0\r\n\r\n")[:20]
    mask = server.ask("PUT", f"/api/sessions/{'0' * 32}/mask", content=b"x")
    assert mask.status_code == 404


def test_masks_are_checked(server: Server, photo: Path) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        for data in (white((10, 10), (0, 0, 5, 5)), b"no picture", bomb(60_000, 60_000), photo.read_bytes()[:500]):
            assert server.ask("PUT", f"/api/sessions/{key}/mask", content=data).status_code == 400
        assert server.ask("PUT", f"/api/sessions/{key}/mask", content=white((512, 512), (0, 0, 0, 0))).is_success
        page.ask(do="drag", points=SMILE, masked=True)
        assert page.fails()["code"] == "mask-empty"
        server.ask("PUT", f"/api/sessions/{key}/mask", content=white((512, 512), (300, 300, 400, 400)))
        page.ask(do="drag", points=SMILE, masked=True)
        assert page.fails()["code"] == "point"


@pytest.mark.parametrize(
    "message",
    [
        "no json",
        "[]",
        '{"do": "drag", "points": [[1, 2, 3]]}',
        '{"do": "drag", "points": [[NaN, 2, 3, 4]]}',
        '{"do": "drag", "points": [[1e999, 2, 3, 4]]}',
        json.dumps({"do": "drag", "points": [[1, 2, 3, 4]] * 201}),
        '{"do": "drag", "path": "/etc/passwd"}',
        '{"do": "save", "kind": "../../x"}',
        '{"do": "align", "box": [0, 0]}',
        '{"do": "place", "strength": 1.6}',
        '{"do": "rm"}',
        '{"do": "draft", "points": [], "moves": {"' + "x" * 10 + '": "y"}}',
    ],
)
def test_messages_that_mean_nothing_are_refused_and_do_no_harm(server: Server, photo: Path, message: str) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        page.socket.send(message)
        assert page.until(lambda event: event["event"] == "failed")["error"]["code"] == "message"
        page.ask(do="arrows", moves={})
        page.until(lambda event: event["event"] == "arrows")


@pytest.mark.parametrize("points", [[], [[203, 140, 900, 140]], [[-5, 3, 4, 5]], [[203, 140, 9, 9], [203, 140, 8, 8]]])
def test_drags_that_cannot_be_are_told(server: Server, photo: Path, points: Any) -> None:
    key = server.upload(photo)
    with server.live(key) as page:
        page.ready()
        page.ask(do="drag", points=points)
        error = page.until(lambda event: event["event"] == "failed")["error"]
        assert page.idle()["drag"] is None
    assert "--" not in error["hint"]


def test_without_its_packages_it_says_how_to_install_them(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "realdrag.web.server", raising=False)
    ran = cli("serve", "--no-open")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "realdrag[web]" in ran.err


def test_wrong_flags_are_one_line(cli: Any, quick: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for flags, words in (
            (["nothing.png"], "no such file"),
            (["--port", taken.getsockname()[1]], "cannot be listened on"),
            (["--host", "no.such.host.invalid"], "cannot be listened on"),
            (["--model", "nonesuch"], "nonesuch"),
        ):
            ran = cli("serve", "--no-open", *flags)
            assert ran.code == 2, (flags, ran)
            assert words in ran.err
            assert ran.err.count("\n") == 1, ran.err
