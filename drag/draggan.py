"""The published loop: motion supervision and tracking of DragGAN (Pan et al., "Drag Your GAN", 2023).

Positions are in pixels of the generator's picture; below 256 px of that picture enlarged to 256, since the published
radii (3 and 12 px at 512) vanish on small pictures. Features are sampled where they are needed, as if the map had been
enlarged to that size; it never is.

Published faults that change results and are left out: the patch lies where the handle is (the published grid slides it
by up to a pixel), beyond the picture features read as its edge, not as zero, and the mask's term is a mean over the
map's own pixels, not over those of its enlargement.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from realdrag.drag.loop import Problem, Sight, State, adam, disc, grid, to_side, with_kept
from realdrag.geometry import sample_features

SMALLEST_SIDE = 256
BETAS = (0.9, 0.999)
NEAR = 1.0  # handles this near are no longer pulled


class DragGan:
    """The published loop on one problem. It knows no doubt: it ends on arrival or after so many steps."""

    doubts = False
    holds = False

    def __init__(self, problem: Problem, kept: dict[int, Tensor]) -> None:
        """kept: handle → template from an earlier drag."""
        self.problem = problem
        resolution = problem.generator.config.img_resolution
        self.side = max(resolution, SMALLEST_SIDE)
        self.stop = max(2 * self.side / 512, 2.0)
        device = problem.start.device
        self.patch = disc(round(3 * self.side / 512)).to(device)
        self.window = grid(round(12 * self.side / 512)).to(device)
        self.targets = to_side(problem.targets, resolution, self.side)
        starts = to_side(problem.handles, resolution, self.side).round().clamp(0, self.side - 1)
        self.templates = with_kept(self.at_pixels(problem.now, starts), kept)
        places = problem.original[0].flatten(1).t()
        # How far the picture's places are from each template, in the median: there is no likeness left then.
        self.unlike = torch.stack([(places - template).norm(dim=1).median() for template in self.templates])

    def look(self, state: State) -> Sight:
        """Synthesis, tracking, and the loss of the next step."""
        free = state.free.detach().requires_grad_()
        features = self.problem.features(free)
        points, unlikeness = self.track(features.detach(), state.points.round())
        distances = (self.targets - points).norm(dim=1)
        confidence = (1 - unlikeness / self.unlike).clamp(0, 1)
        loss = self.loss(features, points, distances)
        return Sight(free, points, distances, confidence, loss, float(distances.mean()))

    def advance(self, state: State, sight: Sight) -> State:
        """One step of Adam on."""
        (gradient,) = torch.autograd.grad(sight.loss, sight.free)
        free, moment, power = adam(state, gradient, BETAS)
        return replace(state, step=state.step + 1, free=free, moment=moment, power=power, points=sight.points)

    def settled(self, state: State, sight: Sight) -> bool:
        """As published: at once."""
        return True

    def stalled(self, state: State) -> bool:
        """As published: never."""
        return False

    def track(self, features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """The pixel nearest (L2) to each template in the window around its handle, and how far it is from it."""
        found, unlikeness = [], []
        for point, template in zip(points, self.templates, strict=True):
            candidates = (point + self.window).clamp(0, self.side - 1)
            cost = (self.at_pixels(features, candidates) - template).norm(dim=1)
            found.append(candidates[cost.argmin()])
            unlikeness.append(cost.min())
        return torch.stack(found), torch.stack(unlikeness)

    def loss(self, features: Tensor, points: Tensor, distances: Tensor) -> Tensor:
        """What pulls the handles, and what holds the rest."""
        settings = self.problem.settings
        change = (features - self.problem.original).abs().mean(1)[0]
        loss = self.pull(features, points, distances) + settings.keep_weight * change.mean()
        if self.problem.fixed is not None:
            loss = loss + settings.mask_weight * (change * (self.problem.fixed > 0.5)).mean()
        return loss

    def pull(self, features: Tensor, points: Tensor, distances: Tensor) -> Tensor:
        """Each patch against itself one pixel on towards its target; the gradient flows through the shifted side."""
        loss = 0 * features.sum()
        for point, target, distance in zip(points, self.targets, distances, strict=True):
            if distance <= NEAR:
                continue
            patch = point + self.patch
            here = self.at_pixels(features.detach(), patch)
            loss = loss + (self.between_pixels(features, patch + (target - point) / distance) - here).abs().mean()
        return loss

    def at_pixels(self, features: Tensor, pixels: Tensor) -> Tensor:
        """Features [k, c] at whole `pixels` [k, 2] of the enlarged map."""
        return sample_features(features, to_side(pixels, self.side, features.shape[-1]))

    def between_pixels(self, features: Tensor, points: Tensor) -> Tensor:
        """Features [k, c] at `points` [k, 2] of the enlarged map: bilinear between its pixels, as published."""
        low = points.floor()
        part = points - low
        mixed = features.new_zeros(len(points), features.shape[1])
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            corner = (low + low.new_tensor([dx, dy])).clamp(0, self.side - 1)
            share = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
            mixed = mixed + share[:, None] * self.at_pixels(features, corner)
        return mixed
