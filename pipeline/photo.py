"""Photos and masks from files, arrays and pictures of Pillow, and all else that the rest does with photos."""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import os
import re
import stat
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from realdrag.errors import InputError, RealdragError
from realdrag.photo_colour import LUMA, add_srgb_change, cmyk_to_rgb, to_srgb
from realdrag.photo_write import check_writable, describing_tags, encoded, kind_of, strict_pillow, write, write_bytes
from realdrag.values import Mode, Photo

__all__ = [
    "PIXEL_LIMIT",
    "add_srgb_change",
    "check_writable",
    "decode",
    "encoded",
    "from_array",
    "from_image",
    "kind_of",
    "read",
    "read_mask",
    "to_srgb",
    "write",
    "write_bytes",
]

Array = npt.NDArray[Any]

PIXEL_LIMIT = 250_000_000
READABLE = {"JPEG", "MPO", "PNG", "TIFF", "WEBP", "GIF", "BMP", "AVIF", "HEIF"}
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8", b"RIFF", b"BM")
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"}
MODES: tuple[Mode, ...] = ("L", "LA", "RGB", "RGBA")
# Pillow's modes that one of ours holds without loss
PLAIN: dict[str, str] = {
    "1": "L",
    "P": "RGB",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "YCbCr": "RGB",
}
# Tags of TIFF and EXIF, and values of theirs
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR, EXTRA_SAMPLES = 274, 258, 262, 284, 338
WHITE_IS_ZERO, PREMULTIPLIED = 0, 1
THUMBNAIL_TAGS = ((513, 514), (273, 279))  # (start, length) of a JPEG thumbnail, of a plain one
TIFF_42 = (b"*\0", b"\0*")
EXIF_HEAD = b"Exif\0\0"


def read(path: str | os.PathLike[str]) -> Photo:
    """The photo in a file, upright, as deep as the file holds it."""
    name = os.fspath(path)
    name = name if name.isprintable() else repr(name)  # errors stay on one line
    return replace(decode(_file_bytes(Path(path), name), name), name=Path(path).name)


def decode(data: bytes, name: str) -> Photo:
    """The photo in a file's bytes, as `read` gives it; `name` is for errors."""
    with strict_pillow(), _opened(data, name) as image:
        photo = _decoded(image, data, name)
        kind = "JPEG" if image.format == "MPO" else image.format or ""
    return replace(photo, format=kind, data=data, sha256=hashlib.sha256(data).hexdigest())


def from_array(array: Array) -> Photo:
    """A photo of pixels [h, w] or [h, w, c], c = 1 to 4 (grey, grey + alpha, RGB, RGBA), uint8 or uint16."""
    pixels = np.asarray(array)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.size == 0:
        shape = " × ".join(str(n) for n in np.shape(array))
        raise InputError(f"the array has the shape {shape}", "use [h, w] or [h, w, 1 to 4]", code="array")
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        raise InputError(f"the array holds {pixels.dtype}", "use uint8 or uint16", code="array")
    _check_size((pixels.shape[1], pixels.shape[0]), "the array")
    pixels = np.array(pixels, pixels.dtype.newbyteorder("="), order="C")
    return Photo(pixels, MODES[pixels.shape[2] - 1], _pixel_hash(pixels))


def from_image(image: Image.Image) -> Photo:
    """A photo of a picture of Pillow's, treated as a file's is (16-bit colour Pillow has reduced before)."""
    with strict_pillow():
        photo = _decoded(image, b"", "the picture")
    return replace(photo, sha256=_pixel_hash(photo.pixels))


