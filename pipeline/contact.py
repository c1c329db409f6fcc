"""The contact sheet of a batch: before and after of each photo, around what changed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from realdrag import photo as photos
from realdrag.errors import RealdragError
from realdrag.photo_write import write_bytes
from realdrag.places import fetched

CELL, COLUMNS, MOST = 128, 6, 96  # px; pairs a row; pairs in all, evenly taken
MARGIN = 0.3  # around what changed, in its own sides
QUALITY = 88


def contact_sheet(rows: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """A picture of the `rows` that are done, at `path`; False, and none, where nothing can be shown."""
    chosen = [rows[round(k)] for k in np.linspace(0, len(rows) - 1, min(len(rows), MOST))]
    pairs = [pair for row in chosen if (pair := before_after(row)) is not None]
    if not pairs:
        return False
    lines = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (min(len(pairs), COLUMNS) * (2 * CELL + 8) - 8, lines * (CELL + 8) - 8), "white")
    for k, (before, after) in enumerate(pairs):
        x, y = (k % COLUMNS) * (2 * CELL + 8), (k // COLUMNS) * (CELL + 8)
        sheet.paste(before, (x, y))
        sheet.paste(after, (x + CELL, y))
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=QUALITY)
    write_bytes(data.getvalue(), path)
    return True


def before_after(row: Mapping[str, Any]) -> tuple[Image.Image, Image.Image] | None:
    """Two squares of CELL px, or None where a photo can no longer be read."""
    try:
        before, after = (photos.to_srgb(photos.decode(fetched(row[name]), row[name])) for name in ("photo", "output"))
    except (OSError, RealdragError):
        return None
    box = square(row["changed"], before.shape[1], before.shape[0])
    return cut(before, box), cut(after, box)


def square(changed: Sequence[int] | None, width: int, height: int) -> tuple[int, int, int, int]:
    """The square around what `changed` with a margin, within the photo; the largest in its middle if nothing did."""
    side = min(width, height)
    x, y = width / 2, height / 2
    if changed is not None:
        x, y = (changed[0] + changed[2]) / 2, (changed[1] + changed[3]) / 2
        side = min(side, round((1 + 2 * MARGIN) * max(changed[2] - changed[0], changed[3] - changed[1])))
    left, top = (round(min(max(c - side / 2, 0), most - side)) for c, most in ((x, width), (y, height)))
    return left, top, left + side, top + side


def cut(pixels: npt.NDArray[np.uint8], box: tuple[int, int, int, int]) -> Image.Image:
    """The box of the picture, at CELL px."""
    return Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.LANCZOS, box)
