"""An edit as a file, TOML: all that it needs but the photo.

On the photo that it was made on a recipe gives the same bytes; on another it makes the same edit of that face: points
are offsets from landmarks in the face's own frame, a mask is carried over from face to face by their crops. `replay`
makes recipes of edits and edits of recipes.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w
from PIL import Image

from realdrag.drag.moves import find
from realdrag.drag.way import STRONGEST
from realdrag.errors import InputError
from realdrag.geometry import Matrix, carry, resize_matrix
from realdrag.photo import read_mask
from realdrag.placing import Wanted
from realdrag.points import DragSpec, parse_drag
from realdrag.presets import nearest, read_toml, with_tables
from realdrag.settings import Settings
from realdrag.values import Alignment, Photo
from realdrag.workfolder import png

VERSION = 1
LARGEST = 64 << 20  # bytes: a mask of 100 MP takes less
HEADER = (
    "# An edit of realdrag; `realdrag edit PHOTO -o OUT --recipe FILE` makes it again, on this photo or another.\n\n"
)
TABLES = tuple(table.name for table in dataclasses.fields(Settings))

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Origin:
    """The photo that a recipe was made on: sha256 and size (width, height), and the map of its pixels to those of its
    crop of `crop` px, 3×3.
    """

    sha256: str
    size: tuple[int, int]
    to_crop: tuple[tuple[float, ...], ...]
    crop: int

    def is_(self, photo: Photo) -> bool:
        """Whether it is this photo."""
        return self.sha256 == photo.sha256


@dataclass(frozen=True, eq=False)
class FaceMask:
    """A mask that was painted on another photo: levels [h, w] uint8 or uint16 of that one, 0 not … 1 freely."""

    levels: npt.NDArray[Any]
    origin: Origin

    def on(self, photo: Photo, alignment: Alignment) -> Weights:
        """The same place of the face that `alignment` found: [h, w] 0..1 of `photo`."""
        crops = resize_matrix(self.origin.crop, alignment.size) @ np.array(self.origin.to_crop)
        there: Matrix = alignment.to_photo @ crops
        return carry(read_mask(self.levels, self.origin.size), there, photo.size)


@dataclass(frozen=True, eq=False)
class Step:
    """One of the drags that follow on each other.

    mask: [h, w] of the photo, 0..1 or levels; None: there is none, or in a later drag that of the one before.
    strength, step: as `--strength` and `--step` have it; None is the drag's best step.
    share: how far along its way to the best step that step lies: its strength on another photo.
    """

    wanted: Wanted
    mask: npt.NDArray[Any] | FaceMask | None = None
    strength: float = 1.0
    step: int | None = None
    share: float = 1.0


@dataclass(frozen=True, eq=False)
class Recipe:
    """An edit of any photo.

    model: its name, None for the default; model_sha256: its file's, "" where any will do. threads: None, what suits the
    model. face, box, whole: which face, as for `edit`. origin: None of a recipe written by hand.
    """

    steps: tuple[Step, ...]
    settings: Settings = field(default_factory=Settings)
    model: str | None = None
    model_sha256: str = ""
    precision: str = "auto"
    threads: int | None = None
    face: int | None = None
    box: tuple[float, float, float, float] | None = None
    whole: bool = False
    origin: Origin | None = None


def read(path: str | os.PathLike[str]) -> Recipe:
    """The recipe at `path`; InputError, naming the place, for one that is not right in every part."""
    file = Path(path)
    where = str(path)
    if file.is_file() and file.stat().st_size > LARGEST:
        raise InputError(f"{where}: is too large for a recipe", code="recipe")
    return parsed(read_toml(file, where), where)


def write(recipe: Recipe, path: str | os.PathLike[str]) -> None:
    """`recipe` at `path`, replaced whole."""
    from realdrag.photo_write import write_bytes

    write_bytes(text(recipe).encode(), path)


def text(recipe: Recipe) -> str:
    """The file's text."""
    origin = recipe.origin
    face = {"face": recipe.face, "box": None if recipe.box is None else list(recipe.box), "whole": recipe.whole or None}
    tables: dict[str, Any] = {
        "version": VERSION,
        "precision": recipe.precision,
        "threads": recipe.threads,
        "model": _given({"name": recipe.model, "sha256": recipe.model_sha256 or None}),
        "photo": None
        if origin is None
        else {
            "sha256": origin.sha256,
            "size": list(origin.size),
            "to_crop": [list(row) for row in origin.to_crop],
            "crop": origin.crop,
        },
        "choice": _given(face),
        "drags": [_step_table(step) for step in recipe.steps],
        **dataclasses.asdict(recipe.settings),
    }
    return HEADER + tomli_w.dumps({name: value for name, value in tables.items() if value not in (None, {})})


