"""The faces that every model here is trained on, and the ones that none of them ever sees.

`faces-128.npz` holds `jpegs` (uint8, all files one after another), `ends` (their end offsets), `names`, `landmarks`
[n, 68, 2] (pixels of the 128 px picture, centre of the top-left pixel (0, 0)) and `spread` [n] (their uncertainty, px).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

HELD_OUT = 120  # the first ones; for every model, always
# The strongest quantisation step from which a picture counts as blocky (the synthetic part stays below).
BLOCKY = 60


@dataclass(frozen=True, eq=False)
class Faces:
    """pictures: [n, size, size, 3] uint8. landmarks: [n, 68, 2] in their pixels. spread: [n], likewise.

    synthetic: [n] bool, the pictures that are little compressed.
    """

    pictures: np.ndarray
    landmarks: np.ndarray
    spread: np.ndarray
    synthetic: np.ndarray

    def __getitem__(self, part: slice) -> Faces:
        return Faces(self.pictures[part], self.landmarks[part], self.spread[part], self.synthetic[part])


def load(path: str, size: int = 128) -> tuple[Faces, Faces]:
    """The faces to train on and the held-out ones, `size` px wide."""
    with np.load(path) as data:
        raw, ends, names = data["jpegs"].tobytes(), data["ends"], data["names"]
        landmarks, spread = data["landmarks"].astype(np.float32), data["spread"].astype(np.float32)
    pictures = np.empty((len(ends), size, size, 3), np.uint8)
    for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        picture = Image.fromarray(deblocked(raw[start:end]))
        pictures[i] = picture if picture.width == size else picture.resize((size, size), Image.Resampling.LANCZOS)
    scale = size / 128
    synthetic = np.array([name.startswith("omi/") for name in names])
    faces = Faces(pictures, (landmarks + 0.5) * scale - 0.5, spread * scale, synthetic)
    return faces[slice(HELD_OUT, None)], faces[slice(HELD_OUT)]


def deblocked(jpeg: bytes, step: int = 2) -> np.ndarray:
    """The picture [h, w, 3] of a JPEG file without its grid of 8 × 8 blocks, which a generator would learn.

    The mean of the picture compressed again at every shift against the grid (Nosratinia, "Enhancement of
    JPEG-compressed images by re-application of JPEG", 2001); every `step`-th shift is enough.
    """
    image = Image.open(io.BytesIO(jpeg))
    tables, x = image.quantization, np.asarray(image.convert("RGB"))
    if max(tables[0]) < BLOCKY:
        return x
    (h, w), padded = x.shape[:2], np.pad(x, ((8, 8), (8, 8), (0, 0)), "reflect")
    total = np.zeros(x.shape, np.float32)
    for dy in range(0, 8, step):
        for dx in range(0, 8, step):
            again = io.BytesIO()
            shifted = Image.fromarray(padded[8 - dy : 16 - dy + h, 8 - dx : 16 - dx + w])
            shifted.save(again, "JPEG", qtables=tables, subsampling=2)
            total += np.asarray(Image.open(again))[dy : dy + h, dx : dx + w]
    return np.rint(total / len(range(0, 8, step)) ** 2).astype(np.uint8)
