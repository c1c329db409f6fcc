"""What all commands share: their common flags, and how a result is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

DeviceOpt = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="What computes.")]
ThreadsOpt = Annotated[int | None, typer.Option("--threads", metavar="N", help="Processor threads.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no talk.")]
DebugOpt = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def show(report: Mapping[str, Any], as_json: bool, *lines: str) -> None:
    """The result: the whole report as JSON, or a line or more for people."""
    from realdrag.terminal import plain

    typer.echo(json.dumps(dict(report), indent=1) if as_json else "\n".join(map(plain, lines)))
