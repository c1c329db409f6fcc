"""What the stages hand to each other: frozen values, each stating shapes, units and ranges.

Points are float64 [n, 2], (x, y) in pixels of the photo as displayed unless a name says otherwise (`geometry`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Mode = Literal["L", "LA", "RGB", "RGBA"]


class Outcome(StrEnum):
    """How a drag ended; each is a result."""

    REACHED = "REACHED"  # every handle is within the stop distance of its target
    STALLED = "STALLED"  # it no longer came nearer
    LOST_HANDLE = "LOST_HANDLE"  # a handle's surroundings could not be found again
    MAX_STEPS = "MAX_STEPS"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as displayed: EXIF orientation applied, palette resolved.

    pixels: [h, w, c] uint8 or uint16, c = 1, 2, 3, 4 for mode L, LA, RGB, RGBA.
    icc, exif, xmp: the file's own bytes, or None; exif begins with "Exif\\0\\0", without orientation and thumbnail.
    dpi: (x, y) or None. format: Pillow's name ("JPEG", also for a phone's MPO; "PNG", …), or "" for an array.
    data: the file's bytes, b"" for an array. sha256: of the file, or of the pixels and shape of an array.
    notes: what was converted on reading ("CMYK converted to RGB"), for people. name: the file's, without its folder.
    """

    pixels: npt.NDArray[Any]
    mode: Mode
    sha256: str
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str = ""
    data: bytes = field(default=b"", repr=False)
    notes: tuple[str, ...] = ()
    name: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the crop lies in the photo, and the crop itself.

    to_crop: 3×3, photo pixels → crop pixels; its inverse is exact, nothing is rounded in between.
    crop: [size, size, 3] uint8 sRGB.
    landmarks: [68, 2] photo pixels in the 300-W order, or None.
    box: face box (x0, y0, x1, y1) in photo pixels, or None (`--whole`); without a face: what the square is made from.
    detector: "fan", "embedded", "cascade", "box", "whole", or, without a face, the aligner: "square", "letterbox";
    confidence: the detector's own, 0..1, or None.
    """

    to_crop: npt.NDArray[np.floating[Any]]
    crop: npt.NDArray[np.uint8]
    landmarks: npt.NDArray[np.floating[Any]] | None
    box: tuple[float, float, float, float] | None
    detector: str
    confidence: float | None

    @property
    def size(self) -> int:
        """Side of the crop in pixels."""
        return int(self.crop.shape[0])

    @property
    def shown(self) -> tuple[float, float, float, float] | None:
        """The box of photo pixels that is all the crop shows, the rest being black (letterbox); None: there is none."""
        return self.box if self.detector == "letterbox" else None

    @property
    def to_photo(self) -> npt.NDArray[np.floating[Any]]:
        """3×3, crop pixels → photo pixels."""
        return np.asarray(np.linalg.inv(self.to_crop), np.float64)


@dataclass(frozen=True, eq=False)
class Latent:
    """A crop as the generator sees it.

    w_plus: [num_ws, w_dim] float32. Rendered with the model's own constant noise unless the delta changes it.
    delta: name of a parameter or noise map → float16 difference to the base model (pivotal tuning), or None.
    picture: what generator and latent render, [r, r, 3] uint8.
    loss: the perceptual loss that was optimised ("lpips-vgg", "embedded", …).
    metrics: "lpips" (None without a backbone), "psnr" (dB), "ssim", all of `picture` against the crop at size r.
    curves: phase ("w", "w+", "tune") → term of the loss ("perceptual", "pixels", …) → its value at each step; empty
    for a latent from elsewhere.
    """

    w_plus: npt.NDArray[np.float32]
    delta: Mapping[str, npt.NDArray[np.float16]] | None
    picture: npt.NDArray[np.uint8]
    model_sha256: str
    loss: str
    metrics: Mapping[str, float | None]
    curves: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Handle:
    """One dragged point: all positions (x, y) and distances in photo pixels.

    confidence: 0..1, how far what was found at `end` looks like what the handle was placed on; 0.1 and less is lost.
    """

    start: tuple[float, float]
    target: tuple[float, float]
    end: tuple[float, float]
    distance_start: float
    distance_end: float
    confidence: float


@dataclass(frozen=True)
class TraceStep:
    """A latent on the way: for each handle the distance left in photo pixels and the confidence, and the loss."""

    step: int
    distances: tuple[float, ...]
    loss: float
    confidences: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Moment:
    """A drag under way, as whoever watches it is told.

    w_plus: [num_ws, w_dim] float32. places: [k, 2] photo pixels, where the handles were found. trace: this step's.
    """

    w_plus: npt.NDArray[np.float32]
    places: npt.NDArray[np.float64]
    trace: TraceStep


@dataclass(frozen=True, eq=False)
class Drag:
    """The way of a latent from the inversion to the edit.

    way: [n, num_ws, w_dim] float32, the latent at each entry of `trace`; way[0] is where this drag began.
    places: [n, k, 2] float64, where the k handles were found then, photo pixels.
    before: [m, num_ws, w_dim] float32, the way of the drags that this one goes on from; m is 0 for the first.
    best: index into `way` where all handles had arrived, or else distances and changes together were least.
    chosen: index of the one shown: `best`, until another is asked for.
    strength: 0 … 1.5, how far along the way to `chosen` the result lies; above 1 beyond it.
    templates: [n, …] float32, the features of each handle where it was first placed: going on keeps them.
    picture: the dragged picture, [r, r, 3] uint8. block: the feature block used ("b32").
    movable: [r, r] uint8 of the generator's picture, 255 where it may follow the latent, 0 where it stays the
    inversion's; None: everywhere.
    """

    handles: tuple[Handle, ...]
    outcome: Outcome
    way: npt.NDArray[np.float32]
    places: npt.NDArray[np.float64]
    before: npt.NDArray[np.float32]
    best: int
    chosen: int
    templates: npt.NDArray[np.float32]
    picture: npt.NDArray[np.uint8]
    block: str
    trace: tuple[TraceStep, ...]
    movable: npt.NDArray[np.uint8] | None = None
    strength: float = 1.0

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.trace) - 1


@dataclass(frozen=True, eq=False)
class Result:
    """The edited photo.

    photo: as the source, other pixels. changed: box of the pixels that differ (x0, y0, x1, y1), or None.
    outside_max_difference: largest difference to the source where the region is 0: 0, or the edit is refused.
    region: [h, w] uint8, how far each pixel could follow the edit, 255 wholly; 0 outside the mask and where nothing
    happened. None where nothing changed.
    file_difference: the same as outside_max_difference in the written file, decoded; None where none was written.
    """

    photo: Photo
    changed: tuple[int, int, int, int] | None
    outside_max_difference: int
    region: npt.NDArray[np.uint8] | None = None
    file_difference: int | None = None


@dataclass(frozen=True, eq=False)
class Edit:
    """All that an edit made. cache: "hit" when the latent was in the store. seconds: stage → time, and "total"."""

    result: Result
    alignment: Alignment
    latent: Latent
    drag: Drag
    cache: Literal["hit", "miss"]
    seconds: Mapping[str, float]
