"""Photos to files, whole or not at all: part of `realdrag.photo`."""

from __future__ import annotations

import io
import os
import secrets
import struct
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from realdrag.errors import InputError, RealdragError, WorkError
from realdrag.values import Photo

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
# libjpeg's JPEG_MAX_DIMENSION and libwebp's WEBP_MAX_DIMENSION
MAX_SIDE = {"JPEG": 65500, "WEBP": 16383}
JPEG_QUALITY = 95

# The tags of a TIFF that describe the photo (the others describe how this file holds it), and the two
# directories of EXIF and GPS.
DESCRIBING_TAGS = (270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432)
DESCRIBING_DIRECTORIES = (34665, 34853)
INTEROPERABILITY = 40965  # a directory within EXIF, of which Pillow gives the place only

_lock = threading.RLock()


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Pillow refuses cut files and leaves limit on size and warnings to us, whatever others have set."""
    with _lock, warnings.catch_warnings():
        before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def kind_of(path: Path, kind: str | None = None) -> str:
    """What kind of file is to be at `path`: `kind` ("jpeg", "png", "tiff", "webp"), else what its suffix names."""
    if kind is not None:
        if (found := FORMATS.get(f".{kind.lower()}")) is None:
            raise InputError(f"{kind!r} names no kind of picture", "use jpeg, png, tiff or webp", code="format")
        return found
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        names = ", ".join(FORMATS)
        raise InputError(f"{path}: the suffix names no kind of picture", f"use one of {names}", code="suffix")
    return found


def write(photo: Photo, path: str | os.PathLike[str], quality: int | None = None, kind: str | None = None) -> None:
    """`photo` as the kind of file that `kind` or the suffix of `path` names; see `encoded`."""
    path = Path(path)
    check_writable(path, photo, kind)
    write_bytes(encoded(photo, path, quality, kind), path)


def encoded(photo: Photo, path: Path, quality: int | None = None, kind: str | None = None) -> bytes:
    """The file of `photo` that is to be at `path`, with profile, EXIF, XMP and resolution.

    PNG, TIFF and WebP keep every pixel (WebP holds grey as three equal channels). JPEG takes the source's
    own quantisation and subsampling, or 95 and 4:4:4. `quality` (1..100) is for JPEG and WebP, and makes
    WebP lossy.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"quality {quality}: is outside 1 to 100", code="quality")
    encode = {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "WEBP": _webp}[kind_of(path, kind)]
    try:
        with strict_pillow():
            return encode(photo, quality)
    except (RealdragError, MemoryError):
        raise
    except Exception as error:  # damaged EXIF trips Pillow in many ways, SyntaxError among them
        reason = " ".join(str(error).split())
        raise WorkError(f"{path}: the picture could not be encoded ({reason})", "try .png") from error


def write_bytes(data: bytes, path: str | os.PathLike[str]) -> None:
    """`data` at `path`, or, whatever goes wrong, what was there before."""
    path = Path(path)
    beside = path.with_name(f".realdrag-{secrets.token_hex(8)}")
    try:
        # not tempfile: its files are private (mode 600) and would stay so under their final name
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):  # where the folder itself has gone, the first error says more
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def check_writable(path: str | os.PathLike[str], photo: Photo | None = None, kind: str | None = None) -> None:
    """Raises what `write` would, for the kind or suffix, the folder and, if given, the photo. Leaves nothing."""
    path = Path(path)
    found = kind_of(path, kind)
    check_folder(path)
    if photo is not None:
        _check_fits(photo, path, found)


def check_folder(path: Path) -> None:
    """InputError where no file can be written at `path`. Leaves nothing."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder", "name a file in it", code="unwritable")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    reason = "the folder does not exist" if not path.parent.is_dir() else (error.strerror or str(error)).lower()
    return InputError(f"{path}: cannot be written: {reason}", "choose another place", code="unwritable")


def _check_fits(photo: Photo, path: Path, kind: str) -> None:
    """Refuses what a kind of file cannot hold: nothing is reduced behind the user's back."""
    deep = photo.pixels.dtype == np.uint16
    problem, hint = "", "use .png or .tif"
    if max(photo.size) > MAX_SIDE.get(kind, 2**31):
        problem = f"{kind} holds at most {MAX_SIDE[kind]} pixels a side"
    elif deep and kind in MAX_SIDE:
        problem = f"{kind} cannot hold 16 bits"
    elif kind == "JPEG" and photo.mode in ("LA", "RGBA"):
        problem, hint = "JPEG cannot hold transparency", "use .png, .tif or .webp"
    elif kind == "WEBP" and photo.icc and photo.mode in ("L", "LA"):
        problem = "WEBP cannot hold a colour profile for grey"
    elif kind == "TIFF" and deep and photo.mode == "LA":
        problem, hint = "few programs read a 16-bit TIFF of grey with transparency", "use .png"
    elif kind == "JPEG" and max(len(photo.exif or b""), len(photo.xmp or b"")) > 65000:
        problem = "JPEG cannot hold this much EXIF or XMP"
    if problem:
        raise InputError(f"{path}: {problem}", hint, code="unsupported")


