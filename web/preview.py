"""What the page sees while something moves: a thread of the server that draws the latest of what the engine tells.

It draws with a generator of its own, so that the steps of a drag do not wait for pictures; what it cannot keep up with
is left out.
"""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from realdrag.web.folder import drawn_mask, encoded, read_json

if TYPE_CHECKING:
    from realdrag.api import Editor
    from realdrag.composite import Change
    from realdrag.film import Scene
    from realdrag.values import Drag, Moment

SIDE = 512  # of the pictures, at most
SMALLEST = 128
SCENES = 4  # that are kept, of the sessions seen last
LEAST_SECONDS = 1 / 15  # between two pictures: more than are seen would only take time from the steps
# The share of the time that is drawn in where the model is large: there both want the same cores.
LARGE_SHARE = 0.1

Latents = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sharpened:
    """An inversion under way: w_plus [num_ws, w_dim]."""

    w_plus: Latents


@dataclass(frozen=True, eq=False)
class Moved:
    """A drag under way; `masked` by the draft's mask."""

    moment: Moment
    masked: bool


@dataclass(frozen=True)
class Looked:
    """The drag that the folder holds, at a step (None: its best) and a strength."""

    step: int | None
    strength: float


Wish: TypeAlias = Sharpened | Moved | Looked


@dataclass(eq=False)
class Staged:
    """A session's scene, made once for each drag: what draws a latent, and the motion it drew last."""

    scene: Scene
    paint: Callable[[Latents], npt.NDArray[np.uint8]]
    drag: Drag | None
    change: Change | None = field(default=None)


class Preview:
    """Draws what sessions wish, the latest of each in turn. drawn: called in the thread with (session, frame)."""

    def __init__(self, editor: Editor, drawn: Callable[[str, bytes], None]) -> None:
        self.editor, self.drawn = editor, drawn
        self.wishes = OrderedDict[str, tuple[Path, Wish]]()
        self.staged = OrderedDict[tuple[str, str], Staged]()
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def close(self) -> None:
        """End it."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def wish(self, session: str, path: Path, wish: Wish) -> None:
        """Draw this next, in place of what the session wished before."""
        with self.changed:
            self.wishes[session] = path, wish
            self.changed.notify()

    def forget(self, session: str) -> None:
        """Its pictures are no longer wanted, or are of what has changed since."""
        with self.changed:
            self.wishes.pop(session, None)
            for key in [key for key in self.staged if key[0] == session]:
                del self.staged[key]

    def _run(self) -> None:
        from realdrag.devices import set_threads

        set_threads(1)  # for this process: what computes on all cores is the engine's
        with contextlib.suppress(Exception):  # the engine says why it cannot be loaded
            _ = self.editor.generator
        while True:
            with self.changed:
                while not (self.wishes or self.closed):
                    self.changed.wait()
                if self.closed:
                    return
                session, (path, wish) = self.wishes.popitem(last=False)
            began = time.monotonic()
            try:
                self.drawn(session, self._draw(session, path, wish))
            except Exception:  # noqa: BLE001 — a preview that fails is a picture that is missing
                traceback.print_exc(file=sys.stderr)
            took = time.monotonic() - began
            time.sleep(max(LEAST_SECONDS - took, 0) if self._small else took * (1 / LARGE_SHARE - 1))

    @property
    def _small(self) -> bool:
        from realdrag.api import SMALL_MODEL
        from realdrag.devices import pick

        return self.editor.resolution <= SMALL_MODEL or pick(self.editor.device).type != "cpu"

    def _draw(self, session: str, path: Path, wish: Wish) -> bytes:
        if isinstance(wish, Sharpened):
            return self._sharpened(wish.w_plus)
        masked = isinstance(wish, Moved) and wish.masked
        staged = self._stage(session, path, masked, isinstance(wish, Looked))
        if isinstance(wish, Moved):
            moment = wish.moment
            about = {
                "step": moment.trace.step,
                "places": moment.places.round(2).tolist(),
                "distances": moment.trace.distances,
                "confidences": moment.trace.confidences,
            }
            return frame("moved", about, self._composited(staged, moment.w_plus))
        w_plus, places, about = looked_at(staged.drag, wish)
        return frame("looked", about | {"places": places}, self._composited(staged, w_plus))

    def _sharpened(self, w_plus: Latents) -> bytes:
        from realdrag.drag import choose_block, painter

        generator = self.editor.generator
        picture = painter(generator, w_plus, None, choose_block(generator, "auto"))(w_plus)
        return frame("sharpened", {}, webp(Image.fromarray(picture)))

    def _stage(self, session: str, path: Path, masked: bool, looking: bool) -> Staged:
        """The scene of the drag under way, or of the one that the folder holds."""
        from realdrag import photo as photos
        from realdrag.film import Scene
        from realdrag.stages import stored_latent
        from realdrag.workfolder import WorkFolder

        work = WorkFolder(path)
        key = session, f"{masked} {work.sha256('drag.safetensors')}" if looking else f"{masked} under way"
        if (found := self.staged.get(key)) is not None:
            self.staged.move_to_end(key)
            return found
        size = photo_size(path)
        drawn = photos.read_mask(drawn_mask(work, size), size) if masked else None
        mask = work.mask(size) if looking else drawn
        alignment, latent = work.alignment(), stored_latent(self.editor, work)
        staged = Staged(
            Scene.of(alignment, latent, mask, self.editor.settings.composite, SIDE, SMALLEST),
            self.editor.painter(alignment, latent, mask),
            work.drag() if looking else None,
        )
        self.staged[key] = staged
        while len(self.staged) > SCENES:
            self.staged.popitem(last=False)
        return staged

    def _composited(self, staged: Staged, w_plus: Latents) -> bytes:
        """The crop with the edit, transparent where it is the photo's; b"" where nothing changed."""
        picture = staged.paint(w_plus)
        staged.change, result = staged.scene.follow(picture, staged.change)
        if result.region is None:
            return b""
        alpha = (result.region > 0)[..., None].astype(np.uint8) * np.uint8(255)
        return webp(Image.fromarray(np.concatenate([result.photo.pixels, alpha], 2)))


def looked_at(drag: Drag | None, wish: Looked) -> tuple[Latents, list[list[float]], dict[str, Any]]:
    """The latent, the places of its handles, and what the page shows beside them."""
    from realdrag.drag import way_to

    assert drag is not None
    step = drag.best if wish.step is None else min(wish.step, drag.steps)
    latents, places = way_to(replace(drag, chosen=step), wish.strength)
    return latents[-1], places[-1].round(2).tolist(), {"step": step, "strength": wish.strength}


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) of the session's photo."""
    width, height = read_json(path / "opened.json")["size"]
    return int(width), int(height)


def webp(image: Image.Image) -> bytes:
    """The quickest kind of file that carries transparency to a browser."""
    return encoded(image, "WEBP", quality=90, method=0)


def frame(kind: str, about: dict[str, Any], picture: bytes) -> bytes:
    """A WebSocket message: the length of the JSON (4 bytes, little-endian), the JSON, the picture."""
    head = json.dumps({"kind": kind} | about).encode()
    return struct.pack("<I", len(head)) + head + picture
