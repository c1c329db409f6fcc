"""A session is a work folder with a few files more: what the page shows, and what was drawn and not yet dragged.

upload.bin      the photo, until it is aligned (then the work folder has it)
opened.json     its name, size, that of `view.jpg`, and the faces found
view.jpg        the photo as the page shows it, at most VIEW px on its long side
draft.json      points and moves on the page
draft-mask.png  what was painted, grey, of the view's size
after.png       what the edit changed in `view.jpg`, transparent elsewhere; after.json says where
edited.*, recipe.toml, film.*, report.png    what was asked for
"""

from __future__ import annotations

import importlib.util
import io
import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from realdrag import photo as photos
from realdrag.drag.moves import TABLE
from realdrag.errors import InputError
from realdrag.history import History
from realdrag.photo_write import write_bytes
from realdrag.store import home, owned, write_whole
from realdrag.values import Photo, Result
from realdrag.workfolder import WorkFolder, png

VIEW = 2048
MOST_PIXELS = 100_000_000  # of an uploaded photo: an edit of one takes about 2 GB
KINDS = {"jpeg": "edited.jpg", "png": "edited.png", "tiff": "edited.tif", "webp": "edited.webp"}

Picture = npt.NDArray[np.uint8]


def sessions_folder() -> Path:
    """Where the sessions lie: data about faces, for their owner alone."""
    return owned(owned(home()) / "sessions")


def new_session(name: str, data: bytes, choice: Mapping[str, Any] | None = None) -> str:
    """A session for a photo's file, shown as `name`; its id. It is looked at when a page enters.

    choice: the face to take, as `Align` has it.
    """
    key = secrets.token_hex(16)
    path = owned(sessions_folder() / key)
    write_whole(path / "upload.bin", data)
    write_json(path / "opened.json", {"name": name} | ({"choice": choice} if choice else {}))
    return key


def kind_of(photo: Photo) -> str:
    """Of KINDS, the one that a result of the photo is saved as unless another is chosen."""
    return photo.format.lower() if photo.format.lower() in KINDS else "png"


def read_json(path: Path) -> dict[str, Any]:
    """What the file says; {} where there is none or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replaces the file whole."""
    write_bytes(json.dumps(values).encode(), path)


def photo_of(work: WorkFolder) -> Photo:
    """The session's photo: the work folder's, or the upload where it has none yet."""
    upload = work.path / "upload.bin"
    if not upload.is_file():
        return work.photo()
    name = str(read_json(work.path / "opened.json").get("name", "the photo"))
    return replace(photos.decode(upload.read_bytes(), name), name=name)


def uploaded(work: WorkFolder) -> Photo:
    """The photo that was just uploaded; InputError for what is none, and for one of too many pixels before it is
    decoded.
    """
    name = str(read_json(work.path / "opened.json").get("name", "the photo"))
    try:
        with Image.open(work.path / "upload.bin") as image:
            pixels = image.width * image.height
    except Exception:  # noqa: BLE001 — whatever is wrong with it, reading it says so
        pixels = 0
    if pixels > MOST_PIXELS:
        hint = f"at most {MOST_PIXELS // 1_000_000} megapixels are taken here"
        raise InputError(f"{name}: has {pixels / 1e6:.0f} megapixels", hint, code="too-large")
    return photo_of(work)


def view_of(photo: Photo) -> Picture:
    """The photo as the page shows it, [h, w, 3] sRGB."""
    width, height = photo.size
    share = min(1.0, VIEW / max(width, height))
    rgb = photos.to_srgb(photo)
    if share == 1:
        return rgb
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def put_view(work: WorkFolder, photo: Photo) -> tuple[int, int]:
    """view.jpg; its (width, height)."""
    view = view_of(photo)
    file = Image.fromarray(view)
    write_bytes(encoded(file, "JPEG", quality=95, subsampling=0), work.path / "view.jpg")
    return file.size


