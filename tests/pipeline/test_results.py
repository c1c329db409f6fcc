"""The result's file: verified, marked as edited, of the kind that was asked for; and the page that shows an edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realdrag import photo as photos
from realdrag import results
from realdrag.errors import WorkError
from realdrag.provenance import COMPOSITE, marked
from realdrag.values import Photo, Result

Run = Callable[..., Any]
ADOBE = (
    b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
  ext:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture">
<dc:creator><rdf:Seq><rdf:li>A. Mann &amp; B</rdf:li></rdf:Seq></dc:creator></rdf:Description>
</rdf:RDF></x:xmpmeta>"""
    + b" " * 2000
    + b"""
<?xpacket end="w"?>"""
)


def source_types(xmp: bytes) -> list[str]:
    """All that the packet says of where the picture is from, read by a parser of XML."""
    from xml.etree import ElementTree

    name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    found = []
    for element in ElementTree.fromstring(xmp.decode()).iter():
        found += [element.text] if element.tag == name else []
        found += [element.attrib[name]] if name in element.attrib else []
    return [str(text) for text in found]


def test_the_mark_takes_the_place_of_another_and_keeps_the_rest() -> None:
    out = marked(ADOBE)
    assert source_types(out) == [COMPOSITE]
    assert b"A. Mann &amp; B" in out
    assert len(out) < len(ADOBE)  # the padding goes
    assert out.count(b'about="uuid:1"') == 2  # all that is said is said of one thing
    assert source_types(marked(out)) == [COMPOSITE]
    assert marked(out).count(b"DigitalSourceType") == out.count(b"DigitalSourceType")


@pytest.mark.parametrize("xmp", [None, b"", b"\xff\xfe", b"<x:xmpmeta", b"<a/>"])
def test_without_a_packet_that_can_be_read_there_is_a_new_one(xmp: bytes | None) -> None:
    assert source_types(marked(xmp)) == [COMPOSITE]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_every_kind_of_result_says_that_it_is_edited(here: Path, cli: Run, suffix: str) -> None:
    assert cli("composite", "-w", "work", "-o", f"b{suffix}").code == 0
    assert source_types(photos.read(f"b{suffix}").xmp or b"") == [COMPOSITE]
    with Image.open(f"b{suffix}") as image:  # as others read it
        image.load()
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        assert COMPOSITE in (xmp if isinstance(xmp, str) else xmp.decode())


def test_an_edit_of_nothing_is_not_marked(here: Path, cli: Run) -> None:
    assert cli("drag", "-w", "work", "--strength", "0").code == 0
    ran = cli("composite", "-w", "work", "-o", "same.tif", "--json")
    assert json.loads(ran.out)["changed"] is None
    assert photos.read("same.tif").xmp is None
    assert json.loads(ran.out)["outside_pixels"] == 512 * 512
    np.testing.assert_array_equal(photos.read("same.tif").pixels, photos.read("a.png").pixels)
    assert cli("composite", "-w", "work", "-o", "same.png").code == 0
    assert Path("same.png").read_bytes() == Path("a.png").read_bytes()


def test_the_format_counts_for_more_than_the_suffix(here: Path, cli: Run) -> None:
    ran = cli("composite", "-w", "work", "-o", "result.dat", "--format", "tiff")
    assert ran.code == 0, ran.err
    with Image.open("result.dat") as image:
        assert image.format == "TIFF"
    ran = cli("composite", "-w", "work", "-o", "result.bmp", "--format", "bmp")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "jpeg, png, tiff or webp" in ran.err
    assert not Path("result.bmp").exists()


def test_the_file_is_verified_and_what_a_jpeg_costs_is_told(here: Path, cli: Run) -> None:
    report = json.loads(cli("composite", "-w", "work", "-o", "b.png", "--json").out)
    assert (report["outside_max_difference"], report["outside_max_difference_in_file"]) == (0, 0)
    region = np.asarray(Image.open("work/region.png"))
    before, after = (np.asarray(Image.open(name)) for name in ("a.png", "b.png"))
    assert report["outside_pixels"] == (region == 0).sum() > 0.9 * region.size
    np.testing.assert_array_equal(before[region == 0], after[region == 0])
    mask = np.asarray(Image.open("mask.png"))
    assert not region[mask == 0].any()
    assert region.max() == 255
    report = json.loads(cli("composite", "-w", "work", "-o", "b.jpg", "--json").out)
    of_jpeg = np.abs(before.astype(int) - np.asarray(Image.open("b.jpg")))[region == 0].max()
    assert report["outside_max_difference"] == 0
    assert report["outside_max_difference_in_file"] == of_jpeg > 0


