"""What every step of a drag works on: the problem, the state, what a state looks like, and Adam on the free rows.

A step is a pure function of a state value, so a way can be kept, cut and gone on from. Positions are (x, y) in pixels
of a square of `Loop.side`, which each loop chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from realdrag.geometry import sample_features
from realdrag.settings import DragSettings
from realdrag.stylegan import Generator

EPSILON = 1e-8  # Adam's
LOST = 0.1  # a handle that is found with less confidence is lost


@dataclass(frozen=True, eq=False)
class Problem:
    """What stays the same through a drag.

    start: w_plus [1, num_ws, w_dim] of this drag; its first settings.rows rows may move.
    handles, targets: [n, 2], pixels of the generator's picture. original: features of the unedited latent [1, c, r, r];
    now: those of `start`. fixed: [r, r] in 0..1, where the picture must not change, or None.
    """

    generator: Generator
    block: str
    settings: DragSettings
    start: Tensor
    handles: Tensor
    targets: Tensor
    original: Tensor
    now: Tensor
    fixed: Tensor | None

    def w_plus(self, free: Tensor) -> Tensor:
        """The whole latent of a state's free rows."""
        return torch.cat([free, self.start[:, free.shape[1] :]], 1)

    def features(self, free: Tensor) -> Tensor:
        """[1, c, r, r] of a state's free rows."""
        return self.generator.synthesize(self.w_plus(free), self.block)


@dataclass(frozen=True, eq=False)
class State:
    """Where a drag is.

    free: the free rows [1, rows, w_dim]; moment, power: Adam's of them; rate: its step; points: the handles [n, 2].
    best: the least cost so far; waited: looks since it fell.
    """

    step: int
    free: Tensor
    moment: Tensor
    power: Tensor
    points: Tensor
    rate: float
    best: float = float("inf")
    waited: int = 0


@dataclass(frozen=True, eq=False)
class Sight:
    """What a state looks like.

    points: the handles found again [n, 2]; distances: theirs to the targets [n]; confidence: [n] in 0..1, how far what
    was found looks like what the handle was placed on, 1 like it. loss: what the next step lowers, with its graph to
    `free`. cost: what the whole drag lowers; of its steps the one where this is least is shown.
    """

    free: Tensor
    points: Tensor
    distances: Tensor
    confidence: Tensor
    loss: Tensor
    cost: float


class Loop(Protocol):
    """A way to drag.

    side: in pixels of which square it thinks. holds: whether the picture is the original's outside the mask (`held`),
    not only asked to be. stop: a handle this near to its target has arrived. doubts: whether it
    gives up on lost handles. templates: [n, …], what handles are found again by. settled: whether a drag that has
    arrived ends here. stalled: whether one that has not gives up.
    """

    problem: Problem
    side: int
    stop: float
    doubts: bool
    holds: bool
    templates: Tensor

    def look(self, state: State) -> Sight: ...

    def advance(self, state: State, sight: Sight) -> State: ...

    def settled(self, state: State, sight: Sight) -> bool: ...

    def stalled(self, state: State) -> bool: ...


def begin(problem: Problem, side: int) -> State:
    """The state that a drag starts from."""
    free = problem.start[:, : problem.settings.rows].clone()
    points = to_side(problem.handles, problem.generator.config.img_resolution, side)
    return State(0, free, torch.zeros_like(free), torch.zeros_like(free), points, problem.settings.lr)


def with_kept(templates: Tensor, kept: dict[int, Tensor]) -> Tensor:
    """`templates` [n, …] with those of `kept` in their places, unless another loop took them."""
    fitting = {i: template for i, template in kept.items() if template.shape == templates.shape[1:]}
    return torch.stack([fitting.get(i, template) for i, template in enumerate(templates)])


def to_side(points: Tensor, source: int, target: int) -> Tensor:
    """`points` [n, 2] of a square of `source` px in pixels of one of `target` px."""
    return (points + 0.5) * (target / source) - 0.5


def adam(state: State, gradient: Tensor, betas: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Free rows, moment and power after a step of Adam (Kingma and Ba 2015)."""
    first, second = betas
    moment = first * state.moment + (1 - first) * gradient
    power = second * state.power + (1 - second) * gradient.square()
    scale = (power / (1 - second ** (state.step + 1))).sqrt() + EPSILON
    return state.free - state.rate * moment / (1 - first ** (state.step + 1)) / scale, moment, power


def grid(radius: float, spacing: float = 1.0) -> Tensor:
    """Offsets [k, 2] of the square −radius … radius, `spacing` apart."""
    n = int(radius / spacing)
    axis = torch.arange(-n, n + 1) * float(spacing)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def disc(radius: float, spacing: float = 1.0) -> Tensor:
    """Offsets [k, 2] closer than `radius` to the origin, `spacing` apart."""
    square = grid(radius, spacing)
    return square[square.norm(dim=1) < radius]


def sample_patches(features: Tensor, points: Tensor, patch: Tensor) -> Tensor:
    """Features [n, k, c] at `points` [n, 2] + `patch` [k, 2], pixels of the features."""
    found = sample_features(features, (points[:, None] + patch).reshape(-1, 2))
    return found.reshape(len(points), len(patch), -1)
