"""`realdrag models …`: what there is, fetching it, and looking at what it makes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realdrag.cli_options import DebugOpt, DeviceOpt, JsonOpt, QuietOpt, ThreadsOpt, show

if TYPE_CHECKING:
    from realdrag.library import Row

models = typer.Typer(
    name="models", help="The models there are, here and in public.", rich_markup_mode=None, add_completion=False
)

NameArg = Annotated[str, typer.Argument(metavar="NAME", help="A name that `realdrag models list` shows.")]
ModelArg = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A model's name, or the path of a generator.")]
KeepOpt = Annotated[bool, typer.Option("--keep", help="Keep the published file beside the converted one.")]
SeedsOpt = Annotated[
    str, typer.Option("--seeds", metavar="0-15,20", help="One picture for each; ranges hold both ends.")
]
PsiOpt = Annotated[float, typer.Option("--psi", metavar="F", help="Truncation: 1 draws as learnt, 0 is the mean.")]
ClassOpt = Annotated[
    int | None, typer.Option("--class", metavar="K", help="Of a conditional model; else each seed draws one.")
]
ColumnsOpt = Annotated[int | None, typer.Option("--columns", metavar="N", help="Pictures in a row.")]
SheetOpt = Annotated[
    Path, typer.Option("-o", "--output", metavar="SHEET", help="The sheet: .png, .jpg, .tif or .webp.")
]

STATES = {"embedded": "with realdrag", "present": "yes", "given": "to convert: pull", "part": "in part: pull", "no": ""}
HEADINGS = ("name", "domain", "px", "MB", "licence", "aligner", "here")


@models.command("list")
def list_models(as_json: JsonOpt = False, quiet: QuietOpt = False, debug: DebugOpt = False) -> None:
    """The models that come with realdrag, the public ones, and your own."""
    from realdrag.library import folder, rows
    from realdrag.stylegan.catalogue import BY_HAND

    found = list(rows())
    report = {"folder": str(folder()), "models": [{"present": is_here(row)} | asdict(row) for row in found]}
    closing = (
        "MB of models that are not here are computed from their parameters. `realdrag models pull NAME` fetches one.",
        f"Without an address of their own: {BY_HAND}.",
        "Any StyleGAN2 generator is taken as a file: `--model FILE`.",
    )
    show(report, as_json, *table(found), "", *closing)


def is_here(row: Row) -> bool:
    """Whether the model can be used as it is."""
    return row.state in ("embedded", "present")


def table(found: list[Row]) -> list[str]:
    """The models one a line, in columns."""
    cells = [HEADINGS]
    for row in found:
        size = f"{row.megabytes}" if is_here(row) else f"~{row.megabytes}"
        px = str(row.resolution) if row.resolution else "?"
        facts = (row.name, row.domain, px, size, row.licence, row.aligner)
        cells.append((*facts, STATES[row.state]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = {HEADINGS.index("px"), HEADINGS.index("MB")}
    return [
        "  ".join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


@models.command()
def pull(
    name: NameArg,
    keep: KeepOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Fetch a public model and convert it; what an interruption left is gone on with."""
    from realdrag.library import known
    from realdrag.library import pull as fetch
    from realdrag.terminal import TerminalProgress

    entry = known(name)
    done = fetch(entry, TerminalProgress(quiet=quiet), keep=keep)
    report = {"name": name, "path": str(done.path), "already": done.already, "url": entry.url, "sha256": done.sha256}
    report |= {"licence": entry.licence, "aligner": entry.aligner}
    state = "is here already" if done.already else f"sha256 of the published file {done.sha256}"
    line = f"{done.path}  {state}; licence: {entry.licence}; aligner {entry.aligner}"
    show(report, as_json, line + (f"; {entry.note}" if entry.note else ""))


