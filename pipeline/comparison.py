"""One page that shows what an edit did: before, after, their difference, the region, and its edge pixel for pixel."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from realdrag import photo as photos
from realdrag.api import Editor
from realdrag.errors import StaleError
from realdrag.photo_write import write_bytes
from realdrag.settings import CompositeSettings, Settings
from realdrag.values import Photo
from realdrag.workfolder import WorkFolder

Picture = npt.NDArray[np.uint8]

TIMES = 8  # differences are shown so much larger
PANEL, WINDOW, GAP, HEAD = 420, 200, 8, 22  # pixels: sides of a panel and of a look at the seam; spaces
LOOKS = 4  # at the seam
PAPER, INK, EDGE = (255, 255, 255), (0, 0, 0), (255, 60, 60)


def compare(work: WorkFolder, output: Path) -> dict[str, object]:
    """Writes the page of the folder's last result at `output`, PNG; what is on it, for `--json`."""
    work.need("result", {"dragged.png": work.sha256("dragged.png")})
    before, region = work.photo(), work.region()
    after, shown = edited(work, before)
    seen = photos.to_srgb(before), photos.to_srgb(after)
    box = surroundings(region)
    looks = seam_looks(*seen, region)
    page = draw(*seen, region, box, looks)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    write_bytes(buffer.getvalue(), output)
    difference = np.abs(seen[0].astype(np.int16) - seen[1])
    return {
        "output": str(output),
        "shows": shown,
        "box": list(box),
        "seams": [list(look) for look in looks],
        "mean_difference": round(float(difference.mean()), 4),
        "max_difference": int(difference.max()),
        "region_share": round(float((region > 0).mean()), 4),
    }


def edited(work: WorkFolder, before: Photo) -> tuple[Photo, str]:
    """The result, and where it is from: its file if that is still as it was written, else made again."""
    record = work.record("result")
    path = Path(record["output"]) if record.get("output") else None
    if path is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]:
        return photos.read(path), str(path)
    try:
        settings = Settings(composite=CompositeSettings(**record["inputs"]["settings"]))
    except (KeyError, TypeError) as error:
        raise StaleError(f"{work.path}: result.json is another version's", "run `realdrag composite` again") from error
    pictures = work.picture("inverted.png"), work.picture("dragged.png")
    editor = Editor(settings=settings)
    return editor.composite(before, work.alignment(), *pictures, work.mask(before.size)).photo, "made again"


def surroundings(region: Picture) -> tuple[int, int, int, int]:
    """A box around what may have changed, with a tenth more on each side: x0, y0, x1, y1, the last exclusive."""
    height, width = region.shape
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return 0, 0, width, height
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    more = max(right - left, bottom - top) // 10
    return max(left - more, 0), max(top - more, 0), min(right + more, width), min(bottom + more, height)


def seam_looks(before: Picture, after: Picture, region: Picture) -> list[tuple[int, int]]:
    """Points (x, y) on the region's edge, far from each other, near which most was changed."""
    inside = (region > 0).astype(np.uint8)
    edge = cv2.dilate(inside, np.ones((3, 3), np.uint8)) - inside
    changed = np.abs(before.astype(np.int16) - after).max(2).astype(np.float32)
    score = cv2.blur(changed, (WINDOW // 4, WINDOW // 4)) * edge + edge * 1e-6
    found: list[tuple[int, int]] = []
    while len(found) < LOOKS:
        y, x = np.unravel_index(int(score.argmax()), score.shape)
        if score[y, x] <= 0:
            break
        found.append((int(x), int(y)))
        score[max(0, y - WINDOW) : y + WINDOW, max(0, x - WINDOW) : x + WINDOW] = 0
    return found


def draw(
    before: Picture, after: Picture, region: Picture, box: tuple[int, int, int, int], looks: list[tuple[int, int]]
) -> Image.Image:
    """The page: a row of panels, then for each look at the seam the same place before and after."""
    x0, y0, x1, y1 = box
    difference = np.abs(before.astype(np.int16) - after)[y0:y1, x0:x1]
    open_ = np.repeat(region[y0:y1, x0:x1, None], 3, 2)
    panels = {
        "before": before[y0:y1, x0:x1],
        "after": after[y0:y1, x0:x1],
        f"difference x {TIMES}": (difference * TIMES).clip(0, 255).astype(np.uint8),
        "where it could change": open_,
    }
    scale = min(1.0, PANEL / max(x1 - x0, y1 - y0))
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    width = max(len(panels) * (size[0] + GAP), len(looks) * (2 * WINDOW + 2 * GAP), PANEL) + GAP
    height = HEAD + size[1] + GAP + (HEAD + WINDOW + GAP if looks else 0)
    page = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for n, (name, picture) in enumerate(panels.items()):
        left = GAP + n * (size[0] + GAP)
        pen.text((left, 4), name, INK, font)
        panel = Image.fromarray(picture).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
        if name == "after":
            for x, y in looks:
                at = [(a - b) * scale for a, b in zip(corner(before, x, y), (x0, y0), strict=True)]
                ImageDraw.Draw(panel).rectangle((*at, *(a + WINDOW * scale for a in at)), outline=EDGE)
        page.paste(panel, (left, HEAD))
    top = HEAD + size[1] + GAP
    for n, (x, y) in enumerate(looks):
        left = GAP + n * (2 * WINDOW + 2 * GAP)
        pen.text((left, top + 4), f"the seam at {x},{y}, 100 %: before, after", INK, font)
        for k, picture in enumerate((before, after)):
            page.paste(window(picture, x, y), (left + k * WINDOW, top + HEAD))
    return page


def corner(picture: Picture, x: int, y: int) -> tuple[int, int]:
    """Left and top of the WINDOW px around (x, y), moved into the picture where they would reach beyond."""
    height, width = picture.shape[:2]
    left, top = (max(0, min(at - WINDOW // 2, size - WINDOW)) for at, size in ((x, width), (y, height)))
    return left, top


def window(picture: Picture, x: int, y: int) -> Image.Image:
    """WINDOW px of the picture around (x, y), pixel for pixel."""
    left, top = corner(picture, x, y)
    return Image.fromarray(np.ascontiguousarray(picture[top : top + WINDOW, left : left + WINDOW]))