def test_a_file_that_would_differ_outside_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((20, 30, 3), 100, np.uint8)
    after = pixels.copy()
    after[10, 10] = 120
    region = np.zeros((20, 30), np.uint8)
    region[10, 10] = 255
    source = Photo(pixels, "RGB", "")
    good = Result(Photo(after, "RGB", ""), (10, 10, 10, 10), 0, region)
    assert results.write_result(good, source, tmp_path / "a.png") == 0
    after = after.copy()
    after[3, 4, 2] -= 7
    with pytest.raises(WorkError, match="outside the mask would change by 7"):
        results.write_result(Result(Photo(after, "RGB", ""), (0, 0, 1, 1), 0, region), source, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_grey_in_webp_is_compared_as_grey(tmp_path: Path) -> None:
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30, 1).astype(np.uint8)
    alpha = np.concatenate([grey, 255 - grey], 2)
    for mode, pixels in (("L", grey), ("LA", alpha)):
        source = Photo(pixels, mode, "")  # type: ignore[arg-type]
        assert results.write_result(Result(source, None, 0), source, tmp_path / f"{mode}.webp") == 0


def test_compare_shows_the_edit_on_one_page(here: Path, cli: Run) -> None:
    assert cli("composite", "-w", "work", "-o", "b.png").code == 0
    ran = cli("compare", "work", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert (report["output"], report["shows"]) == ("work/compare.png", "b.png")
    before, after = (np.asarray(Image.open(name)).astype(int) for name in ("a.png", "b.png"))
    assert report["max_difference"] == np.abs(before - after).max()
    region = np.asarray(Image.open("work/region.png")) > 0
    x0, y0, x1, y1 = report["box"]
    assert region[y0:y1, x0:x1].sum() == region.sum()
    assert report["seams"]
    for x, y in report["seams"]:  # on the edge, from outside
        assert not region[y, x]
        assert region[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any()
    page = np.asarray(Image.open("work/compare.png"))
    width, height = x1 - x0, y1 - y0
    np.testing.assert_array_equal(page[22 : 22 + height, 8 : 8 + width], before[y0:y1, x0:x1])
    Path("b.png").unlink()  # then it is made again
    again = cli("compare", "work", "-o", "again.png", "--json")
    assert json.loads(again.out)["shows"] == "made again"
    np.testing.assert_array_equal(np.asarray(Image.open("again.png")), page)


def test_compare_refuses_what_it_cannot_show(here: Path, cli: Run) -> None:
    for arguments, word in (
        (["nowhere"], "no such work folder"),
        (["work", "-o", "page.jpg"], "page is a .png"),
        (["work", "-o", "work/region.png"], "own"),
        (["work", "-o", "none/page.png"], "cannot be written"),
    ):
        ran = cli("compare", *arguments)
        assert (ran.code, ran.err.count("\n")) == (2, 1), arguments
        assert word in ran.err
    Path("work/result.json").unlink()
    ran = cli("compare", "work")
    assert (ran.code, "composite was not run" in ran.err or "result was not run" in ran.err) == (2, True), ran.err


def test_two_faces_one_after_another_and_an_edit_of_an_edit(tmp_path: Path, astronaut: Any, quick: Path) -> None:
    """What none of the edits was allowed to touch is the first photo's to the bit; what one did is kept by the next."""
    import realdrag

    original = np.concatenate([astronaut[:300, 60:360], astronaut[:300, 60:360]], 1)  # faces at (150, 110), (450, 110)
    Image.fromarray(original).save(tmp_path / "0.png")
    untouched = np.ones(original.shape[:2], bool)
    before = original
    for n, (x, box) in enumerate(((155, (110, 75, 205, 170)), (455, (410, 75, 505, 170)), (155, (110, 75, 205, 170)))):
        output = tmp_path / f"{n + 1}.png"
        edit = realdrag.edit(tmp_path / f"{n}.png", output, [((x, 120), (x - 5, 112))], box=box)
        region = edit.result.region
        assert region is not None
        after = np.asarray(Image.open(output))
        np.testing.assert_array_equal(after[region == 0], before[region == 0])
        assert not region[:, 300:].any() if x < 300 else not region[:, :300].any()
        assert (after != before).any()
        untouched &= region == 0
        before = after
    np.testing.assert_array_equal(before[untouched], original[untouched])
    assert untouched.mean() > 0.3
    assert source_types(photos.read(tmp_path / "3.png").xmp or b"") == [COMPOSITE]  # said once


@pytest.mark.parametrize(("suffix", "side"), [(".jpg", 40), (".png", 97), (".tif", 300), (".webp", 700)])
def test_without_a_drag_the_result_is_the_photo_byte_for_byte(
    tmp_path: Path, astronaut: Any, quick: Path, suffix: str, side: int
) -> None:
    import realdrag

    face = Image.fromarray(astronaut[20:220, 120:320]).resize((side, side))
    face.save(tmp_path / f"a{suffix}", dpi=(300, 300))
    middle = side / 2
    drags = [((middle, middle), (middle + side / 20, middle))]
    edit = realdrag.edit(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", drags, strength=0.0, whole=True)
    assert edit.result.changed is None
    assert (tmp_path / f"b{suffix}").read_bytes() == (tmp_path / f"a{suffix}").read_bytes()
