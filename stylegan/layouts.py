"""The layouts in which StyleGAN2 generators are published, each brought to the published names.

NVIDIA's modules keep their names. TensorFlow's variables and rosinality's state dicts are renamed and turned: Karras et
al.'s programs multiply weights by the same constants while running, so no number changes but TensorFlow's style biases,
which get the 1 that its program adds. Arrays stay views of the file where they can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from realdrag.errors import InputError
from realdrag.stylegan.config import GeneratorConfig, config_of, disagreement
from realdrag.stylegan.pickles import MAX_DEPTH, NETWORK, PERSISTENT_OBJECT, Made, damaged, entries, shown
from realdrag.stylegan.stored import Array, Storages, is_fractions, no_storages, single, tensor

MAX_MODULES = 1000  # that of FFHQ at 1024 px has 90
MEAN_OF = 10_000  # samples whose mean w stands in for a missing w_avg, as the published projector takes it
SPARE = 1 << 18  # values that a file may do without: noise maps and vectors of small generators
ONLY = "only StyleGAN2 generators are read"

Tensors = dict[str, Array]


@dataclass(frozen=True)
class Checkpoint:
    """A generator out of a file: format ("nvidia", "tensorflow", "rosinality", "published"), published names → arrays.

    notes: what the file lacks and what stands in for it, for people.
    """

    format: str
    config: GeneratorConfig
    tensors: Mapping[str, Array]
    notes: tuple[str, ...] = ()


def checkpoint(
    format: str,  # noqa: A002
    tensors: Tensors,
    *,
    conv_clamp: float | None = None,
    lr_multiplier: float = 0.01,
    notes: tuple[str, ...] = (),
) -> Checkpoint:
    """`tensors` under published names, of shapes that fit each other; `completed` adds what may be missing.

    Raises InputError for what is no StyleGAN2 generator.
    """
    for name, array in tensors.items():
        if not is_fractions(array):
            raise damaged(f"{shown(name)} holds no fractions")
    try:
        shapes = {name: array.shape for name, array in tensors.items()}
        config = config_of(shapes, conv_clamp=conv_clamp, lr_multiplier=lr_multiplier)
        want = config.shapes()
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"not a StyleGAN2 generator: its layers do not fit together ({error})", ONLY) from error
    fault = disagreement(want, shapes | {n: want[n] for n in want if n not in shapes and _can_stand_in(n, shapes)})
    if fault:
        raise InputError(f"not a StyleGAN2 generator that we know: {fault}", ONLY)
    if config.img_channels != 3:
        raise InputError(f"a generator of pictures with {config.img_channels} channels, not 3", "it cannot be used")
    return Checkpoint(format, config, tensors, notes)


def completed(found: Checkpoint, file_size: int) -> Checkpoint:
    """All tensors as float32: noise maps that a layer does without are zeros, a missing w_avg is the mean of samples.

    file_size: in bytes; InputError where the tensors, which may share what is stored, are out of all proportion to it.
    """
    want, tensors, told = found.config.shapes(), dict(found.tensors), list(found.notes)
    values = sum(math.prod(shape) for shape in want.values())
    if values > file_size + SPARE:  # the shortest format has two bytes for each
        raise InputError(f"its tensors have {values:,} values and the file does not hold them: refused")
    missing = {name.rpartition(".")[2] for name in want.keys() - tensors.keys()}
    if "noise_const" in missing:
        told.append("no noise maps: pictures are made without noise")
    tensors = {name: single(array) for name, array in tensors.items()}
    for name in want.keys() - tensors.keys() - {"mapping.w_avg"}:
        tensors[name] = _filter() if name.endswith("resample_filter") else np.zeros(want[name], np.float32)
    if "w_avg" in missing:
        tensors["mapping.w_avg"] = mean_w(tensors, found.config)
        told.append(f"no mean latent: the mean of {MEAN_OF:,} samples stands in")
    return Checkpoint(found.format, found.config, {name: tensors[name] for name in want}, tuple(told))


def _can_stand_in(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    layer, _, last = name.rpartition(".")
    if last == "noise_strength":  # a layer has both or neither
        return f"{layer}.noise_const" not in shapes
    if name == "mapping.w_avg":  # not without labels to draw
        return "mapping.embed.bias" not in shapes
    return last in ("noise_const", "resample_filter")


def _filter() -> Array:
    taps = np.array([1, 3, 3, 1], np.float32)
    return np.outer(taps, taps) / np.float32(64)


def mean_w(tensors: Mapping[str, Array], config: GeneratorConfig) -> Array:
    """The mean w [w_dim] of samples: the mapping network in numpy, for files that lack it."""
    random, total = np.random.RandomState(123), np.zeros(config.w_dim)
    for _ in range(10):
        x: Array = random.randn(MEAN_OF // 10, config.z_dim).astype(np.float32)
        x /= np.sqrt(np.square(x).mean(1, keepdims=True) + 1e-8)
        for i in range(config.num_layers):
            weight, bias = tensors[f"mapping.fc{i}.weight"], tensors[f"mapping.fc{i}.bias"]
            gain = config.lr_multiplier
            x = x @ (weight.T * np.float32(gain / np.sqrt(weight.shape[1]))) + bias * np.float32(gain)
            x = np.maximum(x, np.float32(0.2) * x) * np.float32(np.sqrt(2))
        total += x.sum(0)
    return np.asarray(total / MEAN_OF, np.float32)


# NVIDIA's PyTorch programs


def is_module(value: Any) -> bool:
    """Whether this is one of NVIDIA's networks, as their programs pickle them."""
    return isinstance(value, Made) and value.name == PERSISTENT_OBJECT


