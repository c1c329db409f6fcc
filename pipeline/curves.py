"""A drag as a plot: how far each handle still was, and the loss, at each step."""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from realdrag.errors import InputError
from realdrag.photo_write import check_folder, write_bytes
from realdrag.values import Drag

# Suffix → what keeps the time of day out of the file: the same drag gives the same bytes.
SUFFIXES: dict[str, dict[str, None]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
MOST_NAMED = 8  # handles with a line in the legend; of more only the mean is named


def check_plot(path: Path, suffixes: Collection[str] = tuple(SUFFIXES)) -> None:
    """InputError for a plot or report that cannot be made there: before any work."""
    if path.suffix.lower() not in suffixes:
        hint = f"use one of {', '.join(suffixes)}" if len(suffixes) > 1 else f"use {min(suffixes)}"
        raise InputError(f"{path}: not the suffix of such a picture", hint, code="suffix")
    check_folder(path)


def make_plot(drag: Drag, path: str | os.PathLike[str]) -> None:
    """Writes the plot as the kind of file that the suffix names; see `Editor.plot`."""
    path = Path(path)
    check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: it keeps figures, and looks for a screen

    steps = [entry.step for entry in drag.trace]
    distances = np.array([entry.distances for entry in drag.trace])  # [n, k]
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for handle, of_handle in zip(drag.handles, distances.T, strict=True):
        name = "{:.0f},{:.0f}".format(*handle.start) if len(drag.handles) <= MOST_NAMED else None
        upper.plot(steps, of_handle, linewidth=1, label=name)
    if len(drag.handles) > 1:
        upper.plot(steps, distances.mean(1), color="black", linewidth=2, label="mean")
    upper.set(ylabel="distance left (photo px)", ylim=(0, None), title=f"{drag.outcome} in {drag.steps} steps")
    lower.plot(steps[:-1], [entry.loss for entry in drag.trace[:-1]], color="black", linewidth=1)
    lower.set(xlabel="step", ylabel="loss")
    for axes in (upper, lower):
        axes.axvline(drag.chosen, color="grey", linestyle="--", linewidth=1, label="chosen" if axes is upper else None)
        axes.grid(alpha=0.3)
    upper.legend(fontsize="small")
    suffix, out = path.suffix.lower(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "realdrag"}):
        figure.savefig(out, format=suffix[1:], dpi=120, metadata=SUFFIXES[suffix])
    write_bytes(out.getvalue(), path)