def put_after(work: WorkFolder, photo: Photo, result: Result) -> None:
    """after.png and after.json: what `result` changed, as the view shows it."""
    before, after = view_of(photo), view_of(result.photo)
    differs = (before != after).any(2)
    if not differs.any():
        forget_after(work)
        return
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    alpha = differs[y0:y1, x0:x1, None].astype(np.uint8) * np.uint8(255)
    patch = np.concatenate([after[y0:y1, x0:x1], alpha], 2)
    write_bytes(encoded(Image.fromarray(patch), "PNG", compress_level=3), work.path / "after.png")
    write_json(work.path / "after.json", {"rect": [x0, y0, x1 - x0, y1 - y0], "dragged": work.sha256("dragged.png")})


def forget_after(work: WorkFolder) -> None:
    """The photo is shown as it was."""
    for name in ("after.json", "after.png"):
        (work.path / name).unlink(missing_ok=True)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file's bytes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def drawn_mask(work: WorkFolder, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """draft-mask.png at the photo's size (width, height), [h, w]; InputError where nothing is painted."""
    try:
        with Image.open(work.path / "draft-mask.png") as image:
            levels = np.asarray(image.convert("L"))
    except OSError as error:
        raise InputError("there is no mask", "paint where the photo may move", code="mask") from error
    if not levels.any():
        raise InputError("the mask lets nothing move", "paint where the photo may move", code="mask-empty")
    if levels.shape != (size[1], size[0]):
        levels = np.asarray(cv2.resize(levels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return levels


def put_mask(work: WorkFolder, data: bytes) -> None:
    """draft-mask.png from a page's PNG; InputError unless it has the view's size."""
    wanted = tuple(read_json(work.path / "opened.json").get("view", ()))
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != wanted:
                raise InputError("the mask has another size than the view", code="mask-size")
            levels = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError("the mask is no PNG", code="mask") from error
    write_bytes(png(levels), work.path / "draft-mask.png")


def reached(work: WorkFolder) -> tuple[bool, bool]:
    """Whether it is aligned, and whether that is inverted."""
    crop = work.sha256("aligned.png")
    is_aligned = crop is not None and work.record("align").get("files", {}).get("aligned.png") == crop
    return is_aligned, is_aligned and work.record("invert").get("inputs", {}).get("aligned.png") == crop


def described(work: WorkFolder) -> dict[str, Any]:
    """All that a page shows of the session, in photo pixels."""
    opened = read_json(work.path / "opened.json")
    aligned, inverted = work.record("align"), work.record("invert")
    is_aligned, is_inverted = reached(work)
    history = History(work) if is_inverted else None
    dragged = work.record("drag") if history is not None and history.current and work.whole_drag() else {}
    after = read_json(work.path / "after.json")
    fits = bool(dragged) and after.get("dragged") == work.sha256("dragged.png")
    return {
        "name": opened.get("name"),
        "size": opened.get("size"),
        "view": opened.get("view"),
        "kind": opened.get("kind"),
        "faces": opened.get("faces"),
        "draft": read_json(work.path / "draft.json"),
        "aligned": {
            "to_photo": np.linalg.inv(np.array(aligned["to_crop"])).tolist(),
            **{key: aligned[key] for key in ("size", "landmarks", "box", "detector")},
        }
        if is_aligned
        else None,
        "inverted": {key: inverted[key] for key in ("metrics", "verdict", "loss")} if is_inverted else None,
        "drag": {
            key: dragged[key] for key in ("handles", "outcome", "steps", "best", "chosen", "strength", "trace", "moves")
        }
        if dragged
        else None,
        "masked": (work.path / "mask.png").is_file() and bool(dragged),
        "history": history.about() if history is not None else {"current": 0, "count": 0},
        "after": {"rect": after["rect"], "stamp": after["dragged"][:16]} if fits else None,
        "films": ["gif", "png", *(["mp4"] if importlib.util.find_spec("av") else [])],
        "moves": [{"name": m.name, "does": m.does, "unit": m.unit, "low": m.low, "high": m.high} for m in TABLE],
    }
