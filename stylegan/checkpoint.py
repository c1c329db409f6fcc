"""From tensors and a header to ready networks, and a tuned generator from its base and a delta."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from realdrag.errors import InputError
from realdrag.stylegan.config import LEFT, RIGHT, GeneratorConfig, disagreement
from realdrag.stylegan.encoder import Encoder
from realdrag.stylegan.networks import Generator

N = TypeVar("N", bound=nn.Module)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def _check(want: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], name: str) -> None:
    if fault := disagreement(want, _shapes(tensors)):
        raise InputError(f"{name}: tensors and header disagree: {fault}")


def _filled(net: N, tensors: Mapping[str, Tensor]) -> N:
    """`net` holding `tensors`, frozen, in evaluation mode."""
    net.load_state_dict({k: v.float() for k, v in tensors.items()})
    return net.eval().requires_grad_(False)


def _check_resolution(resolution: int) -> None:
    if not 8 <= resolution <= 4096 or resolution & (resolution - 1):
        raise ValueError(f"resolution {resolution} is not a power of two from 8 to 4096")


def build_generator(tensors: Mapping[str, Tensor], header: Mapping[str, str], name: str) -> Generator:
    """The generator of a realdrag safetensors file; `name` is the file's, for errors.

    Raises InputError when header and tensors disagree, naming the first three faults.
    """
    try:
        config = GeneratorConfig(**json.loads(header["config"]))
        if config.img_channels != 3:
            raise ValueError("models without three colours are not supported")
        _check_resolution(config.img_resolution)
        if not 1 <= config.num_layers <= 64:
            raise ValueError(f"{config.num_layers} mapping layers")
        _check(config.shapes(), tensors, name)
        return _filled(Generator(config), tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: unusable header: {error}") from error


def build_encoder(tensors: Mapping[str, Tensor], header: Mapping[str, str], name: str) -> Encoder:
    """The encoder of a realdrag safetensors file; raises InputError as `build_generator` does."""
    try:
        config = json.loads(header["config"])
        _check_resolution(config["resolution"])
        r, width = config["resolution"], min(config["channel_base"] // 4, config["channel_max"])
        # Of the tensors that every other one's size follows from: a header alone must not ask for gigabytes.
        shapes: dict[str, tuple[int, ...]] = {
            "fc.weight": (512, width * 16),
            "out.weight": (config["num_ws"] * config["w_dim"], 512),
        }
        while r > 4:
            n_in, n_out = (min(config["channel_base"] // x, config["channel_max"]) for x in (r, r // 2))
            shapes[f"body.b{r}.conv1.weight"] = (n_out, n_in, 3, 3)
            r //= 2
        _check(shapes, {key: value for key, value in tensors.items() if key in shapes}, name)
        encoder = Encoder(**config)
        _check(_shapes(encoder.state_dict()), tensors, name)
        return _filled(encoder, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: unusable header: {error}") from error


def with_delta(generator: Generator, delta: Mapping[str, npt.NDArray[np.float16]] | None) -> Generator:
    """The tuned generator: a copy of `generator` with `delta` added; the base stays.

    delta: name of a parameter or noise map → difference, or the name with `:left` and `:right` → the factors of
    `product`.
    """
    if not delta:
        return generator
    tuned = copy.deepcopy(generator)
    parameters = {**dict(tuned.named_parameters()), **dict(tuned.named_buffers())}
    arrays = {name: torch.from_numpy(array.astype(np.float32)) for name, array in delta.items()}
    with torch.no_grad():
        for name, array in arrays.items():
            if name.endswith(RIGHT):
                continue
            change = product(array, arrays[name.removesuffix(LEFT) + RIGHT]) if name.endswith(LEFT) else array
            parameter = parameters[name.removesuffix(LEFT)]
            parameter.add_(change.view_as(parameter).to(parameter.device))
    return tuned


def product(left: Tensor, right: Tensor) -> Tensor:
    """A convolution's weight [n_out, n_in, h, w] of factors [n_out, h, rank] and [rank, n_in, w]."""
    n_out, height, rank = left.shape
    _, n_in, width = right.shape
    unfolded = left.reshape(-1, rank) @ right.reshape(rank, -1)
    return unfolded.view(n_out, height, n_in, width).transpose(1, 2)


def delta_between(base: Generator, tuned: Generator) -> dict[str, npt.NDArray[np.float16]]:
    """Parameter name → fp16 difference, of the parameters that differ."""
    old = dict(base.named_parameters())
    out = {}
    for name, value in tuned.named_parameters():
        difference = (value.detach() - old[name].detach()).cpu()
        if difference.any():
            out[name] = difference.to(torch.float16).numpy()
    return out
