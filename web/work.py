"""What the engine process does for a session: the same stage calls as the command line's, on its work folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from realdrag.align import FACELESS
from realdrag.api import Editor
from realdrag.errors import InputError
from realdrag.history import History
from realdrag.placing import Wanted
from realdrag.points import Spot
from realdrag.recipe import write
from realdrag.replay import recipe_of
from realdrag.stages import (
    align_stage,
    alone,
    composite_stage,
    drag_stage,
    history_stage,
    invert_stage,
    place_stage,
    show_drag,
    stored_latent,
)
from realdrag.values import Photo
from realdrag.web import folder as folders
from realdrag.web.tasks import Align, Back, Film, Further, Invert, Open, Place, Report, Run, Save, Task, Teller
from realdrag.workfolder import WorkFolder


def perform(editor: Editor, path: Path, task: Task, teller: Teller) -> dict[str, Any]:
    """Do `task` in the work folder at `path`; what else its page should know."""
    work = WorkFolder(path)
    editor.progress = teller
    match task:
        case Open():
            return open_photo(editor, work, teller)
        case Align():
            return align(editor, work, task)
        case Further(choice):
            return further(editor, work, choice)
        case Invert():
            teller.plan = planned(editor)
            with alone(editor, work):
                invert_stage(editor, work, teller.sharpened)
        case Run():
            teller.breaks = False
            return run(editor, work, task, teller)
        case Place(step, strength):
            with alone(editor, work):
                drag = work.drag()
                if step is not None and step > drag.steps:
                    raise InputError(f"step {step}: the drag has steps 0 to {drag.steps}", code="step")
                place_stage(editor, work, step, strength)
                show(editor, work, work.photo())
        case Back(by):
            with alone(editor, work):
                if history_stage(work, by) is None:
                    folders.forget_after(work)
                else:
                    show(editor, work, work.photo())
        case Save(kind):
            return save(editor, work, kind)
        case Film(kind):
            with alone(editor, work):
                show_drag(editor, work, work.photo(), work.drag(), work.path / f"film.{kind}", None)
            return {"file": "film", "kind": kind}
        case Report():
            editor.report(work.alignment(), stored_latent(editor, work), work.path / "report.png")
            return {"file": "report", "kind": "png"}
    return {}


def open_photo(editor: Editor, work: WorkFolder, teller: Teller) -> dict[str, Any]:
    """The photo's view, its faces, and the alignment of the one chosen, else of the largest; the page asks where there
    is none.
    """
    photo = folders.uploaded(work)
    view = folders.put_view(work, photo)
    about = folders.read_json(work.path / "opened.json")
    choice = about.pop("choice", {})
    about |= {"size": list(photo.size), "view": list(view), "kind": folders.kind_of(photo)}
    folders.write_json(work.path / "opened.json", about)
    teller.send("viewed", None)
    faces = editor.faces(photo)
    folders.write_json(work.path / "opened.json", about | {"faces": [list(face.box) for face in faces]})
    if not (faces or choice) and editor.aligner not in FACELESS:
        return {}
    return align(editor, work, Align(**choice))


def align(editor: Editor, work: WorkFolder, task: Align) -> dict[str, Any]:
    """The face that the page chose."""
    align_stage(editor, work, folders.photo_of(work), face=task.face, box=task.box, whole=task.whole)
    (work.path / "upload.bin").unlink(missing_ok=True)
    folders.forget_after(work)
    return {"invert": True}


def further(editor: Editor, work: WorkFolder, choice: Align) -> dict[str, Any]:
    """A new session's id. Its photo is the result, lossless and as deep as the photo."""
    with alone(editor, work):
        output = work.path / folders.KINDS["png"]
        composite_stage(editor, work, work.photo(), output, "png")
    about = folders.read_json(work.path / "opened.json")
    name = Path(str(about.get("name", "photo"))).stem.removesuffix("-edited") + "-edited.png"
    return {"opens": folders.new_session(name, output.read_bytes(), asdict(choice))}


def planned(editor: Editor) -> dict[str, int]:
    """Steps of the inversion's phases, for the time left."""
    settings = editor.settings.inversion
    encoder = settings.start == "auto" and editor.model.encoder_sha256
    plan = {"w": settings.steps_w if encoder else settings.steps_w_from_mean}
    plan |= {"w+": settings.steps_w_plus} if settings.space == "w+" else {}
    return plan | ({"tune": settings.tune_steps} if settings.tune != "none" else {})


def run(editor: Editor, work: WorkFolder, task: Run, teller: Teller) -> dict[str, Any]:
    """A drag on top of what is shown."""
    with alone(editor, work):
        photo, go_on = work.photo(), History(work).current > 0
        mask: Any = folders.drawn_mask(work, photo.size) if task.masked else None
        if mask is None and go_on and work.mask(photo.size) is not None:
            mask = np.full((photo.size[1], photo.size[0]), 255, np.uint8)  # else that of the drag before stays
        wanted = Wanted([(Spot(x, y), Spot(x2, y2)) for x, y, x2, y2 in task.points], dict(task.moves))
        drag_stage(editor, work, photo, wanted, mask=mask, go_on=go_on, cancelled=teller.stopped, watch=teller.moved)
        show(editor, work, photo)
    return {}


def show(editor: Editor, work: WorkFolder, photo: Photo) -> None:
    """after.png of the drag that the folder holds, from the result in full size."""
    folders.put_after(work, photo, composite_stage(editor, work, photo, None))


def save(editor: Editor, work: WorkFolder, kind: str) -> dict[str, Any]:
    """The result in full size, and its recipe."""
    with alone(editor, work):
        photo = work.photo()
        output = work.path / folders.KINDS[kind]
        result = composite_stage(editor, work, photo, output, kind)
        write(recipe_of(editor, work, photo), work.path / "recipe.toml")
    return {
        "file": "edited",
        "kind": kind,
        "bytes": output.stat().st_size,
        "outside": result.file_difference,
        "changed": None if result.changed is None else list(result.changed),
    }
