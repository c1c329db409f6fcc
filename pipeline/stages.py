"""The four stages on a work folder; an edit is the four in a row, so both ways give the same bytes.

Each stage reads what the one before it wrote, and does nothing when its inputs are those it was last run with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from realdrag import photo as photos
from realdrag.api import Box, Editor, Source
from realdrag.drag.way import check_strength
from realdrag.errors import StaleError
from realdrag.history import History
from realdrag.inversion import verdict
from realdrag.placing import Wanted, place
from realdrag.results import result_json, write_result
from realdrag.values import Alignment, Drag, Latent, Moment, Photo, Result
from realdrag.workfolder import WorkFolder, mask_levels, png

Cache = Literal["hit", "miss"]
Inputs = dict[str, Any]


@contextmanager
def alone(editor: Editor, work: WorkFolder) -> Iterator[None]:
    """Only one process at a time changes a work folder. The lock lies in the store: a folder is whole when copied."""
    name = hashlib.sha256(str(work.path.resolve()).encode(errors="surrogateescape")).hexdigest()
    with editor.store.lock(f"work-{name}"):
        yield


def find_alignment(
    editor: Editor,
    work: WorkFolder,
    photo: Photo,
    *,
    face: int | None = None,
    box: Box | None = None,
    whole: bool = False,
) -> tuple[Inputs, Alignment]:
    """What the alignment is made from, and the alignment: the work folder's if it fits. Writes nothing."""
    work.check(photo)
    inputs = {
        "photo": photo.sha256,
        "resolution": editor.resolution,
        "aligner": editor.aligner,
        "settings": asdict(editor.settings.align),
        "choice": {"face": face, "box": None if box is None else list(box), "whole": whole},
    }
    if work.done("align", inputs):
        return inputs, work.alignment()
    return inputs, editor.align(photo, face=face, box=box, whole=whole)


def keep_alignment(work: WorkFolder, photo: Photo, inputs: Inputs, alignment: Alignment) -> None:
    """photo.*, aligned.png and align.json, unless they are there."""
    if not work.done("align", inputs):
        work.put_photo(photo)
        work.put_alignment(inputs, alignment)


def align_stage(
    editor: Editor,
    work: WorkFolder,
    photo: Photo,
    *,
    face: int | None = None,
    box: Box | None = None,
    whole: bool = False,
) -> Alignment:
    """photo.*, aligned.png and align.json of `photo`."""
    with editor.notes_held():
        inputs, alignment = find_alignment(editor, work, photo, face=face, box=box, whole=whole)
        tell_notes(editor, photo)
    with alone(editor, work):
        keep_alignment(work, photo, inputs, alignment)
    return alignment


def tell_notes(editor: Editor, photo: Photo) -> None:
    """What reading the photo left out."""
    for note in photo.notes:
        editor.progress.say(f"the photo: {note}")


def aligned(editor: Editor, work: WorkFolder) -> Alignment:
    """What `align` made for this model; StaleError if it was not run, or for another."""
    wanted: Inputs = {"resolution": editor.resolution}
    if work.record("align").get("inputs", {}).get("settings", {}).get("aligner") == "auto":
        wanted["aligner"] = editor.model_aligner  # another model may see another square
    work.need("align", wanted)
    return work.alignment()


def invert_stage(
    editor: Editor, work: WorkFolder, watch: Callable[[npt.NDArray[np.float32]], None] = lambda w_plus: None
) -> tuple[Latent, Cache]:
    """inverted.png and invert.json of aligned.png; the latent from the store, or into it. watch: as for `invert`."""
    alignment = aligned(editor, work)
    key = editor.latent_key(alignment.crop)
    inputs = {"aligned.png": work.sha256("aligned.png"), "key": key}
    latent, found = editor.invert(alignment, about=work.about_photo(), watch=watch)
    if (words := verdict(latent.metrics)) and not words.startswith("inside"):
        editor.progress.say(f"the photo lies {words}")
    if not (work.done("invert", inputs) and found):
        about = made_by(editor) | {"settings": asdict(editor.settings.inversion)}
        work.put_latent(inputs, key, latent, about)
    return latent, "hit" if found else "miss"


def drag_stage(
    editor: Editor,
    work: WorkFolder,
    photo: Photo,
    wanted: Wanted,
    *,
    mask: Source | None = None,
    go_on: bool = False,
    strength: float = 1.0,
    step: int | None = None,
    again: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
    watch: Callable[[Moment], None] = lambda moment: None,
) -> Drag:
    """dragged.png, drag.safetensors, drag.json and mask.png. go_on: from the last drag, with its mask unless given.

    step: the one to show, None for the best. Another strength or step of the drag that the folder holds is taken from
    its way: nothing is dragged again. again: nor is a drag that was undone or that others followed.
    """
    check_strength(strength)
    work.need("align", {})
    work.need("invert", {"aligned.png": work.sha256("aligned.png")})
    alignment = work.alignment()
    previous, weights = None, None
    if go_on:
        work.need("drag", {"inverted.png": work.sha256("inverted.png")})
        previous, weights = work.drag(), work.mask(photo.size)
    if mask is not None:
        weights = photos.read_mask(mask, photo.size)
    placed = place(wanted, alignment, photo.size, weights)
    for note in placed.notes:
        editor.progress.say(note)
    levels = None if weights is None else mask_levels(weights)
    inputs = {
        "inverted.png": work.sha256("inverted.png"),
        "mask.png": None if levels is None else hashlib.sha256(png(levels)).hexdigest(),
        "drags": [[h.tolist(), t.tolist()] for h, t in zip(placed.handles, placed.targets, strict=True)],
        **placed.about(wanted),
        "settings": asdict(editor.settings.drag),
        "before": work.sha256("drag.safetensors") if go_on else None,
        "from": None if previous is None else {"step": previous.chosen, "strength": previous.strength},
    }
    history = History(work)
    if again and (found := history.find(inputs)) is not None:
        history.go(found - history.current)
    if work.done("drag", inputs, but=("strength",)) and work.sha256("mask.png") == inputs["mask.png"]:
        return place_stage(editor, work, step, strength)
    latent = stored_latent(editor, work)
    drag = editor.drag(
        photo,
        alignment,
        latent,
        [((h[0], h[1]), (t[0], t[1])) for h, t in zip(placed.handles, placed.targets, strict=True)],
        mask=None if levels is None else photos.read_mask(levels, photo.size),
        previous=previous,
        cancelled=cancelled,
        watch=watch,
    )
    about = {"points": wanted.points, **placed.about(wanted), **made_by(editor)}
    history.keep()
    work.put_drag(inputs, drag, about, levels)
    history.add()
    return place_stage(editor, work, step, strength)