def _image(photo: Photo) -> Image.Image:
    """The 8-bit pixels as a picture of Pillow."""
    return Image.fromarray(photo.pixels[..., 0] if photo.mode == "L" else photo.pixels)


def _described(photo: Photo) -> dict[str, Any]:
    """What Pillow's encoders are told besides the pixels."""
    options = {"icc_profile": photo.icc, "exif": photo.exif, "xmp": photo.xmp, "dpi": photo.dpi}
    return {name: value for name, value in options.items() if value}


def _jpeg(photo: Photo, quality: int | None) -> bytes:
    how: dict[str, Any] = {"quality": quality or JPEG_QUALITY, "subsampling": 0}
    if quality is None and photo.format == "JPEG" and photo.data:
        with strict_pillow(), Image.open(io.BytesIO(photo.data)) as source:
            tables = source.quantization  # type: ignore[attr-defined]
            how = {
                "qtables": [tables[key] for key in sorted(tables)],
                "subsampling": max(0, JpegImagePlugin.get_sampling(source)),  # -1: none of the usual ones
                "progressive": bool(source.info.get("progressive")),
            }
    out = io.BytesIO()
    _image(photo).save(out, "JPEG", **how, **_described(photo))
    return out.getvalue()


def _webp(photo: Photo, quality: int | None) -> bytes:
    how: dict[str, Any] = {"lossless": True, "exact": True} if quality is None else {"quality": quality}
    out = io.BytesIO()
    _image(photo).save(out, "WEBP", **how, **_described(photo))
    return out.getvalue()


def _png(photo: Photo, quality: int | None) -> bytes:
    out = io.BytesIO()
    pixels = photo.pixels
    if pixels.dtype == np.uint8:
        _image(photo).save(out, "PNG")
        png = out.getvalue()
    elif photo.mode == "LA":
        # A row of 16-bit grey and alpha has the bytes of one of 8-bit RGBA, and PNG filters bytes: write it
        # as such, then say in the header what it is. Neither Pillow nor OpenCV writes this kind.
        Image.fromarray(pixels.astype(">u2").view(np.uint8)).save(out, "PNG")
        png = out.getvalue()
        header = png[16:24] + bytes([16, 4]) + png[26:29]
        png = png[:8] + _chunk(b"IHDR", header) + png[33:]
    else:
        bgr = pixels[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]]
        png = cv2.imencode(".png", bgr)[1].tobytes()
    chunks = []
    if photo.icc:
        chunks.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(photo.icc)))
    if photo.exif:
        chunks.append(_chunk(b"eXIf", photo.exif.removeprefix(b"Exif\0\0")))
    if photo.dpi:
        x, y = (round(dpi / 0.0254) for dpi in photo.dpi)  # pixels a metre
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if photo.xmp:
        chunks.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + photo.xmp))
    return png[:33] + b"".join(chunks) + png[33:]  # behind the signature and IHDR


def _chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def describing_tags(exif: Image.Exif) -> dict[int, Any]:
    """Tag → value of what describes the photo; EXIF and GPS are dicts themselves."""
    tags = {tag: exif[tag] for tag in DESCRIBING_TAGS if tag in exif}
    for tag in DESCRIBING_DIRECTORIES:
        directory = {key: value for key, value in exif.get_ifd(tag).items() if key != INTEROPERABILITY}
        if directory:
            tags[tag] = directory
    return tags


def _tiff(photo: Photo, quality: int | None) -> bytes:
    """Uncompressed, little-endian, one strip. Written here, as no library writes 16-bit colour with EXIF."""
    height, width, channels = photo.pixels.shape
    strip = photo.pixels.astype(photo.pixels.dtype.newbyteorder("<")).tobytes()
    ifd = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    if photo.exif:
        exif = Image.Exif()
        exif.load(photo.exif)
        for tag, value in describing_tags(exif).items():
            ifd[tag] = value
    ifd[256], ifd[257], ifd[277], ifd[278] = width, height, channels, height
    ifd[258] = (photo.pixels.dtype.itemsize * 8,) * channels
    ifd[259] = 1  # no compression
    ifd[262] = 2 if channels > 2 else 1  # RGB, or black is 0
    ifd[273], ifd[279] = (
        0,
        len(strip),
    )  # the strip, counted from the end of the tags (made absolute on saving)
    if channels in (2, 4):
        ifd[338] = 2  # alpha that the colours are not multiplied with
    if photo.dpi:
        ifd[282], ifd[283], ifd[296] = *photo.dpi, 2  # per inch
    if photo.icc:
        ifd[34675] = photo.icc
    if photo.xmp:
        ifd[700] = photo.xmp
    out = io.BytesIO()
    ifd.save(out)
    return out.getvalue() + strip