def from_text(recipe: str, where: str) -> Recipe:
    """The recipe that a file's text says."""
    return parsed(tomllib.loads(recipe), where)


def parsed(tables: Mapping[str, object], where: str) -> Recipe:
    """The recipe that a file's `tables` say; `where` it lies, for errors."""
    reader = _Table(dict(tables), where, "")
    if reader.take("version", int, VERSION) != VERSION:
        raise InputError(
            f"{where}: version {tables['version']} is another realdrag's", "this one reads 1", code="recipe"
        )
    model, choice = reader.table("model"), reader.table("choice")
    origin = _origin(reader.table("photo")) if "photo" in tables else None
    listed = reader.take("drags", list, [])
    if not listed:
        raise InputError(
            f"{where}: has no drags", "write [[drags]] and below it moves = { smile = 0.5 }", code="recipe"
        )
    box = choice.numbers("box", 4)
    given = {name: reader.rest.pop(name) for name in TABLES if name in reader.rest}
    recipe = Recipe(
        steps=tuple(_step(_Table.of(one, where, f"[[drags]] {k}"), k, origin) for k, one in enumerate(listed, 1)),
        settings=with_tables(Settings(), given, where),
        model=model.take("name", str, None),
        model_sha256=model.take("sha256", str, ""),
        precision=reader.take("precision", str, "auto"),
        threads=reader.take("threads", int, None),
        face=choice.take("face", int, None),
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        whole=choice.take("whole", bool, False),
        origin=origin,
    )
    for table, also in ((model, ()), (choice, ()), (reader, TABLES)):
        table.end(also)
    return recipe


class _Table:
    """A table of a recipe being read: what was not asked for at the end is unknown."""

    def __init__(self, rest: dict[str, Any], where: str, name: str) -> None:
        self.rest, self.where, self.name, self.known = rest, where, name, list[str]()

    @classmethod
    def of(cls, value: Any, where: str, name: str) -> _Table:
        if not isinstance(value, dict):
            raise InputError(
                f"{where}: {name} is not a table", f"write [{name.strip('[]')}] and its keys below", code="recipe"
            )
        return cls(dict(value), where, name)

    def table(self, key: str) -> _Table:
        """The table `key`, empty where there is none."""
        return self.of(self.take(key, dict, {}), self.where, f"[{key}]")

    def take(self, key: str, kind: type, default: Any) -> Any:
        """The value of `key`, of type `kind` (a whole number is a float too)."""
        self.known.append(key)
        value = self.rest.pop(key, default)
        if value is default:
            return value
        if kind is float and is_number(value):
            value = float(value)
        # By type, not isinstance: to Python a bool is a kind of int.
        if type(value) is not kind or value != value or value in (math.inf, -math.inf):
            raise self.fault(key, f"is {value!r}"[:80])
        return value

    def numbers(self, key: str, count: int) -> list[float] | None:
        """A list of `count` finite numbers, or None."""
        values = self.take(key, list, None)
        if values is None:
            return None
        if len(values) != count or not all(map(is_number, values)):
            raise self.fault(key, f"takes {count} numbers")
        return [float(v) for v in values]

    def fault(self, key: str, words: str) -> InputError:
        return InputError(f"{self.where}: {self.name + ' ' if self.name else ''}{key} {words}", code="recipe")

    def end(self, also: tuple[str, ...] = ()) -> None:
        """InputError for a key that nothing took."""
        for key in self.rest:
            place = f" in {self.name}" if self.name else ""
            raise InputError(
                f"{self.where}: unknown key {key}{place}", nearest(key, [*self.known, *also]), code="recipe"
            )


