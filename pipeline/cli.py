"""The command line: results on stdout, talk on stderr, one line an error, exit codes 0, 1, 2, 130.

Only what parsing needs is imported here; `--help` must not wait for torch.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realdrag import __version__, errors
from realdrag.cli_batch import batch
from realdrag.cli_compare import compare
from realdrag.cli_latents import latents
from realdrag.cli_models import models
from realdrag.cli_moves import moves
from realdrag.cli_options import (
    AlignerOpt,
    BlockOpt,
    BoxOpt,
    Common,
    ConfigOpt,
    ContinueOpt,
    DebugOpt,
    DetectorOpt,
    DeviceOpt,
    DragOpt,
    FaceOpt,
    FeatherOpt,
    FilmOpt,
    FormatOpt,
    JsonOpt,
    MaskOpt,
    ModelOpt,
    MoveOpt,
    OutputOpt,
    PerceptualOpt,
    PhotoArg,
    PlotOpt,
    PrecisionOpt,
    PresetOpt,
    QuietOpt,
    RecipeOpt,
    RedoOpt,
    ReportOpt,
    SaveRecipeOpt,
    SnapOpt,
    SpaceOpt,
    StepOpt,
    StepsOpt,
    StrengthOpt,
    ThreadsOpt,
    TuneOpt,
    UndoOpt,
    WholeOpt,
    WorkMaybe,
    WorkOpt,
    existing,
    inversion_flags,
    show,
)
from realdrag.cli_serve import serve
from realdrag.errors import InputError, RealdragError, WorkError

if TYPE_CHECKING:
    from realdrag.values import Drag

# Click's own class, wherever this typer keeps it (newer ones carry a click of their own).
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="realdrag",
    help="Edit a real photograph by dragging points on it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models)
app.add_typer(latents)
app.command()(moves)
app.command()(compare)
app.command()(batch)
app.command()(serve)


@app.command()
def edit(
    photo: PhotoArg,
    output: OutputOpt,
    kind: FormatOpt = None,
    drag: DragOpt = None,
    move: MoveOpt = None,
    snap: SnapOpt = False,
    strength: StrengthOpt = None,
    mask: MaskOpt = None,
    work: WorkMaybe = None,
    film: FilmOpt = None,
    plot: PlotOpt = None,
    report: ReportOpt = None,
    recipe: RecipeOpt = None,
    save_recipe: SaveRecipeOpt = None,
    model: ModelOpt = None,
    aligner: AlignerOpt = None,
    detector: DetectorOpt = None,
    face: FaceOpt = None,
    box: BoxOpt = None,
    whole: WholeOpt = False,
    preset: PresetOpt = None,
    space: SpaceOpt = None,
    perceptual: PerceptualOpt = None,
    tune: TuneOpt = None,
    block: BlockOpt = None,
    max_steps: StepsOpt = None,
    feather: FeatherOpt = None,
    config: ConfigOpt = None,
    device: DeviceOpt = "auto",
    threads: ThreadsOpt = None,
    precision: PrecisionOpt = "auto",
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Drag points of a photo: align, invert, drag and composite in one go."""
    from realdrag import photo as photos
    from realdrag.editing import run_edit
    from realdrag.placing import Wanted, parse_moves
    from realdrag.points import parse_box, parse_drag
    from realdrag.recipe import Step, read
    from realdrag.replay import box_on, steps_on
    from realdrag.results import edit_json

    common = Common(config, device, threads, precision, quiet)
    flags: dict[str, dict[str, object]] = {
        "align": {"aligner": aligner, "detector": detector},
        "inversion": inversion_flags(space, perceptual, tune),
        "drag": {"block": block, "max_steps": max_steps},
        "composite": {"feather": feather},
    }
    if recipe is not None and (drag or move or snap or mask or preset or config):
        hint = "--strength, --face, --box, --whole and the flags of the stages can be given with it"
        raise InputError("--recipe says what to drag and with which settings", hint, code="usage")
    made = None if recipe is None else read(recipe)
    editor = common.editor(model, preset, flags, made)
    wanted = Wanted([parse_drag(text) for text in drag or []], parse_moves(move or []), snap)
    face_box = parse_box(box)
    source = photos.read(photo)
    if made is None:
        weights = None if mask is None else photos.read_mask(mask, source.size)
        steps = [Step(wanted, weights, 1.0 if strength is None else strength)]
    else:
        steps = steps_on(made, source, strength=strength)
        if not (face or face_box or whole):
            face, face_box, whole = made.face, box_on(made, source), made.whole
    done = run_edit(
        editor,
        source,
        steps,
        output=output,
        kind=kind,
        source=photo,
        others=[mask, recipe],
        film=film,
        plot=plot,
        report=report,
        save_recipe=save_recipe,
        face=face,
        box=face_box,
        whole=whole,
        work=work,
    )
    show(
        edit_json(done, editor, str(photo), str(output), None if work is None else str(work)),
        as_json,
        f"{output}  {ending(done.drag)}, {done.seconds['total']:.1f} s",
    )