def read_mask(mask: str | os.PathLike[str] | Array | Image.Image, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Where the photo of `size` (width, height) may move: [h, w] float32, 0 = not at all … 1 = freely.

    From the brightness of the picture, or from its alpha where what it shows is of one colour. An array may
    also be bool or float 0..1, [h, w].
    """
    name = "the mask"
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "bf":
        if mask.ndim != 2 or not bool(np.all((mask >= 0) & (mask <= 1))):
            raise InputError(f"{name} is no array [h, w] of values from 0 to 1", code="mask")
        amount = mask.astype(np.float32)
    elif isinstance(mask, np.ndarray):
        amount = _mask_amount(from_array(mask))
    elif isinstance(mask, Image.Image):
        amount = _mask_amount(from_image(mask))
    else:
        name = os.fspath(mask)
        amount = _mask_amount(read(mask))
    height, width = amount.shape
    if (width, height) != tuple(size):
        hint = "a mask has the photo's size"
        raise InputError(f"{name}: {width}×{height}, but the photo is {size[0]}×{size[1]}", hint, code="mask-size")
    if not amount.any():
        raise InputError(f"{name}: allows nothing to move", "white may move, black stays", code="mask-empty")
    return amount


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            what = "is a folder" if path.is_dir() else "is no ordinary file"
            raise InputError(f"{name}: {what}", "name one photo", code="not-an-image")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a null in the name
        raise InputError(f"{name}: no such file", "check the path", code="no-file") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{name}: cannot be read: {reason}", code="unreadable") from error
    if not data:
        raise InputError(f"{name}: is empty", "get the file again", code="not-an-image")
    return data


def _opened(data: bytes, name: str) -> Image.Image:
    """The file's header, read; its pixels are still to be decoded."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS and b"avif" not in data[16:64]:
        _register_heic(name)
    try:
        image = Image.open(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception as error:  # whatever a parser trips over in a damaged file
        if data.startswith(SIGNATURES):
            raise _damaged(name, error) from error
        hint = "photos are JPEG, PNG, TIFF, WebP, GIF, BMP, AVIF or HEIC files"
        raise InputError(f"{name}: is no image", hint, code="not-an-image") from error
    if image.format not in READABLE:
        hint = "save it as PNG, JPEG or TIFF"
        raise InputError(f"{name}: is a {image.format} file, which is not read", hint, code="not-an-image")
    return image


def _damaged(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:80] or type(error).__name__
    hint = "get the file again, or save it anew as PNG"
    return InputError(f"{name}: is damaged, cut short or of an unusual kind ({reason})", hint, code="truncated")


def _unsupported(name: str, what: str) -> InputError:
    return InputError(f"{name}: holds {what}", "save it with 8 or 16 bits as RGB or grey", code="unsupported")


def _register_heic(name: str) -> None:
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError as error:
        raise InputError(f"{name}: is a HEIC file", "pip install 'realdrag[heic]'", code="heic") from error
    heif.register_heif_opener()


def _check_size(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > PIXEL_LIMIT:
        what = f"{size[0]}×{size[1]} are more than {PIXEL_LIMIT // 1_000_000} million pixels"
        raise InputError(f"{name}: {what}", "make it smaller first", code="too-large")


def _pixel_hash(pixels: Array) -> str:
    return hashlib.sha256(f"{pixels.dtype.name} {pixels.shape} ".encode() + pixels.tobytes()).hexdigest()


def _decoded(image: Image.Image, data: bytes, name: str) -> Photo:
    """The photo in an opened picture; `data`: the file it is in, b"" if none."""
    _check_size(image.size, name)
    try:
        return _decode(image, data, name)
    except (RealdragError, MemoryError):
        raise
    except Exception as error:  # as above
        raise _damaged(name, error) from error


def _decode(image: Image.Image, data: bytes, name: str) -> Photo:
    frames = getattr(image, "n_frames", 1)
    notes = [f"the first of {frames} pictures in the file"] if frames > 1 else []
    icc = image.info.get("icc_profile") or None
    orientation = image.getexif().get(ORIENTATION, 1)
    sideways = orientation in (5, 6, 7, 8)
    image.load()  # raises where the file is cut, also for pixels that OpenCV then decodes
    pixels = _deep_pixels(image, data, name)
    if pixels is None:
        _scale_transparent_grey(image, data)
        orientation = image.getexif().get(ORIENTATION, 1)  # Pillow turns a TIFF itself on loading it
        if image.mode == "CMYK":
            notes.append("CMYK converted to RGB" + (" through its profile" if icc else ""))
            icc = None
        pixels = _plain_pixels(image, name)
    try:
        exif = _tiff_exif(image) if image.format == "TIFF" else _clean_exif(image.info.get("exif") or b"")
    except (struct.error, KeyError, ValueError, TypeError, OSError):
        exif = None
        notes.append("damaged EXIF left out")
    return Photo(
        pixels=_upright(pixels, orientation),
        mode=MODES[pixels.shape[2] - 1],
        sha256="",
        icc=icc,
        exif=exif,
        xmp=_clean_xmp(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""),
        dpi=_dpi(image.info.get("dpi"), sideways),
        notes=tuple(notes),
    )


def _plain_pixels(image: Image.Image, name: str) -> Array:
    """[h, w, c] of a loaded picture: uint16 for 16-bit grey, else uint8."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        if tags.get(BITS_PER_SAMPLE, (16,)) != (16,):
            raise _unsupported(name, f"{tags[BITS_PER_SAMPLE][0]}-bit grey")
        grey = np.asarray(image).astype(np.uint16)[..., None]
        return 65535 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey
    if image.mode == "CMYK":
        image = cmyk_to_rgb(image)
    mode = PLAIN.get(image.mode, image.mode)
    if "transparency" in image.info or image.has_transparency_data:
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    if mode not in MODES:
        raise _unsupported(name, f"pixels of the kind {mode!r}")
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _scale_transparent_grey(image: Image.Image, data: bytes) -> None:
    """Pillow spreads the greys of a 2- or 4-bit PNG over 0..255, but not the one that is transparent."""
    level, top = image.info.get("transparency"), {b"\2": 3, b"\4": 15}.get(data[24:25])
    if image.format == "PNG" and image.mode == "L" and top and isinstance(level, int):
        image.info["transparency"] = level * 255 // top


def _deep_pixels(image: Image.Image, data: bytes, name: str) -> Array | None:
    """[h, w, c] uint16 as stored, for the kinds that Pillow reduces to 8 bits; None for all others."""
    if image.format == "PNG" and data[24:25] == b"\x10":
        bands = {0: 1, 4: 2, 2: 3, 6: 4}[data[25]]  # by the header's colour type
        pixels = _opencv_pixels(_critical_chunks(data), bands)
        transparent = image.info.get("transparency")  # one colour
        if transparent is None:
            return pixels
        alpha = np.any(pixels != np.asarray(transparent), axis=2, keepdims=True) * np.uint16(65535)
        return np.concatenate([pixels, alpha.astype(np.uint16)], axis=2)
    tags = getattr(image, "tag_v2", {})
    if data and image.mode in ("RGB", "RGBA") and tags.get(BITS_PER_SAMPLE, (8,))[0] == 16:
        if tags.get(PLANAR, 1) != 1 or PREMULTIPLIED in tags.get(EXTRA_SAMPLES, ()) or data[2:4] not in TIFF_42:
            raise _unsupported(name, "16-bit colours in planes, premultiplied or as BigTIFF")
        upright = bytearray(data)  # OpenCV's releases differ in whether they turn a TIFF
        _cut_directory(upright)
        return _opencv_pixels(bytes(upright), len(image.getbands()))
    return None


def _opencv_pixels(data: bytes, bands: int) -> Array:
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        logging.setLogLevel(level)
    if bgr is None or bgr.dtype != np.uint16:
        raise ValueError("16-bit pixels cannot be decoded")
    order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[bands]
    return np.ascontiguousarray(np.atleast_3d(bgr)[..., order])


def _critical_chunks(png: bytes) -> bytes:
    """The PNG without all that is not pixels, about which libpng would talk on stderr."""
    kept, at = [png[:8]], 8
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 5].isupper():
            kept.append(png[at:end])
        if png[at + 4 : at + 8] == b"IEND":
            return b"".join(kept)
        at = end
    raise ValueError("no end")


def _upright(pixels: Array, orientation: int) -> Array:
    """The pixels as EXIF's orientation (1 to 8) wants them shown."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _dpi(dpi: Any, sideways: bool) -> tuple[float, float] | None:
    if dpi is None:
        return None
    x, y = (float(value) for value in (reversed(dpi) if sideways else dpi))
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None


def _tiff_exif(image: Image.Image) -> bytes | None:
    """A TIFF's own description of the photo as a block of EXIF."""
    tags = describing_tags(image.getexif())
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag, value in tags.items():
        directory[tag] = value
    return b"Exif\0\0II*\0\x08\0\0\0" + directory.tobytes(8) if tags else None


def _clean_exif(exif: bytes) -> bytes | None:
    """EXIF without orientation and thumbnail; every other byte stays at its place, as maker notes need it."""
    if not exif:
        return None
    block = bytearray(exif.removeprefix(EXIF_HEAD))
    thumbnail = _cut_directory(block)
    if thumbnail:
        number, _, entries = _directory(block, thumbnail)
        values = {}
        for tag, kind, count, value in struct.iter_unpack(number + "HHI4s", entries):
            values[tag] = struct.unpack(number + ("H2x" if kind == 3 else "I"), value)[0] if count == 1 else 0
        block[thumbnail : thumbnail + 2 + len(entries)] = bytes(2 + len(entries))
        for begin, length in ((values.get(a, 0), values.get(b, 0)) for a, b in THUMBNAIL_TAGS):
            end = min(begin + length, len(block))
            block[begin:end] = b"" if end == len(block) else bytes(end - begin)
        _directory(block, 8)  # raises where damaged tags led into the header
    return EXIF_HEAD + bytes(block)


def _directory(tiff: bytearray, start: int) -> tuple[str, int, bytes]:
    """Byte order for `struct`, place and bytes of the entries of the directory at `start`."""
    number = {b"II*\0": "<", b"MM\0*": ">"}[bytes(tiff[:4])]
    (count,) = struct.unpack_from(number + "H", tiff, start)
    return number, start + 2, bytes(tiff[start + 2 : start + 2 + 12 * count])


def _cut_directory(tiff: bytearray) -> int:
    """Takes the orientation, and the pointer to the next directory, out of the first of a TIFF or EXIF block.

    Returns where the next one is, 0 if there was none.
    """
    number, start, entries = _directory(tiff, struct.unpack_from("<I" if tiff[:2] == b"II" else ">I", tiff, 4)[0])
    (following,) = struct.unpack_from(number + "I", tiff, start + len(entries))
    kept = [entries[i : i + 12] for i in range(0, len(entries), 12)]
    kept = [entry for entry in kept if struct.unpack_from(number + "H", entry)[0] != ORIENTATION]
    struct.pack_into(number + "H", tiff, start - 2, len(kept))
    tiff[start : start + len(entries) + 4] = b"".join(kept).ljust(len(entries) + 4, b"\0")
    return int(following)


def _clean_xmp(xmp: bytes | str) -> bytes | None:
    """XMP without thumbnail, its orientation that of the pixels: upright."""
    packet = xmp.encode() if isinstance(xmp, str) else xmp
    packet = re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", packet, flags=re.DOTALL)
    return re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]", rb"\g<1>1", packet) or None


def _mask_amount(photo: Photo) -> npt.NDArray[np.float32]:
    """[h, w] 0..1 of a picture that is used as a mask."""
    pixels, top = photo.pixels, np.iinfo(photo.pixels.dtype).max
    colours = 3 if pixels.shape[2] > 2 else 1
    alpha = pixels[..., -1] if pixels.shape[2] > colours and pixels[..., -1].min() < top else None
    uniform = False
    if alpha is not None:
        shown = pixels[alpha > 0][:, :colours]
        uniform = bool((shown == shown[:1]).all())
    amount = np.empty(pixels.shape[:2], np.float32)
    for row in range(0, len(pixels), 256):  # in float64 a large mask would take gigabytes
        part = np.s_[row : row + 256]
        levels = pixels[part][..., :colours].astype(np.float64) / top
        brightness = levels @ LUMA.astype(np.float64) if colours == 3 else levels[..., 0]
        if alpha is not None:
            share = alpha[part].astype(np.float64) / top
            brightness = share if uniform else brightness * share
        amount[part] = np.minimum(brightness, 1)
    return amount