def place_stage(editor: Editor, work: WorkFolder, step: int | None, strength: float) -> Drag:
    """The folder's drag, which is up to date, as it was at `step` (None: the best) at `strength`."""
    drag = work.drag()
    shown = drag.best if step is None else step
    if (drag.chosen, drag.strength) == (shown, strength):
        return drag
    latent = stored_latent(editor, work)
    drag = editor.at_step(latent, drag, shown)
    if strength != 1:
        drag = editor.at_strength(latent, drag, strength)
    work.put_place(drag)
    return drag


def made_by(editor: Editor) -> dict[str, Any]:
    """What made a latent or a drag, as their records say it."""
    return {
        "model": {"name": editor.model.name, "sha256": editor.model.sha256},
        "made": {"precision": editor.resolved_precision, "threads": editor.threads},
    }


def strength_stage(editor: Editor, work: WorkFolder, strength: float | None) -> Drag:
    """The drag that the folder holds, at another strength (None: its own): dragged.png and drag.json.

    Nothing is dragged again.
    """
    if strength is not None:
        check_strength(strength)
    need_drag(work)
    return restrength(editor, work, strength)


def step_stage(editor: Editor, work: WorkFolder, step: int) -> Drag:
    """The drag that the folder holds as it was at `step`: dragged.png and drag.json. Nothing is dragged again."""
    need_drag(work)
    drag = editor.at_step(stored_latent(editor, work), work.drag(), step)
    work.put_place(drag)
    return drag


def history_stage(work: WorkFolder, by: int) -> Drag | None:
    """The drag before (−1, undo) or after (+1, redo) the folder's, in its place; None before the first."""
    work.need("align", {})
    work.need("invert", {"aligned.png": work.sha256("aligned.png")})
    History(work).go(by)
    return work.drag() if work.whole_drag() else None


def need_drag(work: WorkFolder) -> None:
    """StaleError unless the folder holds a drag and all that it was made from."""
    work.need("align", {})
    work.need("invert", {"aligned.png": work.sha256("aligned.png")})
    work.need("drag", {"inverted.png": work.sha256("inverted.png"), "mask.png": work.sha256("mask.png")})


def restrength(editor: Editor, work: WorkFolder, strength: float | None) -> Drag:
    """The folder's drag, which is up to date but for its strength, at `strength`."""
    drag = work.drag()
    if strength is not None and drag.strength != strength:
        drag = editor.at_strength(stored_latent(editor, work), drag, strength)
        work.put_place(drag)
    return drag


def stored_latent(editor: Editor, work: WorkFolder) -> Latent:
    """The latent that invert.json names; StaleError when this store has it no longer, or it is another model's."""
    record = work.record("invert")
    latent = editor.store.get(record["key"])
    if latent is None:
        raise StaleError(f"{work.path}: its latent is not in this store", f"run `realdrag invert -w {work.path}` first")
    if latent.model_sha256 != editor.model.sha256:
        raise StaleError(
            f"{work.path}: was inverted with the model {record['model']['name']}, not {editor.model.name}",
            "give that --model, or run `realdrag invert` again",
        )
    if fault := editor.latent_fault(latent):
        raise StaleError(f"{work.path}: its latent is unusable: {fault}", f"run `realdrag invert -w {work.path}` first")
    return latent


def composite_stage(
    editor: Editor, work: WorkFolder, photo: Photo, output: Path | None, kind: str | None = None
) -> Result:
    """region.png, the result at `output` if that is given, of that kind or its suffix's, and result.json."""
    need_drag(work)
    result = editor.composite(
        photo,
        work.alignment(),
        work.picture("inverted.png"),
        work.picture("dragged.png"),
        work.mask(photo.size),
    )
    if output is not None:
        result = replace(result, file_difference=write_result(result, photo, output, kind))
    work.put_result(
        {
            "photo": photo.sha256,
            "dragged.png": work.sha256("dragged.png"),
            "settings": asdict(editor.settings.composite),
        },
        {
            "output": None if output is None else str(output),
            "sha256": None if output is None else hashlib.sha256(output.read_bytes()).hexdigest(),
            **result_json(result),
        },
        result,
    )
    return result


def show_drag(editor: Editor, work: WorkFolder, photo: Photo, drag: Drag, film: Any, plot: Any) -> None:
    """The film and the plot of the folder's drag, where they were asked for."""
    if film is not None:
        mask = work.mask(photo.size)
        editor.film(work.alignment(), stored_latent(editor, work), drag, film, mask=mask)
    if plot is not None:
        editor.plot(drag, plot)
