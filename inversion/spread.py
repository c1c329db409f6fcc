"""Where a generator's own latents lie: what keeps an inversion among them, and says how far outside it is.

Before the mapping network's last leaky ReLU, its latents are nearly Gaussian ("P space", Zhu et al. 2020); whitened
there by their principal components, a sample's mean square is 1 and grows with the distance from the samples.
"""

from __future__ import annotations

import itertools
import statistics

import torch
from torch import Tensor

from realdrag.inversion.losses import Perceptual
from realdrag.stylegan import Generator

STRANGERS, PSI = 6, 0.7  # pictures of the model that are compared with each other
SAMPLES = 5000
# Of the largest principal component's variance: directions with less have hardly any samples to be measured by.
FLOOR = 1e-2
SLOPE = 0.2  # of the leaky ReLU


def samples(generator: Generator, count: int, seed: int) -> Tensor:
    """`count` latents w [count, w_dim] of the mapping network; a conditional model's classes take turns."""
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    device, classes = generator.mapping.w_avg.device, generator.config.c_dim
    labels = torch.eye(classes)[torch.arange(count) % classes].to(device) if classes else None
    with torch.no_grad():
        w: Tensor = generator.mapping(z.to(device), labels)
    return w


class Spread:
    """The distribution of a generator's latents.

    deviation: root mean square distance of a sample from the mean latent, over the whole of w.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._strangers: dict[str, float] = {}
        w = samples(generator, SAMPLES, 0)
        self.deviation = float((w - generator.mapping.w_avg).square().sum(1).mean().sqrt())
        before = self._before(w)
        self.mean = before.mean(0)
        # On the processor, where the same model has the same components everywhere.
        variance, axes = torch.linalg.eigh(torch.cov((before - self.mean).t()).cpu().double())
        scale = variance.clamp(min=FLOOR * float(variance[-1])).rsqrt()
        self.whiten = (axes * scale).float().to(w.device)
        self.whiten /= self.strangeness(w).mean().sqrt()

    @staticmethod
    def _before(w: Tensor) -> Tensor:
        return torch.where(w < 0, w / SLOPE, w)

    def strangeness(self, w: Tensor) -> Tensor:
        """Mean square [...] of latents [..., w_dim] in whitened P space: 1 for samples on average."""
        strange: Tensor = ((self._before(w) - self.mean) @ self.whiten).square().mean(-1)
        return strange

    def strangers(self, perceptual: Perceptual) -> float:
        """How far two random pictures of the generator are from each other, by this loss, on average."""
        if perceptual.name not in self._strangers:
            with torch.no_grad():
                w = self.generator.mapping.w_avg.lerp(samples(self.generator, STRANGERS, 1), PSI)
                rows = w[:, None, None].expand(-1, 1, self.generator.config.num_ws, -1)
                pictures = [self.generator.synthesize(row).clamp(-1, 1) for row in rows]
                distances = [float(perceptual.to(a)(b)) for a, b in itertools.combinations(pictures, 2)]
            self._strangers[perceptual.name] = statistics.fmean(distances)
        return self._strangers[perceptual.name]
