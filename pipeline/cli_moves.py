"""`realdrag moves`: the named drags there are, and the points that they come to on a face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realdrag.cli_options import (
    AlignerOpt,
    BoxOpt,
    Common,
    ConfigOpt,
    DebugOpt,
    DetectorOpt,
    FaceOpt,
    JsonOpt,
    MaskOpt,
    ModelOpt,
    MoveOpt,
    QuietOpt,
    WholeOpt,
    WorkMaybe,
    existing,
    show,
)
from realdrag.errors import InputError

if TYPE_CHECKING:
    from realdrag.api import Editor
    from realdrag.values import Alignment, Photo


def moves(
    photo: Annotated[Path | None, typer.Argument(metavar="[PHOTO]", help="The photograph, or else -w.")] = None,
    move: MoveOpt = None,
    work: WorkMaybe = None,
    mask: MaskOpt = None,
    model: ModelOpt = None,
    aligner: AlignerOpt = None,
    detector: DetectorOpt = None,
    face: FaceOpt = None,
    box: BoxOpt = None,
    whole: WholeOpt = False,
    config: ConfigOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """List the named drags, or print those of --move for a face as --drag flags, to be changed and given to `edit`."""
    from realdrag import photo as photos
    from realdrag.placing import Wanted, parse_moves, place

    if not move and photo is None and work is None:
        list_moves(as_json)
        return
    if not move:
        raise InputError("no move is named", "give at least one --move NAME=NUMBER", code="usage")
    wanted = Wanted(moves=parse_moves(move))
    flags = {"align": {"aligner": aligner, "detector": detector}}
    editor = Common(config, "auto", None, "auto", quiet).editor(model, None, flags)
    opened, alignment = find_face(editor, photo, work, face, box, whole)
    placed = place(wanted, alignment, opened.size, None if mask is None else photos.read_mask(mask, opened.size))
    for note in placed.notes:
        editor.progress.say(note)
    ends = list(zip(placed.handles.tolist(), placed.targets.tolist(), strict=True))
    report = {
        "drags": [{"handle": h, "target": t, "moves": placed.moved[i]} for i, (h, t) in enumerate(ends)],
    }
    show(report, as_json, *(f"--drag {x:.10g},{y:.10g}:{x2:.10g},{y2:.10g}" for (x, y), (x2, y2) in ends))


def list_moves(as_json: bool) -> None:
    """The table of moves."""
    from realdrag.drag import MOVES

    rows = [{key: getattr(m, key) for key in ("name", "does", "unit", "low", "high")} for m in MOVES.values()]
    lines = [f"{m.name:<11} {f'{m.low:g} … {m.high:g}':<9} {m.unit:<22} {m.does}" for m in MOVES.values()]
    show({"moves": rows}, as_json, *lines)


def find_face(
    editor: Editor, photo: Path | None, work: Path | None, face: int | None, box: str | None, whole: bool
) -> tuple[Photo, Alignment]:
    """The photo and its alignment; of a work folder what `align` found, if no photo is named."""
    from realdrag import photo as photos
    from realdrag.points import parse_box

    if photo is not None:
        opened = photos.read(photo)
        return opened, editor.align(opened, face=face, box=parse_box(box), whole=whole)
    assert work is not None
    folder = existing(work)
    opened = folder.photo()
    folder.need("align", {})
    return opened, folder.alignment()
