"""The way of a drag from the inverted latent to the edit, and how far along it a strength leads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from realdrag.errors import InputError
from realdrag.values import Drag

Latents = npt.NDArray[np.float32]
Places = npt.NDArray[np.float64]
Floats = npt.NDArray[Any]

STRONGEST = 1.5
# The last direction is that of this share of the way: single steps of Adam zigzag.
LAST_PART = 0.25


def check_strength(strength: float) -> None:
    """InputError for one outside 0 … 1.5."""
    if not 0 <= strength <= STRONGEST:
        hint = f"0 is the photo, 1 the drag as it ended, {STRONGEST} the most"
        raise InputError(f"--strength {strength:g}: is not between 0 and {STRONGEST}", hint, code="strength")


def way_to(drag: Drag, strength: float | None = None) -> tuple[Latents, Places]:
    """The way from the inversion to `strength` (None: the drag's own): latents, and where the handles are at each.

    Latents are [n, num_ws, w_dim], places [n, k, 2] in photo pixels. Shares of the way are measured along it in W+, so
    that equal differences of strength change about as much. On the way of earlier drags the handles stand where this
    one began; beyond 1 they are carried on as the latent is, not tracked: a tracker without the loss drifts away.
    """
    strength = drag.strength if strength is None else strength
    latents = np.concatenate([drag.before, drag.way[: drag.chosen + 1]])
    places = np.concatenate([np.repeat(drag.places[:1], len(drag.before), axis=0), drag.places[: drag.chosen + 1]])
    steps = np.linalg.norm(np.diff(latents.reshape(len(latents), -1).astype(np.float64), axis=0), axis=1)
    lengths = np.concatenate([[0.0], np.cumsum(steps)])  # of the way up to each latent
    return at(latents, lengths, strength), at(places, lengths, strength)


def at(values: Floats, lengths: Places, strength: float) -> Floats:
    """`values` [n, …], one for each of `lengths`, up to `strength`."""
    if strength <= 1:
        return cut(values, lengths, strength)
    return np.concatenate([values, beyond(values, lengths, strength - 1)])


def cut(values: Floats, lengths: Places, share: float) -> Floats:
    """`values` [n, …] up to `share` (0 … 1) of the way that is `lengths` [n] long: the last one lies just there."""
    goal = share * lengths[-1]
    last = int(np.searchsorted(lengths, goal, side="right")) - 1
    if share == 0:
        return values[:1]
    if last == len(values) - 1 or lengths[last] == goal:
        return values[: last + 1]
    t = (goal - lengths[last]) / (lengths[last + 1] - lengths[last])
    between = values[last] + (values[last + 1] - values[last]) * values.dtype.type(t)
    return np.concatenate([values[: last + 1], between[None]])


def beyond(values: Floats, lengths: Places, share: float) -> Floats:
    """Where `values` [n, …] lead if they go on by `share` of the way, as fast as in its last part, in as long steps."""
    if lengths[-1] == 0:
        return values[:0]
    last_part = values[-1] - cut(values, lengths, 1 - LAST_PART)[-1]
    steps = max(math.ceil(share * (len(values) - 1)), 1)
    ahead = (np.arange(1, steps + 1) / steps * share / LAST_PART).astype(values.dtype)
    return np.asarray(values[-1] + last_part * ahead.reshape(-1, *[1] * last_part.ndim), values.dtype)
