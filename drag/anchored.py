"""The default loop: handles anchored to the patch they were placed on, found to fractions of a pixel.

Positions are in feature pixels. A handle's template is the patch of features around where it was placed, and how that
patch changes when it moves. Where the patch lies now is found by Gauss-Newton on their difference (Lucas and Kanade
1981; the inverse, compositional form of Baker and Matthews 2004), in a form with a gradient: the loss is the distance
itself, of the handles to places some way ahead, not a difference of features one pixel on, as published. What the shift
does not explain of the patch is held down as well, so that a handle cannot arrive by changing its look.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from realdrag.drag.held import inside
from realdrag.drag.loop import LOST, Problem, Sight, State, adam, disc, grid, sample_patches, to_side, with_kept

BETAS = (0.7, 0.95)
# Lengths are in feature pixels. Of patches 5, 6 and 8 wide, on `faces-128`, 6 ends nearest.
PATCH, SPACING = 6.0, 1.5
# A patch moves as one, so it is smaller where handles near each other go different ways (lids, lips): within it the
# ways differ by no more than this, as told by the handles; and it is no smaller than that.
STRETCH, LEAST_PATCH = 1.5, 1.0
AHEAD = 2.0  # the shift is linear in the features no farther
NEAR = 1 / 512  # of the side: nearer to its target a handle is pulled less and less
STOP = 1 / 256  # of the side: 2 px of a 512 picture
DAMPING = 0.01  # of the mean of the diagonal, for patches that look the same along a line
FITS, FARTHEST_FIT = 3, 1.0
# The rate is halved after so many looks without a cost lower by 3 %; halved so often, the drag has stalled.
PATIENCE, FALL, FALLS, LOWER = 4, 0.5, 4, 0.97
SETTLED = 2  # so many looks of an arrived drag without a lower cost, and it ends: until then the rest gets nearer
FREE_CHANGE = 0.3  # of the features' mean: smaller changes cost little, else a drag that is held firmly does not begin
FREE_AROUND = 6.0  # so far around a handle's way the features are not kept: they are to move
SEARCH = 8.0  # a lost handle is looked for again, so far around
LEAST_FREE = 0.99  # a handle at the edge of the mask is found by what little of its patch may move
ROWS = 32  # of features at a time, where a copy of all would be large


class Anchored:
    """The default loop on one problem."""

    doubts = True
    holds = True

    def __init__(self, problem: Problem, kept: dict[int, Tensor]) -> None:
        """kept: handle → template from an earlier drag."""
        self.problem = problem
        resolution, self.side = problem.generator.config.img_resolution, problem.original.shape[-1]
        self.stop, self.near = STOP * self.side, NEAR * self.side
        device = problem.start.device
        self.patch = disc(PATCH, SPACING).to(device)
        self.search = grid(SEARCH).to(device)
        self.targets = to_side(problem.targets, resolution, self.side)
        starts = to_side(problem.handles, resolution, self.side)
        self.templates = with_kept(self.look_at(self.seen(problem.now), starts), kept)
        self.template, self.slope = self.templates[:, 0], self.templates[:, 1:]  # [n, k, c], [n, 2, k, c]
        share, self.part = self.parts(starts)
        self.match = problem.settings.match_weight * share
        product = torch.einsum("nikc,njkc->nij", self.part * self.slope, self.slope)
        size = product.diagonal(dim1=1, dim2=2).mean(1)
        damping = (2 * DAMPING * size + 1e-9)[:, None, None] * torch.eye(2, device=device)
        self.inverse = torch.linalg.inv(product + damping)
        self.spread = (self.template - self.template.mean(1, keepdim=True)).square().mean((1, 2)) + 1e-9
        self.typical = float(problem.original.abs().mean()) + 1e-9
        self.held = self.weights(starts)

    def look_at(self, features: Tensor, points: Tensor) -> Tensor:
        """Templates [n, 3, k, c] of the handles at `points`: the patch, and its slope along x and y."""
        patches = [sample_patches(features, points, self.patch)]
        for axis in (0, 1):
            half = torch.zeros(2, device=points.device)
            half[axis] = 0.5
            ahead, behind = (sample_patches(features, points + sign * half, self.patch) for sign in (1, -1))
            patches.append(ahead - behind)
        return torch.stack(patches, 1)

    def parts(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """How wide the patches that go the handles' ways are [n], in shares of the widest, and the weights of their
        places [n, 1, k, 1], of mean 1. What the mask holds fast is no part of a patch.
        """
        between = torch.cdist(starts, starts) + 1e-9
        stretch = torch.cdist(self.targets - starts, self.targets - starts) / between
        radius = (STRETCH / stretch.amax(1).clamp(min=1e-9)).clamp(LEAST_PATCH, PATCH)
        part, share = (self.patch.norm(dim=1) < radius[:, None]).to(starts.dtype), radius / PATCH
        if self.problem.fixed is not None:
            free = 1 - sample_patches(self.problem.fixed[None, None], starts, self.patch)[..., 0].clamp(max=LEAST_FREE)
            share = share * ((part * free).sum(1) / part.sum(1)).sqrt()
            part = part * free
        return share, (part / part.mean(1, keepdim=True))[:, None, :, None]

    def seen(self, features: Tensor) -> Tensor:
        """`features` [1, c, r, r] of a latent as the picture has them: those of the unedited face outside the mask."""
        fixed = self.problem.fixed
        return features if fixed is None else inside(self.problem.original, features, 1 - fixed)

    def weights(self, starts: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What features are held to [1, c, r, r], and what a change from it costs at each place [r, r].

        All are held to what this drag began with, but around handles' ways; what is fixed to the unedited face.
        """
        problem, settings = self.problem, self.problem.settings
        kept = settings.keep_weight / self.side**2 * self.away(starts)
        if problem.fixed is None:
            return [(problem.now, kept)]
        # A mean over the fixed area, so that a small one holds as firmly as a large one.
        fixed = settings.mask_weight * problem.fixed / problem.fixed.sum()
        if problem.now is problem.original:
            return [(problem.now, kept + fixed)]
        return [(problem.now, kept), (problem.original, fixed)]

    def away(self, starts: Tensor) -> Tensor:
        """1 where no handle passes on its way, 0 where one does [r, r]."""
        along = torch.arange(self.side, dtype=starts.dtype, device=starts.device)
        places = torch.stack(torch.meshgrid(along, along, indexing="xy"), -1)[:, :, None]  # [r, r, 1, 2]
        way = self.targets - starts
        share = ((places - starts) * way).sum(-1) / way.square().sum(-1).clamp(min=1e-9)
        off = (places - starts - share.clamp(0, 1)[..., None] * way).square().sum(-1).amin(-1)
        return 1 - (-off / (2 * FREE_AROUND**2)).exp()

    def look(self, state: State) -> Sight:
        """Synthesis, the handles found again, and the loss of the next step."""
        free = state.free.detach().requires_grad_()
        features = self.problem.features(free)
        seen = self.seen(features)
        with torch.no_grad():
            points = self.find(seen, state.points)
        loss, held, mismatch = self.loss(features, seen, points)
        distances = (self.targets - points).norm(dim=1)
        cost = float(self.pull(distances) + held.detach())
        return Sight(free, points, distances, confidence(mismatch), loss, cost)

    def loss(self, features: Tensor, seen: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss with handles at `points`, what of it is not their distance, and how unlike their patches are [n].

        What changes is counted in the latent's own `features`, so that those outside the mask, which the picture does
        not have, still fit what is `seen` inside.
        """
        shift, mismatch = self.differ(seen, points)
        left = self.targets - points
        ahead = left * (AHEAD / left.norm(dim=1).clamp(min=AHEAD))[:, None]  # where a handle shall be next
        changes = [Change.cost(features, before, weights, self.typical) for before, weights in self.held]
        held = sum(changes, (self.match * mismatch).sum())
        far = (ahead - shift).square().sum(1).clamp(min=1e-9).sqrt()  # a root has no gradient at 0
        return self.pull(far) + held, held, mismatch

    def advance(self, state: State, sight: Sight) -> State:
        """One step of Adam on, at a rate that falls when the cost no longer does."""
        (gradient,) = torch.autograd.grad(sight.loss, sight.free)
        waited, rate = self.waited(state, sight), state.rate
        best = state.best if waited else sight.cost
        if waited >= PATIENCE:
            waited, rate = 0, rate * FALL
        free, moment, power = adam(replace(state, rate=rate), gradient, BETAS)
        return State(state.step + 1, free, moment, power, sight.points, rate, best, waited)

    def waited(self, state: State, sight: Sight) -> int:
        """For how many looks the cost has not fallen."""
        return 0 if sight.cost < LOWER * state.best else state.waited + 1

    def settled(self, state: State, sight: Sight) -> bool:
        """Whether a drag that has arrived has nothing more to win; none that arrived before it began."""
        return state.step == 0 or self.waited(state, sight) >= SETTLED

    def stalled(self, state: State) -> bool:
        """Whether the rate has fallen so often that nothing more will come."""
        return state.rate <= self.problem.settings.lr * FALL**FALLS

    def pull(self, distances: Tensor) -> Tensor:
        """The sum of distances [n], as squares where nearly nothing is left (Huber's)."""
        near = distances.clamp(max=self.near)
        return (near.square() / (2 * self.near) + distances - near).sum()

    def find(self, features: Tensor, points: Tensor) -> Tensor:
        """Where the templates lie now, from where they lay; one that is lost is looked for all around."""
        points = self.fit(features, points)
        lost = confidence(self.differ(features, points)[1]) < LOST
        for i in torch.nonzero(lost)[:, 0].tolist():
            around = (points[i] + self.search).clamp(0, self.side - 1)
            apart = sample_patches(features, around, self.patch) - self.template[i]
            unlike = (self.part[i, 0] * apart.square()).mean((1, 2))
            again = points.clone()
            again[i] = around[unlike.argmin()]
            again = self.fit(features, again)
            now, then = (self.differ(features, p)[1][i] for p in (again, points))
            if now < then:
                points = again
        return points

    def fit(self, features: Tensor, points: Tensor) -> Tensor:
        """Gauss-Newton from `points`, so far at a time as the slope of a patch holds."""
        for _ in range(FITS):
            shift = self.differ(features, points)[0]
            points = points + shift * (FARTHEST_FIT / shift.norm(dim=1, keepdim=True).clamp(min=FARTHEST_FIT))
            points = points.clamp(0, self.side - 1)
        return points

    def differ(self, features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """How far beyond `points` the templates lie [n, 2], and the share of their spread that it does not explain."""
        apart = sample_patches(features, points, self.patch) - self.template
        shift = -(self.inverse @ torch.einsum("nikc,nkc->ni", self.part * self.slope, apart)[..., None])[..., 0]
        rest = apart + torch.einsum("nikc,ni->nkc", self.slope, shift)
        return shift, (self.part[:, 0] * rest.square()).mean((1, 2)) / self.spread


class Change(torch.autograd.Function):
    """What features [1, c, r, r] other than those `before` cost: at each place the mean over channels of Charbonnier's
    penalty of their differences in units of `unit`, times the place's weight [r, r].

    Value and gradient in one go: made of single operations, each of which keeps a map, it is a tenth of a step.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, features: Tensor, before: Tensor, weights: Tensor, unit: float
    ) -> Tensor:
        change = (features - before).div_(unit)
        cost = change.new_zeros(())
        for part, weight in zip(torch.split(change, ROWS, 2), torch.split(weights, ROWS), strict=True):
            root = part.square().add_(FREE_CHANGE**2).sqrt_()
            cost += ((root.mean(1)[0] - FREE_CHANGE) * weight).sum()
            part.div_(root).mul_(weight / (unit * features.shape[1]))
        ctx.save_for_backward(change)
        return cost

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * outputs[0], None, None, None

    @classmethod
    def cost(cls, features: Tensor, before: Tensor, weights: Tensor, unit: float) -> Tensor:
        """`apply`, with its types."""
        cost: Tensor = cls.apply(features, before, weights, unit)  # type: ignore[no-untyped-call]
        return cost


def confidence(mismatch: Tensor) -> Tensor:
    """1 for a patch that only moved, 0 for one as unlike as its own places are among themselves."""
    return (1 - mismatch.detach().sqrt()).clamp(0, 1)
