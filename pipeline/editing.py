"""A whole edit: the four stages in a row on a work folder, for drags that follow on each other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy.typing as npt

from realdrag import photo as photos
from realdrag.api import Box, Editor, Source
from realdrag.drag.way import check_strength
from realdrag.errors import InputError
from realdrag.outputs import check_output, check_pictures
from realdrag.placing import Wanted, place
from realdrag.points import DragSpec, Spot
from realdrag.recipe import FaceMask, Step, Weights, write
from realdrag.replay import recipe_of
from realdrag.stages import (
    alone,
    composite_stage,
    drag_stage,
    find_alignment,
    invert_stage,
    keep_alignment,
    show_drag,
    tell_notes,
)
from realdrag.values import Alignment, Edit, Photo
from realdrag.workfolder import WorkFolder


def as_spec(drag: Any) -> DragSpec:
    """A drag of the API, ((x, y), (x2, y2)), or one that the command line has read; InputError if it is neither."""
    try:
        handle, target = drag
        if isinstance(handle, Spot) and isinstance(target, Spot):
            return handle, target
        (x, y), (x2, y2) = handle, target
        return Spot(float(x), float(y)), Spot(float(x2), float(y2))
    except (TypeError, ValueError) as error:
        raise InputError(f"{drag!r} is not a drag", "give ((x, y), (x2, y2)) in photo pixels", code="drag") from error


def step_of(
    photo: Photo,
    drags: Sequence[Any],
    moves: Mapping[str, float] | None,
    snap: bool,
    mask: Source | None,
    strength: float,
) -> Step:
    """What the API's `edit` was asked to drag."""
    wanted = Wanted([as_spec(drag) for drag in drags], dict(moves or {}), snap)
    return Step(wanted, None if mask is None else photos.read_mask(mask, photo.size), strength)


def run_edit(
    editor: Editor,
    photo: Photo,
    steps: Sequence[Step],
    *,
    output: Any,
    kind: str | None = None,
    source: Any = None,
    others: Sequence[Any] = (),
    film: Any = None,
    plot: Any = None,
    report: Any = None,
    save_recipe: Any = None,
    face: int | None = None,
    box: Box | None = None,
    whole: bool = False,
    work: Any = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Edit:
    """All four stages. source: where the photo was read, if from a file; it and `others` are never written over.

    What of a recipe was made on another photo (its masks) is carried over to this one's face.
    """
    target = None if output is None else Path(output)
    start, seconds = time.perf_counter(), dict[str, float]()
    with work_or_temporary(work) as folder:
        named = [source, *others]
        if target is not None:
            check_output(target, photo, named, folder, kind)
        # All that can be wrong with the input is found here, before anything is written or takes long.
        check_pictures([*named, output], folder, film=film, plot=plot, report=report, recipe=save_recipe)
        with editor.notes_held():
            for step in steps:
                step.wanted.check()
                check_strength(step.strength)
            editor.check_block()
            with clock(seconds, "align"):
                inputs, alignment = find_alignment(editor, folder, photo, face=face, box=box, whole=whole)
            masks = [mask_on(step.mask, photo, alignment) for step in steps]
            mask = None
            for step, new in zip(steps, masks, strict=True):
                mask = mask if new is None else new
                place(step.wanted, alignment, photo.size, mask)
            tell_notes(editor, photo)
        with alone(editor, folder) if work is not None else nullcontext():
            keep_alignment(folder, photo, inputs, alignment)
            with clock(seconds, "invert"):
                latent, cache = invert_stage(editor, folder)
            with clock(seconds, "drag"):
                for k, (step, mask) in enumerate(zip(steps, masks, strict=True)):
                    drag = drag_stage(
                        editor,
                        folder,
                        photo,
                        step.wanted,
                        mask=mask,
                        go_on=k > 0,
                        strength=step.strength,
                        step=step.step,
                        again=True,
                        cancelled=cancelled,
                    )
            with clock(seconds, "composite"):
                result = composite_stage(editor, folder, photo, target, kind)
            show_drag(editor, folder, photo, drag, film, plot)
            if report is not None:
                editor.report(alignment, latent, report)
            if save_recipe is not None:
                write(recipe_of(editor, folder, photo), save_recipe)
    seconds["total"] = round(time.perf_counter() - start, 3)
    return Edit(result, alignment, latent, drag, cache, seconds)


def mask_on(mask: npt.NDArray[Any] | FaceMask | None, photo: Photo, alignment: Alignment) -> Weights | None:
    """A step's mask as one of this photo."""
    if isinstance(mask, FaceMask):
        return mask.on(photo, alignment)
    return None if mask is None else photos.read_mask(mask, photo.size)


@contextmanager
def work_or_temporary(path: Any) -> Iterator[WorkFolder]:
    """The work folder at `path`, or one that is gone afterwards."""
    if path is not None:
        yield WorkFolder(Path(path))
        return
    with tempfile.TemporaryDirectory(prefix="realdrag-") as folder:
        yield WorkFolder(Path(folder))


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """The block's time in seconds, to the millisecond."""
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 3)
