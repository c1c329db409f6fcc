"""What a page may ask for, checked field by field: nothing else reaches the engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MOST_POINTS = 200

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Arrow = tuple[Number, Number, Number, Number]  # x, y of the handle, x, y of the target, photo pixels
Moves = Annotated[dict[str, Number], Field(max_length=20)]
Strength = Annotated[float, Field(ge=0, le=1.5)]
Step = Annotated[int, Field(ge=0, le=100_000)]


class Message(BaseModel):
    """Unknown fields are refused: a page and a server of different versions must not half understand each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Drawn(Message):
    """What is to be dragged. masked: within the mask that was sent before."""

    points: Annotated[tuple[Arrow, ...], Field(max_length=MOST_POINTS)] = ()
    moves: Moves = {}
    masked: bool = False


class Along(Message):
    """A place on the way of the drag: a step (None: its best) and a strength."""

    step: Step | None = None
    strength: Strength = 1.0


class Align(Message):
    """Take this face (from 1), or that in the box, or the whole picture; nothing: the largest face.

    Where there are edits, in a new session whose photo is the edited one.
    """

    do: Literal["align"]
    face: Annotated[int, Field(ge=1, le=1000)] | None = None
    box: tuple[Number, Number, Number, Number] | None = None
    whole: bool = False


class Invert(Message):
    """Find the latent."""

    do: Literal["invert"]


class Run(Drawn):
    """Drag."""

    do: Literal["drag"]


class Stop(Message):
    """End what is being done, or is waiting to be."""

    do: Literal["stop"]


class Look(Along):
    """Show the drag there, quickly, for as long as a slider is held."""

    do: Literal["look"]


class Place(Along):
    """Take the drag there."""

    do: Literal["place"]


class Undo(Message):
    """The edit before."""

    do: Literal["undo"]


class Redo(Message):
    """The edit after."""

    do: Literal["redo"]


class Arrows(Message):
    """Which arrows these moves come to on this face."""

    do: Literal["arrows"]
    moves: Moves


class Save(Message):
    """Write the result in full size, and the recipe."""

    do: Literal["save"]
    kind: Literal["jpeg", "png", "tiff", "webp"]


class Film(Message):
    """Write the drag as it went."""

    do: Literal["film"]
    kind: Literal["gif", "mp4", "png"]


class Report(Message):
    """Draw the inversion's report."""

    do: Literal["report"]


class Draft(Drawn):
    """What the page has drawn and not yet dragged, so that a reload shows it again."""

    do: Literal["draft"]


Anything = Annotated[
    Align | Invert | Run | Stop | Look | Place | Undo | Redo | Arrows | Save | Film | Report | Draft,
    Field(discriminator="do"),
]
MESSAGE: TypeAdapter[Anything] = TypeAdapter(Anything)
