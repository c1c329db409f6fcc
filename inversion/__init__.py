"""From an aligned crop to a latent, optionally with the generator tuned around it."""

from realdrag.inversion.invert import invert
from realdrag.inversion.losses import Lpips, Perceptual
from realdrag.inversion.optimise import Checkpoint
from realdrag.inversion.perceptual import Embedded, PerceptualNet
from realdrag.inversion.report import report, verdict
from realdrag.inversion.spread import Spread

__all__ = [
    "Checkpoint",
    "Embedded",
    "Lpips",
    "Perceptual",
    "PerceptualNet",
    "Spread",
    "invert",
    "report",
    "verdict",
]
