"""Pivotal tuning brings the picture nearer, at low rank almost as near, and is kept small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from realdrag.inversion.losses import Distance
from realdrag.inversion.optimise import Phases
from realdrag.inversion.tuning import Delta, LowRank, leading_rows, tune
from realdrag.progress import Silent
from realdrag.settings import InversionSettings
from realdrag.stylegan import LEFT, RIGHT, Generator, with_delta

SETTINGS = InversionSettings(tune_steps=40, tune_lr=0.01, tune_rank=4)


class Squares:
    """Mean squared difference, as a perceptual loss."""

    name = "squares"

    def to(self, target: Tensor) -> Distance:
        return lambda picture: (picture - target).square().mean()


def tuned_delta(generator: Generator, pivot: Tensor, target: Tensor, settings: InversionSettings) -> Delta:
    loss = lambda picture: {"perceptual": Squares().to(target)(picture)}  # noqa: E731
    phases = Phases(None, Silent(), {"tune": settings.tune_steps})
    return tune(generator, pivot, loss, Squares(), settings, phases)


@pytest.fixture
def pivot(generator: Generator) -> Tensor:
    return generator.truncated(torch.randn(1, 64, generator=torch.Generator().manual_seed(1))).contiguous()


@pytest.fixture
def target(generator: Generator) -> Tensor:
    return generator.synthesize(generator.truncated(torch.randn(1, 64, generator=torch.Generator().manual_seed(2))))


def left(generator: Generator, pivot: Tensor, target: Tensor, **changes: object) -> tuple[float, int]:
    """What is left of the difference after tuning, and the bytes of the delta."""
    delta = tuned_delta(generator, pivot, target, replace(SETTINGS, **changes))  # type: ignore[arg-type]
    before, after = (
        float((g.synthesize(pivot) - target).square().mean()) for g in (generator, with_delta(generator, delta))
    )
    return after / before, sum(array.nbytes for array in delta.values())


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
    delta = tuned_delta(generator, pivot, target, replace(SETTINGS, tune="lowrank"))
    assert not any("torgb" in name or "affine" in name or "noise" in name for name in delta)
    tuned = with_delta(generator, delta)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, state[name]), name
    changed = tuned.synthesis.b8.conv1.weight - generator.synthesis.b8.conv1.weight
    a, b = (torch.from_numpy(delta[f"synthesis.b8.conv1.weight{side}"].astype(np.float32)) for side in (LEFT, RIGHT))
    torch.testing.assert_close(changed, torch.einsum("oyr,rix->oiyx", a, b), atol=1e-6, rtol=1e-4)
    assert float(changed.abs().max()) > 1e-3


def test_without_a_step_nothing_changes(generator: Generator, pivot: Tensor, target: Tensor) -> None:
    assert left(generator, pivot, target, tune="lowrank", tune_steps=0)[0] == 1


@pytest.mark.parametrize("tune", ["lowrank", "full"])
def test_the_colour_layers_change_only_when_asked(
    generator: Generator, pivot: Tensor, target: Tensor, tune: str
) -> None:
    names = [
        set(tuned_delta(generator, pivot, target, replace(SETTINGS, tune=tune, tune_steps=2, tune_layers=layers)))  # type: ignore[arg-type]
        for layers in ("convs", "all")
    ]
    assert not any("torgb" in name for name in names[0])
    assert names[0] < names[1]
    changed = {name.partition(":")[0] for name in names[1]}
    assert {"synthesis.b16.torgb.weight", "synthesis.b16.torgb.bias"} <= changed


def test_tuning_ends_when_it_is_near_enough(generator: Generator, pivot: Tensor, target: Tensor) -> None:
    far = float((generator.synthesize(pivot) - target).square().mean())
    settings = replace(SETTINGS, tune="full", tune_stop=far / 2)
    phases = Phases(None, Silent(), {"tune": settings.tune_steps})
    loss = lambda picture: {"perceptual": Squares().to(target)(picture)}  # noqa: E731
    tune(generator, pivot, loss, Squares(), settings, phases)
    curve = phases.curves["tune"]["perceptual"]
    assert 0 < len(curve) < settings.tune_steps
    assert curve[-1] > far / 2


def test_locality_keeps_the_generator_as_it_is_elsewhere(generator: Generator, pivot: Tensor, target: Tensor) -> None:
    away = torch.randn(6, 64, generator=torch.Generator().manual_seed(7))
    elsewhere = generator.truncated(away)
    changes = []
    for locality in (0.0, 3.0):
        delta = tuned_delta(generator, pivot, target, replace(SETTINGS, tune="full", locality=locality))
        tuned = with_delta(generator, delta)
        changes.append(float((tuned.synthesize(elsewhere) - generator.synthesize(elsewhere)).square().mean()))
    assert changes[1] < 0.7 * changes[0]


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