@models.command()
def sample(
    model: ModelArg,
    output: SheetOpt,
    seeds: SeedsOpt = "0-15",
    psi: PsiOpt = 0.7,
    label: ClassOpt = None,
    columns: ColumnsOpt = None,
    device: DeviceOpt = "auto",
    threads: ThreadsOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Draw pictures from a model: one for each seed, on one sheet."""
    from realdrag import sheets
    from realdrag.api import SMALL_MODEL
    from realdrag.devices import pick
    from realdrag.devices import threads as limited
    from realdrag.photo_write import check_writable
    from realdrag.terminal import TerminalProgress, plain
    from realdrag.weights import load_generator, model_resolution, resolve_model

    progress = TerminalProgress(quiet=quiet)
    numbers = sheets.parse_seeds(seeds)
    check_writable(output)
    file = resolve_model(model, progress)
    resolution = model_resolution(file)
    wide = sheets.check(output, resolution, len(numbers), columns)
    with limited(threads or (1 if resolution <= SMALL_MODEL else None)):
        sheet, samples = sheets.sample(
            load_generator(file, pick(device)), numbers, wide, progress, psi=psi, label=label
        )
    rows = sheets.lines(samples)
    about = f"generated by the model {plain(file.name)}, psi {psi:g}; seeds in {'; '.join(rows)}"
    texts = {"model": plain(file.name), "model-sha256": file.sha256, "psi": f"{psi:g}", "seeds": "; ".join(rows)}
    sheets.write_sheet(sheet, output, about, texts)
    report = {"output": str(output), "model": {"name": file.name, "sha256": file.sha256}, "psi": psi, "columns": wide}
    shape = f"{wide} × {samples[-1].row + 1}"
    count = "1 picture" if len(samples) == 1 else f"{len(samples)} pictures"
    line = f"{output}  {count} of {file.name}, {shape}, psi {psi:g}"
    show(report | {"pictures": sheets.as_json(samples)}, as_json, line, *rows)


FileArg = Annotated[Path, typer.Argument(metavar="FILE", help="A StyleGAN2 checkpoint: .pkl, .pt or .safetensors.")]
TargetOpt = Annotated[Path, typer.Option("-o", "--output", metavar="X.safetensors", help="The converted generator.")]
DomainOpt = Annotated[str | None, typer.Option("--domain", metavar="TEXT", help="What it makes pictures of.")]
OwnAlignerOpt = Annotated[
    str, typer.Option("--aligner", metavar="ffhq|ffhq-upright|square|letterbox", help="Which square it was trained on.")
]
LicenceOpt = Annotated[str | None, typer.Option("--licence", metavar="TEXT", help="Under which terms it may be used.")]


@models.command("inspect")
def inspect_file(file: FileArg, as_json: JsonOpt = False, quiet: QuietOpt = False, debug: DebugOpt = False) -> None:
    """Say what a checkpoint holds. Nothing in it is run."""
    from realdrag.conversion import inspect

    found = inspect(file)
    widths = ", ".join(f"{width} at {side}" for side, width in found["channels"].items())
    lines = [
        f"{file}  {found['format']}, {found['resolution']} px, {found['bytes'] / 1e6:.1f} MB",
        f"latents: z {found['z_dim']}, w {found['w_dim']}, {found['num_ws']} rows",
        f"labels: {found['labels'] or 'none'}",
        f"channels: {widths}",
        f"parameters: {found['parameters']:,}",
        f"sha256: {found['sha256']}",
    ]
    lines += [f"{key}: {value}" for key, value in found.get("about", {}).items()]
    lines += [f"note: {note}" for note in found["notes"]]
    show({"file": str(file)} | found, as_json, *lines)


@models.command("convert")
def convert_file(
    file: FileArg,
    output: TargetOpt,
    domain: DomainOpt = None,
    aligner: OwnAlignerOpt = "ffhq",
    licence: LicenceOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Write a checkpoint's generator as safetensors, every number as it was."""
    from realdrag.conversion import check_target, convert, file_sha256
    from realdrag.terminal import TerminalProgress

    check_target(output, file, aligner)
    given = {"name": file.stem, "domain": domain, "aligner": aligner, "licence": licence}
    checkpoint = convert(file, output, {key: value for key, value in given.items() if value is not None})
    for note in checkpoint.notes:
        TerminalProgress(quiet=quiet).say(f"{file.name}: {note}")
    report = {"file": str(file), "output": str(output), "format": checkpoint.format, "notes": list(checkpoint.notes)}
    line = f"{output}  {checkpoint.format}, {checkpoint.config.img_resolution} px, aligner {aligner}"
    show(report | {"sha256": file_sha256(output)}, as_json, line)
