"""Small checkpoints in the published formats, written as the published programs write them.

Their classes and functions are stood in for by modules made for the moment, under the same names; nothing of theirs is
here. Program text is replaced by a canary that leaves a file `CANARY_FIRED` and raises.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from realdrag.stylegan import GeneratorConfig

CANARY = "open('CANARY_FIRED', 'w').close()\nraise SystemExit('program text of a checkpoint was run')\n"
TINY = GeneratorConfig(z_dim=6, w_dim=5, img_resolution=16, num_layers=2, channel_base=64, channel_max=8)
ARGUMENTS = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")

Arrays = dict[str, np.ndarray]


def random_arrays(config: GeneratorConfig, seed: int = 0) -> Arrays:
    """Published name → random values; the filters are the real ones."""
    rng = np.random.default_rng(seed)
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
    return {
        name: taps if name.endswith("resample_filter") else np.asarray(rng.standard_normal(shape, np.float32))
        for name, shape in config.shapes().items()
    }


class Persistent:
    """One of NVIDIA's modules: pickled as a call that would run `module_src`."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        self.class_name = class_name
        self.state: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}, **attributes}

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": CANARY, "class_name": self.class_name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


class Network:
    """One of the TensorFlow programs' networks."""

    def __init__(self, **state: Any) -> None:
        self.__dict__ |= state


Network.__module__, Network.__qualname__ = "dnnlib.tflib.network", "Network"


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """The modules whose names the pickles hold."""

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
        raise AssertionError("a checkpoint's code was called")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.tflib", "dnnlib.tflib.network")
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: ModuleType(name) for name in names})
    sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    sys.modules["dnnlib.tflib.network"].Network = Network  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def module(arrays: Mapping[str, np.ndarray], config: GeneratorConfig) -> Persistent:
    """The generator as a tree of modules."""
    root = Persistent("Generator", _init_args=(), _init_kwargs={name: getattr(config, name) for name in ARGUMENTS})
    for path, array in arrays.items():
        *parents, last = path.split(".")
        place = root
        for part in parents:
            place = place.state["_modules"].setdefault(part, Persistent("Layer"))
        value = torch.from_numpy(np.array(array))
        if last in ("w_avg", "noise_const", "resample_filter"):
            place.state["_buffers"][last] = value
        else:
            place.state["_parameters"][last] = torch.nn.Parameter(value, requires_grad=False)
    modules = root.state["_modules"]
    modules["mapping"].state["_modules"]["fc0"].state |= {
        "bias_gain": np.float64(config.lr_multiplier),
        "activation": "lrelu",
    }
    modules["synthesis"].state["_modules"]["b4"].state["architecture"] = "skip"
    modules["synthesis"].state["_modules"]["b4"].state["_modules"]["conv1"].state["conv_clamp"] = config.conv_clamp
    return root


def nvidia(arrays: Mapping[str, np.ndarray], config: GeneratorConfig, *, protocol: int = 4) -> bytes:
    """A training pickle of stylegan2-ada-pytorch or stylegan3: G, D and G_ema of three different sets of values."""
    others = {name: array + 1 for name, array in arrays.items()}
    content = {
        "training_set_kwargs": {"path": "faces.zip"},
        "G": module(others, config),
        "D": Persistent("Discriminator"),
        "G_ema": module(arrays, config),
        "augment_pipe": None,
    }
    with stand_ins():
        return pickle.dumps(content, protocol)


def tensorflow(arrays: Mapping[str, np.ndarray], config: GeneratorConfig) -> bytes:
    """A pickle of stylegan2-ada's TensorFlow program: G, D and Gs."""
    parts: dict[str, list[tuple[str, Any]]] = {"mapping": [], "synthesis": []}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        if named := _tf_name(rest, array):
            parts[part].append(named)
    common = {"version": 5, "build_module_src": CANARY, "build_func_name": "G_main", "static_kwargs": {}}
    inner = {key: Network(**common, name=key, components={}, variables=value) for key, value in parts.items()}
    settings = {"resolution": config.img_resolution, "conv_clamp": config.conv_clamp}
    whole = common | {"static_kwargs": settings, "variables": [("dlatent_avg", arrays["mapping.w_avg"])]}
    with stand_ins():
        return pickle.dumps((Network(**common), Network(**common), Network(**whole, components=inner)), 3)


