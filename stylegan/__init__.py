"""The StyleGAN2 generator and the encoder that goes with it."""

from realdrag.stylegan.checkpoint import (
    ENCODER_FORMAT,
    GENERATOR_FORMAT,
    build_encoder,
    build_generator,
    delta_between,
    with_delta,
)
from realdrag.stylegan.encoder import Encoder
from realdrag.stylegan.networks import Generator, GeneratorConfig
from realdrag.stylegan.pictures import to_picture, to_tensor

__all__ = [
    "ENCODER_FORMAT",
    "GENERATOR_FORMAT",
    "Encoder",
    "Generator",
    "GeneratorConfig",
    "build_encoder",
    "build_generator",
    "delta_between",
    "to_picture",
    "to_tensor",
    "with_delta",
]