def module_class(value: Made) -> str:
    """The name of its class: "Generator", "Discriminator", …"""
    return shown(_meta(value).get("class_name", ""))


def _meta(value: Made) -> dict[Any, Any]:
    return (entries(value.args[0]) if value.args else None) or {}


def from_module(value: Made, storages: Storages, notes: tuple[str, ...] = ()) -> Checkpoint:
    """The generator of a network that stylegan2-ada-pytorch, stylegan3 or PTI saved."""
    if module_class(value) != "Generator":
        raise InputError(f"the file holds a {module_class(value).lower() or 'network'} and no generator", ONLY)
    tensors, attributes = _flattened(value, storages)
    if any(re.fullmatch(r"synthesis\.L\d+_\d+_\d+", name) for name in attributes):
        raise InputError("a StyleGAN3 generator: only StyleGAN2 is supported")
    for name, state in attributes.items():
        activation = state.get("activation", "lrelu")
        linear = isinstance(activation, str) and activation == "linear" and name.endswith((".affine", ".embed"))
        if not linear and shown(activation) != "lrelu":
            raise InputError(f"{name[:80]} has the activation {shown(activation)!r}, not lrelu", ONLY)
        if shown(state.get("architecture", "skip")) != "skip":
            raise InputError(f"its architecture is {shown(state['architecture'])!r}, not skip", ONLY)
    conv, dense = (attributes.get(name, {}) for name in ("synthesis.b4.conv1", "mapping.fc0"))
    return checkpoint(
        "nvidia",
        tensors,
        conv_clamp=_number(conv.get("conv_clamp"), None),
        lr_multiplier=_number(dense.get("bias_gain"), 0.01) or 0.01,
        notes=notes,
    )


def _flattened(root: Made, storages: Storages) -> tuple[Tensors, dict[str, dict[Any, Any]]]:
    """Name → tensor, and name → plain attributes, of a module and those within it."""
    tensors: Tensors = {}
    attributes: dict[str, dict[Any, Any]] = {}
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while waiting:
        path, module = waiting.pop()
        state = entries(_meta(module).get("state")) if is_module(module) else None
        # No honest network holds a module twice; one that does could have more paths than there is time for.
        if state is None or id(state) in seen or len(path) > MAX_DEPTH or len(seen) > MAX_MODULES:
            raise damaged(f"the network within {'.'.join(path)[:60] or 'it'} cannot be read")
        seen.add(id(state))
        attributes[".".join(path)] = state
        for kind in ("_parameters", "_buffers"):
            for name, value in (entries(state.get(kind)) or {}).items():
                if value is not None:
                    tensors[".".join((*path, _part(name)))] = tensor(value, storages)
        waiting += [((*path, _part(name)), inner) for name, inner in (entries(state.get("_modules")) or {}).items()]
    return tensors, attributes


def _part(name: Any) -> str:
    """One part of a dotted name."""
    if not (isinstance(name, str) and name.isidentifier() and len(name) <= 40):
        raise damaged("a layer with an impossible name")
    return name


def _number(value: Any, default: float | None) -> float | None:
    """A Python or numpy number of a module's attributes, a positive one."""
    if value is None:
        return default
    if isinstance(value, Made) and (scalar := tensor(value, no_storages)).shape == ():
        value = scalar.item()
    if type(value) not in (int, float) or not 0 < value < 1e6:
        raise damaged("a setting of a layer is no number")
    return float(value)


