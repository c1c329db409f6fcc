"""The embedded landmark network: 68 points of a face in a rough crop, in any upright-to-tilted pose."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Pixels of the crop between two places of the heatmaps.
STRIDE = 4
# The confidence is exp(−e / this), e being the mean error expected, in distances between the outer eye corners' means.
ERROR_SCALE = 0.1

Norm = Callable[[int], nn.Module]


class Conv(nn.Sequential):
    """Convolution, normalisation (in training only: it is folded into the weights afterwards), ReLU."""

    def __init__(
        self, n_in: int, n_out: int, norm: Norm, *, size: int = 3, stride: int = 1, active: bool = True
    ) -> None:
        conv = nn.Conv2d(n_in, n_out, size, stride, size // 2)
        super().__init__(conv, norm(n_out), nn.ReLU() if active else nn.Identity())


class Residual(nn.Module):
    """Two 3×3 convolutions beside the identity."""

    def __init__(self, n: int, norm: Norm) -> None:
        super().__init__()
        self.first, self.second = Conv(n, n, norm), Conv(n, n, norm, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class LandmarkNet(nn.Module):
    """Crops [n, 3, 128, 128] in −1..1 to points and confidence.

    A pyramid from 64 to 4 px, and back up to 32 px, where every landmark has a heatmap; the point is the mean place
    under its softmax (integral regression, Sun et al. 2018), so it is not bound to the grid.
    """

    widths = (24, 48, 96, 128, 160)

    def __init__(self, norm: Norm = lambda _: nn.Identity()) -> None:
        super().__init__()
        a, b, c, d, e = self.widths
        self.stem = Conv(3, a, norm, stride=2)
        self.down32 = nn.Sequential(Conv(a, b, norm, stride=2), Residual(b, norm))
        self.down16 = nn.Sequential(Conv(b, c, norm, stride=2), Residual(c, norm))
        self.down8 = nn.Sequential(Conv(c, d, norm, stride=2), Residual(d, norm), Residual(d, norm))
        self.down4 = nn.Sequential(Conv(d, e, norm, stride=2), Residual(e, norm))
        self.side8, self.side16, self.side32 = (
            Conv(e, d, norm, size=1),
            Conv(d, c, norm, size=1),
            Conv(c, 64, norm, size=1),
        )
        self.lateral32 = Conv(b, 64, norm, size=1)
        self.up16, self.up32 = Conv(c, c, norm), Conv(64, 64, norm)
        self.heatmaps = nn.Conv2d(64, 68, 1)
        self.quality = nn.Linear(e, 1)

    def logits(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmaps [n, 68, 32, 32] before the softmax, and the confidence's logit [n]; fp32."""
        x32 = self.down32(self.stem(crops.contiguous(memory_format=torch.channels_last)))
        x16 = self.down16(x32)
        x8 = self.down8(x16)
        x4 = self.down4(x8)
        y = x8 + F.interpolate(self.side8(x4), scale_factor=2)
        y = self.up16(x16 + F.interpolate(self.side16(y), scale_factor=2, mode="bilinear"))
        y = self.up32(self.lateral32(x32) + F.interpolate(self.side32(y), scale_factor=2, mode="bilinear"))
        quality: Tensor = self.quality(x4.mean((2, 3)))
        return self.heatmaps(y).float(), quality[:, 0].float()

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Points [n, 68, 2] in pixels of the crop, and confidence [n] in 0..1."""
        heatmaps, quality = self.logits(crops)
        return expected_places(heatmaps), quality.sigmoid()


def expected_places(heatmaps: Tensor) -> Tensor:
    """Mean place [n, k, 2] under the softmax of `heatmaps` [n, k, h, w], in pixels of the crop."""
    n, k, h, w = heatmaps.shape
    share = heatmaps.flatten(2).softmax(2).reshape(n, k, h, w)
    place = (torch.arange(w, dtype=share.dtype, device=share.device) + 0.5) * STRIDE - 0.5
    return torch.stack([share.sum(2) @ place, share.sum(3) @ place], 2)
