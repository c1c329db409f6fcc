"""The result: its file, verified before it is written, and what is reported of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from realdrag import photo as photos
from realdrag.errors import WorkError
from realdrag.inversion import verdict
from realdrag.values import Edit, Photo, Result
from realdrag.workfolder import handle_json

if TYPE_CHECKING:
    from realdrag.api import Editor

ROWS = 512  # at a time, so that the comparison of a large photo takes little memory


def write_result(result: Result, source: Photo, output: Path, kind: str | None = None) -> int:
    """The edited photo at `output`; the source's own bytes when nothing changed and the format is the same.

    Returns the largest difference, in the photo's levels, of the file's pixels to the source's where the region is 0
    (everywhere, if nothing changed): what a JPEG's encoding costs. WorkError, and no file, if another kind has any.
    """
    kind = photos.kind_of(output, kind)
    if result.changed is None and source.data and kind == source.format:
        photos.write_bytes(source.data, output)
        return 0
    data = photos.encoded(result.photo, output, kind=kind.lower())
    difference = outside_difference(result, source, photos.decode(data, str(output)))
    if difference and kind != "JPEG":
        raise WorkError(f"{output}: pixels outside the mask would change by {difference}", "please report this")
    photos.write_bytes(data, output)
    return difference


def outside_difference(result: Result, source: Photo, written: Photo) -> int:
    """The largest difference between two photos of one size where the result's region is 0."""
    largest = 0
    for top in range(0, source.size[1], ROWS):
        before, after = (photo.pixels[top : top + ROWS] for photo in (source, written))
        closed = None if result.region is None else result.region[top : top + ROWS] == 0
        for channel in range(after.shape[2]):
            # WebP holds grey as three equal channels.
            of_before = before[..., channel if before.shape == after.shape else max(0, channel - 2)]
            differs = cv2.absdiff(np.ascontiguousarray(of_before), np.ascontiguousarray(after[..., channel]))
            largest = max(largest, int(differs.max() if closed is None else (differs * closed).max()))
    return largest


def edit_json(edit: Edit, editor: Editor, photo: str, output: str, work: str | None) -> dict[str, Any]:
    """An edit as `--json` prints it."""
    return {
        "photo": photo,
        "output": output,
        "work": work,
        "seconds": dict(edit.seconds),
        "cache": edit.cache,
        "detector": edit.alignment.detector,
        "loss": edit.latent.loss,
        "model": {"name": editor.model.name, "sha256": editor.model.sha256},
        "inversion": dict(edit.latent.metrics),
        "verdict": verdict(edit.latent.metrics),
        "handles": [handle_json(handle) for handle in edit.drag.handles],
        "outcome": edit.drag.outcome.value,
        "steps": edit.drag.steps,
        "block": edit.drag.block,
        "strength": edit.drag.strength,
        **result_json(edit.result),
    }


def result_json(result: Result) -> dict[str, Any]:
    """What was changed, and what was verified to be as before, as the reports name it."""
    untouched = None if result.region is None else int((result.region == 0).sum())
    return {
        "changed": None if result.changed is None else list(result.changed),
        "outside_pixels": result.photo.pixels.shape[0] * result.photo.pixels.shape[1]
        if untouched is None
        else untouched,
        "outside_max_difference": result.outside_max_difference,
        "outside_max_difference_in_file": result.file_difference,
    }