# TensorFlow


def is_network(value: Any) -> bool:
    """Whether this is one of the TensorFlow programs' networks."""
    return isinstance(value, Made) and value.name == NETWORK


def from_network(value: Made) -> Checkpoint:
    """The generator of a network (Gs) that stylegan2 or stylegan2-ada saved."""
    state = entries(value.state) or {}
    settings = entries(state.get("static_kwargs")) or {}
    components = entries(state.get("components")) or {}
    if not {"mapping", "synthesis"} <= components.keys():
        raise InputError("the file holds no StyleGAN2 generator: mapping and synthesis are missing", ONLY)
    synthesis = _variables(components["synthesis"])
    if any("StyleMod" in name for name in synthesis):
        raise InputError("a StyleGAN generator of the first version: only StyleGAN2 is supported")
    for name, wanted in (("architecture", "skip"), ("nonlinearity", "lrelu"), ("mapping_nonlinearity", "lrelu")):
        if shown(settings.get(name, wanted)) != wanted:
            raise InputError(f"its {name} is {shown(settings[name])!r}, not {wanted}", ONLY)
    tensors: Tensors = {}
    for name, array in _variables(components["mapping"]).items():
        _put(tensors, name, array, _TF_MAPPING)
    for name, array in synthesis.items():
        _put(tensors, name, array, _TF_SYNTHESIS)
    mean = _variables(value).get("dlatent_avg")
    if mean is not None:
        tensors["mapping.w_avg"] = mean
    taps = settings.get("resample_kernel")
    if taps is not None and not (isinstance(taps, list) and taps[:5] == [1, 3, 3, 1]):
        raise InputError("its low-pass filter is not [1, 3, 3, 1]", ONLY)
    return checkpoint(
        "tensorflow",
        tensors,
        conv_clamp=_number(settings.get("conv_clamp"), None),
        lr_multiplier=_number(settings.get("mapping_lrmul"), 0.01) or 0.01,
    )


def _variables(network: Any) -> Tensors:
    """Name → array of one of TensorFlow's networks, without those of its components."""
    pairs = (entries(network.state) or {}).get("variables") if is_network(network) else None
    if not isinstance(pairs, list):
        raise damaged("a network without variables")
    found = {}
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise damaged("a variable without a name")
        found[pair[0]] = tensor(pair[1], no_storages)
    return found


def _kernel(a: Array) -> Array:
    return a.transpose(3, 2, 0, 1)  # y, x, in, out → out, in, y, x


def _same(a: Array) -> Array:
    return a


# Pattern of a variable's name → the published name, and what is done to the array.
_Rules = tuple[tuple[str, Callable[[re.Match[str]], str], Callable[[Array], Array]], ...]

_LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}


