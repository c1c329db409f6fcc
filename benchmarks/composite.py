"""How well an edit comes back into the photo, each figure beside a plain feathered paste of the generator's picture.

    python benchmarks/composite.py motion PHOTO…     known motions: end-point errors, PSNR, texture
    python benchmarks/composite.py seam PHOTO…       gradients across the edge of a mask
    python benchmarks/composite.py geometry PHOTO…   crop and paste of an unedited crop
    python benchmarks/composite.py large PHOTO       a 50-megapixel JPEG: time and peak memory of `realdrag composite`

Photos are portraits; `motion` and `seam` take each as a crop of 512 px, and show the scene before and after at 64 px in
place of the generator's pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage.registration import phase_cross_correlation

from realdrag.composite import composite
from realdrag.composite.motion import find_change
from realdrag.composite.region import crop_box, opening
from realdrag.geometry import quad_to_square, resize, resize_matrix, unwarp, warp
from realdrag.photo import add_srgb_change, from_array, read, to_srgb
from realdrag.progress import Silent
from realdrag.settings import CompositeSettings
from realdrag.values import Alignment, Photo

SIDE, SMALL = 512, 64
SETTINGS = CompositeSettings()
Y, X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
U, V = (X + 0.5) / SIDE, (Y + 0.5) / SIDE  # 0..1 over the picture


def smooth_step(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def rotation(degrees: float) -> np.ndarray:
    """Of the whole picture about its middle; backward flow [512, 512, 2], as all fields."""
    return turned(np.full((SIDE, SIDE), degrees, float))


def head(degrees: float) -> np.ndarray:
    """The same, falling to nothing from 0.34 to 0.5 of the picture: the background stays."""
    return turned(degrees * (1 - smooth_step(0.34, 0.5, np.hypot(U - 0.5, V - 0.5))))


def turned(degrees: np.ndarray) -> np.ndarray:
    """Each pixel about the middle by its own angle."""
    turn = np.deg2rad(degrees)
    x, y = (U - 0.5) * SIDE, (V - 0.5) * SIDE
    return np.stack([np.cos(turn) * x + np.sin(turn) * y - x, np.cos(turn) * y - np.sin(turn) * x - y], -1)


def jaw(share: float = 0.03) -> np.ndarray:
    """Mouth and chin down by this share of the side."""
    weight = np.exp(-(((U - 0.5) / 0.22) ** 2)) * smooth_step(0.66, 0.80, V) * (1 - smooth_step(0.86, 1.0, V))
    return np.stack([0 * weight, -share * SIDE * weight], -1)


def push(x: float = -0.02, y: float = -0.016) -> np.ndarray:
    """A cheek, by these shares of the side."""
    weight = np.exp(-((U - 0.38) ** 2 + (V - 0.70) ** 2) / (2 * 0.07**2))
    return np.stack([-x * SIDE * weight, -y * SIDE * weight], -1)


def lips(share: float = 0.03) -> np.ndarray:
    """The lower lip away from the upper one: a line along which motion jumps."""
    opened = np.clip(3 - 3 * ((U - 0.5) / 0.16) ** 2, 0, 1) * (V > 0.7)
    weight = opened * np.exp(-(((U - 0.5) / 0.22) ** 2)) * (1 - smooth_step(0.86, 1.0, V))
    return np.stack([0 * weight, -share * SIDE * weight], -1)


FIELDS = {
    "rotation by 5°": rotation(5),
    "jaw drop": jaw(),
    "local push": push(),
    "rotation by 10°": rotation(10),
    "head turned by 5°": head(5),
    "head turned by 10°": head(10),
    "lips part": lips(),
}
JUDGED = tuple(FIELDS)[:3]


def scene(path: str) -> np.ndarray:
    """The largest centred square of a photo at 512 px, [512, 512, 3] uint8."""
    rgb = to_srgb(read(path))
    side = min(rgb.shape[:2])
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    return resize(np.ascontiguousarray(rgb[top : top + side, left : left + side]), SIDE)


def moved(picture: np.ndarray, field: np.ndarray) -> np.ndarray:
    """`picture` by a backward flow, as sharp as it was: resampled four times finer than it is."""
    fine = cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_LANCZOS4)
    x, y = ((4 * (at + field[..., n]) + 1.5).astype(np.float32) for n, at in enumerate((X, Y)))
    return np.asarray(cv2.remap(fine, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT))


def crop_of(rgb: np.ndarray) -> Alignment:
    """The picture as its own crop."""
    return Alignment(np.eye(3), rgb, None, None, "whole", None)


def edited(photo: Photo, alignment: Alignment, before: np.ndarray, after: np.ndarray, mask=None) -> np.ndarray:
    """The composite's pixels."""

    def carry(pixels: np.ndarray, change: np.ndarray) -> np.ndarray:
        return add_srgb_change(photo, pixels, change)

    done = composite(photo, alignment, before, after, mask, SETTINGS, carry=carry, progress=Silent())
    return done.photo.pixels


