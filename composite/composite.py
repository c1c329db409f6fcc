"""The edit back into the photo: the photo's own pixels moved, plus what moving cannot explain; the rest untouched.

The generator's picture is small and soft, the photo sharp: the generator is asked what changed, never for pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from realdrag.composite.grain import Grain, find_grain
from realdrag.composite.motion import Change, find_change
from realdrag.composite.region import Box, Map, blending, crop_box
from realdrag.errors import WorkError
from realdrag.geometry import Array, Matrix, resize_matrix, sample, sample_sharp, scale_of, transform, warp
from realdrag.progress import Progress, stretch
from realdrag.settings import CompositeSettings
from realdrag.values import Alignment, Photo, Result

STRIP = 256  # rows at a time: a 50-megapixel portrait must not take its size in floats many times over

# (pixels [n, m, c] in the photo's own space, change [n, m, 3] in sRGB levels) → pixels with the change.
CarryChange = Callable[[Array, Array], Array]


@dataclass(frozen=True, eq=False)
class Scene:
    """What a part of the photo is made anew from.

    alpha: [h, w] 0..1 of `box`. to_change: photo pixels → those of `change`. soft: the photo's colours at the change's
    size, [s, s, c] in its own depth.
    """

    photo: Photo
    box: Box
    alpha: Map
    change: Change
    to_change: Matrix
    soft: npt.NDArray[np.float32]
    grain: Grain
    carry: CarryChange


def composite(
    photo: Photo,
    alignment: Alignment,
    inverted: npt.NDArray[np.uint8],
    dragged: npt.NDArray[np.uint8],
    mask: Map | None,
    settings: CompositeSettings,
    *,
    carry: CarryChange,
    progress: Progress,
) -> Result:
    """The photo with what happened from `inverted` to `dragged` ([r, r, 3] uint8, the crop as the generator shows it).

    mask: [h, w] 0..1 of the photo, or None for the whole crop. `carry` brings a change of sRGB levels into the
    photo's own space. Raises WorkError if a pixel outside the region would differ, which nothing should make happen.
    """
    box = crop_box(photo, alignment)
    if np.array_equal(inverted, dragged) or box[2] <= box[0] or box[3] <= box[1]:
        return Result(photo, None, 0)
    side = math.ceil(alignment.size / scale_of(alignment.to_crop))  # of the crop, in photo pixels
    change = find_change(inverted, dragged, grow=settings.grow, share=settings.change).reduced(side)
    alpha = blending(photo, alignment, change, mask, settings, box)
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        return Result(photo, None, 0)
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    alpha = alpha[top:bottom, left:right]
    box = (box[0] + left, box[1] + top, box[0] + right, box[1] + bottom)
    colours = photo.pixels[..., : colour_channels(photo)]
    to_change = resize_matrix(alignment.size, change.size) @ alignment.to_crop
    soft = warp(colours, to_change, change.size).reshape(change.size, change.size, -1).astype(np.float32)
    grain = find_grain(colours[box[1] : box[3], box[0] : box[2]], settings.grain)
    scene = Scene(photo, box, alpha, change, to_change, soft, grain, carry)
    after = photo.pixels.copy()
    starts = range(box[1], box[3], STRIP)
    with stretch(progress, "composite", len(starts)) as report:
        for n, start in enumerate(starts):
            blend(scene, after, start, min(start + STRIP, box[3]))
            report.step(n + 1)
    return verified(photo, after, region_of(photo, alpha, box, mask))


def colour_channels(photo: Photo) -> int:
    """1 or 3: the channels before alpha."""
    return 1 if photo.mode in ("L", "LA") else 3


def blend(scene: Scene, after: Array, top: int, bottom: int) -> None:
    """Writes the edit into the rows from `top` to before `bottom` of `after` where the scene's alpha is not 0."""
    change, before = scene.change, scene.photo.pixels
    x0, first, x1, _ = scene.box
    box = (x0, top, x1, bottom)
    alpha = scene.alpha[top - first : bottom - first]
    y, x = np.mgrid[top:bottom, x0:x1].astype(np.float32)
    here = transform(scene.to_change, np.stack([x, y], -1).reshape(-1, 2)).reshape(*x.shape, 2).astype(np.float32)
    motion = sample(change.motion, here[..., 0], here[..., 1]) * alpha[..., None]
    shift = motion @ np.linalg.inv(scene.to_change[:2, :2]).T.astype(np.float32)
    new = (sample(change.new, here[..., 0], here[..., 1]).clip(0, 1) * alpha)[..., None]
    residue = sample(change.residue, here[..., 0], here[..., 1]) * alpha[..., None]
    moved = move(before[..., : scene.soft.shape[2]], x + shift[..., 0], y + shift[..., 1])
    if new.any():
        # Detail that was moved to where something new is belongs to something else: grain takes its place.
        here += motion
        soft = sample(scene.soft, here[..., 0], here[..., 1]).reshape(moved.shape)
        moved += new * (soft - moved + scene.grain.at(box))
    edited = np.rint(scene.carry(moved, residue)).clip(0, np.iinfo(before.dtype).max).astype(before.dtype)
    touched = (alpha > 0) & ((shift != 0).any(2) | (new != 0)[..., 0])
    region = after[top:bottom, x0:x1, : scene.soft.shape[2]]
    region[touched] = edited[touched]