def ending(drag: Drag) -> str:
    """How a drag ended, in one line."""
    nearest = ", ".join(f"{h.distance_start:.1f} → {h.distance_end:.1f} px" for h in drag.handles)
    strength = "" if drag.strength == 1 else f", strength {drag.strength:g}"
    return f"{drag.outcome} in {drag.steps} steps ({nearest}){strength}"


@app.command()
def align(
    photo: PhotoArg,
    work: WorkOpt,
    model: ModelOpt = None,
    aligner: AlignerOpt = None,
    detector: DetectorOpt = None,
    face: FaceOpt = None,
    box: BoxOpt = None,
    whole: WholeOpt = False,
    config: ConfigOpt = None,
    device: DeviceOpt = "auto",
    threads: ThreadsOpt = None,
    precision: PrecisionOpt = "auto",
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Find the face and cut out its aligned crop."""
    from realdrag import photo as photos
    from realdrag.points import parse_box
    from realdrag.stages import align_stage
    from realdrag.workfolder import WorkFolder

    flags = {"align": {"aligner": aligner, "detector": detector}}
    editor = Common(config, device, threads, precision, quiet).editor(model, None, flags)
    face_box = parse_box(box)
    folder = WorkFolder(work)
    done = align_stage(editor, folder, photos.read(photo), face=face, box=face_box, whole=whole)
    show(folder.record("align"), as_json, f"{work / 'aligned.png'}  {done.size} px, detector {done.detector}")


@app.command()
def invert(
    work: WorkOpt,
    report: ReportOpt = None,
    model: ModelOpt = None,
    preset: PresetOpt = None,
    space: SpaceOpt = None,
    perceptual: PerceptualOpt = None,
    tune: TuneOpt = None,
    config: ConfigOpt = None,
    device: DeviceOpt = "auto",
    threads: ThreadsOpt = None,
    precision: PrecisionOpt = "auto",
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Find the crop's latent, or find it again in the store."""
    from realdrag.outputs import check_pictures
    from realdrag.stages import alone, invert_stage

    common = Common(config, device, threads, precision, quiet)
    folder = existing(work)
    editor = common.editor(model, preset, {"inversion": inversion_flags(space, perceptual, tune)})
    check_pictures([], folder, report=report)
    with alone(editor, folder):
        latent, cache = invert_stage(editor, folder)
        if report is not None:
            editor.report(folder.alignment(), latent, report)
    figures = ", ".join(f"{name} {value}" for name, value in latent.metrics.items() if value is not None)
    line = f"{work / 'inverted.png'}  {figures}, loss {latent.loss}, cache {cache}"
    record = folder.record("invert")
    line += f"; {record['verdict'].partition(' (')[0]}" if record["verdict"] else ""
    show(record | {"cache": cache}, as_json, line)


@app.command()
def drag(
    work: WorkOpt,
    drag: DragOpt = None,
    move: MoveOpt = None,
    snap: SnapOpt = False,
    strength: StrengthOpt = None,
    mask: MaskOpt = None,
    go_on: ContinueOpt = False,
    undo: UndoOpt = False,
    redo: RedoOpt = False,
    step: StepOpt = None,
    film: FilmOpt = None,
    plot: PlotOpt = None,
    model: ModelOpt = None,
    preset: PresetOpt = None,
    block: BlockOpt = None,
    max_steps: StepsOpt = None,
    config: ConfigOpt = None,
    device: DeviceOpt = "auto",
    threads: ThreadsOpt = None,
    precision: PrecisionOpt = "auto",
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Drag handles to their targets in the inverted picture.

    Without --drag and --move, --strength, --step, --film and --plot are for the drag that the folder holds.
    """
    from realdrag.history import History
    from realdrag.outputs import check_pictures
    from realdrag.placing import Wanted, parse_moves
    from realdrag.points import parse_drag
    from realdrag.stages import (
        alone,
        drag_stage,
        history_stage,
        show_drag,
        step_stage,
        strength_stage,
    )

    common = Common(config, device, threads, precision, quiet)
    folder = existing(work)
    editor = common.editor(model, preset, {"drag": {"block": block, "max_steps": max_steps}})
    wanted = Wanted([parse_drag(text) for text in drag or []], parse_moves(move or []), snap)
    new = bool(wanted or mask or go_on or block or max_steps)
    if undo + redo + (step is not None) + (strength is not None and not new) + new > 1:
        hint = "--undo, --redo, --step and --strength each look at drags that were made"
        raise InputError("one of these at a time", hint, code="usage")
    check_pictures([mask], folder, film=film, plot=plot)
    done: Drag | None
    with alone(editor, folder):
        if undo or redo:
            done = history_stage(folder, -1 if undo else 1)
        elif step is not None:
            done = step_stage(editor, folder, step)
        elif not new and not (strength is None and film is None and plot is None):
            done = strength_stage(editor, folder, strength)
        else:
            force = 1.0 if strength is None else strength
            done = drag_stage(editor, folder, folder.photo(), wanted, mask=mask, go_on=go_on, strength=force)
        if done is not None:
            show_drag(editor, folder, folder.photo(), done, film, plot)
        history = History(folder)
    place = f"drag {history.current} of {history.count}" if history.count > 1 or undo or redo else ""
    line = f"{work / 'dragged.png'}  {ending(done)}" if done is not None else f"{work}  as it was inverted"
    show(folder.record("drag") | {"history": history.about()}, as_json, f"{line}{place and f', {place}'}")


@app.command()
def composite(
    work: WorkOpt,
    output: OutputOpt,
    kind: FormatOpt = None,
    save_recipe: SaveRecipeOpt = None,
    feather: FeatherOpt = None,
    preset: PresetOpt = None,
    config: ConfigOpt = None,
    device: DeviceOpt = "auto",
    threads: ThreadsOpt = None,
    precision: PrecisionOpt = "auto",
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Carry the drag back into the photo."""
    from realdrag.outputs import check_output, check_pictures
    from realdrag.recipe import write
    from realdrag.replay import recipe_of
    from realdrag.stages import alone, composite_stage

    folder = existing(work)
    editor = Common(config, device, threads, precision, quiet).editor(None, preset, {"composite": {"feather": feather}})
    with alone(editor, folder):
        photo = folder.photo()
        check_output(output, photo, [], folder, kind)
        check_pictures([output], folder, recipe=save_recipe)
        done = composite_stage(editor, folder, photo, output, kind)
        if save_recipe is not None:
            write(recipe_of(editor, folder, photo), save_recipe)
    line = f"{output}  {'nothing changed' if done.changed is None else f'changed within {done.changed}'}"
    show(folder.record("result"), as_json, line)


@app.command()
def doctor(as_json: JsonOpt = False, quiet: QuietOpt = False, debug: DebugOpt = False) -> None:
    """Say what this machine has and lacks, and what to do about it."""
    from dataclasses import asdict

    from realdrag.doctor import examine

    findings = examine()
    marks = {True: "ok", False: "MISSING", None: "note"}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.ok]:>8}  {finding.name}: {finding.value}")
        if finding.advice and finding.ok is not True:
            lines.append(f"{'':>8}  → {finding.advice}")
    healthy = all(finding.ok is not False for finding in findings)
    show({"healthy": healthy, "findings": [asdict(f) for f in findings]}, as_json, *lines)
    if not healthy:
        raise typer.Exit(1)


