"""Files in and out: nothing is lost on the way, and what cannot be done is said."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import zlib
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile

from realdrag import photo as photos
from realdrag.errors import InputError
from realdrag.values import Photo

RNG = np.random.default_rng(0)
MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><note>kept</note></x:xmpmeta>'


def noise(channels: int, dtype: str = "uint8", size: tuple[int, int] = (7, 5)) -> np.ndarray:
    """[h, w, c]; neither side equal, so that turned pictures show."""
    width, height = size
    return RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def wide_gamut(name: bytes = b"Wide test") -> bytes:
    """A matrix profile, ICC 2.1: primaries near Adobe RGB's, gamma 2.2."""

    def s15(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    def xyz(*v: float) -> bytes:
        return b"XYZ \0\0\0\0" + s15(*v)

    name += b"\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {
        b"desc": desc.ljust((len(desc) + 3) // 4 * 4, b"\0"),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    return icc_file(tags, b"RGB ")


def grey_gamma(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    desc = (b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78)).ljust(96, b"\0")
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    return icc_file({b"desc": desc, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": white, b"kTRC": curve}, b"GRAY")


def icc_file(tags: dict[bytes, bytes], space: bytes) -> bytes:
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I", at + len(body)) + b"none\x02\x10\0\0mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def exif_with_thumbnail(orientation: int) -> bytes:
    """Big-endian: make, orientation, EXIF with exposure and maker note, and a thumbnail in IFD1."""
    thumbnail = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(thumbnail, "JPEG")
    face = thumbnail.getvalue()

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\0")

    def place(at: int) -> bytes:
        return struct.pack(">I", at)

    ifd1, sub, data = 110, 60, 150
    first = [
        entry(271, 2, 4, b"Cam\0"),
        entry(274, 3, 1, struct.pack(">H", orientation)),
        entry(34665, 4, 1, place(sub)),
    ]
    block = b"MM\0*" + place(8) + struct.pack(">H", 3) + b"".join(first) + place(ifd1)
    inner = [
        entry(37121, 7, 4, b"\1\2\3\0"),
        entry(37500, 7, 8, place(data)),
        entry(40965, 4, 1, place(data - 8)),  # a directory of its own, without entries
    ]
    block = block.ljust(sub, b"\0") + struct.pack(">H", 3) + b"".join(inner) + bytes(4)
    thumb = entry(513, 4, 1, place(data + 8)) + entry(514, 4, 1, place(len(face)))
    block = block.ljust(ifd1, b"\0") + struct.pack(">H", 2) + thumb + bytes(4)
    return b"Exif\0\0" + block.ljust(data, b"\0") + b"MAKERNOT" + face


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def refused(code: str, call, *args, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return caught.value


# ------------------------------------------------------------------ round trips


@pytest.mark.parametrize(
    ("mode", "dtype", "suffix"),
    # all but 16-bit grey with alpha as TIFF, which is refused
    sorted(set(product(MODES, ["uint8", "uint16"], [".png", ".tif"])) - {("LA", "uint16", ".tif")}),
)
def test_every_pixel_and_all_metadata_survive(tmp_path: Path, mode: str, dtype: str, suffix: str) -> None:
    icc = wide_gamut() if "RGB" in mode else grey_gamma(1.8)
    clean = photos.read(write_jpeg(tmp_path / "source.jpg", exif_with_thumbnail(1))).exif
    before = Photo(noise(MODES[mode], dtype), mode, "", icc=icc, exif=clean, xmp=XMP, dpi=(300, 150))  # type: ignore[arg-type]
    path = tmp_path / f"photo{suffix}"
    photos.write(before, path)
    after = photos.read(path)
    assert after.mode == mode
    assert after.pixels.dtype == before.pixels.dtype
    assert np.array_equal(after.pixels, before.pixels)
    assert (after.icc, after.xmp) == (icc, XMP)
    assert after.dpi == pytest.approx((300, 150), abs=0.02)  # PNG counts whole pixels a metre
    tags = opened(path).getexif()
    assert tags[271] == "Cam"
    assert tags.get_ifd(34665)[37500] == b"MAKERNOT"
    if suffix == ".tif":  # where it led to is elsewhere now
        assert 40965 not in tags.get_ifd(34665)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_other_programs_read_the_16_bits_we_write(tmp_path: Path, mode: str) -> None:
    photo = photos.from_array(noise(MODES[mode], "uint16"))
    for suffix in (".png", ".tif"):
        photos.write(photo, tmp_path / f"p{suffix}")
    bgr = cv2.imread(str(tmp_path / "p.png"), cv2.IMREAD_UNCHANGED)
    expected = photo.pixels[..., [2, 1, 0, 3][: MODES[mode]]] if mode != "L" else photo.pixels[..., 0]
    assert np.array_equal(bgr, expected)
    assert np.array_equal(tifffile.imread(tmp_path / "p.tif"), photo.pixels.squeeze())


def test_16_bit_grey_with_alpha_is_truly_that(tmp_path: Path) -> None:
    photo = photos.from_array(noise(2, "uint16"))
    photos.write(photo, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[24:26] == bytes([16, 4])
    bgra = cv2.imread(str(tmp_path / "p.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(bgra[..., [0, 3]], photo.pixels)


@pytest.mark.parametrize("mode", MODES)
def test_webp_keeps_every_pixel_unless_asked(tmp_path: Path, mode: str) -> None:
    photo = photos.from_array(noise(MODES[mode]))
    photos.write(photo, tmp_path / "p.webp")
    expected = photo.pixels
    if "L" in mode:
        expected = np.concatenate([np.repeat(expected[..., :1], 3, axis=2), expected[..., 1:]], axis=2)
    assert np.array_equal(photos.read(tmp_path / "p.webp").pixels, expected)
    exact = (tmp_path / "p.webp").read_bytes()
    photos.write(photo, tmp_path / "p.webp", quality=30)
    assert (tmp_path / "p.webp").read_bytes() != exact


def write_jpeg(path: Path, exif: bytes = b"", **options) -> Path:
    smooth = cv2.resize(noise(3, size=(4, 4)), (40, 24), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(smooth).save(path, "JPEG", exif=exif, **options)
    return path


def test_jpeg_is_written_as_its_source_was(tmp_path: Path) -> None:
    source = photos.read(write_jpeg(tmp_path / "a.jpg", quality=71, subsampling="4:2:0", progressive=True, xmp=XMP))
    photos.write(source, tmp_path / "b.jpg")
    ours, theirs = opened(tmp_path / "b.jpg"), opened(tmp_path / "a.jpg")
    assert ours.quantization == theirs.quantization
    assert ours.layer == theirs.layer
    assert ours.info["progressive"]
    assert ours.info["xmp"] == XMP
    photos.write(source, tmp_path / "c.jpg", quality=90)
    assert opened(tmp_path / "c.jpg").quantization != theirs.quantization


def test_jpeg_of_an_array_is_fine_and_unsubsampled(tmp_path: Path) -> None:
    photos.write(photos.from_array(noise(3)), tmp_path / "a.jpg")
    image = opened(tmp_path / "a.jpg")
    assert [part[1:3] for part in image.layer] == [(1, 1)] * 3
    assert max(image.quantization[0]) <= 12


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG16", "TIFF", "TIFF16", "TIFFgrey16", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_come_upright_once(tmp_path: Path, kind: str, orientation: int) -> None:
    corner = np.zeros((16, 24, 3), np.uint8)  # white top left, grey top right: no two turns look alike
    corner[:8, :8], corner[:8, 16:] = 255, 120
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6, 1: 1}[orientation]
    turned = Image.fromarray(corner)
    if undo != 1:
        turned = turned.transpose(Image.Transpose({2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}[undo]))
    path = tmp_path / "photo"
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.asarray(turned)
    if kind in ("TIFF16", "TIFFgrey16"):
        deep = pixels.astype(np.uint16) * 257
        deep = deep[..., 0] if kind == "TIFFgrey16" else deep
        tifffile.imwrite(
            path,
            deep,
            photometric="rgb" if deep.ndim == 3 else "minisblack",
            extratags=[(274, 3, 1, orientation, True)],
        )
    elif kind == "PNG16":
        photos.write(Photo(pixels.astype(np.uint16) * 257, "RGB", "", exif=exif.tobytes()), tmp_path / "p.png")
        path = tmp_path / "p.png"
    else:
        turned.save(path, kind, exif=exif.tobytes(), **({"lossless": True} if kind == "WEBP" else {}))
    photo = photos.read(path)
    seen = photos.to_srgb(photo).astype(int)
    assert seen.shape == corner.shape
    assert np.abs(seen - corner).max() < 40 if kind == "JPEG" else np.array_equal(seen, corner)
    photos.write(photo, tmp_path / "again.tif")
    photos.write(photo, tmp_path / "again.png")
    for again in ("again.tif", "again.png"):
        assert opened(tmp_path / again).getexif().get(274, 1) == 1
        assert photos.read(tmp_path / again).size == (24, 16)


def test_the_orientation_in_xmp_is_applied_and_set_upright(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    photo = photos.read(write_jpeg(tmp_path / "a.jpg", xmp=xmp))
    assert photo.size == (24, 40)
    assert photo.xmp == xmp.replace(b'"6"', b'"1"')


def test_the_thumbnail_goes_and_the_rest_of_exif_stays(tmp_path: Path) -> None:
    source = write_jpeg(tmp_path / "a.jpg", exif_with_thumbnail(6), dpi=(200, 100))
    assert source.read_bytes().count(b"\xff\xd8\xff") == 2  # the photo and the thumbnail
    photo = photos.read(source)
    assert photo.size == (24, 40)
    assert photo.dpi == (100, 200)
    photos.write(photo, tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").read_bytes().count(b"\xff\xd8\xff") == 1
    exif = opened(tmp_path / "b.jpg").getexif()
    assert 274 not in exif
    assert not exif.get_ifd(1)
    assert exif[271] == "Cam"
    # a maker note's own pointers count from the start of the block, so it must not move
    assert photo.exif is not None
    assert photo.exif.index(b"MAKERNOT") == exif_with_thumbnail(6).index(b"MAKERNOT")


def test_damaged_exif_is_left_out_and_said(tmp_path: Path) -> None:
    photo = photos.read(write_jpeg(tmp_path / "a.jpg", b"Exif\0\0MM\0*\0\0\xff\xff"))
    assert photo.exif is None
    assert photo.notes == ("damaged EXIF left out",)


def test_few_colours_bits_and_channels(tmp_path: Path) -> None:
    palette = Image.fromarray(noise(3)).quantize(8)
    expected = np.asarray(palette.convert("RGB"))
    palette.save(tmp_path / "p.png")
    assert np.array_equal(photos.read(tmp_path / "p.png").pixels, expected)
    palette.save(tmp_path / "t.png", transparency=3)
    transparent = photos.read(tmp_path / "t.png")
    assert transparent.mode == "RGBA"
    assert np.array_equal(transparent.pixels[..., 3] == 0, np.asarray(palette) == 3)
    bits = Image.fromarray(noise(1)[..., 0] > 100)
    bits.save(tmp_path / "b.png")
    assert np.array_equal(photos.read(tmp_path / "b.png").pixels[..., 0], np.asarray(bits) * 255)
    assert photos.read(tmp_path / "b.png").mode == "L"
    key = Image.fromarray(noise(3))
    key.save(tmp_path / "k.png", transparency=key.getpixel((2, 1)))
    assert photos.read(tmp_path / "k.png").pixels[1, 2, 3] == 0


def test_one_transparent_colour_in_16_bits(tmp_path: Path) -> None:
    pixels = noise(3, "uint16")
    photos.write(photos.from_array(pixels), tmp_path / "p.png")
    png = (tmp_path / "p.png").read_bytes()
    body = b"tRNS" + pixels[1, 2].astype(">u2").tobytes()
    png = png[:33] + struct.pack(">I", 6) + body + struct.pack(">I", zlib.crc32(body)) + png[33:]
    (tmp_path / "p.png").write_bytes(png)
    photo = photos.read(tmp_path / "p.png")
    assert np.array_equal(photo.pixels[..., :3], pixels)
    assert np.argwhere(photo.pixels[..., 3] == 0).tolist() == [[1, 2]]


def test_white_is_zero_is_turned_over(tmp_path: Path) -> None:
    grey = noise(1, "uint16")[..., 0]
    tifffile.imwrite(tmp_path / "p.tif", grey, photometric="miniswhite")
    assert np.array_equal(photos.read(tmp_path / "p.tif").pixels[..., 0], 65535 - grey)


def test_cmyk_becomes_rgb_with_a_note(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "p.jpg", icc_profile=b"broken")
    photo = photos.read(tmp_path / "p.jpg")
    assert photo.mode == "RGB"
    assert photo.icc is None
    assert photo.pixels[4, 4, 0] > 200 > 60 > photo.pixels[4, 4, 1]
    assert "CMYK" in photo.notes[0]


def test_of_several_pictures_the_first(tmp_path: Path) -> None:
    first, second = (Image.fromarray(noise(3)) for _ in range(2))
    for kind in ("TIFF", "GIF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        first.save(tmp_path / kind, kind, save_all=True, append_images=[second], **options)
        photo = photos.read(tmp_path / kind)
        assert photo.size == (7, 5)
        assert photo.notes == ("the first of 2 pictures in the file",)
        if kind != "GIF":
            assert np.array_equal(photo.pixels[..., :3], np.asarray(first))


def test_the_file_is_kept_and_hashed(tmp_path: Path) -> None:
    path = write_jpeg(tmp_path / "a.jpg")
    photo = photos.read(str(path))
    assert photo.data == path.read_bytes()
    assert photo.sha256 == hashlib.sha256(photo.data).hexdigest()
    assert photo.format == "JPEG"


# ------------------------------------------------------------------ arrays and pictures


def test_arrays_and_pictures_give_the_same_photo() -> None:
    pixels = noise(3)
    of_array, of_image = photos.from_array(pixels), photos.from_image(Image.fromarray(pixels))
    assert np.array_equal(of_array.pixels, of_image.pixels)
    assert of_array.sha256 == of_image.sha256
    assert photos.from_array(pixels.reshape(7, 5, 3)).sha256 != of_array.sha256
    taken = of_array.pixels.copy()
    pixels[:] = 0
    assert np.array_equal(of_array.pixels, taken)
    grey = noise(1, "uint16")[..., 0]
    assert np.array_equal(photos.from_array(grey.astype(">u2")).pixels[..., 0], grey)
    assert np.array_equal(photos.from_image(Image.fromarray(grey)).pixels[..., 0], grey)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    refused("array", photos.from_array, array)


@pytest.mark.parametrize("mode", ["F", "I", "LAB", "HSV"])
def test_kinds_of_pixels_that_are_refused(mode: str) -> None:
    assert mode in refused("unsupported", photos.from_image, Image.new(mode, (4, 4))).message


# ------------------------------------------------------------------ wrong files


def test_wrong_paths(tmp_path: Path) -> None:
    for name, code, what in (
        ("none.jpg", "no-file", b""),
        ("empty.jpg", "not-an-image", b""),
        ("text.jpg", "not-an-image", b"Dear all,\nthis is no picture.\n" * 9),
    ):
        path = tmp_path / name
        if name != "none.jpg":
            path.write_bytes(what)
        assert name in refused(code, photos.read, path).message
    assert str(tmp_path) in refused("not-an-image", photos.read, tmp_path).message
    refused("no-file", photos.read, "a\0b")
    os.mkfifo(tmp_path / "pipe")
    refused("not-an-image", photos.read, tmp_path / "pipe")
    Image.new("RGB", (4, 4)).save(tmp_path / "p.eps")
    assert "EPS" in refused("not-an-image", photos.read, tmp_path / "p.eps").message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG16", "TIFF", "TIFF16", "WEBP", "GIF", "BMP"])
def test_cut_files_are_refused_whatever_pillow_is_set_to(tmp_path: Path, kind: str, monkeypatch, capfd) -> None:
    path = tmp_path / "p"
    pixels = noise(3, size=(40, 30))
    if kind.endswith("16"):
        suffix = {"PNG16": ".png", "TIFF16": ".tif"}[kind]
        path = tmp_path / f"p{suffix}"
        photos.write(photos.from_array(noise(3, "uint16", (40, 30))), path)
    else:
        Image.fromarray(pixels).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    data = path.read_bytes()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for part in (0.2, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        assert path.name in refused("truncated", photos.read, path).message
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert capfd.readouterr() == ("", "")


def test_every_cut_of_a_small_file_ends_in_one_line(tmp_path: Path, capfd) -> None:
    photos.write(photos.from_array(noise(3, "uint16")), tmp_path / "p.png")
    photos.write(photos.from_array(noise(4, "uint16")), tmp_path / "p.tif")
    for name in ("p.png", "p.tif"):
        data = (tmp_path / name).read_bytes()
        for n in range(1, len(data), 3):
            (tmp_path / name).write_bytes(data[:n])
            with pytest.raises(InputError):
                photos.read(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_opencv_says_nothing_about_odd_metadata(tmp_path: Path, capfd) -> None:
    pixels = noise(3, "uint16")
    photos.write(Photo(pixels, "RGB", "", icc=b"broken"), tmp_path / "p.png")
    tifffile.imwrite(tmp_path / "p.tif", pixels, photometric="rgb", extratags=[(65000, 2, 0, "odd", True)])
    for name in ("p.png", "p.tif"):
        assert np.array_equal(photos.read(tmp_path / name).pixels, pixels)
    assert capfd.readouterr() == ("", "")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("1", (1, 1)).save(tmp_path / "bomb.png")
    png = (tmp_path / "bomb.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 25_001, 10_000) + png[24:29]
    (tmp_path / "bomb.png").write_bytes(png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:])
    assert "25001×10000" in refused("too-large", photos.read, tmp_path / "bomb.png").message
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (25_001, 10_000), (0, 0))
    refused("too-large", photos.from_array, huge)


def test_a_large_photo_below_the_limit_is_no_bomb(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    path = write_jpeg(tmp_path / "a.jpg")
    photo = photos.read(path)
    photos.write(photo, tmp_path / "b.jpg")
    assert Image.MAX_IMAGE_PIXELS == 4


def test_heic_names_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "p.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    assert refused("heic", photos.read, tmp_path / "p.heic").hint == "pip install 'realdrag[heic]'"


# ------------------------------------------------------------------ masks


def test_masks_from_grey_colour_and_alpha(tmp_path: Path) -> None:
    grey = noise(1)[..., 0]
    for depth in (grey, grey.astype(np.uint16) * 257):
        assert np.allclose(photos.read_mask(depth, (7, 5)), grey / 255, atol=1e-6)
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "m.png")
    mask = photos.read_mask(tmp_path / "m.png", (7, 5))
    assert mask.dtype == np.float32
    assert np.allclose(mask, grey / 255, atol=1e-6)
    painted = np.zeros((5, 7, 4), np.uint8)
    painted[1:3, 1:3] = (0, 0, 0, 128)  # black paint on nothing: where there is paint is what counts
    assert photos.read_mask(Image.fromarray(painted), (7, 5)).max() == pytest.approx(128 / 255)
    opaque = np.full((5, 7, 4), 255, np.uint8)
    opaque[2, 2, :3] = 0
    assert np.argwhere(photos.read_mask(opaque, (7, 5)) == 0).tolist() == [[2, 2]]
    assert photos.read_mask(grey > 100, (7, 5)).sum() == (grey > 100).sum()
    assert (photos.read_mask(np.full((5, 7, 3), 255, np.uint8), (7, 5)) == 1).all()


def test_a_mask_is_turned_as_its_photo_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(1)[..., 0]).save(tmp_path / "m.png", exif=exif.tobytes())
    assert photos.read_mask(tmp_path / "m.png", (5, 7)).shape == (7, 5)


def test_wrong_masks() -> None:
    message = refused("mask-size", photos.read_mask, noise(1), (5, 7)).message
    assert "7×5" in message
    assert "5×7" in message
    assert "nothing" in refused("mask-empty", photos.read_mask, np.zeros((5, 7), np.uint8), (7, 5)).message
    refused("mask", photos.read_mask, np.full((5, 7), 2.0), (7, 5))
    refused("mask", photos.read_mask, np.full((5, 7), np.nan), (7, 5))
    black = np.zeros((5, 7, 4), np.uint8)
    black[..., 3] = 255
    refused("mask-empty", photos.read_mask, black, (7, 5))


# ------------------------------------------------------------------ colours


def test_what_the_models_see() -> None:
    grey = noise(1)
    assert np.array_equal(photos.to_srgb(photos.from_array(grey)), np.repeat(grey, 3, axis=2))
    deep = np.array([[[0, 128, 129], [65535, 65407, 65406]]], np.uint16)
    assert photos.to_srgb(photos.from_array(deep)).tolist() == [[[0, 0, 1], [255, 255, 254]]]
    clear = np.array([[[10, 200, 30, 0], [10, 200, 30, 255]]], np.uint8)
    assert photos.to_srgb(photos.from_array(clear)).tolist() == [[[128, 128, 128], [10, 200, 30]]]


def test_profiles_are_followed() -> None:
    pixels = np.array([[[120, 180, 90], [200, 150, 140]]], np.uint8)
    linear = (pixels / 255) ** 2.2
    to_xyz = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
    from_srgb = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
    rgb = np.clip(linear @ to_xyz.T @ np.linalg.inv(from_srgb).T, 0, 1)
    expected = 255 * np.where(rgb < 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    seen = photos.to_srgb(Photo(pixels, "RGB", "", icc=wide_gamut()))
    assert np.abs(seen - expected).max() <= 1.5
    assert np.abs(seen.astype(int) - pixels).max() > 10


def test_srgb_and_unusable_profiles_change_nothing() -> None:
    pixels = noise(3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (srgb, wide_gamut(b"my sRGB v4"), b"broken", grey_gamma(1.0)):
        assert np.array_equal(photos.to_srgb(Photo(pixels, "RGB", "", icc=icc)), pixels)


def test_grey_profiles_are_followed() -> None:
    seen = photos.to_srgb(Photo(np.full((2, 2, 1), 128, np.uint8), "L", "", icc=grey_gamma(1.0)))
    assert np.abs(seen.astype(int) - 188).max() <= 1  # linear half is level 188 of sRGB


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("profile", [False, True])
def test_no_change_is_exactly_none(mode: str, dtype: str, profile: bool) -> None:
    colours = 3 if "RGB" in mode else 1
    icc = (wide_gamut() if colours == 3 else grey_gamma(1.8)) if profile else None
    photo = Photo(noise(MODES[mode], dtype, (30, 20)), mode, "", icc=icc)  # type: ignore[arg-type]
    region = photo.pixels[..., :colours].astype(np.float32) + np.float32(0.3)
    change = np.zeros((20, 30, 3), np.float32)
    assert np.array_equal(photos.add_srgb_change(photo, region, change), region)
    change[4, 5] = 9
    moved = photos.add_srgb_change(photo, region, change)
    assert moved.dtype == np.float32
    assert moved.shape == region.shape
    untouched = np.ones((20, 30), bool)
    untouched[4, 5] = False
    assert np.array_equal(moved[untouched], region[untouched])


def test_a_change_without_profile_is_added_in_the_photos_depth() -> None:
    change = np.array([[[10, -5, 2.5]]], np.float32)
    for dtype, scale in (("uint8", 1), ("uint16", 257)):
        colour = photos.from_array(np.full((1, 1, 3), 100, dtype))
        out = photos.add_srgb_change(colour, colour.pixels.astype(np.float32), change)
        assert out[0, 0].tolist() == [100 + 10 * scale, 100 - 5 * scale, 100 + 2.5 * scale]
        grey = photos.from_array(np.full((1, 1), 100, dtype))
        out = photos.add_srgb_change(grey, grey.pixels.astype(np.float32), change)
        luma = 0.2126 * 10 - 0.7152 * 5 + 0.0722 * 2.5
        assert out[0, 0, 0] == pytest.approx(100 + luma * scale, abs=1e-3)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_change_through_a_profile_is_seen_as_it_was_meant(colours: int, dtype: str) -> None:
    icc = wide_gamut() if colours == 3 else grey_gamma(1.0)
    top = np.iinfo(dtype).max
    # not so vivid that sRGB cannot show it: there the change is cut, as what was seen was
    levels = (RNG.uniform(0.35, 0.65, (20, 20, 1)) + RNG.uniform(-0.06, 0.06, (20, 20, colours))) * top
    photo = Photo(levels.astype(dtype), "RGB" if colours == 3 else "L", "", icc=icc)
    change = np.repeat(RNG.uniform(-25, 25, (20, 20, 1)), 3, axis=2).astype(np.float32)
    out = photos.add_srgb_change(photo, photo.pixels.astype(np.float32), change)
    after = Photo(np.rint(out).astype(dtype), photo.mode, "", icc=icc)
    seen = photos.to_srgb(after).astype(float) - photos.to_srgb(photo)
    error = np.abs(seen - change)
    assert error.mean() < 0.8
    assert error.max() < 3.5


def test_a_faint_change_in_16_bits_leaves_no_steps() -> None:
    photo = Photo(np.full((1, 64, 3), 30000, np.uint16), "RGB", "", icc=wide_gamut())
    ramp = np.repeat(np.linspace(0, 3, 64, dtype=np.float32)[None, :, None], 3, axis=2)
    out = photos.add_srgb_change(photo, photo.pixels.astype(np.float32), ramp)
    steps = np.diff(out[0, :, 1])
    assert steps.min() > 0
    assert steps.max() < 2 * steps.min()


# ------------------------------------------------------------------ writing


def test_what_a_format_cannot_hold_is_refused_early(tmp_path: Path) -> None:
    deep, clear = photos.from_array(noise(3, "uint16")), photos.from_array(noise(4))
    cases = [
        (deep, ".jpg"),
        (deep, ".webp"),
        (clear, ".jpg"),
        (photos.from_array(noise(2, "uint16")), ".tif"),
    ]
    cases.append((Photo(noise(1), "L", "", icc=grey_gamma(1.8)), ".webp"))
    cases.append((photos.from_array(np.zeros((1, 16_384), np.uint8)), ".webp"))
    cases.append((Photo(noise(3), "RGB", "", exif=bytes(66_000)), ".jpg"))
    for photo, suffix in cases:
        for call in (photos.write, lambda photo, path: photos.check_writable(path, photo)):
            assert ".png" in refused("unsupported", call, photo, tmp_path / f"p{suffix}").hint
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    photo = photos.from_array(noise(3))
    assert ".webp" in refused("suffix", photos.write, photo, tmp_path / "p.gif").hint
    refused("suffix", photos.check_writable, tmp_path / "p")
    refused("unwritable", photos.write, photo, tmp_path / "none" / "p.png")
    refused("unwritable", photos.write_bytes, b"", tmp_path / "none" / "p.png")
    (tmp_path / "d.png").mkdir()
    refused("unwritable", photos.check_writable, tmp_path / "d.png")
    (tmp_path / "file").write_bytes(b"")
    refused("unwritable", photos.check_writable, tmp_path / "file" / "p.png")
    refused("quality", photos.write, photo, tmp_path / "p.jpg", quality=0)


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    photos.check_writable(tmp_path / "p.PNG", photos.from_array(noise(3)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["encoder", "disk", "interrupt"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, where: str) -> None:
    path = tmp_path / "p.jpg"
    path.write_bytes(b"old")
    error: BaseException = {
        "disk": OSError(28, "No space left on device"),
        "interrupt": KeyboardInterrupt(),
    }.get(where, OSError("encoder error -2"))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(*((Image.Image, "save") if where == "encoder" else (os, "fsync")), fail)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        photos.write(photos.from_array(noise(3)), path)
    assert {"encoder": "failed", "disk": "unwritable"}.get(where) == getattr(caught.value, "code", None)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.jpg"]


def test_a_written_file_has_the_rights_of_any_other(tmp_path: Path) -> None:
    photos.write_bytes(b"new", tmp_path / "a")
    (tmp_path / "b").write_bytes(b"new")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    photos.write_bytes(b"newer", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"newer"


def test_a_transparent_grey_of_a_png_of_two_bits(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)) + chunk(b"tRNS", b"\0\1")
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + bytes([0b00_01_10_11]))) + chunk(b"IEND", b"")
    (tmp_path / "two.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels)
    read = photos.read(tmp_path / "two.png")
    assert read.pixels[0].tolist() == [[0, 255], [85, 0], [170, 255], [255, 255]]


def test_a_line_break_in_a_name_leaves_the_error_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb.jpg"
    path.write_text("no picture")
    with pytest.raises(InputError) as caught:
        photos.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".webp"])
def test_a_thumbnail_said_to_lie_in_exifs_header_harms_nothing(tmp_path: Path, suffix: str) -> None:
    first = struct.pack(">HHHII", 1, 272, 3, 1, 0) + struct.pack(">I", 26)
    second = struct.pack(">HHHIIHHIII", 2, 513, 4, 1, 0, 514, 4, 1, 8, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + first + second
    Image.new("RGB", (4, 4)).save(tmp_path / "odd.jpg", exif=exif)
    read = photos.read(tmp_path / "odd.jpg")
    assert read.exif is None
    photos.write(read, tmp_path / f"out{suffix}")
    assert photos.read(tmp_path / f"out{suffix}").size == (4, 4)
