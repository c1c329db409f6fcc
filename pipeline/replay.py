"""From an edit to its recipe, and from a recipe to an edit of a photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from realdrag.api import Editor
from realdrag.drag.way import way_to
from realdrag.errors import InputError
from realdrag.history import History
from realdrag.placing import Wanted
from realdrag.points import DragSpec, Spot, parse_drag, spot_near
from realdrag.presets import Tables, with_flags
from realdrag.progress import Progress
from realdrag.recipe import FaceMask, Origin, Recipe, Step
from realdrag.settings import AlignSettings, DragSettings, InversionSettings, Settings
from realdrag.stages import need_drag
from realdrag.store import Store
from realdrag.values import Alignment, Drag, Outcome, Photo
from realdrag.workfolder import WorkFolder

FOUND_FACES = ("fan", "embedded", "cascade")  # detectors by name; other alignments need none


def editor_of(
    recipe: Recipe,
    *,
    model: str | None = None,
    flags: Tables | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    store: Store | None = None,
    progress: Progress | None = None,
) -> Editor:
    """An editor with the recipe's settings and no others of the user's; what is given here wins.

    Raises InputError where the model of that name is another than the recipe's, unless `model` names one.
    """
    editor = Editor(
        model=model or recipe.model,
        settings=with_flags(recipe.settings, flags or {}),
        device=device,
        threads=threads or recipe.threads,
        precision=recipe.precision if precision == "auto" else precision,
        store=store,
        progress=progress,
    )
    if model is None and recipe.model_sha256 not in ("", editor.model.sha256):
        raise InputError(
            f"the recipe was made with another {recipe.model} than the one here",
            "give its file with --model, or another model to make the edit with that",
            code="model",
        )
    return editor


def steps_on(recipe: Recipe, photo: Photo, *, strength: float | None = None) -> list[Step]:
    """The recipe's steps for this photo. strength: of the last, in place of the recipe's own.

    On another photo than its own a drag has other steps: what was shown of it is taken at the same share of its way.
    """
    steps = list(recipe.steps)
    if strength is not None:
        steps[-1] = replace(steps[-1], strength=strength)
    if recipe.origin is None or recipe.origin.is_(photo):
        return steps
    return [elsewhere(step, recipe.origin) for step in steps]


def elsewhere(step: Step, origin: Origin) -> Step:
    """The step on another photo than its own."""
    mask = step.mask
    if isinstance(mask, np.ndarray) and origin.to_crop:
        mask = FaceMask(mask, origin)
    return replace(step, mask=mask, step=None, strength=min(step.strength * step.share, 1.5))


def box_on(recipe: Recipe, photo: Photo) -> tuple[float, float, float, float] | None:
    """The recipe's box, which says where a face is on its own photo only."""
    return recipe.box if recipe.origin is None or recipe.origin.is_(photo) else None


def recipe_of(editor: Editor, work: WorkFolder, photo: Photo) -> Recipe:
    """The edit that lies in `work`: the drags that led to what it shows, and all settings they were made with.

    Raises StaleError where the folder holds no whole drag, InputError where its stages were made with different flags.
    """
    need_drag(work)
    alignment, aligned, inverted = work.alignment(), work.record("align"), work.record("invert")
    chain = History(work).chain()
    last = chain[-1][0]
    for record, _ in chain:
        same = record["made"] == inverted["made"] and record["model"] == inverted["model"]
        if not same or record["inputs"]["settings"] != last["inputs"]["settings"]:
            raise InputError(
                f"{work.path}: its drags were made with different settings, which one recipe cannot say",
                "make them again with the same flags",
                code="recipe",
            )
    align, inversion = aligned["inputs"]["settings"], inverted["settings"]
    if alignment.detector in FOUND_FACES:
        align = align | {"detector": alignment.detector}
    choice = aligned["inputs"]["choice"]
    return Recipe(
        steps=tuple(steps_of(work, chain, alignment)),
        settings=Settings(
            AlignSettings(**align),
            InversionSettings(**inversion | {"perceptual": inverted["loss"].removeprefix("lpips-")}),
            DragSettings(**last["inputs"]["settings"]),
            editor.settings.composite,
        ),
        model=inverted["model"]["name"],
        model_sha256=inverted["model"]["sha256"],
        precision=inverted["made"]["precision"],
        threads=inverted["made"]["threads"],
        face=choice["face"],
        box=None if choice["box"] is None else tuple(choice["box"]),
        whole=choice["whole"],
        origin=Origin(
            photo.sha256, photo.size, tuple(tuple(row) for row in alignment.to_crop.tolist()), alignment.size
        ),
    )