def move(picture: Array, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> Array:
    """`picture` [h, w, c] at (x, y) [n, m], sharp, as float32 [n, m, c]; only the part that is needed is converted."""
    margin = 5  # the interpolation looks four pixels ahead
    x = x.clip(-margin, picture.shape[1] - 1 + margin)  # beyond, all is the edge's colour
    y = y.clip(-margin, picture.shape[0] - 1 + margin)
    left, top = max(int(x.min()) - margin, 0), max(int(y.min()) - margin, 0)
    right, bottom = int(x.max()) + margin + 1, int(y.max()) + margin + 1
    part = np.ascontiguousarray(picture[top:bottom, left:right], np.float32)
    return sample_sharp(part, x - left, y - top).reshape(*x.shape, -1)


def region_of(photo: Photo, alpha: Map, box: Box, mask: Map | None) -> npt.NDArray[np.uint8]:
    """How far each pixel of the photo may have changed, [h, w], 255 wholly; not 0 where at all."""
    x0, y0, x1, y1 = box
    region = np.zeros(photo.pixels.shape[:2], np.uint8)
    region[y0:y1, x0:x1] = np.ceil(alpha * 255)
    if mask is not None:
        region[y0:y1, x0:x1][mask[y0:y1, x0:x1] == 0] = 0
    return region


def verified(photo: Photo, after: Array, region: npt.NDArray[np.uint8]) -> Result:
    """The result, once it is sure that nothing where `region` [h, w] is 0 differs."""
    before = photo.pixels
    rows, columns = np.zeros(after.shape[0], bool), np.zeros(after.shape[1], bool)
    for top in range(0, after.shape[0], STRIP):
        strip = np.s_[top : top + STRIP]
        differs = (after[strip] != before[strip]).any(2)
        outside = differs & (region[strip] == 0)
        if outside.any():
            wrong = np.abs(after[strip][outside].astype(np.int64) - before[strip][outside].astype(np.int64)).max()
            hint = "please report this; nothing was written"
            raise WorkError(f"a pixel outside the mask would change by {wrong}", hint)
        rows[strip], columns = differs.any(1), columns | differs.any(0)
    if not rows.any():
        return Result(photo, None, 0)
    down, across = np.flatnonzero(rows), np.flatnonzero(columns)
    box = (int(across[0]), int(down[0]), int(across[-1]), int(down[-1]))
    return Result(replace(photo, pixels=after), box, 0, region)
