"""From an aligned crop to a latent, optionally with the generator tuned around it.

Imported when first used: what was found in the store needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realdrag.inversion.losses import Lpips, Perceptual
    from realdrag.inversion.perceptual import Embedded, PerceptualNet
    from realdrag.inversion.projection import invert, measure
    from realdrag.inversion.report import draw, verdict
    from realdrag.inversion.spread import Spread

_WHERE = {
    "projection": ("invert", "measure"),
    "losses": ("Lpips", "Perceptual"),
    "perceptual": ("Embedded", "PerceptualNet"),
    "report": ("draw", "verdict"),
    "spread": ("Spread",),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__all__ = ["Embedded", "Lpips", "Perceptual", "PerceptualNet", "Spread", "draw", "invert", "measure", "verdict"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'realdrag.inversion' has no attribute {name!r}")
    return getattr(importlib.import_module(f"realdrag.inversion.{_HOME[name]}"), name)
