"""Where results and pictures of an edit may be written: nothing of the user's is ever replaced."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from realdrag import photo as photos
from realdrag.errors import InputError
from realdrag.values import Photo
from realdrag.workfolder import WorkFolder


def check_output(
    output: Path, photo: Photo, others: Sequence[Any], work: WorkFolder | None, kind: str | None = None
) -> None:
    """InputError for an output that cannot be written, or would replace the photo, the mask or what the folder keeps.

    others: what the user named besides; those that are no paths do not matter.
    """
    try:
        photos.check_writable(output, photo, kind)
        there = output.exists()
        for other in (Path(o) for o in others if isinstance(o, (str, os.PathLike))):
            if there and other.exists() and output.samefile(other):
                raise InputError(f"{output}: is {other} itself", "choose another name for the result", code="overwrite")
        if work is not None and there and not others:  # the photo's own place is not known here, its bytes are
            earlier = work.record("result").get("sha256")
            if hashlib.sha256(output.read_bytes()).hexdigest() == photo.sha256 != earlier:
                raise InputError(f"{output}: is the photo", "choose another name for the result", code="overwrite")
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror}", code="unwritable") from error
    if work is not None and work.owns(output):
        raise InputError(f"{output}: is the work folder's own", "choose another name for the result", code="overwrite")


def check_pictures(
    others: Sequence[Any],
    work: WorkFolder,
    *,
    film: Any = None,
    plot: Any = None,
    report: Any = None,
    recipe: Any = None,
) -> None:
    """InputError for what cannot be written there, or would replace one of `others` or of the folder's files."""
    from realdrag.curves import check_plot
    from realdrag.film import check_film

    checks = (
        (film, check_film),
        (plot, check_plot),
        (report, lambda path: check_plot(path, (".png",))),
        (recipe, lambda path: check_plot(path, (".toml",))),
    )
    named = [Path(other) for other in others if isinstance(other, (str, os.PathLike))]
    for path, check in [(Path(path), check) for path, check in checks if path is not None]:
        check(path)
        if work.owns(path):
            raise InputError(f"{path}: is the work folder's own", "choose another name for it", code="overwrite")
        if any(path.resolve() == other.resolve() for other in named):
            raise InputError(f"{path}: is another file of this edit", "choose another name for it", code="overwrite")
        # The photo's own place is not known to a work folder, its bytes are.
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == work.about_photo().get("photo_sha256"):
            raise InputError(f"{path}: is the photo", "choose another name for it", code="overwrite")
        named.append(path)
