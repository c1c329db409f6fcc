"""Pivotal tuning brings the picture nearer, at low rank almost as near, and is kept small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from realdrag.inversion.optimise import Phases
from realdrag.inversion.tuning import LowRank, leading_rows, tune
from realdrag.progress import Silent
from realdrag.settings import InversionSettings
from realdrag.stylegan import LEFT, RIGHT, Generator, GeneratorConfig, with_delta

SETTINGS = InversionSettings(tune_steps=40, tune_lr=0.003, tune_rank=4)


@pytest.fixture
def pivot(generator: Generator) -> Tensor:
    return generator.truncated(torch.randn(1, 64, generator=torch.Generator().manual_seed(1))).contiguous()


@pytest.fixture
def target(generator: Generator) -> Tensor:
    return generator.synthesize(generator.truncated(torch.randn(1, 64, generator=torch.Generator().manual_seed(2))))


def left(generator: Generator, pivot: Tensor, target: Tensor, **changes: object) -> tuple[float, int]:
    """What is left of the difference after tuning, and the bytes of the delta."""
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]

    def loss(picture: Tensor) -> Tensor:
        return (picture - target).square().mean()

    delta = tune(generator, pivot, loss, settings, Phases(None, Silent()))
    before = loss(generator.synthesize(pivot))
    after = loss(with_delta(generator, delta).synthesize(pivot))
    return float(after / before), sum(array.nbytes for array in (delta or {}).values())


def test_low_rank_comes_as_near_as_all_weights_with_a_fraction_to_keep(
    generator: Generator, pivot: Tensor, target: Tensor
) -> None:
    full, all_bytes = left(generator, pivot, target, tune="full", tune_lr=0.01)
    low, few_bytes = left(generator, pivot, target, tune="lowrank")
    assert full < 0.5
    assert 1 - low > 0.9 * (1 - full)
    assert few_bytes < all_bytes / 4
    assert left(generator, pivot, target, tune="none") == (1, 0)


def test_more_rank_is_nearer(generator: Generator, pivot: Tensor, target: Tensor) -> None:
    one, four = (left(generator, pivot, target, tune="lowrank", tune_rank=rank)[0] for rank in (1, 4))
    assert four < one < 1


def test_the_kept_factors_are_the_tuned_generator(generator: Generator, pivot: Tensor, target: Tensor) -> None:
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    loss = lambda picture: (picture - target).square().mean()  # noqa: E731
    delta = tune(generator, pivot, loss, replace(SETTINGS, tune="lowrank"), Phases(None, Silent()))
    assert delta
    assert not any("torgb" in name or "affine" in name or "noise" in name for name in delta)
    tuned = with_delta(generator, delta)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, state[name]), name
    changed = tuned.synthesis.b8.conv1.weight - generator.synthesis.b8.conv1.weight
    a, b = (torch.from_numpy(delta[f"synthesis.b8.conv1.weight{side}"].astype(np.float32)) for side in (LEFT, RIGHT))
    torch.testing.assert_close(changed.flatten(1), a @ b, atol=1e-6, rtol=1e-4)
    assert np.linalg.matrix_rank(changed.flatten(1).numpy(), tol=1e-4) <= 4


def test_without_a_step_nothing_changes(generator: Generator, pivot: Tensor, target: Tensor) -> None:
    assert left(generator, pivot, target, tune="lowrank", tune_steps=0)[0] == 1


def test_a_delta_of_ffhq_s_size_is_under_two_megabytes() -> None:
    """From the shapes alone, at the default rank."""
    config = GeneratorConfig(512, 512, 1024, num_layers=8, channel_base=32768, channel_max=512)
    rank = InversionSettings().tune_rank
    numbers = sum(
        rank * (shape[0] + shape[1] * 9) + shape[0]
        for name, shape in config.shapes().items()
        if name.endswith(("conv0.weight", "conv1.weight"))
    )
    assert numbers * 2 < 1_500_000


def test_the_leading_rows_are_where_the_gradient_lies() -> None:
    torch.manual_seed(0)
    rows = torch.linalg.qr(torch.randn(40, 2))[0].t()
    gradient = torch.randn(30, 2) @ rows + 1e-3 * torch.randn(30, 40)
    found = leading_rows(gradient, 2)
    assert found.shape == (2, 40)
    inside = found @ rows.t() @ rows
    torch.testing.assert_close(inside, found, atol=0.02, rtol=0)
    assert float(found.square().mean()) == pytest.approx(1 / 2, rel=1e-4)
    torch.manual_seed(9)
    again = leading_rows(gradient, 2)
    assert torch.equal(again, found)
    assert leading_rows(gradient[:1], 4).shape == (1, 40)


def test_factors_take_no_part_in_the_base(generator: Generator, pivot: Tensor) -> None:
    """The tuned copy's weights are tensors, not parameters; the base's stay what they were."""
    import copy

    tuned = copy.deepcopy(generator)
    factors = LowRank(tuned, 2, lambda: tuned.synthesize(pivot).square().mean())
    assert "synthesis.b8.conv1.weight" not in dict(tuned.named_parameters())
    torch.testing.assert_close(tuned.synthesize(pivot), generator.synthesize(pivot), atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in factors.parameters.values())
    assert not any(parameter.requires_grad for parameter in generator.parameters())
