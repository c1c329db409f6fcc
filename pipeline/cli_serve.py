"""`realdrag serve`: the editor in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realdrag.cli_options import (
    AlignerOpt,
    ConfigOpt,
    DebugOpt,
    DetectorOpt,
    DeviceOpt,
    ModelOpt,
    PrecisionOpt,
    PresetOpt,
    ThreadsOpt,
)
from realdrag.errors import InputError

PhotoMaybe = Annotated[Path | None, typer.Argument(metavar="PHOTO", help="A photo to open at once.")]
HostOpt = Annotated[str, typer.Option("--host", metavar="H", help="Other than this machine: needs the printed token.")]
PortOpt = Annotated[int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="Else a free one.")]
OpenOpt = Annotated[bool, typer.Option("--open/--no-open", help="In the browser.")]


def serve(
    photo: PhotoMaybe = None,
    host: HostOpt = "127.0.0.1",
    port: PortOpt = None,
    show: OpenOpt = True,
    model: ModelOpt = None,
    aligner: AlignerOpt = None,
    detector: DetectorOpt = None,
    preset: PresetOpt = None,
    config: ConfigOpt = None,
    device: DeviceOpt = "auto",
    threads: ThreadsOpt = None,
    precision: PrecisionOpt = "auto",
    debug: DebugOpt = False,
) -> None:
    """Edit photos in a browser, on this machine. Ctrl-C ends it; what was edited is kept."""
    try:
        from realdrag.web.server import run
    except ImportError as error:
        hint = "install them with `pip install 'realdrag[web]'`"
        raise InputError(f"the editor needs packages that are not here: {error.name}", hint, code="web") from error
    from realdrag import photo as photos
    from realdrag.cli_options import Common
    from realdrag.web.engine import Machine

    flags = {"align": {"aligner": aligner, "detector": detector}}
    editor = Common(config, device, threads, precision, quiet=True).editor(model, preset, flags)
    _ = editor.resolution  # a model that is not there is told now
    opened = None if photo is None else photos.read(photo)
    run(Machine(model, editor.settings, device, threads, precision), opened, host, port, show)