def _tf_name(name: str, array: np.ndarray) -> tuple[str, Any] | None:
    """TensorFlow's name and layout of what is published as `name`."""
    *path, last = name.split(".")
    if last in ("w_avg", "resample_filter"):
        return None
    if path[0].startswith("fc"):
        return f"Dense{path[0][2:]}/{last}", array.T if last == "weight" else array
    if path[0] == "embed":
        return f"LabelEmbed/{last}", array.T if last == "weight" else array
    r = int(path[0][1:])
    if last == "const":
        return "4x4/Const/const", array[None]
    if last == "noise_const":
        k = 2 * r.bit_length() - 2 - (5 if path[1] == "conv0" else 4)
        return f"noise{0 if r == 4 else k}", array[None, None]
    layer = {"conv0": "Conv0_up", "conv1": "Conv" if r == 4 else "Conv1", "torgb": "ToRGB"}[path[1]]
    if path[2:] == ["affine"]:
        new, value = ("mod_weight", array.T) if last == "weight" else ("mod_bias", array - 1)
    elif last == "weight":
        new, value = last, np.ascontiguousarray(array.transpose(2, 3, 1, 0))
        value = value[::-1, ::-1].copy() if path[1] == "conv0" else value
    else:
        new, value = last, array[()] if array.ndim == 0 else array
    return f"{r}x{r}/{layer}/{new}", value


def rosinality_state(arrays: Mapping[str, np.ndarray]) -> OrderedDict[str, torch.Tensor]:
    """rosinality's state dict of these values; without `latent_avg`."""
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, array in arrays.items():
        for new, value in _rosinality_names(name.split("."), torch.from_numpy(np.array(array))):
            state[new] = value.clone()
    return state


def _rosinality_names(path: list[str], value: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    last = path[-1]
    if path[0] == "mapping":
        return [] if last == "w_avg" else [(f"style.{int(path[1][2:]) + 1}.{last}", value)]
    r = int(path[1][1:])
    j = r.bit_length() - 4  # 0 at 8 px
    if last == "const":
        return [("input.input", value[None])]
    if path[2] == "torgb":
        layer = "to_rgb1" if r == 4 else f"to_rgbs.{j}"
    elif path[2] == "resample_filter":
        return [] if r == 4 else [(f"to_rgbs.{j}.upsample.kernel", value * 4)]
    else:
        layer = "conv1" if r == 4 else f"convs.{2 * j + (path[2] == 'conv1')}"
    if last == "noise_const":
        return [(f"noises.noise_{0 if r == 4 else 2 * j + 1 + (path[2] == 'conv1')}", value[None, None])]
    if last == "resample_filter":
        return [(f"{layer}.conv.blur.kernel", value * 4)] if path[2] == "conv0" else []
    if path[3:4] == ["affine"]:
        return [(f"{layer}.conv.modulation.{last}", value)]
    if last == "weight":
        return [(f"{layer}.conv.weight", value[None])]
    if last == "noise_strength":
        return [(f"{layer}.noise.weight", value.reshape(1))]
    return [(f"{layer}.bias", value.reshape(1, 3, 1, 1))] if "rgb" in layer else [(f"{layer}.activate.bias", value)]


def torch_file(content: Any, *, legacy: bool = False) -> bytes:
    """What torch.save makes of it."""
    file = io.BytesIO()
    with stand_ins():
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def rosinality(arrays: Mapping[str, np.ndarray], *, legacy: bool = False) -> bytes:
    """A file of rosinality's converter."""
    mean = torch.from_numpy(arrays["mapping.w_avg"])
    return torch_file({"g_ema": rosinality_state(arrays), "latent_avg": mean}, legacy=legacy)


def e4e(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file of pSp or e4e: an encoder, the generator as decoder, and one mean latent a row."""
    state = {"encoder.body.0.weight": torch.zeros(3, 3)}
    state |= {f"decoder.{name}": value for name, value in rosinality_state(arrays).items()}
    mean = torch.from_numpy(arrays["mapping.w_avg"])[None].repeat(6, 1)
    return torch_file({"state_dict": state, "latent_avg": mean, "opts": {"output_size": 16, "encoder_type": "e4e"}})


def pti(arrays: Mapping[str, np.ndarray], config: GeneratorConfig) -> bytes:
    """The tuned generator as PTI saves it: NVIDIA's modules within torch's zip."""
    return torch_file(module(arrays, config))


def every_format(arrays: Mapping[str, np.ndarray], config: GeneratorConfig) -> dict[str, bytes]:
    """Name → file, of a generator without labels and clamp."""
    return {
        "nvidia-2": nvidia(arrays, config, protocol=2),
        "nvidia-3": nvidia(arrays, config, protocol=3),
        "nvidia-4": nvidia(arrays, config, protocol=4),
        "nvidia-5": nvidia(arrays, config, protocol=5),
        "tensorflow": tensorflow(arrays, config),
        "rosinality": rosinality(arrays),
        "rosinality-legacy": rosinality(arrays, legacy=True),
        "e4e": e4e(arrays),
        "pti": pti(arrays, config),
        "published": torch_file({name: torch.from_numpy(array) for name, array in arrays.items()}),
    }
