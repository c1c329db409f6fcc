"""What is kept of frozen weights is never stale, and half precision stays within its stated bound."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from realdrag.stylegan import Generator, GeneratorConfig, with_delta
from realdrag.stylegan.networks import ModulatedConv

Golden = dict[str, np.ndarray]
HALVES = [torch.bfloat16, torch.float16]
LARGE = GeneratorConfig(
    z_dim=32, w_dim=32, img_resolution=256, num_layers=2, channel_base=4096, channel_max=64, conv_clamp=256
)
# Root mean square of the difference from float32 over the standard deviation, as `Generator` states it.
BOUND = {torch.bfloat16: 0.02, torch.float16: 0.003}
GRADIENT_BOUND = {torch.bfloat16: 0.03, torch.float16: 0.01}


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).std() / b.std())


@pytest.fixture
def generator(generator: Generator) -> Generator:
    """With parameters of its own: these tests change them."""
    return copy.deepcopy(generator)


@pytest.fixture
def layer(generator: Generator) -> ModulatedConv:
    return generator.synthesis.block(16).conv0


@pytest.fixture
def shown(generator: Generator, golden: Golden):  # type: ignore[no-untyped-def]
    """Features of a generator, and those that one which has kept nothing makes of the same parameters."""
    w_plus = torch.from_numpy(golden["w_plus"])

    def both(net: Generator = generator) -> tuple[Tensor, Tensor]:
        fresh = Generator(net.config).requires_grad_(False).to(next(net.parameters()).dtype)
        fresh.load_state_dict(net.state_dict())
        fresh.dtype = net.dtype
        w = w_plus.to(next(net.parameters()).dtype)
        with torch.no_grad():
            return net.synthesize(w, "b32"), fresh.synthesize(w, "b32")

    both()
    return both


def replaced(layer: ModulatedConv) -> None:
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2, requires_grad=False)
    layer.weight.data[0] += 1


CHANGES = {
    "in place": lambda g, x: x.weight.add_(0.1),
    "part of it": lambda g, x: x.weight[3, 2].zero_(),
    "foreach": lambda g, x: torch._foreach_lerp_([x.weight], [torch.ones_like(x.weight)], 0.1),
    "loaded": lambda g, x: g.load_state_dict({k: v * 1.1 + 0.1 for k, v in g.state_dict().items()}),
    "assigned": lambda g, x: g.load_state_dict({k: v * 1.1 + 0.1 for k, v in g.state_dict().items()}, assign=True),
    "another parameter": lambda g, x: replaced(x),
    "other data": lambda g, x: setattr(x.weight, "data", x.weight.data + 0.1),
    "moved": lambda g, x: g.double(),
    "other precision": lambda g, x: setattr(g, "dtype", torch.bfloat16),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_weight_is_seen(generator: Generator, layer: ModulatedConv, shown, change) -> None:  # type: ignore[no-untyped-def]
    before, _ = shown()
    with torch.no_grad():
        change(generator, layer)
    if generator.synthesis.block(4).const.dtype == torch.float64:
        generator.dtype = torch.float64
    now, fresh = shown()
    assert torch.equal(now, fresh)
    assert not torch.equal(now, before)


def test_a_frozen_weight_is_prepared_once(layer: ModulatedConv, shown, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    prepared, made = ModulatedConv.prepared, []

    def counted(self: ModulatedConv, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        made.append(self)
        return prepared(self, weight, dtype)

    monkeypatch.setattr(ModulatedConv, "prepared", counted)
    shown()
    assert layer not in made
    layer.weight.requires_grad_()
    shown()
    shown()
    assert made.count(layer) == 2
    layer.weight.requires_grad_(False)
    layer.weight.data.mul_(2)  # unseen by its version, but it has been free meanwhile
    now, fresh = shown()
    assert torch.equal(now, fresh)


def test_a_copy_begins_empty(generator: Generator, layer: ModulatedConv, shown) -> None:  # type: ignore[no-untyped-def]
    assert layer.kept.made
    for twin in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert twin.synthesis.block(16).conv0.kept.made == ()
        with torch.no_grad():
            twin.synthesis.block(16).conv0.weight.mul_(-1)
        now, fresh = shown(twin)
        assert torch.equal(now, fresh)
    change = {"synthesis.b16.conv0.weight": np.full(layer.weight.shape, 0.1, np.float16)}
    now, fresh = shown(with_delta(generator, change))
    assert torch.equal(now, fresh)
    assert not torch.equal(now, shown()[0])


def test_gradients_flow_after_inference_mode(generator: Generator, golden: Golden) -> None:
    w_plus = torch.from_numpy(golden["w_plus"])
    with torch.inference_mode():
        generator.synthesize(w_plus)
    free = w_plus.clone().requires_grad_()
    generator.synthesize(free).sum().backward()
    assert free.grad is not None
    assert free.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gradients_of_parameters_are_those_of_float32(generator: Generator, golden: Golden, dtype: torch.dtype) -> None:
    """For tuning: what is scaled for the sake of float16 is scaled back for every kind of parameter."""
    w_plus = torch.from_numpy(golden["w_plus"][:1])
    generator.requires_grad_()
    generator.dtype = dtype
    generator.synthesize(w_plus).square().mean().backward()
    found = {name: p.grad for name, p in generator.synthesis.named_parameters() if p.grad is not None}
    generator.dtype = torch.float32
    generator.zero_grad()
    generator.synthesize(w_plus).square().mean().backward()
    assert len(found) == len(list(generator.synthesis.parameters()))
    for name, p in generator.synthesis.named_parameters():
        if p.numel() > 1 and p.grad is not None:
            assert float((found[name] - p.grad).norm() / p.grad.norm()) < (0.1 if dtype == torch.bfloat16 else 0.02)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", ["golden", "256 px"])
def test_half_precision_stays_within_its_bound(
    generator: Generator, golden: Golden, size: str, dtype: torch.dtype
) -> None:
    w_plus, block = torch.from_numpy(golden["w_plus"]), "b16"
    if size == "256 px":
        torch.manual_seed(0)
        generator, block = Generator(LARGE).requires_grad_(False), "b128"
        w_plus = generator.truncated(torch.randn(1, 32)).contiguous()
    seen = {}
    for precision in (torch.float32, dtype):
        generator.dtype = precision
        free = w_plus.clone().requires_grad_()
        picture = generator.synthesize(free)
        (whole,) = torch.autograd.grad(picture.square().mean(), free)
        features = generator.synthesize(free, block)
        (part,) = torch.autograd.grad(features.abs().mean(), free)
        assert picture.dtype == features.dtype == torch.float32
        seen[precision] = picture.detach(), features.detach(), whole, part
    exact, rough = seen[torch.float32], seen[dtype]
    for a, b, bound in zip(rough, exact, [BOUND[dtype]] * 2 + [GRADIENT_BOUND[dtype]] * 2, strict=True):
        assert 0 < off(a, b) < bound
    assert float((rough[0] - exact[0]).abs().max() / exact[0].std()) < 10 * BOUND[dtype]


def test_fp16_overflows_neither_for_large_weights_nor_for_large_styles(generator: Generator, golden: Golden) -> None:
    """Demodulation takes the size away again, so the picture is nearly the same; without care it is not finite."""
    w_plus = torch.from_numpy(golden["w_plus"])
    with torch.no_grad():
        for r in (8, 16, 32):
            for conv in (generator.synthesis.block(r).conv0, generator.synthesis.block(r).conv1):
                conv.weight.mul_(3e3)
                conv.affine.weight.mul_(300)
                conv.affine.bias.mul_(300)
    exact = generator.synthesize(w_plus)
    generator.dtype = torch.float16
    assert off(generator.synthesize(w_plus), exact) < BOUND[torch.float16]


def test_fp16_keeps_small_gradients(generator: Generator, golden: Golden) -> None:
    """Of the mean over a picture of 1024 px, each pixel's is 3e-7: less than float16 can tell from the next."""
    seen = []
    for dtype in (torch.float32, torch.float16):
        generator.dtype = dtype
        free = torch.from_numpy(golden["w_plus"]).requires_grad_()
        loss = generator.synthesize(free).square().sum() / (3 * 1024**2)
        seen.append(torch.autograd.grad(loss, free)[0])
    assert off(seen[1], seen[0]) < GRADIENT_BOUND[torch.float16]
