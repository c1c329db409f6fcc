"""Files whose tensors and header disagree are refused in one line, before they can take memory; deltas add up."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from realdrag.errors import InputError
from realdrag.stylegan import (
    ENCODER_FORMAT,
    Encoder,
    Generator,
    GeneratorConfig,
    build_encoder,
    build_generator,
    delta_between,
    delta_fault,
    to_picture,
    with_delta,
)

Tensors = dict[str, torch.Tensor]
ENCODER = {"resolution": 32, "num_ws": 8, "w_dim": 64, "channel_base": 256, "channel_max": 16}


def changed(header: Mapping[str, str], **config: Any) -> dict[str, str]:
    return {**header, "config": json.dumps(json.loads(header["config"]) | config)}


def refused(tensors: Tensors, header: Mapping[str, str]) -> str:
    """The message of the InputError: one line that names the file."""
    with pytest.raises(InputError) as caught:
        build_generator(tensors, header, "model.safetensors")
    message = str(caught.value)
    assert message.startswith("model.safetensors: ")
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_a_missing_tensor_is_named(tensors: Tensors, header: dict[str, str]) -> None:
    some = {k: v for k, v in tensors.items() if k != "synthesis.b16.torgb.bias"}
    assert "synthesis.b16.torgb.bias is missing" in refused(some, header)


def test_an_unknown_tensor_is_named(tensors: Tensors, header: dict[str, str]) -> None:
    assert "synthesis.b64.const is unknown" in refused(tensors | {"synthesis.b64.const": torch.zeros(1)}, header)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tensors: Tensors, header: dict[str, str]) -> None:
    message = refused(tensors | {"synthesis.b8.conv0.bias": torch.zeros(65)}, header)
    assert "synthesis.b8.conv0.bias is [65], not [64]" in message


def test_many_faults_are_counted_not_listed(tensors: Tensors, header: dict[str, str]) -> None:
    message = refused({k: v for k, v in tensors.items() if ".affine." not in k}, header)
    assert message.count("is missing") == 3
    assert message.endswith("and 19 more")


@pytest.mark.parametrize(
    "config",
    [
        {"c_dim": 3},
        {"img_channels": 1},
        {"img_resolution": 33},
        {"img_resolution": 0},
        {"img_resolution": -32},
        {"img_resolution": "32"},
        {"img_resolution": 64},
        {"channel_max": 32},
        {"channel_base": 0},
        {"w_dim": 63},
        {"z_dim": 63},
        {"num_layers": 4},
        {"num_layers": 2},
        {"unheard_of": 1},
    ],
)
def test_a_header_that_is_not_that_of_the_tensors(
    tensors: Tensors, header: dict[str, str], config: dict[str, Any]
) -> None:
    refused(tensors, changed(header, **config))


@pytest.mark.parametrize("config", ["", "[]", "null", "{}", "{", '"x"', "7"])
def test_a_config_that_is_none(tensors: Tensors, header: dict[str, str], config: str) -> None:
    refused(tensors, header | {"config": config})


def test_a_header_without_config(tensors: Tensors) -> None:
    refused(tensors, {})


class Thrift(TorchDispatchMode):
    """No tensor of more than a million numbers may be made."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        size = args[0] if args and isinstance(args[0], list | tuple) else []
        numbers = all(isinstance(n, int) for n in size)
        if numbers and math.prod(size) > 1 << 20 and torch.device(kwargs.get("device") or "cpu").type != "meta":
            raise AssertionError(f"a tensor of {size} was made")
        return func(*args, **kwargs)


TINY = {"z_dim": 8, "w_dim": 8, "img_resolution": 8, "num_layers": 2, "channel_base": 64, "channel_max": 8}
TINY_ENCODER = {"resolution": 8, "num_ws": 4, "w_dim": 8, "channel_base": 64, "channel_max": 8}


@pytest.mark.parametrize(
    ("config", "extra"),
    [
        ({"img_resolution": 4096, "channel_base": 1 << 30, "channel_max": 1 << 12}, {}),
        ({"w_dim": 1 << 28}, {}),
        pytest.param({"w_dim": 1 << 22, "num_layers": 0}, {}),
        pytest.param({"z_dim": 1 << 28}, {}),
        pytest.param({"w_dim": 1 << 16}, {f"mapping.fc{i}.bias": [1 << 16] for i in range(2)}),
    ],
    ids=["channels", "w_dim", "no layers", "z_dim", "w_dim with biases"],
)
def test_a_boasting_generator_takes_no_memory(config: dict[str, int], extra: dict[str, list[int]]) -> None:
    tensors = Generator(GeneratorConfig(**TINY)).state_dict() | {k: torch.zeros(v) for k, v in extra.items()}
    with Thrift():
        refused(tensors, {"config": json.dumps(TINY | config)})