def steps_of(work: WorkFolder, chain: list[tuple[dict[str, Any], Path]], alignment: Alignment) -> list[Step]:
    """The steps of a chain of drags, each as far as the next one went on from it."""
    steps, mask_before = list[Step](), None
    shown = [record["inputs"]["from"] for record, _ in chain[1:]]
    shown.append({"step": chain[-1][0]["chosen"], "strength": chain[-1][0]["strength"]})
    for (record, folder), place in zip(chain, shown, strict=True):
        sha256 = record["inputs"]["mask.png"]
        mask = None if sha256 in (None, mask_before) else levels_of(folder / "mask.png")
        mask_before = sha256
        # Made again, a drag that was stopped would go on: it is taken at the step where it was stopped.
        best = place["step"] == record["best"] and record["outcome"] != Outcome.CANCELLED
        steps.append(
            Step(
                Wanted(points_of(record, alignment), {m["name"]: m["number"] for m in record["moves"]}),
                mask,
                place["strength"],
                None if best else place["step"],
                1.0 if best else share_of(WorkFolder(folder).drag(), place["step"]),
            )
        )
    return steps


def share_of(drag: Drag, step: int) -> float:
    """How long the way to `step` is, in shares of that to the best one."""
    whole, part = (way_to(replace(drag, chosen=k), 1.0)[0] for k in (drag.best, step))
    lengths = [float(np.linalg.norm(np.diff(w.reshape(len(w), -1), axis=0), axis=1).sum()) for w in (part, whole)]
    return round(lengths[0] / lengths[1], 4) if lengths[1] else 1.0


def levels_of(path: Path) -> npt.NDArray[Any]:
    """The grey levels [h, w] of a mask that a work folder keeps."""
    with Image.open(path) as image:
        return np.asarray(image)


def points_of(record: Mapping[str, Any], alignment: Alignment) -> list[DragSpec]:
    """A drag's own points, without those of its moves, as they can be placed on any face."""
    moved = {i for move in record["moves"] for i in move["handles"]}
    snapped = {one["handle"]: one["landmark"] for one in record["snapped"]}
    pairs = [pair for i, pair in enumerate(record["inputs"]["drags"]) if i not in moved]
    return [
        on_any_face(np.array(pair), parse_drag(given), snapped.get(i), alignment)
        for i, (pair, given) in enumerate(zip(pairs, record["points"], strict=True))
    ]


def on_any_face(pair: npt.NDArray[np.float64], given: DragSpec, snapped: int | None, alignment: Alignment) -> DragSpec:
    """A drag from pair[0] to pair[1], photo pixels, by offsets from a landmark: the one that was `given`, else the one
    it was `snapped` to, else the nearest. Without landmarks as it is.
    """
    marks = alignment.landmarks
    if marks is None:
        return Spot(*pair[0]), Spot(*pair[1])
    handle, target = given
    if snapped is not None:
        return Spot(0.0, 0.0, snapped), spot_near(pair[1], snapped, marks)
    if handle.landmark is None:
        handle = spot_near(pair[0], int(np.linalg.norm(marks - pair[0], axis=1).argmin()), marks)
    return handle, target if target.landmark is not None else spot_near(pair[1], handle.landmark or 0, marks)
