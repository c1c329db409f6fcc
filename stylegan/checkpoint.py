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
from realdrag.stylegan.config import GeneratorConfig
from realdrag.stylegan.encoder import Encoder
from realdrag.stylegan.networks import Generator

GENERATOR_FORMAT = "realdrag-generator-1"
ENCODER_FORMAT = "realdrag-encoder-1"


N = TypeVar("N", bound=nn.Module)


def _filled(net: N, tensors: Mapping[str, Tensor], name: str) -> N:
    """`net` holding exactly `tensors`, frozen, in evaluation mode."""
    want = net.state_dict()
    faults = [f"{k} is missing" for k in want.keys() - tensors.keys()]
    faults += [f"{k} is unknown" for k in tensors.keys() - want.keys()]
    faults += [
        f"{k} is {list(tensors[k].shape)}, not {list(v.shape)}"
        for k, v in want.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(f"{name}: tensors and header disagree: {'; '.join(sorted(faults)[:3])}{more}")
    net.load_state_dict({k: v.float() for k, v in tensors.items()})
    return net.eval().requires_grad_(False)


def _refuse_boasting(shapes: Mapping[str, list[int]], tensors: Mapping[str, Tensor], name: str) -> None:
    """InputError unless tensors of these shapes are there: a header alone must not be able to ask for gigabytes."""
    for key, shape in shapes.items():
        found = list(tensors[key].shape) if key in tensors else "missing"
        if found != shape:
            raise InputError(f"{name}: tensors and header disagree: {key} is {found}, not {shape}")


def _decisive_shapes(config: GeneratorConfig) -> dict[str, list[int]]:
    """Of the tensors that every other one's size follows from."""
    shapes = {f"mapping.fc{i}.weight": [config.w_dim, config.w_dim] for i in range(1, config.num_layers)}
    shapes["mapping.fc0.weight"] = [config.w_dim, config.z_dim + (config.w_dim if config.c_dim else 0)]
    if config.c_dim:
        shapes["mapping.embed.weight"] = [config.w_dim, config.c_dim]
    for r in config.resolutions:
        c = config.channels(r)
        shapes |= {f"synthesis.b{r}.conv1.weight": [c, c, 3, 3], f"synthesis.b{r}.conv1.noise_const": [r, r]}
    return shapes


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
        _refuse_boasting(_decisive_shapes(config), tensors, name)
        return _filled(Generator(config), tensors, name)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: unusable header: {error}") from error


def build_encoder(tensors: Mapping[str, Tensor], header: Mapping[str, str], name: str) -> Encoder:
    """The encoder of a realdrag safetensors file; raises InputError as `build_generator` does."""
    try:
        config = json.loads(header["config"])
        _check_resolution(config["resolution"])
        r, width = config["resolution"], min(config["channel_base"] // 4, config["channel_max"])
        shapes = {"fc.weight": [512, width * 16], "out.weight": [config["num_ws"] * config["w_dim"], 512]}
        while r > 4:
            n_in, n_out = (min(config["channel_base"] // x, config["channel_max"]) for x in (r, r // 2))
            shapes[f"body.b{r}.conv1.weight"] = [n_out, n_in, 3, 3]
            r //= 2
        _refuse_boasting(shapes, tensors, name)
        return _filled(Encoder(**config), tensors, name)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: unusable header: {error}") from error


def with_delta(generator: Generator, delta: Mapping[str, npt.NDArray[np.float16]] | None) -> Generator:
    """The tuned generator: a copy of `generator` with `delta` (parameter name → difference) added; the base stays."""
    if not delta:
        return generator
    tuned = copy.deepcopy(generator)
    parameters = dict(tuned.named_parameters())
    with torch.no_grad():
        for name, difference in delta.items():
            parameters[name].add_(torch.from_numpy(difference.astype(np.float32)).to(parameters[name].device))
    return tuned


def delta_between(base: Generator, tuned: Generator) -> dict[str, npt.NDArray[np.float16]]:
    """Parameter name → fp16 difference, of the parameters that differ."""
    old = dict(base.named_parameters())
    out = {}
    for name, value in tuned.named_parameters():
        difference = (value.detach() - old[name].detach()).cpu()
        if difference.any():
            out[name] = difference.to(torch.float16).numpy()
    return out
