"""The editor in a browser: how it holds out under many clients, and what watching a drag costs the drag.

    python benchmarks/serve.py live             frames a second, and the steps with and without anyone watching
    python benchmarks/serve.py load [SECONDS]   20 clients that open, drag and leave at random

Both start a server of their own on an empty home. `load` ends with an error where a client got no answer, a session was
left open, or memory grew after the first minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from skimage import data
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

CLIENTS, SECONDS = 20, 180.0
ANSWER_SECONDS = 120.0  # within which a client must have an answer or a refusal
DRAGS = [[[203, 140, 197, 135], [247, 140, 253, 135]], [[225, 160, 225, 168]], [[203, 140, 209, 144]]]
GRACE = 25.0  # seconds after the last client has left in which sessions are closed
GROWTH = 1.1  # of memory, from after the first minute to the end


@contextlib.contextmanager
def served(home: Path, *flags: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server's address and process."""
    command = [str(Path(sys.executable).with_name("realdrag")), "serve", "--no-open", "--port", "0", *flags]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ | {"REALDRAG_HOME": str(home)})
    try:
        while not (found := re.search(r"editor is at (\S+?)/ ", (home / "log").read_text())):
            time.sleep(0.1)
        yield found[1], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def upload(address: str, photo: bytes) -> str:
    """A new session's id."""
    request = urllib.request.Request(f"{address}/api/sessions?name=a.png", photo, {"Origin": address}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["id"])


def photos(folder: Path) -> list[bytes]:
    """Crops of one portrait: other photos to the server, whose faces and places are known here."""
    made = []
    for i in range(6):
        Image.fromarray(data.astronaut()[: 400 + i]).save(folder / f"{i}.png")
        made.append((folder / f"{i}.png").read_bytes())
    return made


def page(address: str, key: str) -> connect:
    """A page's socket."""
    live = f"{address.replace('http', 'ws')}/api/sessions/{key}/live"
    return connect(live, origin=address, max_size=None)  # type: ignore[arg-type]


async def until(socket: ClientConnection, wanted: Any, frames: list[float] | None = None) -> dict[str, Any]:
    """The next event that is wanted; when pictures came is noted."""
    while True:
        got = await asyncio.wait_for(socket.recv(), ANSWER_SECONDS)
        if isinstance(got, bytes):
            (length,) = struct.unpack("<I", got[:4])
            if frames is not None and json.loads(got[4 : 4 + length])["kind"] == "moved":
                frames.append(time.perf_counter())
            continue
        event = json.loads(got)
        if wanted(event):
            return dict(event)


def idle(event: dict[str, Any]) -> bool:
    """Nothing is being done."""
    return event["event"] == "state" and event["busy"] is None


# Live.


async def watched(address: str, key: str, points: Any) -> tuple[float, float]:
    """Frames a second, and seconds a step, of one drag."""
    frames, steps = list[float](), list[tuple[float, int]]()

    def note(event: dict[str, Any]) -> bool:
        if event["event"] == "progress" and event["name"] == "drag":
            steps.append((time.perf_counter(), event["done"]))
        return idle(event)

    async with page(address, key) as socket:
        await until(socket, idle)
        await socket.send(json.dumps({"do": "undo"}))
        await until(socket, idle)
        await socket.send(json.dumps({"do": "drag", "points": points}))
        await until(socket, lambda event: event["event"] == "busy")
        await until(socket, note, frames)
    gaps = [b - a for a, b in itertools.pairwise(frames)]
    (began, first), (ended, last) = steps[0], steps[-1]
    return 1 / statistics.median(gaps) if gaps else 0.0, (ended - began) / max(last - first, 1)


def live(home: Path, rounds: int) -> None:
    """Drags in turn on a server whose previews are drawn and on one whose are not."""
    photo = photos(home)[0]
    found: dict[str, list[tuple[float, float]]] = {"drawn": [], "not drawn": []}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in found:
            folder = home / name.replace(" ", "-")
            folder.mkdir()
            if name == "not drawn":
                os.environ["PYTHONPATH"] = str(without_preview(folder))
            servers[name] = stack.enter_context(served(folder, "--threads", "1"))[0]
            os.environ.pop("PYTHONPATH", None)
        keys = {name: upload(address, photo) for name, address in servers.items()}
        for name, address in servers.items():
            asyncio.run(ready(address, keys[name]))
            asyncio.run(watched(address, keys[name], DRAGS[0]))  # warm
        for _ in range(rounds):
            for name, address in servers.items():
                found[name].append(asyncio.run(watched(address, keys[name], DRAGS[0])))
    drawn, bare = (statistics.median(step for _, step in found[name]) for name in found)
    fps, none = (statistics.median(rate for rate, _ in found[name]) for name in found)
    assert none == 0, "previews were drawn"
    drawn, bare = 1000 * drawn, 1000 * bare
    print(f"{fps:.1f} frames a second; a step takes {drawn:.1f} ms drawn, {bare:.1f} ms not: {drawn / bare:.3f}")