def pasted(photo: Photo, alignment: Alignment, after: np.ndarray, mask=None) -> np.ndarray:
    """The reference: the generator's picture enlarged over the photo, feathered as much as the composite."""
    x0, y0, x1, y1 = box = crop_box(photo, alignment)
    alpha = opening(photo, alignment, mask, SETTINGS, box)[..., None]
    large = unwarp(after, resize_matrix(alignment.size, after.shape[0]) @ alignment.to_crop, box)
    out = photo.pixels.copy()
    out[y0:y1, x0:x1] = np.rint(out[y0:y1, x0:x1] * (1 - alpha) + large * alpha)
    return out


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """In dB, over the pixels `where`."""
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b)[where].mean()))


def energy(picture: np.ndarray, where: np.ndarray) -> float:
    """Of the detail finer than 1.5 px (Gaussian), over the pixels `where`."""
    fine = picture.astype(np.float32) - cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.5)
    return float(np.square(fine)[where].mean())


def motion(paths: list[str]) -> None:
    """Known motions: error of the motion found, PSNR and texture of the result."""
    rows: dict[str, list[list[float]]] = {name: [] for name in FIELDS}
    for path in paths:
        rgb = scene(path)
        photo, alignment = from_array(rgb), crop_of(rgb)
        for name, field in FIELDS.items():
            truth = moved(rgb, field)
            small = resize(rgb, SMALL), resize(truth, SMALL)
            change = find_change(*small, grow=SETTINGS.grow, share=SETTINGS.change)
            found = resize(change.motion * change.happened[..., None], SIDE) * SIDE / change.size
            counts = np.hypot(field[..., 0], field[..., 1]) > 1
            if name.startswith("rotation"):  # the corners come from beyond the picture
                counts &= np.hypot(U - 0.5, V - 0.5) < 0.44
            error = np.hypot(*np.moveaxis(found - field, -1, 0))
            ours, paste = edited(photo, alignment, *small), pasted(photo, alignment, small[1])
            texture = [energy(picture, counts) / energy(truth, counts) for picture in (ours, paste)]
            quality = [psnr(picture, truth, counts) for picture in (ours, paste)]
            rows[name].append([error[counts].mean(), *quality, quality[0] - quality[1], *texture])
    print("| motion | end-point error, px of 512 (largest) | PSNR | of the paste | gain | texture | of the paste |")
    print("|---|---|---|---|---|---|---|")
    for name, values in rows.items():
        m, worst = np.mean(values, 0), np.max(values, 0)[0]
        print(
            f"| {name} | {m[0]:.2f} ({worst:.2f}) | {m[1]:.1f} dB | {m[2]:.1f} dB | {m[3]:+.1f} dB | {m[4]:.2f} "
            f"| {m[5]:.2f} |"
        )
    gains = np.mean([np.array(rows[name])[:, 3].mean() for name in JUDGED])
    print(f"mean gain over the first three: {gains:.1f} dB, {len(paths)} photos")


