"""A drag as a film: the way of the latent as pictures of the photo's crop, with the points drawn."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from realdrag.api import mask_of_crop
from realdrag.errors import InputError
from realdrag.geometry import Matrix, Points, resize, resize_matrix, transform
from realdrag.photo import from_array
from realdrag.photo_colour import add_srgb_change
from realdrag.photo_write import check_folder, write_bytes
from realdrag.progress import Silent, stretch
from realdrag.settings import CompositeSettings
from realdrag.values import Alignment, Drag, Latent, Photo, Result

if TYPE_CHECKING:
    from realdrag.api import Editor
    from realdrag.composite import Change

SIDES = {".mp4": 512, ".gif": 320, ".png": 256}  # suffix → largest side of a frame
SMALLEST = 256  # a smaller crop is enlarged, or the points would hide it
MOST_FRAMES = 60  # each costs a picture and a composite
SECONDS_A_FRAME, FIRST_SECONDS, LAST_SECONDS = 0.08, 0.56, 1.6
SHEET_PICTURES, SHEET_COLUMNS = 12, 4
FINER = 4  # points are drawn this many times larger and reduced, for smooth edges

START, TARGET, NOW, INK, PAPER = (255, 80, 60), (70, 150, 255), (255, 220, 40), (0, 0, 0), (255, 255, 255)


def check_film(path: Path) -> None:
    """InputError for a film that cannot be made there: before any work."""
    if path.suffix.lower() not in SIDES:
        raise InputError(f"{path}: the suffix names no film", f"use one of {', '.join(SIDES)}", code="suffix")
    check_folder(path)
    if path.suffix.lower() == ".mp4":
        video_library()


def video_library() -> Any:
    """PyAV; InputError where it is not installed."""
    try:
        import av
    except ImportError as error:
        hint = "install it with `pip install av`, or use .gif or .png"
        raise InputError("an .mp4 needs PyAV, which is not installed", hint, code="video") from error
    return av


def make_film(
    editor: Editor,
    alignment: Alignment,
    latent: Latent,
    drag: Drag,
    path: str | os.PathLike[str],
    mask: npt.NDArray[np.float32] | None,
) -> None:
    """Writes `drag`, up to its strength, as the kind of film that the suffix names; see `Editor.film`."""
    path = Path(path)
    check_film(path)
    suffix = path.suffix.lower()
    moments = editor.moments(latent, drag, SHEET_PICTURES if suffix == ".png" else MOST_FRAMES)
    scene = Scene.of(alignment, latent, mask, editor.settings.composite, SIDES[suffix])
    frames = []
    with stretch(editor.progress, "film", len(moments)) as bar:
        for picture, places in moments:
            frames.append(draw(scene.show(picture), scene.to_frame, drag, places))
            bar.step(len(frames))
    write_bytes({".mp4": as_mp4, ".gif": as_gif, ".png": as_sheet}[suffix](frames), path)


@dataclass(frozen=True, eq=False)
class Scene:
    """The crop that a film is played on: as a photo of its own, with its mask, and photo pixels → frame pixels."""

    photo: Photo
    alignment: Alignment
    inverted: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.float32]
    settings: CompositeSettings
    to_frame: Matrix

    @classmethod
    def of(
        cls,
        alignment: Alignment,
        latent: Latent,
        mask: npt.NDArray[np.float32] | None,
        settings: CompositeSettings,
        largest: int,
        smallest: int = SMALLEST,
    ) -> Scene:
        """The crop at a side of at most `largest`, even as H.264 needs it; mask: [h, w] of the photo."""
        side = min(max(alignment.size, smallest), largest) // 2 * 2
        crop = resize(alignment.crop, side)
        if mask is None:  # everywhere: one pixel is as good as all, and beyond its edge lies its mirror image
            mask = np.ones((1, 1), np.float32)
        movable = resize(mask_of_crop(mask, alignment), side).clip(0, 1)
        movable[[0, -1]] = movable[:, [0, -1]] = 0  # so that the edit fades towards the crop's edge, as in the photo
        return cls(
            from_array(crop),
            Alignment(np.eye(3), crop, None, None, "whole", None),
            latent.picture,
            movable,
            settings,
            resize_matrix(alignment.size, side) @ alignment.to_crop,
        )

    def follow(self, picture: npt.NDArray[np.uint8], last: Change | None) -> tuple[Change, Result]:
        """As `show`, quickly, where `last` is the change of the picture before (None: there was none yet).

        With the change of this one.
        """
        from realdrag.composite import find_change, lay_on

        settings = self.settings
        motion = 0.0 if last is None else last.motion
        change = find_change(self.inverted, picture, grow=settings.grow, share=settings.change, motion=motion)
        result = lay_on(
            self.photo,
            self.alignment,
            change,
            self.mask,
            settings,
            carry=self._carry,
            progress=Silent(),
        )
        return change, result

    def show(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The crop edited as the model's `picture` says, [side, side, 3]."""
        from realdrag.composite import composite

        return composite(
            self.photo,
            self.alignment,
            self.inverted,
            picture,
            self.mask,
            self.settings,
            carry=self._carry,
            progress=Silent(),
        ).photo.pixels

    def _carry(self, pixels: npt.NDArray[Any], change: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return add_srgb_change(self.photo, pixels, change)


def draw(picture: npt.NDArray[np.uint8], to_frame: Matrix, drag: Drag, places: Points) -> Image.Image:
    """The frame: from each handle (ring) to its target (cross) a line, where it is now (dot), and how far is left."""
    frame, side = Image.fromarray(picture), picture.shape[0]
    unit = side / SMALLEST * FINER
    overlay = Image.new("RGBA", (side * FINER, side * FINER))
    pen = ImageDraw.Draw(overlay)
    starts, targets = (np.array([getattr(h, name) for h in drag.handles]) for name in ("start", "target"))
    for points in zip(starts, targets, places, strict=True):
        (x, y), (x2, y2), now = ((transform(to_frame, np.array(points)) + 0.5) * FINER - 0.5).tolist()
        r, thin = 3.0 * unit, round(1.2 * unit)
        pen.line((x, y, x2, y2), fill=(*PAPER, 150), width=thin)
        pen.ellipse((x - r, y - r, x + r, y + r), outline=START, width=thin)
        pen.line((x2 - r, y2 - r, x2 + r, y2 + r), fill=TARGET, width=thin)
        pen.line((x2 - r, y2 + r, x2 + r, y2 - r), fill=TARGET, width=thin)
        r = 2.4 * unit
        pen.ellipse((now[0] - r, now[1] - r, now[0] + r, now[1] + r), fill=NOW, outline=INK, width=round(0.6 * unit))
    frame.paste(small := overlay.reduce(FINER), mask=small)
    left = np.linalg.norm(targets - places, axis=1).max()
    font = ImageFont.load_default(side // 23)
    ImageDraw.Draw(frame).text(
        (side / 40, side * 39 / 40), f"{left:.1f} px left", PAPER, font, "ls", stroke_width=2, stroke_fill=INK
    )
    return frame


def as_sheet(frames: Sequence[Image.Image]) -> bytes:
    """A contact sheet, PNG, row by row."""
    side, columns = frames[0].width, min(SHEET_COLUMNS, len(frames))
    sheet = Image.new("RGB", (columns * side, -(-len(frames) // columns) * side), PAPER)
    for n, frame in enumerate(frames):
        row, column = divmod(n, columns)
        sheet.paste(frame, (column * side, row * side))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def as_gif(frames: Sequence[Image.Image]) -> bytes:
    """A GIF that repeats for ever; the first and the last picture stay a while."""
    times = [SECONDS_A_FRAME] * len(frames)
    times[0], times[-1] = FIRST_SECONDS, LAST_SECONDS
    durations = [round(1000 * t) for t in times]
    # One palette for all, so that nothing flickers, with the points' colours, too few pixels to be given a place.
    marks = [START, TARGET, NOW, INK, PAPER]
    common = frames[-1].quantize(256 - len(marks))
    levels = (common.getpalette() or [])[: 3 * (256 - len(marks))]
    common.putpalette(levels + [level for mark in marks for level in mark])
    paletted = [frame.quantize(palette=common) for frame in frames]
    out = io.BytesIO()
    paletted[0].save(out, "GIF", save_all=True, append_images=paletted[1:], duration=durations, loop=0)
    return out.getvalue()


def as_mp4(frames: Sequence[Image.Image]) -> bytes:
    """H.264 in an MP4 that starts to play before it is loaded; the first and the last picture stay a while."""
    av = video_library()
    first, last = (round(t / SECONDS_A_FRAME) - 1 for t in (FIRST_SECONDS, LAST_SECONDS))
    # A file, not a buffer: to move the index to the front FFmpeg opens by name what it has written.
    with tempfile.TemporaryDirectory(prefix="realdrag-") as folder:
        path = Path(folder) / "film.mp4"
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(1 / SECONDS_A_FRAME).limit_denominator(1000))
            stream.width, stream.height = frames[0].size
            stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
            for frame in [frames[0]] * first + list(frames) + [frames[-1]] * last:
                container.mux(stream.encode(av.VideoFrame.from_image(frame)))
            container.mux(stream.encode())
        return path.read_bytes()
