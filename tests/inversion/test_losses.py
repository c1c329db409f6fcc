"""Perceptual distances: equal to the published package, sound where it is not, and ordered as people would."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from realdrag.inversion import Lpips
from realdrag.inversion.losses import pixel_distance, resized
from realdrag.stylegan import to_tensor


def noise(size: int, seed: int) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def scene(size: int = 64) -> np.ndarray:
    """A picture with edges and shading, [size, size, 3] uint8."""
    y, x = np.mgrid[:size, :size] / size
    picture = np.stack([200 * x + 20, 120 + 80 * np.sin(9 * y), 60 + 90 * x * y], -1)
    picture[(x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.06] = (230, 180, 150)
    picture[(x - 0.35) ** 2 + (y - 0.42) ** 2 < 0.003] = 10
    return picture.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [128, 160, 256])
def test_lpips_is_that_of_the_package(package: torch.nn.Module, size: int) -> None:
    a, b = noise(size, 1), noise(size, 2)
    with torch.no_grad():
        published = package(a, b).item()
        assert Lpips(package, "squeeze").to(b)(a).item() == pytest.approx(published, rel=1e-5)
    assert published > 0.01
    if size == 256:
        assert Lpips(package, "squeeze").measure(a, b) == pytest.approx(published, rel=1e-5)


@pytest.mark.parametrize(("size", "seen"), [(32, 128), (320, 256)])
def test_sizes_that_lpips_is_not_made_for_are_brought_to_one(package: torch.nn.Module, size: int, seen: int) -> None:
    a, b = noise(size, 1), noise(size, 2)
    if size < seen:
        small = [torch.nn.functional.interpolate(x, (seen, seen), mode="bilinear") for x in (a, b)]
    else:
        small = [torch.nn.functional.interpolate(x, (seen, seen), mode="area") for x in (a, b)]
    with torch.no_grad():
        assert Lpips(package, "squeeze").to(b)(a).item() == pytest.approx(package(*small).item(), rel=1e-5)


def test_lpips_has_the_package_s_gradient(package: torch.nn.Module) -> None:
    a, b = noise(128, 1).requires_grad_(), noise(128, 2)
    (ours,) = torch.autograd.grad(Lpips(package, "squeeze").to(b)(a), a)
    (published,) = torch.autograd.grad(package(a, b).sum(), a)
    torch.testing.assert_close(ours, published, rtol=1e-3, atol=1e-4 * float(published.abs().max()))


class Bare(torch.nn.Module):
    """Stands in for the package's module: the picture is its own and only feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer, self.net = torch.nn.Identity(), lambda x: [x]
        self.lins = [lambda x: x.sum(1, keepdim=True)]


def test_features_that_are_all_zero_leave_the_gradient_finite() -> None:
    """The published normalisation divides by a square root, whose gradient at 0 is NaN."""
    zero, other = torch.zeros(1, 3, 128, 128, requires_grad=True), noise(128, 3)
    value = Lpips(Bare(), "bare").to(other)(zero)
    (gradient,) = torch.autograd.grad(value, zero)
    assert value.item() == pytest.approx(1, abs=1e-4)
    assert gradient.isfinite().all()
    published = zero / (zero.square().sum(1, keepdim=True).sqrt() + 1e-10)
    assert torch.autograd.grad(published.sum(), zero)[0].isnan().any()


def test_a_black_picture_has_a_gradient(package: torch.nn.Module) -> None:
    dead = copy.deepcopy(package)
    first = next(m for m in dead.net.modules() if isinstance(m, torch.nn.Conv2d))
    first.bias.data.fill_(-1e3)  # answers nothing anywhere
    black, other = (-torch.ones(1, 3, 128, 128)).requires_grad_(), noise(128, 3)
    (gradient,) = torch.autograd.grad(Lpips(dead, "squeeze").to(other)(black), black)
    assert gradient.isfinite().all()
    (gradient,) = torch.autograd.grad(Lpips(package, "squeeze").to(other)(black), black)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


def test_the_target_is_at_distance_zero(package: torch.nn.Module) -> None:
    target = to_tensor(scene())
    assert Lpips(package, "squeeze").to(target)(target.clone()).item() == pytest.approx(0, abs=1e-6)
    assert Lpips(package, "squeeze").measure(target, target) == pytest.approx(0, abs=1e-6)
    assert pixel_distance(target, target).item() == 0


def test_lpips_says_which_backbone_it_is(package: torch.nn.Module) -> None:
    assert Lpips(package, "squeeze").name == "lpips-squeeze"


def test_pixel_distance_is_a_mean_of_differences() -> None:
    a = noise(32, 1)
    assert pixel_distance(a, a + 0.25).item() == pytest.approx(0.25, rel=1e-5)  # light and colour: the same at any size
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 0.5 - 0.25
    # Detail averages out: it counts at the finest size alone.
    assert pixel_distance(a, a + board).item() == pytest.approx(0.25 / 4, rel=1e-3)


@pytest.mark.parametrize("target", [16, 20, 48])
def test_resized_keeps_the_mean_and_the_place(target: int) -> None:
    ramp = torch.arange(32).float().expand(1, 3, 32, 32)
    out = resized(ramp, target)
    assert out.shape == (1, 3, target, target)
    x = (torch.arange(target) + 0.5) * 32 / target - 0.5
    tolerance = 0.05 if target in (16, 48) else 0.6  # area windows are whole pixels
    assert (out[0, 0, 0, 2:-2] - x[2:-2]).abs().max() < tolerance
    assert resized(ramp, 32) is ramp
