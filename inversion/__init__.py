"""From an aligned crop to a latent, optionally with the generator tuned around it."""

from realdrag.inversion.invert import invert
from realdrag.inversion.losses import Lpips, Multiscale, Perceptual
from realdrag.inversion.optimise import Checkpoint

__all__ = ["Checkpoint", "Lpips", "Multiscale", "Perceptual", "invert"]
