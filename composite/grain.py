"""A photo's grain, found in its plain parts and made again where new pixels would be too smooth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from realdrag.geometry import Array

PATCH = 8  # pixels a side of the patches that grain is sought in
PLAINEST = 0.2  # share of them, the least varied, that are taken for plain; flat white or black ones are left out
MOST_PIXELS = 2**20  # of the photo that are looked at
TILE = 256  # pixels a side of the made grain, which repeats without a seam
SPREADS = np.arange(0.0, 1.6, 0.1)  # of the blur that makes neighbours alike


@dataclass(frozen=True, eq=False)
class Grain:
    """tile: [TILE, TILE, c] float32, in the photo's own levels, mean 0."""

    tile: npt.NDArray[np.float32]

    def at(self, box: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
        """The grain of the photo's pixels in `box` (x0, y0, x1, y1; the last exclusive)."""
        x0, y0, x1, y1 = box
        rows, columns = np.arange(y0, y1) % TILE, np.arange(x0, x1) % TILE
        return np.asarray(self.tile[rows[:, None], columns])


def find_grain(pixels: Array, strength: float) -> Grain:
    """The grain of `pixels` [h, w, c], any depth, times `strength`: as strong, as coarse, as coloured."""
    height, width, channels = pixels.shape
    side = int(MOST_PIXELS**0.5)
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    part = pixels[top : top + side, left : left + side].astype(np.float32)
    fine = part - cv2.GaussianBlur(part, (0, 0), 2.0, borderType=cv2.BORDER_REFLECT).reshape(part.shape)
    rows, columns = part.shape[0] // PATCH, part.shape[1] // PATCH
    if rows * columns == 0:
        return Grain(np.zeros((TILE, TILE, channels), np.float32))
    patches = fine[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH, channels).swapaxes(1, 2)
    patches = patches.reshape(-1, PATCH, PATCH, channels)
    power = np.square(patches).mean((1, 2, 3))
    seen = power > 0
    plain = patches[seen][power[seen] <= np.quantile(power[seen], PLAINEST)] if seen.any() else patches[:0]
    if not len(plain):
        return Grain(np.zeros((TILE, TILE, channels), np.float32))
    flat = plain.reshape(-1, channels)
    mix = np.linalg.cholesky(np.cov(flat, rowvar=False).reshape(channels, channels) + 1e-6 * np.eye(channels))
    alike = float((plain[:, :, 1:] * plain[:, :, :-1]).mean() / np.square(plain).mean())
    noise = made(alike, channels) @ mix.T.astype(np.float32)
    return Grain(np.asarray(noise * np.float32(strength), np.float32))


def made(alike: float, channels: int) -> npt.NDArray[np.float32]:
    """Noise [TILE, TILE, c] of deviation 1 whose neighbours correlate, after the low-pass is taken off, by `alike`."""
    missed = [abs(each - alike) for each in likenesses(channels)]
    fine = blurred(float(SPREADS[missed.index(min(missed))]), channels)
    return np.asarray(fine / fine.std(), np.float32)


@lru_cache
def likenesses(channels: int) -> tuple[float, ...]:
    """How much neighbours correlate at each of SPREADS. Kept: a film makes the grain of each of its pictures."""
    fine = (blurred(float(spread), channels) for spread in SPREADS)
    return tuple(float((each * np.roll(each, 1, 1)).mean() / np.square(each).mean()) for each in fine)


@lru_cache(maxsize=4)
def blurred(spread: float, channels: int) -> npt.NDArray[np.float32]:
    """White noise [TILE, TILE, c] blurred so far, its low-pass taken off."""
    white = np.random.default_rng(0).standard_normal((TILE, TILE, channels)).astype(np.float32)
    noise = gaussian_filter(white, (spread, spread, 0), mode="wrap")
    return np.asarray(noise - gaussian_filter(noise, (2.0, 2.0, 0), mode="wrap"))