def test_a_boast_of_layers_takes_no_memory() -> None:
    tensors = Generator(GeneratorConfig(**TINY)).state_dict()
    tracemalloc.start()
    try:
        refused(tensors, {"config": json.dumps(TINY | {"num_layers": 200_000})})
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"num_ws": 1 << 14, "w_dim": 1 << 10}),
        pytest.param({"channel_base": 1 << 20, "channel_max": 1 << 13}),
        pytest.param({"resolution": 1 << 16}),
        {"resolution": 1 << 16, "channel_base": 1 << 26},
    ],
    ids=["rows", "channels", "resolution without channels", "resolution"],
)
def test_a_boasting_encoder_takes_no_memory(config: dict[str, int]) -> None:
    tensors = Encoder(**TINY_ENCODER).state_dict()
    with Thrift(), pytest.raises(InputError) as caught:
        build_encoder(tensors, {"config": json.dumps(TINY_ENCODER | config)}, "boast")
    assert "\n" not in str(caught.value)


def test_a_generator_holds_the_tensors_it_was_given(tensors: Tensors, generator: Generator) -> None:
    state = generator.state_dict()
    assert state.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(state[name], value), name


def test_a_half_precision_file_computes_in_single(tensors: Tensors, header: dict[str, str]) -> None:
    generator = build_generator({k: v.half() for k, v in tensors.items()}, header, "half")
    assert {p.dtype for p in generator.parameters()} == {torch.float32}


def test_an_encoder_comes_back_and_starts_at_the_mean_plus_its_offset() -> None:
    torch.manual_seed(0)
    made = Encoder(**ENCODER)
    header = {"format": ENCODER_FORMAT, "config": json.dumps(ENCODER)}
    encoder = build_encoder(made.state_dict(), header, "encoder")
    face, mean = torch.rand(2, 3, 32, 32), torch.randn(64)
    out = encoder(face, mean)
    assert out.shape == (2, 8, 64)
    torch.testing.assert_close(out, made(face, torch.zeros(64)) + mean)
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("config", ["{}", "[]", "{", json.dumps(ENCODER | {"w_dim": 32})])
def test_an_encoder_of_another_shape_is_refused(config: str) -> None:
    with pytest.raises(InputError, match=r"^encoder: "):
        build_encoder(Encoder(**ENCODER).state_dict(), {"config": config}, "encoder")


def test_a_delta_comes_back_and_the_base_stays(generator: Generator, tensors: Tensors) -> None:
    rng = np.random.default_rng(0)
    delta = {
        name: (rng.standard_normal(tensors[name].shape) * 0.01).astype(np.float16)
        for name in ("synthesis.b8.conv1.weight", "synthesis.b32.conv0.affine.bias")
    }
    tuned = with_delta(generator, delta)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, tensors[name]), name
    back = delta_between(generator, tuned)
    assert back.keys() == delta.keys()
    for name, difference in delta.items():
        assert back[name].dtype == np.float16
        np.testing.assert_allclose(back[name].astype(float), difference.astype(float), atol=1e-6, rtol=2e-3)
    w_plus = generator.truncated(torch.ones(1, 64))
    assert not torch.equal(tuned.synthesize(w_plus), generator.synthesize(w_plus))
    again = with_delta(generator, back)
    levels = [to_picture(g.synthesize(w_plus)).astype(int) for g in (again, tuned)]
    assert np.abs(levels[0] - levels[1]).max() <= 1


@pytest.mark.parametrize("delta", [None, {}])
def test_no_delta_is_the_base_itself(generator: Generator, delta: dict[str, np.ndarray] | None) -> None:
    assert with_delta(generator, delta) is generator
    assert delta_between(generator, generator) == {}


def test_a_delta_that_cannot_be_one_of_the_generator_s_is_named(generator: Generator) -> None:
    """Stored latents can come from elsewhere: names, shapes and numbers are looked at before any memory is taken."""
    half = np.float16
    left = {"synthesis.b8.conv1.weight:left": np.zeros((64, 3, 2), half)}
    right = {"synthesis.b8.conv1.weight:right": np.zeros((2, 64, 3), half)}
    assert delta_fault(generator.config, {}) == ""
    assert delta_fault(generator.config, {"synthesis.b8.conv1.bias": np.zeros(64, half), **left, **right}) == ""
    assert delta_fault(generator.config, {"synthesis.b8.conv1.noise_const": np.zeros((8, 8), half)}) == ""
    for delta in (
        {"nope": np.zeros(1, half)},
        {"mapping.w_avg": np.zeros(64, half)},
        {"synthesis.b8.resample_filter": np.zeros((4, 4), half)},
        left | {"synthesis.b8.conv1.weight:right": np.zeros((2, 192), half)},
        {"synthesis.b8.conv1.bias": np.zeros(63, half)},
        {"synthesis.b8.conv1.bias": np.full(64, np.nan, half)},
        left,
        right,
        left | {"synthesis.b8.conv1.weight:right": np.zeros((3, 64, 3), half)},
        {"synthesis.b8.conv1.weight:left": np.zeros((200_000, 3, 1), half),
         "synthesis.b8.conv1.weight:right": np.zeros((1, 200_000, 3), half)},
        {"synthesis.b8.conv1.bias:left": np.zeros((64, 1), half),
         "synthesis.b8.conv1.bias:right": np.zeros((1, 1), half)},
    ):  # fmt: skip
        assert delta_fault(generator.config, delta)
