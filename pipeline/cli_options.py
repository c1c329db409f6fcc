"""What commands share: their flags, the editor made from them, and how a result is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realdrag.errors import InputError

if TYPE_CHECKING:
    from realdrag.api import Editor
    from realdrag.progress import Progress
    from realdrag.recipe import Recipe
    from realdrag.workfolder import WorkFolder

DeviceOpt = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="What computes.")]
ThreadsOpt = Annotated[int | None, typer.Option("--threads", metavar="N", help="Processor threads.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no talk.")]
DebugOpt = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
PhotoArg = Annotated[Path, typer.Argument(metavar="PHOTO", help="The photograph: JPEG, PNG, TIFF, WebP, …")]
WorkOpt = Annotated[Path, typer.Option("-w", "--work", metavar="WORK", help="The work folder.")]
WorkMaybe = Annotated[
    Path | None, typer.Option("-w", "--work", metavar="WORK", help="Keep every stage's values in this folder.")
]
OutputOpt = Annotated[
    Path, typer.Option("-o", "--output", metavar="OUT", help="The result: .jpg, .png, .tif or .webp.")
]
FormatOpt = Annotated[
    str | None,
    typer.Option("--format", metavar="jpeg|png|tiff|webp", help="The result's kind, whatever the suffix of OUT says."),
]
DragOpt = Annotated[
    list[str] | None,
    typer.Option("--drag", metavar="X,Y:X2,Y2", help="From handle to target in photo pixels; repeat for more."),
]
MOVE_NAMES = "smile, open-mouth, jaw, chin, eyes, brows, turn"  # as in drag.moves, which is slow to import
MoveOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--move", metavar="NAME=NUMBER", help=f"A named drag of a face: {MOVE_NAMES} (see `realdrag moves`); repeat."
    ),
]
SnapOpt = Annotated[bool, typer.Option("--snap", help="Start each --drag at the nearest landmark of the face.")]
StrengthOpt = Annotated[
    float | None,
    typer.Option("--strength", metavar="S", help="How far along the way: 0 the photo, 1 the drag, up to 1.5 beyond."),
]
FilmOpt = Annotated[
    Path | None, typer.Option("--film", metavar="FILE", help="Show the drag: .mp4, .gif, or .png (a contact sheet).")
]
PlotOpt = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Plot distances and losses: .png, .svg or .pdf.")
]
ReportOpt = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Show photo, inversion, difference, losses and a verdict: .png."),
]
MaskOpt = Annotated[
    Path | None,
    typer.Option("--mask", metavar="M", help="A picture of the photo's size: white may move, grey partly, black not."),
]
ModelOpt = Annotated[
    str | None, typer.Option("--model", metavar="M", help="A name of `models list`, or any StyleGAN2 checkpoint.")
]
AlignerOpt = Annotated[
    str | None,
    typer.Option("--aligner", metavar="auto|ffhq|ffhq-upright|square|letterbox", help="Which square the model sees."),
]
DetectorOpt = Annotated[
    str | None, typer.Option("--detector", metavar="auto|fan|embedded|cascade", help="Who finds the face.")
]
FaceOpt = Annotated[int | None, typer.Option("--face", metavar="K", help="The K-th largest face, from 1.")]
BoxOpt = Annotated[str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="Where the face, or what else, is.")]
WholeOpt = Annotated[bool, typer.Option("--whole", help="Take the largest centred square as it is.")]
PresetOpt = Annotated[
    str | None, typer.Option("--preset", metavar="fast|balanced|quality|paper", help="How much time to give likeness.")
]
SpaceOpt = Annotated[str | None, typer.Option("--space", metavar="w|w+", help="The latent space of the inversion.")]
PerceptualOpt = Annotated[
    str | None,
    typer.Option("--perceptual", metavar="auto|vgg|alex|squeeze|embedded", help="The perceptual loss."),
]
TuneOpt = Annotated[
    str | None, typer.Option("--tune", metavar="none|lowrank|full", help="Tune the generator around the latent.")
]
BlockOpt = Annotated[str | None, typer.Option("--block", metavar="auto|b32|…", help="The feature block to drag on.")]
StepsOpt = Annotated[int | None, typer.Option("--max-steps", metavar="N", help="Steps after which the drag ends.")]
ContinueOpt = Annotated[bool, typer.Option("--continue", help="Go on from the last drag, with its mask.")]
UndoOpt = Annotated[bool, typer.Option("--undo", help="Take the last drag back; again for the one before it.")]
RedoOpt = Annotated[bool, typer.Option("--redo", help="Do again what was undone.")]
StepOpt = Annotated[int | None, typer.Option("--step", metavar="K", help="Show the drag as it was at step K.")]
RecipeOpt = Annotated[
    Path | None, typer.Option("--recipe", metavar="R", help="Make the edit that this file describes, on this photo.")
]
SaveRecipeOpt = Annotated[
    Path | None, typer.Option("--save-recipe", metavar="R", help="Write all that the edit needs but the photo: .toml.")
]
FeatherOpt = Annotated[
    float | None, typer.Option("--feather", metavar="F", help="Width of the soft edge, in sides of the crop.")
]
ConfigOpt = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, TOML.")]
PrecisionOpt = Annotated[
    str, typer.Option("--precision", metavar="auto|fp32|bf16|fp16", help="Of the generator's convolutions.")
]


@dataclass(frozen=True)
class Common:
    """The flags that every stage takes."""

    config: Path | None
    device: str
    threads: int | None
    precision: str
    quiet: bool

    def editor(
        self,
        model: str | None,
        preset: str | None,
        flags: Mapping[str, Mapping[str, object]],
        recipe: Recipe | None = None,
    ) -> Editor:
        """An editor with the settings in force: preset < config file < flags, or recipe < flags."""
        from realdrag.api import Editor
        from realdrag.devices import keep_pages
        from realdrag.presets import load
        from realdrag.replay import editor_of

        keep_pages()
        if recipe is not None:
            return editor_of(
                recipe,
                model=model,
                flags=flags,
                device=self.device,
                threads=self.threads,
                precision=self.precision,
                progress=self.progress(),
            )
        _, settings = load(preset, self.config, flags)
        return Editor(
            model=model,
            settings=settings,
            device=self.device,
            threads=self.threads,
            precision=self.precision,
            progress=self.progress(),
        )

    def progress(self) -> Progress:
        """What tells the user."""
        from realdrag.terminal import TerminalProgress

        return TerminalProgress(quiet=self.quiet)


def inversion_flags(space: str | None, perceptual: str | None, tune: str | None) -> dict[str, object]:
    """The table [inversion] of the flags given."""
    return {"space": space, "perceptual": perceptual, "tune": tune}


def existing(work: Path) -> WorkFolder:
    """The work folder, which must be there."""
    from realdrag.workfolder import WorkFolder

    if not work.is_dir():
        raise InputError(f"{work}: there is no such work folder", f"make it with `realdrag align PHOTO -w {work}`")
    return WorkFolder(work)


def show(report: Mapping[str, Any], as_json: bool, *lines: str) -> None:
    """The result: the whole report as JSON, or a line or more for people."""
    from realdrag.terminal import plain

    typer.echo(json.dumps(dict(report), indent=1) if as_json else "\n".join(map(plain, lines)))
