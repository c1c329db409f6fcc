"""How alike two pictures are: LPIPS by the published package, and the pixel pyramid."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# LPIPS sees pictures between these sizes while optimising: below, its coarse layers have no room; above, it is
# defined at 256 (the published projectors reduce to it too).
LPIPS_SIZES = (128, 256)


class Perceptual(Protocol):
    """A perceptual distance to a fixed picture."""

    name: str  # "lpips-vgg", "embedded", …: what is written into results and keys

    def to(self, target: Tensor) -> Distance:
        """The distance to `target` [1, 3, r, r] in −1..1; whatever depends on it alone is computed once."""


class Distance(Protocol):
    """From a picture [1, 3, r, r] in −1..1 to a scalar tensor; 0 for the target itself."""

    def __call__(self, picture: Tensor) -> Tensor: ...


def comparison_size(side: int) -> int:
    """Side at which pictures `side` px wide are compared while optimising."""
    low, high = LPIPS_SIZES
    return min(max(side, low), high)


def resized(x: Tensor, size: int) -> Tensor:
    """By area when reducing, bilinear when enlarging."""
    if x.shape[-1] == size:
        return x
    if x.shape[-1] > size:
        return F.interpolate(x, size=(size, size), mode="area")
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


class Lpips:
    """LPIPS 0.1 (Zhang et al. 2018) by a ready module of the `lpips` package.

    Same value as the package, whose normalisation has no gradient where a feature column is all zero (0/0); here 0.
    """

    def __init__(self, module: Any, backbone: str) -> None:
        self.module, self.name = module, f"lpips-{backbone}"

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-length feature columns of each tapped layer."""
        layers = self.module.net(self.module.scaling_layer(x))
        return [y / (y.square().sum(1, keepdim=True).clamp(min=1e-30).sqrt() + 1e-10) for y in layers]

    def between(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """The distance of two feature lists."""
        heads = self.module.lins
        parts = [heads[k]((x - y).square()).mean((1, 2, 3)) for k, (x, y) in enumerate(zip(a, b, strict=True))]
        return torch.stack(parts).sum()

    def to(self, target: Tensor) -> Distance:
        size = comparison_size(target.shape[-1])
        with torch.no_grad():
            there = self.features(resized(target, size))
        return lambda picture: self.between(self.features(resized(picture, size)), there)

    @torch.no_grad()
    def measure(self, a: Tensor, b: Tensor) -> float:
        """LPIPS as reported: at 256 × 256."""
        device = next(self.module.parameters()).device
        a, b = a.to(device), b.to(device)
        return float(self.between(self.features(resized(a, 256)), self.features(resized(b, 256))))


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over a pyramid of four sizes: keeps colours and light where LPIPS does not look."""
    parts = [(a - b).abs().mean()]
    for _ in range(3):
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        parts.append((a - b).abs().mean())
    return torch.stack(parts).mean()
