"""`realdrag batch`: the same edit, or a list of edits, of many photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realdrag.cli_options import (
    ConfigOpt,
    DebugOpt,
    DeviceOpt,
    JsonOpt,
    ModelOpt,
    MoveOpt,
    PrecisionOpt,
    PresetOpt,
    QuietOpt,
    StrengthOpt,
    show,
)
from realdrag.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realdrag.engines import Engine
    from realdrag.jobs import Job
    from realdrag.recipe import Step
    from realdrag.worker import Machine

JobsArg = Annotated[str, typer.Argument(metavar="JOBS", help="A folder, a pattern ('a/*.jpg') or JSON lines.")]
OutOpt = Annotated[str, typer.Option("-o", "--output", metavar="OUT", help="The folder of results and report.jsonl.")]
BatchRecipeOpt = Annotated[
    Path | None, typer.Option("--recipe", metavar="R", help="The edit of every photo that names none of its own.")
]
WorkersOpt = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Side by side; else as many as cores and memory allow.")
]
WorkerThreadsOpt = Annotated[int, typer.Option("--threads", metavar="N", help="Processor threads of each worker.")]
EngineOpt = Annotated[str, typer.Option("--engine", metavar="local|ray", help="This machine, or a Ray cluster.")]
ReportToOpt = Annotated[
    Path | None, typer.Option("--report-to", metavar="DIR", help="The report's folder, where OUT is a URL.")
]
AddressOpt = Annotated[
    str | None, typer.Option("--address", metavar="A", help="Of the Ray cluster; else one of this machine's own.")
]


def batch(
    jobs: JobsArg,
    output: OutOpt,
    recipe: BatchRecipeOpt = None,
    move: MoveOpt = None,
    strength: StrengthOpt = None,
    model: ModelOpt = None,
    preset: PresetOpt = None,
    workers: WorkersOpt = None,
    threads: WorkerThreadsOpt = 1,
    engine: EngineOpt = "local",
    address: AddressOpt = None,
    report_to: ReportToOpt = None,
    config: ConfigOpt = None,
    device: DeviceOpt = "auto",
    precision: PrecisionOpt = "auto",
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Edit many photos. What was done is not done again: stopped or killed, the same command goes on."""
    from realdrag.batch import run_batch
    from realdrag.cli_options import Common
    from realdrag.drag.way import check_strength
    from realdrag.jobs import plan
    from realdrag.places import is_url
    from realdrag.presets import load
    from realdrag.recipe import Recipe, read
    from realdrag.worker import Machine

    if recipe is not None and (move or preset or config or model):
        raise InputError("--recipe says what to drag and with which settings", "give either", code="usage")
    if (workers is not None and workers < 1) or threads < 1:
        raise InputError("workers and threads: at least 1", code="usage")
    if strength is not None:
        check_strength(strength)
    if is_url(output) and report_to is None:
        raise InputError(f"{output}: the report needs a folder", "give --report-to DIR", code="usage")
    bare = Recipe((), load(preset, config)[1], model)
    steps = steps_of_moves(move or [])
    wanted = read(recipe) if recipe is not None else replace(bare, steps=steps) if steps else None
    planned = plan(jobs, output, wanted, bare, strength)
    machine = Machine(device, threads, precision)
    progress = Common(config, device, threads, precision, quiet).progress()
    done = run_batch(
        planned, engine_of(engine, address, machine, workers, planned), report_to or Path(output), progress
    )
    show(done.about(), as_json, done.line)
    if done.failed:
        raise typer.Exit(1)


def steps_of_moves(moves: list[str]) -> tuple[Step, ...]:
    """The edit that `--move` flags name."""
    from realdrag.placing import Wanted, parse_moves
    from realdrag.recipe import Step

    return (Step(Wanted([], parse_moves(moves))),) if moves else ()


def engine_of(name: str, address: str | None, machine: Machine, workers: int | None, jobs: Sequence[Job]) -> Engine:
    """The engine called `name`."""
    from realdrag.engines import Local, workers_for
    from realdrag.recipe import from_text
    from realdrag.weights import model_resolution, resolve_model

    if name == "ray":
        from realdrag.engine_ray import Cluster

        return Cluster(machine, workers, address)
    if name != "local" or address is not None:
        hint = "--address is of --engine ray" if name == "local" else "local or ray"
        raise InputError(f"--engine {name}: cannot be", hint, code="usage")
    if workers is None:
        models = {from_text(text, "the recipe").model for text in {job.recipe for job in jobs}}
        workers = workers_for(max(model_resolution(resolve_model(model)) for model in models), machine.threads)
    return Local(machine, workers)
