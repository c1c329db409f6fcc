"""The encoder that ships with the embedded generator: an aligned face to a starting point in W+."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realdrag.stylegan.networks import SQRT2, Dense, leaky


class EqualConv(nn.Module):
    """Convolution with equalised learning rate."""

    def __init__(self, n_in: int, n_out: int, size: int, *, activate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, size, size))
        self.bias = nn.Parameter(torch.zeros(n_out)) if activate else None
        self.gain, self.padding = 1 / math.sqrt(n_in * size * size), size // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight * self.gain, self.bias, padding=self.padding)
        return y if self.bias is None else leaky(y)


class ResBlock(nn.Module):
    """Halves the picture: two 3×3 convolutions beside a 1×1 one."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv0 = EqualConv(n_in, n_in, 3)
        self.conv1 = EqualConv(n_in, n_out, 3)
        self.skip = EqualConv(n_in, n_out, 1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(F.avg_pool2d(self.conv0(x), 2)) + self.skip(F.avg_pool2d(x, 2))
        return y / SQRT2


class Pyramid(nn.Module):
    """From a picture [n, 3, r, r] down to a 4×4 map."""

    def __init__(self, resolution: int, channel_base: int, channel_max: int) -> None:
        super().__init__()
        self.sizes = [2**i for i in range(resolution.bit_length() - 1, 2, -1)]
        width = {r: min(channel_base // r, channel_max) for r in (*self.sizes, 4)}
        self.fromrgb = EqualConv(3, width[resolution], 1)
        for r in self.sizes:
            self.add_module(f"b{r}", ResBlock(width[r], width[r // 2]))
        self.out_channels = width[4]

    def forward(self, x: Tensor) -> Tensor:
        x = self.fromrgb(x)
        for r in self.sizes:
            x = self.get_submodule(f"b{r}")(x)
        return x


class Encoder(nn.Module):
    """A face [n, 3, r, r] in −1..1 to w_plus [n, num_ws, w_dim], as an offset from `w_avg`."""

    def __init__(self, *, resolution: int, num_ws: int, w_dim: int, channel_base: int, channel_max: int) -> None:
        super().__init__()
        self.body = Pyramid(resolution, channel_base, channel_max)
        self.fc = Dense(self.body.out_channels * 16, 512, activate=True)
        self.out = Dense(512, num_ws * w_dim)
        self.resolution, self.shape = resolution, (num_ws, w_dim)

    def forward(self, x: Tensor, w_avg: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        offset: Tensor = self.out(self.fc(self.body(x).flatten(1)))
        return w_avg + offset.reshape(-1, *self.shape)
