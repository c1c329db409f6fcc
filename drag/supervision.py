"""One step of the DragGAN loop as a pure function: track, then supervise, then Adam on the first rows of w_plus.

Pan et al., "Drag Your GAN", 2023. Positions are in work pixels: those of the generator's picture, or of that picture
enlarged to 256 px where it is smaller, since the published radii (3 and 12 px at 512) vanish on small pictures.
Features are sampled at their native resolution; no map is enlarged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from realdrag.geometry import sample_features
from realdrag.stylegan import Generator

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as published
SMALLEST_WORK = 256


@dataclass(frozen=True, eq=False)
class Problem:
    """What stays the same through a drag.

    start: w_plus [1, num_ws, w_dim] of this drag; rows: how many of its rows may move.
    targets [n, 2] work pixels; templates [n, c]; original: features of the unedited latent [1, c, r, r].
    fixed: [r, r] in 0..1, where the picture must not change, or None; mask_weight: its weight in the loss.
    keep_weight: the weight of all features staying as they were.
    patch [k, 2], window [m, 2]: offsets in work pixels of the supervised and of the searched points.
    """

    generator: Generator
    block: str
    start: Tensor
    rows: int
    lr: float
    targets: Tensor
    templates: Tensor
    original: Tensor
    fixed: Tensor | None
    mask_weight: float
    keep_weight: float
    work: int
    patch: Tensor
    window: Tensor
    push: float
    stop: float

    @cached_property
    def typical(self) -> list[Tensor]:
        """How far the features of the original's places are from each template, in the median: what mismatch is 1."""
        places = self.original[0].flatten(1).t()
        return [(places - template).norm(dim=1).median() for template in self.templates]


@dataclass(frozen=True, eq=False)
class State:
    """Where a drag is: the free rows [1, rows, w_dim], Adam's two moments of them, the handles [n, 2] work pixels."""

    step: int
    free: Tensor
    moment: Tensor
    power: Tensor
    points: Tensor


@dataclass(frozen=True, eq=False)
class Sight:
    """What a state looks like: the handles found again, and how far their features are from the templates.

    mismatch: [n], 0 for the template itself, 1 for the typical place of the original picture.
    """

    points: Tensor
    distances: Tensor
    mismatch: Tensor


def disc(radius: float, spacing: float = 1.0) -> Tensor:
    """Offsets [k, 2] closer than `radius` to the origin, `spacing` apart."""
    square = grid(radius, spacing)
    return square[square.norm(dim=1) < radius]


def grid(radius: float, spacing: float = 1.0) -> Tensor:
    """Offsets [k, 2] of the square −radius … radius, `spacing` apart."""
    n = int(radius / spacing)
    axis = torch.arange(-n, n + 1) * spacing
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def w_plus(problem: Problem, free: Tensor) -> Tensor:
    """The whole latent of a state's free rows."""
    return torch.cat([free, problem.start[:, problem.rows :]], 1)


def at(features: Tensor, points: Tensor, work: int) -> Tensor:
    """Features [k, c] at `points` [k, 2] in work pixels."""
    scale = features.shape[-1] / work
    return sample_features(features, (points + 0.5) * scale - 0.5)


def track(problem: Problem, features: Tensor, points: Tensor) -> Sight:
    """Finds each handle again: the nearest feature vector (L2) to its template in the window around `points`."""
    found, mismatch = [], []
    with torch.no_grad():
        for point, template, typical in zip(points, problem.templates, problem.typical, strict=True):
            candidates = (point + problem.window).clamp(0, problem.work - 1)
            cost = (at(features, candidates, problem.work) - template).norm(dim=1)
            found.append(candidates[cost.argmin()])
            mismatch.append(cost.min() / typical)
        new = torch.stack(found)
        return Sight(new, (problem.targets - new).norm(dim=1), torch.stack(mismatch))


def supervise(problem: Problem, features: Tensor, sight: Sight) -> Tensor:
    """Motion supervision plus what holds the picture still.

    Each patch is pulled one `push` towards its target; the gradient flows through the shifted side alone. The mask
    term is a mean over the fixed area, not over the picture, so a small fixed region holds as firmly as a large one.
    """
    loss = features.new_zeros([])
    for point, target, distance in zip(sight.points, problem.targets, sight.distances, strict=True):
        if distance <= problem.stop / 2:
            continue
        shift = (target - point) / distance * min(problem.push, float(distance))
        here = at(features, point + problem.patch, problem.work).detach()
        loss = loss + (at(features, point + problem.patch + shift, problem.work) - here).abs().mean()
    moved = (features - problem.original).abs().mean(1)[0]
    if problem.fixed is not None:
        loss = loss + problem.mask_weight * (moved * problem.fixed).sum() / problem.fixed.sum()
    return loss + problem.keep_weight * moved.mean()


def look(problem: Problem, state: State) -> tuple[State, Sight, Tensor]:
    """Features of a state, with the graph to its free rows; the handles as they are now."""
    free = state.free.detach().requires_grad_()
    features = problem.generator.synthesize(w_plus(problem, free), problem.block)
    sight = track(problem, features, state.points)
    return replace(state, free=free, points=sight.points), sight, features


def advance(problem: Problem, state: State, sight: Sight, features: Tensor) -> tuple[State, float]:
    """The next state, one Adam step on, and the loss that led there."""
    loss = supervise(problem, features, sight)
    (gradient,) = torch.autograd.grad(loss, state.free)
    step = state.step + 1
    moment = BETAS[0] * state.moment + (1 - BETAS[0]) * gradient
    power = BETAS[1] * state.power + (1 - BETAS[1]) * gradient.square()
    scale = (power / (1 - BETAS[1] ** step)).sqrt() + EPSILON
    free = state.free.detach() - problem.lr * moment / (1 - BETAS[0] ** step) / scale
    return State(step, free, moment, power, state.points), float(loss.detach())
