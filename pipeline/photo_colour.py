"""Between a photo's own colours and the 8-bit sRGB that the models see: part of `realdrag.photo`."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from scipy.ndimage import map_coordinates

from realdrag.values import Photo

Array = npt.NDArray[Any]

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709
MID_GREY = 128
LATTICE_STEP = 15  # 8-bit levels between two nodes of the colour lattice; divides 255


def to_srgb(photo: Photo) -> npt.NDArray[np.uint8]:
    """What the models see, [h, w, 3] uint8: the profile's colours as sRGB, transparency over mid grey.

    Without a profile, or with one that cannot be used, the colours are taken for sRGB.
    """
    pixels = photo.pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 · 257
    out = _colour_to_srgb(photo, pixels[..., : _colour_channels(photo)])
    if photo.mode in ("LA", "RGBA"):
        alpha = pixels[..., -1:].astype(np.uint16)
        out = ((out * alpha + MID_GREY * (255 - alpha) + 127) // 255).astype(np.uint8)
    return out


def add_srgb_change(
    photo: Photo, pixels: npt.NDArray[np.float32], change: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """`pixels` and a change seen in sRGB, carried into the photo's colours; exactly `pixels` where it is 0.

    pixels: [n, m, c] float32, a region of the photo in its own depth (0..255 or 0..65535), c = 1 or 3 (no
    alpha). change: [n, m, 3] float32, in 8-bit levels of sRGB; a grey photo takes its luma. Nothing is
    clipped to the photo's range.
    """
    per_level = np.float32(257 if photo.pixels.dtype == np.uint16 else 1)
    if _colour_channels(photo) == 1:
        change = (change @ LUMA)[..., None]
    transforms = _transforms(photo)
    if transforms is None:
        return pixels + change * per_level
    levels = np.clip(np.rint(pixels / per_level), 0, 255).astype(np.uint8)
    seen = _colour_to_srgb(photo, levels).astype(np.float32)
    lattice = _lattice(transforms[1])
    wanted = np.clip(seen + change, 0, 255)
    return pixels + (_interpolate(lattice, wanted) - _interpolate(lattice, seen)) * per_level


def cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """A CMYK picture in sRGB: through its profile, or plainly where it has none that can be used."""
    transform = _transform(image.info.get("icc_profile", b""), "CMYK", "to sRGB")
    return image.convert("RGB") if transform is None else _applied(transform, image)


def _colour_channels(photo: Photo) -> int:
    return 1 if photo.mode in ("L", "LA") else 3


def _colour_to_srgb(photo: Photo, colour: Array) -> npt.NDArray[np.uint8]:
    """[h, w, 1 or 3] uint8 in the photo's colours → [h, w, 3] uint8 sRGB."""
    transforms = _transforms(photo)
    if transforms is not None:
        picture = Image.fromarray(np.ascontiguousarray(colour if colour.shape[2] == 3 else colour[..., 0]))
        return np.array(_applied(transforms[0], picture))
    return np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour.copy()


def _transforms(photo: Photo) -> tuple[ImageCms.ImageCmsTransform, ImageCms.ImageCmsTransform] | None:
    """To sRGB and from it, or None where the photo's colours are, or have to be taken for, sRGB."""
    mode: Literal["L", "RGB"] = "L" if _colour_channels(photo) == 1 else "RGB"
    to_srgb, from_srgb = (_transform(photo.icc or b"", mode, way) for way in ("to sRGB", "from sRGB"))
    return None if to_srgb is None or from_srgb is None else (to_srgb, from_srgb)


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str, way: str) -> ImageCms.ImageCmsTransform | None:
    """Between the profile `icc` (colours as in Pillow's `mode`) and sRGB; None: it is sRGB or unusable."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = ImageCms.getProfileDescription(profile).lower()
        if mode == "RGB" and "srgb" in name and "linear" not in name:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        ends = (profile, srgb, mode, "RGB") if way == "to sRGB" else (srgb, profile, "RGB", mode)
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        return ImageCms.buildTransform(*ends, renderingIntent=intent, flags=flags)
    except (ImageCms.PyCMSError, OSError):
        return None


def _applied(transform: ImageCms.ImageCmsTransform, picture: Image.Image) -> Image.Image:
    out = ImageCms.applyTransform(picture, transform)
    assert out is not None  # only None when done in place
    return out


@lru_cache(maxsize=8)
def _lattice(from_srgb: ImageCms.ImageCmsTransform) -> tuple[npt.NDArray[np.float32], ...]:
    """The transform at every LATTICE_STEP-th level of R, G, B: a cube [n, n, n] a channel of the result.

    Pillow's transforms know whole levels only. Between the nodes the change stays smooth; rounded level by
    level it would leave steps, most of all in 16-bit photos.
    """
    levels = np.arange(0, 256, LATTICE_STEP, dtype=np.uint8)
    n = len(levels)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    values = np.array(_applied(from_srgb, Image.fromarray(grid.reshape(n * n, n, 3))), np.float32)
    return tuple(np.moveaxis(values.reshape(n, n, n, -1), -1, 0))


def _interpolate(
    lattice: tuple[npt.NDArray[np.float32], ...], srgb: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """[n, m, 3] sRGB levels → [n, m, c] levels in the photo's colours."""
    places = np.moveaxis(srgb / LATTICE_STEP, -1, 0)
    return np.stack([map_coordinates(cube, places, np.float32, order=1) for cube in lattice], axis=-1)
