"""The embedded perceptual network: a distance between faces that follows LPIPS, for where LPIPS cannot be had."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realdrag.inversion.losses import Distance, comparison_size, resized


class Fire(nn.Module):
    """Few channels, then many, half of them seeing one place and half 3 × 3 (Iandola et al. 2016)."""

    def __init__(self, n_in: int, few: int, n_out: int) -> None:
        super().__init__()
        self.few = nn.Conv2d(n_in, few, 1)
        self.here = nn.Conv2d(few, n_out // 2, 1)
        self.around = nn.Conv2d(few, n_out // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.few(x))
        return F.relu(torch.cat([self.here(x), self.around(x)], 1))


class PerceptualNet(nn.Module):
    """A picture [n, 3, r, r] in −1..1 to seven feature maps; the distance is the mean over places of their squared
    differences, summed over the maps.

    The maps have the strides, borders and sizes of SqueezeNet's, whose LPIPS they were trained to follow
    (training/perceptual.py); each is brought to unit length at every place, then weighed.
    """

    layout = ((64, 24, 128), (128, 24, 128), (128, 48, 256), (256, 48, 256),
              (256, 64, 384), (384, 64, 384), (384, 80, 512), (512, 80, 512))  # fmt: skip
    pooled = (0, 2, 4)  # halved before these
    tapped = (1, 3, 4, 5, 6, 7)  # after these, and after the entry

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, 64, 3, stride=2)
        self.fires = nn.ModuleList(Fire(*sizes) for sizes in self.layout)
        widths = [64, *(self.layout[k][2] for k in self.tapped)]
        self.weights = nn.ParameterList(torch.full([n], 0.1) for n in widths)

    def first(self, x: Tensor) -> Tensor:
        """The entry's map."""
        return F.relu(self.entry(x.contiguous(memory_format=torch.channels_last)))

    def next(self, k: int, x: Tensor) -> Tensor:
        """The map after module `k` from the one before it."""
        y: Tensor = self.fires[k](F.max_pool2d(x, 3, 2, ceil_mode=True) if k in self.pooled else x)
        return y

    def weighed(self, maps: list[Tensor]) -> list[Tensor]:
        """The tapped `maps` as they are compared; fp32."""
        units = [y.float() * (y.float().square().sum(1, keepdim=True) + 1e-8).rsqrt() for y in maps]
        return [y * w[:, None, None] for y, w in zip(units, self.weights, strict=True)]

    def maps(self, x: Tensor) -> list[Tensor]:
        """The tapped maps of a picture."""
        x = self.first(x)
        maps = [x]
        for k in range(len(self.fires)):
            x = self.next(k, x)
            if k in self.tapped:
                maps.append(x)
        return maps

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.weighed(self.maps(x))


def between(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """The distance [n] of two lists of maps."""
    return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in zip(a, b, strict=True)]).sum(0)


class Embedded:
    """`PerceptualNet` as a loss to invert by."""

    name = "embedded"

    def __init__(self, net: PerceptualNet) -> None:
        self.net = net

    def to(self, target: Tensor) -> Distance:
        size = comparison_size(target.shape[-1])
        with torch.no_grad():
            there = self.net(resized(target, size))
        return lambda picture: between(self.net(resized(picture, size)), there).sum()
