"""The StyleGAN2 generator, the encoder that goes with it, and what reads and lists checkpoints.

Imported when first used: reading a checkpoint's header needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realdrag.stylegan.checkpoint import build_encoder, build_generator, delta_between, product, with_delta
    from realdrag.stylegan.config import ENCODER_FORMAT, GENERATOR_FORMAT, LEFT, RIGHT, GeneratorConfig, delta_fault
    from realdrag.stylegan.encoder import Encoder
    from realdrag.stylegan.layouts import Checkpoint
    from realdrag.stylegan.networks import Generator
    from realdrag.stylegan.pictures import to_picture, to_tensor
    from realdrag.stylegan.reader import describe, read_checkpoint

_WHERE = {
    "checkpoint": ("build_encoder", "build_generator", "delta_between", "product", "with_delta"),
    "config": ("ENCODER_FORMAT", "GENERATOR_FORMAT", "LEFT", "RIGHT", "GeneratorConfig", "delta_fault"),
    "encoder": ("Encoder",),
    "layouts": ("Checkpoint",),
    "networks": ("Generator",),
    "pictures": ("to_picture", "to_tensor"),
    "reader": ("describe", "read_checkpoint"),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "ENCODER_FORMAT",
    "GENERATOR_FORMAT",
    "LEFT",
    "RIGHT",
    "Checkpoint",
    "Encoder",
    "Generator",
    "GeneratorConfig",
    "build_encoder",
    "build_generator",
    "delta_between",
    "delta_fault",
    "describe",
    "product",
    "read_checkpoint",
    "to_picture",
    "to_tensor",
    "with_delta",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'realdrag.stylegan' has no attribute {name!r}")
    return getattr(importlib.import_module(f"realdrag.stylegan.{_HOME[name]}"), name)
