"""The settings of each stage: one frozen dataclass a stage, one field a setting, the defaults those of `balanced`.

The fields are the one list of settings: preset and config files, flags, cache keys and checks derive from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# Which square of a photo a model was trained to see. "ffhq": the face's, turned upright; "ffhq-upright": the same one
# unturned; "square": the largest centred one, or that around --box; "letterbox": all of the photo, or of --box, with
# black bars.
Aligner = Literal["ffhq", "ffhq-upright", "square", "letterbox"]


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
    steps_w: int = 10
    steps_w_from_mean: int = 150
    steps_w_plus: int = 40
    lr: float = 0.1
    warm_up: float = 0.3
    explore: float = 0.0
    plateau: float = 0.04
    noise: Literal["fixed", "optimised"] = "fixed"
    pixel_weight: float = 1.0
    prior_weight: float = 0.02
    tune: Literal["none", "lowrank", "full"] = "lowrank"
    tune_layers: Literal["convs", "all"] = "convs"
    tune_rank: int = 14
    tune_steps: int = 60
    tune_lr: float = 0.02
    tune_stop: float = 0.0
    tune_pixel_weight: float = 1.0
    locality: float = 0.0


@dataclass(frozen=True)
class DragSettings:
    """The DragGAN loop."""

    block: str = "auto"
    lr: float = 0.004
    max_steps: int = 150
    mask_weight: float = 2.0
    keep_weight: float = 1.0
    rows: int = 6


@dataclass(frozen=True)
class CompositeSettings:
    """Back into the photo."""

    feather: float = 0.06


@dataclass(frozen=True)
class Settings:
    """All four tables."""

    align: AlignSettings = field(default_factory=AlignSettings)
    inversion: InversionSettings = field(default_factory=InversionSettings)
    drag: DragSettings = field(default_factory=DragSettings)
    composite: CompositeSettings = field(default_factory=CompositeSettings)
