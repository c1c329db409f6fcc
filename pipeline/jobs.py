"""What a batch is to do: a folder, a pattern or JSON lines, made into jobs that are right in every part.

A line of JSON has `photo` and may have `output` (below OUT, or a URL), `recipe`, or instead of it `drags`, `moves` and
`snap`; and `face`, `box`, `whole`, `strength`, `mask`. Paths are relative to the file's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from realdrag.drag.moves import find
from realdrag.drag.way import check_strength
from realdrag.errors import InputError, RealdragError
from realdrag.photo_write import FORMATS
from realdrag.places import is_url, photos_in
from realdrag.placing import Wanted
from realdrag.points import parse_drag
from realdrag.presets import nearest
from realdrag.recipe import Recipe, Step, is_number, read, text

KINDS: Mapping[str, type] = {
    "photo": str, "output": str, "recipe": str, "mask": str, "face": int, "box": list, "whole": bool,
    "strength": float, "drags": list, "moves": dict, "snap": bool,
}  # fmt: skip
Row = dict[str, Any]  # of the report: the keys of `edit --json`, and `status`, `error` and what a later run compares
OWN = ("drags", "moves", "snap")
REPORT, SHEET = "report.jsonl", "contact-sheet.jpg"  # of a batch, in the folder of its results
TOLD = 5  # faults of a jobs file that are told; the others are counted


@dataclass(frozen=True)
class Job:
    """One photo's edit. photo, output, mask: paths or URLs; recipe: its text; the rest wins over the recipe's."""

    photo: str
    output: str
    recipe: str
    face: int | None = None
    box: tuple[float, float, float, float] | None = None
    whole: bool = False
    strength: float | None = None
    mask: str | None = None

    @property
    def key(self) -> str:
        """What the result depends on besides the photo."""
        parts = {name: value for name, value in asdict(self).items() if name not in ("photo", "output")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def plan(source: str, out: str, recipe: Recipe | None, bare: Recipe, strength: float | None = None) -> list[Job]:
    """The jobs of `source` with results below `out`, in order.

    recipe: of photos that have none of their own. bare: settings and model of lines with `drags` or `moves`. Raises
    InputError, naming the lines at fault, before anything is done.
    """
    faults = list[str]()
    if Path(source).is_file() and Path(source).suffix.lower() in (".jsonl", ".ndjson", ".json"):
        jobs, faults = _of_lines(Path(source), out, recipe, bare, strength)
    else:
        if not (is_url(source) or Path(source).is_dir() or any(c in source for c in "*?[")):
            raise InputError(f"{source}: no such folder or jobs file", "a folder, a pattern, or a .jsonl", code="jobs")
        if recipe is None:
            raise InputError("there is nothing to drag", "give --recipe R or --move NAME=NUMBER", code="usage")
        if not is_url(source) and Path(source).resolve() == Path(out).resolve():
            raise InputError(f"{out}: is the folder of the photos", "choose another -o", code="overwrite")
        base = text(recipe)
        below = "" if is_url(source) or is_url(out) else f"{Path(out).resolve()}{os.sep}"
        jobs = [
            Job(place, _join(out, result_name(name)), base, strength=strength)
            for place, name in photos_in(source)
            if not (below and str(Path(place).resolve()).startswith(below)) and not _sheet(place)
        ]
    if faults := faults + _clashes(jobs, out):
        raise _refusal(source, faults)
    return jobs


def result_name(name: str) -> str:
    """The result's name: the photo's, or with .png where its kind cannot be written."""
    path = PurePosixPath(name)
    return name if path.suffix.lower() in FORMATS else str(path.with_suffix(".png"))


def _of_lines(
    path: Path, out: str, recipe: Recipe | None, bare: Recipe, strength: float | None
) -> tuple[list[Job], list[str]]:
    """The jobs of the lines that are right, and the faults of the others."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # splitlines also splits where JSON's texts may not
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}", code="jobs") from error
    jobs, faults, recipes = list[Job](), list[str](), dict[str, str]()
    if recipe is not None:
        recipes[""] = text(recipe)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            job = _of_line(line, path.parent, out, recipes, bare)
            jobs.append(job if job.strength is not None else replace(job, strength=strength))
        except RealdragError as fault:
            faults.append(f"line {number}: {fault.message}{f' ({fault.hint})' if fault.hint else ''}")
    if not (jobs or faults):
        raise InputError(f"{path}: has no lines", code="jobs")
    return jobs, faults