def seam(paths: list[str]) -> None:
    """The gradient across the edge of a mask, result over photo, 95th percentile; the mask cuts through the motion."""
    ratios: list[list[float]] = []
    for path in paths:
        rgb = scene(path)
        photo, alignment = from_array(rgb), crop_of(rgb)
        mask = (((U - 0.5) / 0.2) ** 2 + ((V - 0.72) / 0.14) ** 2 < 1).astype(np.float32)
        depth = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, 5)
        out_depth = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, 5)
        band = (depth <= 2) & (out_depth <= 2)  # two pixels on either side
        normal_x, normal_y = (cv2.Sobel(depth - out_depth, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
        length = np.hypot(normal_x, normal_y) + 1e-6
        for field in (jaw(), push(), head(5)):
            small = resize(rgb, SMALL), resize(moved(rgb, field), SMALL)
            across = []
            for picture in (rgb, edited(photo, alignment, *small, mask), pasted(photo, alignment, small[1], mask)):
                grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
                x, y = (cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
                across.append(np.percentile(np.abs(x * normal_x + y * normal_y)[band] / length[band], 95))
            ratios.append([across[1] / across[0], across[2] / across[0]])
    print("| | median | 95th percentile | largest |")
    print("|---|---|---|---|")
    for name, values in zip(("composite", "paste"), np.transpose(ratios), strict=True):
        print(f"| {name} | {np.median(values):.3f} | {np.percentile(values, 95):.3f} | {values.max():.3f} |")


def geometry(paths: list[str]) -> None:
    """Crop, paste and crop again, nothing edited: PSNR inside at the crop's own resolution, and the shift."""
    print("| crop | PSNR, least | shift, largest |")
    print("|---|---|---|")
    for side in (256, 360, 512, 640):
        for degrees in (0, 12):
            figures = [round_trip(to_srgb(read(path)), side, degrees) for path in paths]
            worst = min(f[0] for f in figures), max(f[1] for f in figures)
            print(f"| {side} px turned by {degrees}° | {worst[0]:.1f} dB | {worst[1]:.4f} px |")


def round_trip(rgb: np.ndarray, side: int, degrees: float) -> tuple[float, float]:
    """PSNR in dB, and length of the shift in crop pixels by phase correlation."""
    turn, middle = np.deg2rad(degrees), (np.array(rgb.shape[1::-1]) - 1) / 2 + (0.3, -0.2)
    half = side / 2 * np.array([np.cos(turn), np.sin(turn)])
    down = np.array([-half[1], half[0]])
    quad = np.array([middle - half - down, middle - half + down, middle + half + down, middle + half - down])
    to_crop = quad_to_square(quad, side)
    crop = warp(rgb, to_crop, side, sharp=True)
    box = (0, 0, rgb.shape[1], rgb.shape[0])
    again = warp(unwarp(crop, to_crop, box), to_crop, side, sharp=True)
    inner = np.s_[16:-16, 16:-16]
    square = np.sqrt(2) if degrees else 1
    keep = np.hypot(*np.meshgrid(*[np.arange(side) - side / 2] * 2)) < side / 2 / square * 1.2
    value = psnr(crop[inner], again[inner], keep[inner])
    # Not OpenCV's phase correlation: where it pads to a size that it likes, it is off by half a pixel.
    window = cv2.createHanningWindow((side - 32, side - 32), cv2.CV_64F)
    pair = [(c[inner].mean(2) - c[inner].mean()) * window for c in (crop, again)]
    shift = phase_cross_correlation(*pair, upsample_factor=500)[0]
    return value, float(np.hypot(*shift))


def large(path: str) -> None:
    """`realdrag composite` on a 50-megapixel JPEG of the portrait, its face as large as the photo; a process each."""
    rgb = cv2.resize(to_srgb(read(path)), (7071, 7071), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0, 3, (1024, 1024, 3)).astype(np.float32)
    rgb = np.clip(rgb + np.tile(noise, (7, 7, 1))[: len(rgb), : len(rgb)], 0, 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image

        Image.fromarray(rgb).save(f"{folder}/large.jpg", quality=92)
        del rgb
        run = [sys.executable, "-c", "from realdrag.cli import main; main()"]
        edit = [
            "edit",
            "large.jpg",
            "-o",
            "first.jpg",
            "--move",
            "smile=0.7",
            "--threads",
            "1",
            "-w",
            "work",
            "--quiet",
        ]
        subprocess.run([*run, *edit], cwd=folder, check=True)
        for _ in range(3):
            start = time.perf_counter()
            child = subprocess.Popen([*run, "composite", "-w", "work", "-o", "out.jpg", "--quiet"], cwd=folder)
            _, status, usage = os.wait4(child.pid, 0)
            took, busy = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
            print(
                f"{took:.1f} s ({busy:.1f} s of a processor), peak {usage.ru_maxrss * 1024 / 1e6:.0f} MB, exit {status}"
            )
        print(json.loads(Path(f"{folder}/work/result.json").read_text())["outside_max_difference"])


def main() -> None:
    """The part that is named, on the photos that are named."""
    parts: dict[str, Callable[[list[str]], None]] = {"motion": motion, "seam": seam, "geometry": geometry}
    name, *paths = sys.argv[1:]
    cv2.setNumThreads(1)
    if name == "large":
        large(paths[0])
    else:
        parts[name](paths)


if __name__ == "__main__":
    main()
