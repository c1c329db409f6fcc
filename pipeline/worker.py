"""One worker of a batch: models loaded once, jobs done one after another, each ending in a row of the report."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace

from realdrag import photo as photos
from realdrag.api import Editor
from realdrag.devices import keep_pages, set_threads
from realdrag.editing import run_edit
from realdrag.errors import RealdragError, error_json, failure_of
from realdrag.jobs import Job, Row
from realdrag.places import local
from realdrag.recipe import Recipe, from_text
from realdrag.replay import box_on, editor_of, steps_on
from realdrag.results import edit_json

HELD = 4  # editors, each with its networks, of the recipes seen last


@dataclass(frozen=True)
class Machine:
    """What a worker computes with; as the flags of `edit`."""

    device: str = "auto"
    threads: int = 1
    precision: str = "auto"


class Worker:
    """Does jobs in this process."""

    def __init__(self, machine: Machine) -> None:
        keep_pages()
        set_threads(machine.threads)
        self.machine = machine
        self.editors = dict[str, tuple[Recipe, Editor]]()

    def do(self, job: Job) -> Row:
        """The job's row; whatever goes wrong with one photo is its own row's matter."""
        row: Row = {"photo": job.photo, "output": job.output, "job": job.key, "photo_sha256": None}
        began = time.perf_counter()
        try:
            return row | self._edited(job, row) | {"status": "ok", "error": None}
        except Exception as error:  # noqa: BLE001
            failure: RealdragError = failure_of(error)
            seconds = {"total": round(time.perf_counter() - began, 3)}
            return row | {"seconds": seconds, "status": "failed", "error": error_json(failure)}

    def _edited(self, job: Job, row: Row) -> Row:
        recipe, editor = self._editor(job.recipe)
        with local(job.photo) as path, local(job.output, new=True) as output:
            photo = photos.read(path)
            row["photo_sha256"] = photo.sha256
            steps = steps_on(recipe, photo, strength=job.strength)
            if job.mask is not None:
                with local(job.mask) as mask:
                    steps[0] = replace(steps[0], mask=photos.read_mask(mask, photo.size))
            face, box, whole = job.face, job.box, job.whole
            if not (face or box or whole):
                face, box, whole = recipe.face, box_on(recipe, photo), recipe.whole
            done = run_edit(editor, photo, steps, output=output, source=path, face=face, box=box, whole=whole)
            sha256 = hashlib.sha256(output.read_bytes()).hexdigest()
        return edit_json(done, editor, job.photo, job.output, None) | {"output_sha256": sha256}

    def _editor(self, text: str) -> tuple[Recipe, Editor]:
        """The recipe and its editor; those used longest ago are let go."""
        if text not in self.editors:
            recipe = from_text(text, "the recipe")
            machine = self.machine
            editor = editor_of(recipe, device=machine.device, threads=machine.threads, precision=machine.precision)
            self.editors[text] = recipe, editor
            while len(self.editors) > HELD:
                del self.editors[next(iter(self.editors))]
        self.editors[text] = self.editors.pop(text)
        return self.editors[text]