def version(wanted: bool) -> None:
    """Print it and end."""
    if wanted:
        typer.echo(f"realdrag {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    shown: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Edit a real photograph by dragging points on it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> None:
    """The command `realdrag`: the only place where errors become exit codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name or an arrow that the terminal's encoding lacks
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    try:
        # Not by calling `app`: typer's own loop would turn Ctrl-C into a bare exit code.
        command = typer.main.get_command(app)
        with command.make_context("realdrag", list(arguments)) as context:
            command.invoke(context)
        return 0
    except typer.Exit as end:
        return int(end.exit_code)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 — a traceback is for --debug
        failure = failure_of(error)
        if "--debug" in arguments:
            traceback.print_exc()
    if "--json" in arguments:
        typer.echo(json.dumps({"error": errors.error_json(failure)}))
    from realdrag.terminal import plain

    sys.stderr.write(f"realdrag: {plain(str(failure))}\n")
    return failure.exit_code


def failure_of(error: BaseException) -> RealdragError:
    """What went wrong, as an error of ours."""
    if isinstance(error, UsageError):
        path = error.ctx.command_path if error.ctx else "realdrag"
        return InputError(" ".join(error.format_message().split()).rstrip("."), f"see `{path} --help`", code="usage")
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        failure = WorkError("interrupted; what was finished is kept, the same command goes on", code="interrupted")
        failure.exit_code = 130
        return failure
    return errors.failure_of(error)