def without_preview(folder: Path) -> Path:
    """A folder whose `sitecustomize` makes the server's previews draw nothing."""
    code = folder / "site"
    code.mkdir()
    (code / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'serve' in sys.argv:\n"
        "    from realdrag.web.preview import Preview\n"
        "    Preview.wish = lambda *_: None\n"
    )
    return code


async def ready(address: str, key: str) -> None:
    """Wait until the face can be dragged."""
    async with page(address, key) as socket:
        await until(socket, lambda event: idle(event) and event["state"]["inverted"])


# Load.


async def client(address: str, made: list[bytes], end: float, seed: int, counts: Counter[str]) -> None:
    """Opens, drags and leaves at random until `end`; counts what came of it."""
    chance = random.Random(seed)
    while time.monotonic() < end:
        try:
            key = await asyncio.to_thread(upload, address, chance.choice(made))
        except urllib.error.HTTPError as error:
            counts["refused" if error.code == 503 else f"HTTP {error.code}"] += 1
            await asyncio.sleep(chance.uniform(0.5, 2))
            continue
        try:
            async with page(address, key) as socket:
                counts["opened"] += 1
                if chance.random() < 0.3:  # leaves while it is still being looked at
                    await asyncio.sleep(chance.uniform(0, 3))
                    counts["left early"] += 1
                    continue
                await until(socket, lambda event: idle(event) and event["state"]["inverted"])
                counts["ready"] += 1
                for _ in range(chance.randint(1, 3)):
                    await socket.send(json.dumps({"do": "drag", "points": chance.choice(DRAGS)}))
                    if chance.random() < 0.2:
                        await asyncio.sleep(chance.uniform(0, 1))
                        counts["left while dragging"] += 1
                        break
                    if chance.random() < 0.2:
                        await asyncio.sleep(chance.uniform(0, 1))
                        await socket.send('{"do": "stop"}')
                    event = await until(socket, lambda event: idle(event) or event["event"] == "failed")
                    counts["failed: " + event["error"]["code"] if event["event"] == "failed" else "dragged"] += 1
        except TimeoutError:
            counts["NO ANSWER"] += 1
        except ConnectionClosed as error:
            counts[f"closed: {error.rcvd.reason if error.rcvd else 'abruptly'}"] += 1


async def sampled(process: psutil.Process, end: float, memory: list[tuple[float, float]]) -> None:
    """Memory of the server and its children, each second."""
    began = time.monotonic()
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            everyone = [process, *process.children(recursive=True)]
            memory.append((time.monotonic() - began, sum(one.memory_info().rss for one in everyone) / 1e6))
        await asyncio.sleep(1)


def load(home: Path, seconds: float) -> None:
    """20 clients at random."""
    made, counts, memory = photos(home), Counter[str](), list[tuple[float, float]]()
    with served(home) as (address, process):
        end = time.monotonic() + seconds

        async def everyone() -> None:
            clients = [client(address, made, end, seed, counts) for seed in range(CLIENTS)]
            await asyncio.gather(sampled(process, end, memory), *clients)

        asyncio.run(everyone())
        for what, times in sorted(counts.items()):
            print(f"{times:6}  {what}")
        time.sleep(GRACE)
        sockets = [c for c in process.net_connections() if c.status == psutil.CONN_ESTABLISHED]
        kept = len([path for path in (home / "sessions").iterdir() if path.is_dir()])
        alive = process.is_running() and len(process.children()) > 0
    parts = [statistics.median(used for at, used in memory if k <= at / 30 < k + 1) for k in range(int(seconds // 30))]
    print(f"memory, MB, each half minute: {', '.join(f'{part:.0f}' for part in parts)}")
    print(f"{kept} sessions kept, {len(sockets)} sockets left")
    log = (home / "log").read_text()
    faults = [name for name in counts if name.startswith(("NO", "HTTP", "closed", "failed: failed", "failed: killed"))]
    if not alive or faults or sockets or "Traceback" in log or parts[-1] > GROWTH * parts[2]:
        sys.exit(f"it did not hold out: {faults}\n{log[-3000:]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["live", "load"])
    parser.add_argument("number", type=float, nargs="?")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "live":
            live(Path(folder), int(given.number or 9))
        else:
            load(Path(folder), given.number or SECONDS)
