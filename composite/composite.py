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

TILE = 512  # pixels a side at a time: a 50-megapixel portrait must not take its size in floats many times over

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
    if np.array_equal(inverted, dragged):
        return Result(photo, None, 0)
    change = find_change(inverted, dragged, grow=settings.grow, share=settings.change)
    return lay_on(photo, alignment, change, mask, settings, carry=carry, progress=progress)


def lay_on(
    photo: Photo,
    alignment: Alignment,
    change: Change,
    mask: Map | None,
    settings: CompositeSettings,
    *,
    carry: CarryChange,
    progress: Progress,
) -> Result:
    """As `composite`, for a change that is known."""
    box = crop_box(photo, alignment)
    if box[2] <= box[0] or box[3] <= box[1]:
        return Result(photo, None, 0)
    side = math.ceil(alignment.size / scale_of(alignment.to_crop))  # of the crop, in photo pixels
    change = change.reduced(side)
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
    tiles = [(x, y) for y in range(box[1], box[3], TILE) for x in range(box[0], box[2], TILE)]
    with stretch(progress, "composite", len(tiles)) as report:
        for n, (x, y) in enumerate(tiles):
            blend(scene, after, (x, y, min(x + TILE, box[2]), min(y + TILE, box[3])))
            report.step(n + 1)
    return verified(photo, after, region_of(photo, alpha, box, mask))


def colour_channels(photo: Photo) -> int:
    """1 or 3: the channels before alpha."""
    return 1 if photo.mode in ("L", "LA") else 3


def blend(scene: Scene, after: Array, tile: Box) -> None:
    """Writes the edit into the `tile` of `after` where the scene's alpha is not 0."""
    x0, y0, x1, y1 = tile
    left, top = scene.box[:2]
    alpha = scene.alpha[y0 - top : y1 - top, x0 - left : x1 - left]
    if not alpha.any():
        return
    change, before = scene.change, scene.photo.pixels
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    here = transform(scene.to_change, np.stack([x, y], -1).reshape(-1, 2)).reshape(*x.shape, 2).astype(np.float32)
    motion = sample(change.motion, here[..., 0], here[..., 1]) * alpha[..., None]
    shift = motion @ np.linalg.inv(scene.to_change[:2, :2]).T.astype(np.float32)
    edited = move(before[..., : scene.soft.shape[2]], x + shift[..., 0], y + shift[..., 1])
    if any_near(change.new, here):
        # Detail that was moved to where something new is belongs to something else: grain takes its place.
        new = (sample(change.new, here[..., 0], here[..., 1]).clip(0, 1) * alpha)[..., None]
        from_x, from_y = np.moveaxis(here + motion, -1, 0)
        edited += new * (sample(scene.soft, from_x, from_y).reshape(edited.shape) - edited + scene.grain.at(tile))
    if any_near(change.residue, here):
        edited = scene.carry(edited, sample(change.residue, here[..., 0], here[..., 1]) * alpha[..., None])
    levels = np.rint(edited).clip(0, np.iinfo(before.dtype).max).astype(before.dtype)
    np.copyto(after[y0:y1, x0:x1, : levels.shape[2]], levels, where=(alpha > 0)[..., None])


def any_near(values: Map, places: Map) -> bool:
    """Whether `values` [s, s(, c)] has anything but 0 where `places` [n, m, 2] are, as far as `sample` looks."""
    margin = 3
    corners = places[[0, 0, -1, -1], [0, -1, 0, -1]]  # the map is affine
    (left, top), (right, bottom) = corners.min(0) - margin, corners.max(0) + margin + 1
    last = len(values) - 1
    left, right = min(max(int(left), 0), last), max(int(right), 1)
    top, bottom = min(max(int(top), 0), last), max(int(bottom), 1)
    return bool(values[top:bottom, left:right].any())


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
    for top in range(0, after.shape[0], TILE):
        strip = np.s_[top : top + TILE]
        differs = differing(after[strip], before[strip])
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


def differing(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """[h, w], where any channel of two pictures [h, w, c] differs: by channel, as NumPy is slow along short axes."""
    out = a[..., 0] != b[..., 0]
    for channel in range(1, a.shape[2]):
        out |= a[..., channel] != b[..., channel]
    return np.asarray(out)
