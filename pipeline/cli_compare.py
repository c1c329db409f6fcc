"""`realdrag compare`: what an edit did, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realdrag.cli_options import DebugOpt, JsonOpt, QuietOpt, existing, show
from realdrag.errors import InputError

DirArg = Annotated[Path, typer.Argument(metavar="WORK", help="A work folder that holds a result.")]
PageOpt = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="PAGE", help="The page, .png; else WORK/compare.png.")
]


def compare(
    work: DirArg, output: PageOpt = None, as_json: JsonOpt = False, quiet: QuietOpt = False, debug: DebugOpt = False
) -> None:
    """Show an edit on one page: before, after, difference × 8, and the seam pixel for pixel."""
    from realdrag.comparison import compare as make_page
    from realdrag.photo_write import check_folder

    folder = existing(work)
    page = output or work / "compare.png"
    if page.suffix.lower() != ".png":
        raise InputError(f"{page}: a page is a .png", "name it so", code="suffix")
    if folder.owns(page):
        raise InputError(f"{page}: is the work folder's own", "choose another name for it", code="overwrite")
    check_folder(page)
    made = make_page(folder, page)
    line = f"{page}  {made['region_share']:.0%} of the photo could change, {made['max_difference']} levels at most"
    show(made, as_json, line)
