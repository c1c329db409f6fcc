"""The two networks that judge pictures while the generator learns: one from pixels, one from perceptual features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lpips_teacher import SqueezeLPIPS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from realdrag.stylegan.encoder import EqualConv, Pyramid
from realdrag.stylegan.networks import Dense

GROUP = 4  # pictures among which the discriminator sees the spread


class Discriminator(nn.Module):
    """One logit [n, 1] a picture [n, 3, r, r] in −1..1: StyleGAN2's residual discriminator.

    The body runs in the caller's autocast; the spread and the last layers, where small differences count, in fp32.
    """

    def __init__(self, *, resolution: int, channel_base: int, channel_max: int) -> None:
        super().__init__()
        self.body = Pyramid(resolution, channel_base, channel_max)
        c = self.body.out_channels
        self.conv = EqualConv(c + 1, c, 3)
        self.fc = Dense(c * 16, c, activate=True)
        self.out = Dense(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.contiguous(memory_format=torch.channels_last))
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            x = self.conv(torch.cat([x, spread(x)], 1))
            logits: Tensor = self.out(self.fc(x.flatten(1)))
        return logits


def spread(x: Tensor) -> Tensor:
    """Mean standard deviation of features [n, c, h, w] over groups, as a map [n, 1, h, w].

    It shows a generator up that makes the same picture again and again (Karras et al. 2018, section 3).
    """
    n, _, h, w = x.shape
    group = GROUP if n % GROUP == 0 else n
    grouped = x.unflatten(0, (group, n // group))
    deviation = grouped.var(0, unbiased=False).add(1e-8).sqrt().mean((1, 2, 3))  # [n // group]
    return deviation.repeat(group)[:, None, None, None].expand(-1, 1, h, w)


class ProjectedDiscriminator(nn.Module):
    """Logits [n, k] of pictures [n, 3, h, w] in −1..1, by what a frozen SqueezeNet sees in them.

    Its four scales are mixed by fixed random convolutions, across channels and from coarse to fine, and a small
    trained head judges each (Sauer et al. 2021, "Projected GANs converge faster"). It learns far faster than one from
    pixels where pictures and time are few. For the hinge loss; no gradient penalty.
    """

    taps = (1, 4, 7, 12)  # of the SqueezeNet's layers
    widths = (64, 128, 256, 512)  # channels there
    input_size = 128  # the heads' sizes follow from it
    channels = 64

    def __init__(self, backbone: SqueezeLPIPS) -> None:
        super().__init__()
        # Frozen and the same for everybody: in a tuple, so that it is no part of the state.
        self.backbone = (backbone,)
        c = self.channels
        self.mix = nn.ModuleList(nn.Conv2d(n, c, 1) for n in self.widths)
        self.cross = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in self.widths)
        for conv in (*self.mix, *self.cross):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
            conv.requires_grad_(False)
        self.heads = nn.ModuleList(head(c, self.input_size // k - 1) for k in (2, 4, 8, 16))  # maps of 63, 31, 15, 7

    def features(self, x: Tensor) -> list[Tensor]:
        """The four maps, fine to coarse, each scaled to about unit deviation."""
        if x.shape[-1] != self.input_size:
            x = F.interpolate(x, size=(self.input_size, self.input_size), mode="bilinear", align_corners=False)
        (net,) = self.backbone
        x, maps = (x - net.shift) / net.scale, []
        for i, layer in enumerate(net.features):
            x = layer(x)
            if i in self.taps:
                maps.append(x / (x.detach().float().std() + 1e-3).to(x.dtype))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        maps, above, logits = self.features(x), None, []
        for k in reversed(range(len(maps))):
            y = self.mix[k](maps[k])
            if above is not None:
                y = (y + F.interpolate(above, size=y.shape[2:], mode="bilinear", align_corners=False)) / 2**0.5
            above = self.cross[k](y)
            logits.append(self.heads[k](above).flatten(1))
        return torch.cat(logits, 1).float()


def head(channels: int, size: int) -> nn.Sequential:
    """Spectrally normalised convolutions from a map of `size` down to about 4, one logit a place."""
    layers: list[nn.Module] = []
    while size > 7:
        layers += [spectral_norm(nn.Conv2d(channels, channels, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        size //= 2
    layers += [spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, min(size, 4))))
