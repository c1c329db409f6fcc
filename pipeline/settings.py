"""The settings of each stage: one frozen dataclass a stage, one field a setting, the defaults those of `balanced`.

The fields are the one list of settings: preset and config files, flags, cache keys and checks derive from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

# Which square of a photo a model was trained to see. "ffhq": the face's, turned upright; "ffhq-upright": the same one
# unturned; "square": the largest centred one, or that around --box; "letterbox": all of the photo, or of --box, with
# black bars.
Aligner = Literal["ffhq", "ffhq-upright", "square", "letterbox"]


# More is a slip of the finger: hours, and rates that diverge at once.
MOST_STEPS, MOST_LR, MOST_RANK, MOST_WEIGHT = 100_000, 10.0, 512, 1e6


def within(default: Any, *, least: float = 0, most: float = math.inf) -> Any:
    """A field with this default that takes numbers from `least` to `most`."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class AlignSettings:
    """Finding and cropping what the model edits."""

    aligner: Literal["auto", Aligner] = "auto"
    detector: Literal["auto", "fan", "embedded", "cascade"] = "auto"


@dataclass(frozen=True)
class InversionSettings:
    """From crop to latent: W, then W+, then optionally the generator itself around the pivot (PTI)."""

    space: Literal["w", "w+"] = "w+"
    perceptual: Literal["auto", "vgg", "alex", "squeeze", "embedded"] = "auto"
    start: Literal["auto", "mean"] = "auto"
    steps_w: int = within(10, most=MOST_STEPS)
    steps_w_from_mean: int = within(150, most=MOST_STEPS)
    steps_w_plus: int = within(40, most=MOST_STEPS)
    lr: float = within(0.1, most=MOST_LR)
    warm_up: float = within(0.3, most=1.0)
    explore: float = within(0.0, most=1.0)
    plateau: float = within(0.04, most=1.0)
    noise: Literal["fixed", "optimised"] = "fixed"
    pixel_weight: float = within(1.0, most=MOST_WEIGHT)
    prior_weight: float = within(0.02, most=MOST_WEIGHT)
    tune: Literal["none", "lowrank", "full"] = "lowrank"
    tune_layers: Literal["convs", "all"] = "convs"
    tune_rank: int = within(14, least=1, most=MOST_RANK)
    tune_steps: int = within(60, most=MOST_STEPS)
    tune_lr: float = within(0.02, most=MOST_LR)
    tune_stop: float = 0.0
    tune_pixel_weight: float = within(1.0, most=MOST_WEIGHT)
    locality: float = within(0.0, most=MOST_WEIGHT)


@dataclass(frozen=True)
class DragSettings:
    """From an inverted latent to the one that shows the handles at their targets."""

    method: Literal["anchored", "draggan"] = "anchored"
    block: str = "auto"
    lr: float = within(0.02, most=MOST_LR)
    max_steps: int = within(150, most=MOST_STEPS)
    mask_weight: float = within(4.0, most=MOST_WEIGHT)
    keep_weight: float = within(5.0, most=MOST_WEIGHT)
    match_weight: float = within(4.0, most=MOST_WEIGHT)
    rows: int = within(7, least=1, most=100)


@dataclass(frozen=True)
class CompositeSettings:
    """Back into the photo."""

    feather: float = within(0.06, most=1.0)
    grow: float = within(0.04, most=1.0)
    change: float = within(1.0, most=1.0)
    grain: float = within(1.0, most=4.0)


@dataclass(frozen=True)
class Settings:
    """All four tables."""

    align: AlignSettings = field(default_factory=AlignSettings)
    inversion: InversionSettings = field(default_factory=InversionSettings)
    drag: DragSettings = field(default_factory=DragSettings)
    composite: CompositeSettings = field(default_factory=CompositeSettings)
