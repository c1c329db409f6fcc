"""What `benchmarks/drag.py` and `benchmarks/landmarks.py` compare with is the published loop, and the judges judge."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from realdrag import presets
from realdrag.drag import drag
from realdrag.progress import Silent
from realdrag.stylegan import Generator
from realdrag.values import Latent

Load = Callable[[str], Any]
MODULES = ("drag", "landmarks", "published_drag", "samples", "synthesis")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Load]:
    """A benchmark's module by name."""
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))

    def one(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield one
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def w_plus(latent: Latent) -> torch.Tensor:
    return torch.from_numpy(latent.w_plus)[None]


@pytest.fixture
def frozen_again(generator: Generator) -> Iterator[Generator]:
    """The published loop lets every weight have a gradient; the generator is shared with other tests."""
    yield generator
    generator.requires_grad_(False).zero_grad()


@pytest.mark.parametrize("mended", [False, True])
def test_the_published_loop_comes_nearer(
    load: Load, frozen_again: Generator, w_plus: torch.Tensor, mended: bool
) -> None:
    handle, target = np.array([[64.0, 76.0]]), np.array([[64.0, 72.0]])
    loop = load("published_drag").PublishedDrag(frozen_again, w_plus, handle, target, mended=mended)
    loop.run(40)
    assert loop.reached
    assert 0 < loop.steps < 40
    assert np.linalg.norm(loop.places - target) <= 1.01  # 2 of 256 px
    assert torch.equal(loop.latent[:, 6:], w_plus[:, 6:])
    assert (loop.latent[:, :6] != w_plus[:, :6]).any()
    assert frozen_again.synthesis.block(16).conv0.weight.grad is not None  # as published


def test_paper_is_the_published_loop_step_for_step(
    load: Load, frozen_again: Generator, latent: Latent, w_plus: torch.Tensor
) -> None:
    """Without its faults, and without a mask, whose mean is over other pixels; both handles are far."""
    handles, targets = np.array([[64.0, 76.0], [50.0, 92.0]]), np.array([[64.0, 70.0], [44.0, 90.0]])
    loop = load("published_drag").PublishedDrag(frozen_again, w_plus, handles, targets, mended=True)
    loop.run(12)
    frozen_again.requires_grad_(False).zero_grad()
    settings = replace(presets.load("paper")[1].drag, max_steps=12)
    done = drag(
        latent, frozen_again, handles, targets, to_model=np.eye(3), movable=None, settings=settings, progress=Silent()
    )
    assert done.steps == loop.steps == 12
    np.testing.assert_allclose(done.way[-1], loop.latent.detach()[0], atol=1e-3)
    assert np.abs(done.way[-1] - done.way[0]).max() > 0.01
    np.testing.assert_allclose(done.places[-2], loop.places, atol=0.51)  # it looked before its last step; pixels of 256


def test_the_published_patch_lies_too_far_to_the_top_left(
    load: Load, frozen_again: Generator, w_plus: torch.Tensor
) -> None:
    """Seen by the gradient for a ramp's features: where the loss looks."""
    middles = {}
    for mended in (False, True):
        loop = load("published_drag").PublishedDrag(
            frozen_again, w_plus, np.array([[100.0, 100.0]]), np.array([[110.0, 100.0]]), mended=mended
        )
        loop.points = loop.points.round()
        loop.goals = loop.points + torch.tensor([20.0, 0.0])
        features = torch.randn(1, 2, 256, 256, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (gradient,) = torch.autograd.grad(loop.loss(features, torch.tensor([20.0])), features)
        y, x = torch.where(gradient[0].abs().sum(0) > 1e-3 * gradient.abs().max())  # not what rounding touches
        middles[mended] = float(x.double().mean() - loop.points[0, 0] - 1), float(y.double().mean() - loop.points[0, 1])
    assert np.hypot(*middles[True]) < 1e-6
    assert -1 < middles[False][1] < -0.3


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("what", ["paper", "default"])
def test_steps_are_measured(load: Load, frozen_again: Generator, what: str, masked: bool) -> None:
    found = load("drag").measure_steps(frozen_again, what, 1, masked)
    assert found["ms"] > 0
    assert found["mb"] > 50


def test_the_mask_lies_about_the_points(load: Load) -> None:
    movable = load("landmarks").near(np.array([[255.5, 255.5], [355.5, 255.5]]), 128)
    assert movable[64, 64] == movable[64, 88] == movable[64, 76] == 1
    assert movable[64, 54] == movable[64, 98] == movable[50, 64] == 0


def test_intervals_hold_the_mean(load: Load) -> None:
    mean, low, high = load("landmarks").interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert 1 <= low < mean < high <= 4
