"""The generator's noise maps optimised with the latent, and kept: the picture optimised is the picture shown.

The loss that keeps them noise, and bringing them back to mean 0 and variance 1 after each step, are the published
projector's (Karras et al. 2020, appendix D). That one optimises a copy's maps and drops them.
"""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from realdrag.stylegan import Generator

WEIGHT = 1e5  # of the maps' regularity beside the perceptual loss


class FreeNoise:
    """A copy of a generator whose noise maps may change. They begin as the model's own."""

    def __init__(self, base: Generator) -> None:
        self.base, self.generator = base, copy.deepcopy(base)
        self.maps = {k: m.requires_grad_() for k, m in self.generator.named_buffers() if k.endswith(".noise_const")}

    def irregularity(self) -> Tensor:
        """WEIGHT times the squared autocorrelation of the maps at a shift of one, from full size down to 8 px."""
        total = torch.zeros([], device=self.base.mapping.w_avg.device)
        for noise in self.maps.values():
            x = noise[None, None]
            while True:
                total = total + (x * x.roll(1, 3)).mean().square() + (x * x.roll(1, 2)).mean().square()
                if x.shape[2] <= 8:
                    break
                x = F.avg_pool2d(x, 2)
        return WEIGHT * total

    def normalise(self) -> None:
        """Mean 0, variance 1."""
        with torch.no_grad():
            for noise in self.maps.values():
                noise.sub_(noise.mean()).mul_(noise.square().mean().rsqrt())

    def delta(self) -> dict[str, npt.NDArray[np.float16]]:
        """The maps' differences to the model's own, as `with_delta` takes them."""
        own = dict(self.base.named_buffers())
        return {k: (m.detach() - own[k]).cpu().to(torch.float16).numpy() for k, m in self.maps.items()}