def is_number(value: object) -> bool:
    """Whether it is a finite number, as a float can hold it, and no bool, which to Python is a kind of int."""
    return (type(value) is int and abs(value) < 2**53) or (type(value) is float and math.isfinite(value))


def _origin(table: _Table) -> Origin:
    size, rows = table.numbers("size", 2), table.take("to_crop", list, [])
    if not all(isinstance(row, list) and len(row) == 3 for row in rows) or len(rows) not in (0, 3):
        raise table.fault("to_crop", "takes 3 × 3 numbers")
    flat = _Table({"to_crop": [v for row in rows for v in row]}, table.where, table.name).numbers(
        "to_crop", 3 * len(rows)
    )
    values = flat or []
    if values and abs(np.linalg.det(np.array(values).reshape(3, 3))) < 1e-12:
        raise table.fault("to_crop", "has no inverse")
    origin = Origin(
        table.take("sha256", str, ""),
        (0, 0) if size is None else (int(size[0]), int(size[1])),
        tuple(tuple(values[k : k + 3]) for k in range(0, len(values), 3)),
        table.take("crop", int, 0),
    )
    if origin.to_crop and origin.crop < 1:
        raise table.fault("crop", "is missing: the side of the crop in pixels")
    table.end()
    return origin


def _step(table: _Table, number: int, origin: Origin | None) -> Step:
    mask, moves = table.take("mask", str, None), table.take("moves", dict, {})
    for name, value in moves.items():
        if not is_number(value):
            raise table.fault(f"moves.{name}", f"is {value!r}, not a number"[:80])
        find(name, float(value))
    points = tuple(_spec(one, table) for one in table.take("points", list, []))
    step = Step(
        Wanted(points, {name: float(value) for name, value in moves.items()}, table.take("snap", bool, False)),
        None if mask is None else _mask(mask, table),
        table.take("strength", float, 1.0),
        table.take("step", int, None),
        table.take("share", float, 1.0),
    )
    if not step.wanted:
        raise InputError(f"{table.where}: {table.name} drags nothing", "give it points or moves", code="recipe")
    for key, value, most in (("strength", step.strength, STRONGEST), ("share", step.share, math.inf)):
        if not 0 <= value <= most:
            raise table.fault(key, f"is {value:g}: not between 0 and {most:g}")
    if step.step is not None and step.step < 0:
        raise table.fault("step", f"is {step.step}")
    if mask is not None and origin is not None and step.mask.shape[::-1] != origin.size:  # type: ignore[union-attr]
        raise table.fault("mask", "has another size than the photo")
    table.end()
    return step


def _spec(value: Any, table: _Table) -> DragSpec:
    if not isinstance(value, str):
        raise table.fault("points", "takes texts as --drag does")
    return parse_drag(value)


def _mask(value: str, table: _Table) -> npt.NDArray[Any]:
    """The levels [h, w] uint8 or uint16 of a mask written by `_mask_text`."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(value, validate=True)), formats=("PNG",)) as image:
            if image.mode not in ("L", "I;16"):
                raise table.fault("mask", "is not a grey PNG")
            return np.asarray(image)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise table.fault("mask", "is not a PNG in base64") from error


def _mask_text(levels: npt.NDArray[Any]) -> str:
    if levels.dtype == np.uint16 and not (levels % 257).any():
        levels = (levels // 257).astype(np.uint8)
    return base64.b64encode(png(levels)).decode()


def _step_table(step: Step) -> dict[str, Any]:
    """A step as the file has it; what is as usual is left out."""
    levels = step.mask.levels if isinstance(step.mask, FaceMask) else step.mask
    return _given(
        {
            "points": step.wanted.points or None,
            "moves": dict(step.wanted.moves) or None,
            "snap": step.wanted.snap or None,
            "strength": None if step.strength == 1 else step.strength,
            "step": step.step,
            "share": None if step.share == 1 else step.share,
            "mask": None if levels is None else _mask_text(levels),
        }
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