def _layer(last: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"synthesis.b{m[1]}.{_LAYERS[m[2]]}.{last}"


def noise_layer(index: int) -> str:
    """The published name of the layer whose noise map has this number: 0 is b4.conv1, then conv0 and conv1 of each."""
    return f"synthesis.b{4 * 2 ** ((index + 1) // 2)}.conv{0 if index % 2 else 1}"


_TF_MAPPING: _Rules = (
    (r"Dense(\d+)/weight", lambda m: f"mapping.fc{m[1]}.weight", lambda a: a.T),
    (r"Dense(\d+)/bias", lambda m: f"mapping.fc{m[1]}.bias", _same),
    (r"LabelEmbed/weight", lambda m: "mapping.embed.weight", lambda a: a.T),
    (r"LabelEmbed/bias", lambda m: "mapping.embed.bias", _same),
)
_TF_LAYER = r"(\d+)x\1/(Conv|Conv0_up|Conv1|ToRGB)/"
_TF_SYNTHESIS: _Rules = (
    (r"4x4/Const/const", lambda m: "synthesis.b4.const", lambda a: a[0]),
    (r"noise(\d{1,2})", lambda m: f"{noise_layer(int(m[1]))}.noise_const", lambda a: a[0, 0]),
    # The upsampling convolution is stored the other way round.
    (r"(\d+)x\1/(Conv0_up)/weight", _layer("weight"), lambda a: _kernel(a[::-1, ::-1])),
    (_TF_LAYER + "weight", _layer("weight"), _kernel),
    (_TF_LAYER + "bias", _layer("bias"), _same),
    (_TF_LAYER + "noise_strength", _layer("noise_strength"), _same),
    (_TF_LAYER + "mod_weight", _layer("affine.weight"), lambda a: a.T),
    (_TF_LAYER + "mod_bias", _layer("affine.bias"), lambda a: single(a) + np.float32(1)),
)


def _put(tensors: Tensors, name: str, array: Array, rules: _Rules) -> None:
    """`array` under its published name; InputError for a name that no rule knows."""
    for pattern, publish, turn in rules:
        if match := re.fullmatch(pattern, name):
            try:
                tensors[publish(match)] = turn(array)
            except (IndexError, ValueError) as error:
                fault = f"{name} has the shape {list(array.shape)}"
                raise InputError(f"not a StyleGAN2 generator that we know: {fault}", ONLY) from error
            return
    raise InputError(f"not a StyleGAN2 generator that we know: {name[:60]!r} is unknown", ONLY)


# rosinality's PyTorch program, and the encoders built on it (pSp, e4e)


def _convs(last: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"synthesis.b{8 * 2 ** (int(m[1]) // 2)}.conv{int(m[1]) % 2}.{last}"


def _torgb(last: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"synthesis.b{8 * 2 ** int(m[1])}.torgb.{last}"


def _first(layer: str, last: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"synthesis.b4.{layer}.{last}"


def _rosinality_rules() -> _Rules:
    rules: list[tuple[str, Callable[[re.Match[str]], str], Callable[[Array], Array]]] = [
        (r"style\.(\d{1,2})\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}", _same),
        (r"input\.input", lambda m: "synthesis.b4.const", lambda a: a[0]),
        (r"noises\.noise_(\d{1,2})", lambda m: f"{noise_layer(int(m[1]))}.noise_const", lambda a: a[0, 0]),
    ]
    for prefix, of in (
        (r"conv1\.", lambda last: _first("conv1", last)),
        (r"convs\.(\d{1,2})\.", _convs),
        (r"to_rgb1\.", lambda last: _first("torgb", last)),
        (r"to_rgbs\.(\d{1,2})\.", _torgb),
    ):
        rules += [
            (prefix + r"conv\.weight", of("weight"), lambda a: a[0]),
            (prefix + r"conv\.modulation\.weight", of("affine.weight"), _same),
            (prefix + r"conv\.modulation\.bias", of("affine.bias"), _same),
        ]
        if "rgb" in prefix:
            rules.append((prefix + "bias", of("bias"), lambda a: a.reshape(-1)))
        else:
            rules.append((prefix + r"activate\.bias", of("bias"), _same))
            rules.append((prefix + r"noise\.weight", of("noise_strength"), lambda a: a.reshape(())))
    return tuple(rules)


_ROSINALITY = _rosinality_rules()
_FILTERS = re.compile(r"(convs\.\d+\.conv\.blur|to_rgbs\.\d+\.upsample)\.kernel")


def is_rosinality(state: Mapping[Any, Any] | None) -> bool:
    """Whether this is a state dict of rosinality's generator."""
    return state is not None and "input.input" in state and "conv1.conv.weight" in state


def from_rosinality(state: Mapping[Any, Any], mean: Any, storages: Storages, notes: tuple[str, ...] = ()) -> Checkpoint:
    """The generator of a state dict; mean: its `latent_avg` [w] or [rows, w], or None."""
    tensors: Tensors = {}
    for name, value in state.items():
        array = tensor(value, storages)
        if _FILTERS.fullmatch(str(name)):
            if (
                array.shape != (4, 4)
                or not is_fractions(array)
                or not np.abs(single(array) / 4 - _filter()).max() <= 1e-6
            ):
                raise InputError("its low-pass filter is not [1, 3, 3, 1]", ONLY)
        else:
            _put(tensors, str(name), array, _ROSINALITY)
    if mean is not None:
        rows = tensor(mean, storages)
        tensors["mapping.w_avg"] = rows[0] if rows.ndim == 2 else rows
    return checkpoint("rosinality", tensors, notes=notes)


# A state dict under the published names


def is_published(state: Mapping[Any, Any] | None) -> bool:
    """Whether this is a state dict of NVIDIA's generator."""
    return state is not None and "synthesis.b4.const" in state


def from_published(state: Mapping[Any, Any], storages: Storages, notes: tuple[str, ...] = ()) -> Checkpoint:
    """The generator of a state dict; whether it was trained with a clamp is not in there: none is taken."""
    return checkpoint("published", {str(k): tensor(v, storages) for k, v in state.items()}, notes=notes)
