"""A work folder: every stage's values as files that people can read, each saying what it was made from.

    photo.<ext>                              the original bytes
    align.json    aligned.png
    invert.json   inverted.png               the latent itself lies in the store, its key here
    mask.png
    drag.json     drag.safetensors  dragged.png
    drags.json    drags/                     earlier and undone drags (history.py)
    result.json   region.png

Each JSON has `version`, `inputs` and `files` (sha256 of what the stage wrote): a stage whose inputs and files are the
same is not run again. `files` also tells a whole set from one that an interruption left half new, half old.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from realdrag.errors import InputError, StaleError
from realdrag.inversion import verdict
from realdrag.photo import read, read_mask, write, write_bytes
from realdrag.values import Alignment, Drag, Handle, Latent, Outcome, Photo, Result, TraceStep

VERSION = 1
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
PHOTOS = tuple(f"photo{suffix}" for suffix in (*SUFFIXES.values(), ".bin"))
PICTURES = ("aligned.png", "inverted.png", "mask.png", "drag.safetensors", "dragged.png", "region.png")
RECORDS = ("align.json", "invert.json", "drag.json", "drags.json", "result.json")
WAY = ("before", "way", "places", "templates")  # the arrays of a drag that drag.safetensors holds
ABOUT_DRAG = ("model", "points", "moves", "snapped", "made")  # what drag.json says besides the drag itself
AGAIN = {"align": "align PHOTO", "drag": "drag --drag …"}  # the other stages take nothing but the folder


class WorkFolder:
    """The files of one edit under `path`; created when first written to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def owns(self, path: Path) -> bool:
        """Whether `path` is, or would be, one of the folder's own files."""
        return path.name in (*PHOTOS, *PICTURES, *RECORDS) and path.parent.resolve() == self.path.resolve()

    def check(self, photo: Photo) -> None:
        """InputError unless `photo` can be edited here without touching a file that is not ours. Writes nothing."""
        existing = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise InputError(f"{existing}: is a file, not a folder", "choose another work folder", code="unwritable")
        if existing != self.path and not os.access(existing, os.W_OK):
            raise InputError(f"{existing}: cannot be written", "choose another work folder", code="unwritable")
        foreign = [] if (self.path / "align.json").exists() else [*PICTURES, *RECORDS]
        foreign += [name for name in PHOTOS if name != self._copy() and self.sha256(name) != photo.sha256]
        for name in foreign:
            if (self.path / name).exists():
                raise InputError(
                    f"{self.path}: holds a {name} of another origin",
                    "choose a new or an empty work folder",
                    code="work",
                )

    def create(self) -> None:
        """Make the folder; InputError if that cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be made a work folder: {error.strerror}", code="unwritable"
            ) from error

    def sha256(self, name: str) -> str | None:
        """Of the file `name`, or None if there is none."""
        file = self.path / name
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None

    def record(self, stage: str) -> dict[str, Any]:
        """What `<stage>.json` says; {} if there is none, it is of another version, or it is damaged."""
        try:
            found = json.loads((self.path / f"{stage}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("version") == VERSION else {}

    def keep(self, stage: str, inputs: Mapping[str, Any], values: Mapping[str, Any], *files: str) -> None:
        """Write `<stage>.json`, the last of a stage's files: with it the stage is done."""
        written = {name: self.sha256(name) for name in files}
        record = {"version": VERSION, "inputs": dict(inputs), "files": written} | dict(values)
        write_bytes(json.dumps(record, indent=1).encode() + b"\n", self.path / f"{stage}.json")

    def done(self, stage: str, inputs: Mapping[str, Any], but: Sequence[str] = ()) -> bool:
        """Whether the stage was made from just these inputs (and any `but`) and its files are as it wrote them."""
        found = self.record(stage).get("inputs") or {}
        same = {key: value for key, value in found.items() if key not in but} == json.loads(json.dumps(dict(inputs)))
        return same and self._changed(stage) is None

    def _changed(self, stage: str) -> str | None:
        """A file of the stage that is not as it wrote it, or None."""
        files: dict[str, str] = self.record(stage).get("files") or {}
        return next((name for name, sha256 in files.items() if self.sha256(name) != sha256), None)

    def whole_drag(self) -> bool:
        """Whether there is a drag, its files are as it wrote them, and it was made of the inversion that is here."""
        found = self.record("drag").get("inputs") or {}
        names = ("inverted.png", "mask.png")
        return bool(found) and self._changed("drag") is None and all(found.get(n) == self.sha256(n) for n in names)

    def need(self, stage: str, inputs: Mapping[str, Any]) -> None:
        """StaleError unless `stage` was run, from `inputs` (those named), and its files are as it wrote them."""
        command = f"`realdrag {AGAIN.get(stage, stage)} -w {self.path}`"
        found = self.record(stage).get("inputs")
        if not found:
            raise StaleError(f"{self.path}: {stage} was not run", f"run {command} first")
        changed = next((name for name, value in inputs.items() if found.get(name) != value), self._changed(stage))
        if changed is not None:
            raise StaleError(f"{self.path}: {changed} changed since {stage} was run", f"run {command} again first")

    # Values, one pair each.

    def _copy(self) -> str | None:
        """The name of the photo here if it is a copy of ours; one that a user put here is not ours to replace."""
        found = self.record("align")
        return found.get("photo") if found.get("copied") else None

    def put_photo(self, photo: Photo) -> None:
        """The original bytes (an array's as PNG), in place of an earlier photo's. align.json then names it."""
        self.check(photo)
        self.create()
        name = f"photo{SUFFIXES.get(photo.format, '.bin')}" if photo.data else "photo.png"
        target, old = self.path / name, self._copy()
        copied = name == old or not target.exists()
        # Before any file, so that a folder left half made by an interruption is known as ours.
        self.keep("align", {}, {"photo": name, "copied": copied, "name": photo.name})
        if old is not None and old != name:
            (self.path / old).unlink(missing_ok=True)
        if not photo.data:
            write(photo, target)
        elif self.sha256(name) != photo.sha256:
            write_bytes(photo.data, target)

    def photo(self) -> Photo:
        """The photo; InputError if the folder has none."""
        name = self.record("align").get("photo")
        if name is None or not (self.path / name).is_file():
            raise InputError(
                f"{self.path}: is no work folder: it holds no photo",
                f"make one with `realdrag align PHOTO -w {self.path}`",
                code="stale",
            )
        return read(self.path / name)

    def about_photo(self) -> dict[str, str]:
        """The photo as the store notes it: `photo`, its name where it came from, and `photo_sha256`."""
        found = self.record("align")
        about = {"photo": found.get("name"), "photo_sha256": found.get("inputs", {}).get("photo")}
        return {key: value for key, value in about.items() if value}

    def mask(self, size: tuple[int, int]) -> npt.NDArray[np.float32] | None:
        """The mask, or None."""
        file = self.path / "mask.png"
        return read_mask(file, size) if file.is_file() else None

    def _put_png(self, name: str, pixels: npt.NDArray[Any]) -> None:
        write_bytes(png(pixels), self.path / name)

    def picture(self, name: str) -> npt.NDArray[np.uint8]:
        """[s, s, 3] uint8 of a PNG of ours."""
        try:
            with Image.open(self.path / name) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise StaleError(f"{self.path / name}: is missing or damaged", "run its stage again") from error

    def put_alignment(self, inputs: Mapping[str, Any], alignment: Alignment) -> None:
        """aligned.png, then align.json; the photo lies there already."""
        self._put_png("aligned.png", alignment.crop)
        marks, before = alignment.landmarks, self.record("align")
        self.keep(
            "align",
            inputs,
            {
                "photo": before["photo"],
                "copied": before["copied"],
                "name": before.get("name", ""),
                "to_crop": alignment.to_crop.tolist(),
                "size": alignment.size,
                "landmarks": None if marks is None else marks.tolist(),
                "box": None if alignment.box is None else list(alignment.box),
                "detector": alignment.detector,
                "confidence": alignment.confidence,
            },
            before["photo"],
            "aligned.png",
        )

    def alignment(self) -> Alignment:
        """What align.json and aligned.png say."""
        found = self.record("align")
        return Alignment(
            to_crop=np.array(found["to_crop"], np.float64),
            crop=self.picture("aligned.png"),
            landmarks=None if found["landmarks"] is None else np.array(found["landmarks"], np.float64),
            box=None if found["box"] is None else tuple(found["box"]),
            detector=found["detector"],
            confidence=found["confidence"],
        )

    def put_latent(self, inputs: Mapping[str, Any], key: str, latent: Latent, about: Mapping[str, Any]) -> None:
        """inverted.png, then invert.json, `about` in it; the latent is the store's."""
        self._put_png("inverted.png", latent.picture)
        self.keep(
            "invert",
            inputs,
            {
                "key": key,
                **about,
                "loss": latent.loss,
                "metrics": dict(latent.metrics),
                "verdict": verdict(latent.metrics),
            },
            "inverted.png",
        )

    def put_drag(
        self,
        inputs: dict[str, Any],
        drag: Drag,
        about: Mapping[str, Any],
        mask: npt.NDArray[np.uint16] | None,
    ) -> None:
        """mask.png (None removes it), drag.safetensors (`WAY`, and `movable` with a mask) and dragged.png, then
        drag.json, `about` in it.
        """
        from safetensors.numpy import save

        if mask is None:
            (self.path / "mask.png").unlink(missing_ok=True)
        else:
            self._put_png("mask.png", mask)
        arrays = {name: getattr(drag, name) for name in (*WAY, "movable")}
        kept = {name: array for name, array in arrays.items() if array is not None}
        write_bytes(save(kept), self.path / "drag.safetensors")
        self._put_dragged(inputs | {"strength": drag.strength}, drag, about)

    def put_place(self, drag: Drag) -> None:
        """dragged.png and drag.json of the drag that is here, at another strength or step."""
        found = self.record("drag")
        inputs = found["inputs"] | {"strength": drag.strength}
        self._put_dragged(inputs, drag, found)

    def _put_dragged(self, inputs: Mapping[str, Any], drag: Drag, about: Mapping[str, Any]) -> None:
        self._put_png("dragged.png", drag.picture)
        self.keep(
            "drag",
            inputs,
            {
                **{name: about.get(name) for name in ABOUT_DRAG},
                "block": drag.block,
                "handles": [handle_json(h) for h in drag.handles],
                "outcome": drag.outcome.value,
                "steps": drag.steps,
                "best": drag.best,
                "chosen": drag.chosen,
                "strength": drag.strength,
                "trace": [
                    {"step": t.step, "distances": list(t.distances), "loss": t.loss, "confidences": list(t.confidences)}
                    for t in drag.trace
                ],
            },
            "drag.safetensors",
            "dragged.png",
        )

    def put_result(self, inputs: Mapping[str, Any], values: Mapping[str, Any], result: Result) -> None:
        """region.png, where the photo was allowed to change and how far, then result.json."""
        width, height = result.photo.size
        region = np.zeros((height, width), np.uint8) if result.region is None else result.region
        self._put_png("region.png", region)
        self.keep("result", inputs, values, "region.png")

    def region(self) -> npt.NDArray[np.uint8]:
        """[h, w] of region.png."""
        with Image.open(self.path / "region.png") as image:
            return np.asarray(image)

    def drag(self) -> Drag:
        """What drag.json and its files say."""
        from safetensors.numpy import load_file

        found, tensors = self.record("drag"), load_file(self.path / "drag.safetensors")
        return Drag(
            handles=tuple(
                Handle(
                    tuple(h["start"]),
                    tuple(h["target"]),
                    tuple(h["end"]),
                    h["distance_start"],
                    h["distance_end"],
                    h["confidence"],
                )
                for h in found["handles"]
            ),
            outcome=Outcome(found["outcome"]),
            best=found["best"],
            chosen=found["chosen"],
            strength=found["strength"],
            **{name: tensors[name] for name in WAY},
            movable=tensors.get("movable"),
            picture=self.picture("dragged.png"),
            block=found["block"],
            trace=tuple(
                TraceStep(t["step"], tuple(t["distances"]), t["loss"], tuple(t["confidences"])) for t in found["trace"]
            ),
        )


def png(pixels: npt.NDArray[Any]) -> bytes:
    """The file of 8-bit pixels or of 16-bit grey."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mask_levels(mask: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """[h, w] 0..1 as 16-bit grey, exact for masks of 8 and 16 bit; what may hardly move must not become 0."""
    levels = np.rint(mask.astype(np.float64) * 65535).astype(np.uint16)
    levels[mask > 0] = np.maximum(levels[mask > 0], 1)
    return levels


def handle_json(handle: Handle) -> dict[str, Any]:
    """A handle as the reports name it."""
    return {
        "start": list(handle.start),
        "target": list(handle.target),
        "end": list(handle.end),
        "distance_start": handle.distance_start,
        "distance_end": handle.distance_end,
        "confidence": handle.confidence,
    }
