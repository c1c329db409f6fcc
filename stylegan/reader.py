"""StyleGAN2 generators out of checkpoints of any published format, told apart by their content.

Nothing of a file is run; see `pickles`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from realdrag.errors import InputError
from realdrag.stylegan.config import BUFFERS, GeneratorConfig
from realdrag.stylegan.layouts import (
    ONLY,
    Checkpoint,
    completed,
    from_module,
    from_network,
    from_published,
    from_rosinality,
    is_module,
    is_network,
    is_published,
    is_rosinality,
    module_class,
)
from realdrag.stylegan.pickles import Made, entries, one_line, unpickle
from realdrag.stylegan.stored import LEGACY_START, ZIP_START, Nested, Storages, torch_legacy, torch_zip

# What else people hand in, by how it begins.
_OTHERS = (
    (b"<", "a web page, not a checkpoint: the download was refused"),
    (b"\xff\xd8", "a picture, not a checkpoint"),
    (b"\x89PNG", "a picture, not a checkpoint"),
    (b"version https://git-lfs", "a git-lfs pointer, not the checkpoint itself: `git lfs pull` fetches it"),
    (b"\x1f\x8b", "a compressed archive: unpack it first"),
    (b"7z\xbc\xaf", "a compressed archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file, not a checkpoint that we know"),
    (b"\x93NUMPY", "a numpy array, not a checkpoint"),
)


def read_checkpoint(data: memoryview, name: str) -> Checkpoint:
    """The generator in `data`, the content of a file called `name` (for errors only).

    Reads pickles of stylegan2-ada-pytorch and stylegan3 (StyleGAN2), TensorFlow's of stylegan2 and stylegan2-ada,
    and torch files of rosinality's layout, of pSp and e4e, of PTI's tuned networks and of published names. Arrays are
    views of `data` where they can be. Raises InputError, one line, for everything else.
    """
    try:
        with np.errstate(all="ignore"):  # a file may hold any numbers
            return completed(_read(data), len(data))
    except InputError as error:
        raise InputError(f"{name}: {one_line(error.message)}", error.hint) from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{name}: not a sound checkpoint: {type(error).__name__}") from error


def _read(data: memoryview) -> Checkpoint:
    if not len(data):
        raise InputError("the file is empty")
    start = bytes(data[:32])
    if start.startswith(ZIP_START):
        return _from_torch(*torch_zip(data))
    if start.startswith(LEGACY_START):
        return _from_torch(*torch_legacy(data))
    if start[0] == 0x80 and len(start) > 1 and 2 <= start[1] <= 5:
        value, _ = unpickle(data)
        return _from_pickle(value)
    for beginning, what in _OTHERS:
        if start.lstrip().startswith(beginning):
            raise InputError(what)
    raise InputError("not a checkpoint", "StyleGAN2 pickles, .pt files and our .safetensors are read")


def _from_pickle(value: Any) -> Checkpoint:
    if is_network(value):
        return from_network(value)
    if isinstance(value, (tuple, list)) and len(value) == 3 and is_network(value[2]):
        return from_network(value[2])  # G, D and Gs, the averaged one
    return _from_networks(value, Nested())


def _from_torch(value: Any, storages: Storages) -> Checkpoint:
    found = entries(value) or {}
    if isinstance(value, Made) and value.name.startswith("torch._utils."):
        raise InputError("a tensor alone, a latent perhaps, and no generator", ONLY)
    for key, note in (("g_ema", ()), ("g", ("the averaged generator is missing: the one in training is taken",))):
        if is_rosinality(state := entries(found.get(key))):
            return from_rosinality(state or {}, found.get("latent_avg"), storages, note)
    state = _without_wrapping(entries(found.get("state_dict")) or found)
    if is_rosinality(state):
        return from_rosinality(state, found.get("latent_avg"), storages)
    if is_published(state):
        return from_published(state, storages)
    return _from_networks(value, storages)


def _without_wrapping(state: dict[Any, Any]) -> dict[Any, Any]:
    """The generator's part of a state dict: pSp and e4e keep it under `decoder.`, parallel training under `module.`."""
    for prefix in ("decoder.", "module."):
        part = {k.removeprefix(prefix): v for k, v in state.items() if isinstance(k, str) and k.startswith(prefix)}
        state = part or state
    return state


def _from_networks(value: Any, storages: Storages) -> Checkpoint:
    """One of NVIDIA's networks, or the averaged generator among several."""
    if is_module(value):
        return from_module(value, storages)
    found = entries(value) or {}
    for key, note in (("G_ema", ()), ("G", ("the averaged generator is missing: the one in training is taken",))):
        if is_module(found.get(key)):
            return from_module(found[key], storages, note)
    others = sorted({module_class(one).lower() for one in found.values() if is_module(one)})
    what = f"the file holds a {' and a '.join(others)} and no generator" if others else "the file holds no generator"
    raise InputError(what, ONLY)


def describe(config: GeneratorConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What a person wants to know of a generator, as JSON takes it."""
    learned = (shape for name, shape in shapes.items() if name.rpartition(".")[2] not in BUFFERS)
    return {
        "resolution": config.img_resolution,
        "channels": {str(r): config.channels(r) for r in config.resolutions},
        "z_dim": config.z_dim,
        "w_dim": config.w_dim,
        "num_ws": config.num_ws,
        "labels": config.c_dim,
        "mapping_layers": config.num_layers,
        "parameters": sum(math.prod(shape) for shape in learned),
        "config": dataclasses.asdict(config),
    }