def _of_line(line: str, folder: Path, out: str, recipes: dict[str, str], bare: Recipe) -> Job:
    """One line's job. recipes: the texts of those that were read, by path; "" is the batch's."""
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InputError("is not an object {…}")
    for key, value in given.items():
        if key not in KINDS:
            raise InputError(f"unknown key {key}", nearest(key, KINDS))
        if type(value) is not KINDS[key] and not (KINDS[key] is float and type(value) is int):
            raise InputError(f"{key} is {value!r}"[:100])
        if isinstance(value, str) and not _may_be_a_name(value):
            raise InputError(f"{key} {value!r} can be no name"[:100])
    if not given.get("photo"):
        raise InputError("has no photo")
    if sum(("face" in given, "box" in given, given.get("whole", False))) > 1:
        raise InputError("face, box and whole exclude each other")
    if given.get("face", 1) < 1:
        raise InputError(f"face is {given['face']}", "the largest is 1")
    box = given.get("box")
    if box is not None and (len(box) != 4 or not all(map(is_number, box))):
        raise InputError("box takes 4 numbers")
    strength = given.get("strength")
    if strength is not None:
        if not is_number(strength):
            raise InputError(f"strength is {strength!r}"[:100])
        check_strength(float(strength))
    output = given.get("output") or result_name(PurePosixPath(given["photo"]).name)
    if not is_url(output) and (PurePosixPath(output).is_absolute() or ".." in PurePosixPath(output).parts):
        raise InputError(f"output {output} lies outside the folder of results")
    if PurePosixPath(output).suffix.lower() not in FORMATS:
        raise InputError(f"output {output} is no kind of photo", f"one of {', '.join(FORMATS)}")
    return Job(
        _beside(folder, given["photo"]),
        _join(out, output),
        _recipe_text(given, folder, recipes, bare),
        given.get("face"),
        None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        given.get("whole", False),
        None if strength is None else float(strength),
        None if given.get("mask") is None else _beside(folder, given["mask"]),
    )


def _recipe_text(given: Mapping[str, Any], folder: Path, recipes: dict[str, str], bare: Recipe) -> str:
    own = {key: given[key] for key in OWN if key in given}
    if own and "recipe" in given:
        raise InputError(f"has both a recipe and {', '.join(own)}")
    if own:
        moves = dict(own.get("moves", {}))
        for name, number in moves.items():
            if not is_number(number):
                raise InputError(f"moves.{name} is {number!r}, not a number"[:100])
            find(name, number)
        wanted = Wanted([parse_drag(str(one)) for one in own.get("drags", [])], moves, own.get("snap", False))
        wanted.check()
        return text(replace(bare, steps=(Step(wanted),)))
    path = given.get("recipe", "")
    if path not in recipes:
        if not path:
            raise InputError("has nothing to drag", "give recipe, moves or drags, or the batch --recipe")
        recipes[path] = text(read(_beside(folder, path)))
    return recipes[path]


def _beside(folder: Path, place: str) -> str:
    return place if is_url(place) else str(folder / place)


def _join(out: str, name: str) -> str:
    if is_url(name):
        return name
    return f"{out.rstrip('/')}/{name}" if is_url(out) else str(Path(out) / name)


def _may_be_a_name(text: str) -> bool:
    """Whether a file could be called so."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a character
        return False


def _sheet(place: str) -> bool:
    """Whether this is the contact sheet of an earlier batch, and no photo."""
    return not is_url(place) and Path(place).name == SHEET and Path(place).with_name(REPORT).exists()


def _clashes(jobs: list[Job], out: str) -> list[str]:
    """Results that would take each other's place, or a photo's, or the sheet's."""
    seen, faults = dict[str, str](), list[str]()
    sources = {_same(job.photo) for job in jobs}
    outputs = {_same(job.output): job.output for job in jobs}
    sheet = _same(_join(out, SHEET))
    for job in jobs:
        place = _same(job.output)
        above = next((outputs[str(p)] for p in PurePosixPath(place).parents if str(p) in outputs), None)
        if place in seen:
            faults.append(f"{seen[place]} and {job.photo} have one result, {job.output}")
        elif place in sources:
            faults.append(f"the result {job.output} would replace a photo")
        elif place == sheet:
            faults.append(f"the result {job.output} would be replaced by the contact sheet: give it another output")
        elif above is not None:
            faults.append(f"the result {job.output} would lie below another, {above}")
        seen.setdefault(place, job.photo)
    return faults


def _same(place: str) -> str:
    return place if is_url(place) else os.path.normcase(Path(place).resolve())


def _refusal(source: str, faults: list[str]) -> InputError:
    more = f"; and {len(faults) - TOLD} more" if len(faults) > TOLD else ""
    return InputError(f"{source}: {'; '.join(faults[:TOLD])}{more}", "nothing was done", code="jobs")
