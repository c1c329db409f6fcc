"""The published DragGAN loop (Pan et al. 2023), written from its description: what ours is compared with.

As published: the whole picture made, in fp32, each sample with its own weights and every parameter with a gradient;
b128's features enlarged to the picture's size; Adam on the first six rows of w_plus; tracking before supervision, to
whole pixels, by the template of one feature vector; constants in pixels of a 512 picture. Below 256 px picture and
features are enlarged to 256 and that size's constants taken (the radii vanish otherwise); the features are then those
of the block that ours takes.

Faults that change results, which `mended` leaves out:
- the patch is chosen on a grid with step R/(R − 1), so it lies up to one pixel towards the top left of the handle;
- outside the picture features read as zero, which pulls on patches at its edge.
Kept in both, since the constants belong to them: the mask's mean is over the whole picture, tracking knows whole pixels
and no doubt, an all-ones mask is ignored. A limit of steps is given, as in the published evaluation; the programs had
none. Faults of the programs around the loop (templates and picture reset when points change, …) have no place here.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from synthesis import published
from torch import Tensor

from realdrag.drag.drag import choose_block
from realdrag.stylegan import Generator

ROWS, MASK_WEIGHT = 6, 20.0
LR = 2e-3  # the paper's for faces; the programs begin with half of it
SMALLEST = 256


@dataclass(eq=False)
class PublishedDrag:
    """A drag as published; each `step` is one call of the published loop.

    w_plus [1, num_ws, w_dim]; handles, targets [n, 2] (x, y) in pixels of the generator's picture; fixed [R, R], 1
    where the picture must not move, R the picture's side or 256 if that is more. Points are kept in pixels of R.
    """

    generator: Generator
    w_plus: Tensor
    handles: np.ndarray
    targets: np.ndarray
    fixed: Tensor | None = None
    mended: bool = False
    lr: float = LR
    steps: int = 0
    reached: bool = False
    templates: list[Tensor] = field(default_factory=list)
    original: Tensor | None = None

    def __post_init__(self) -> None:
        self.generator.requires_grad_(True)
        self.side = max(self.generator.config.img_resolution, SMALLEST)
        self.block = choose_block(self.generator, "auto")
        self.stop = max(2 * self.side / 512, 2.0)
        self.patch_radius, self.window_radius = round(3 * self.side / 512), round(12 * self.side / 512)
        scale = self.side / self.generator.config.img_resolution
        self.points, self.goals = (
            torch.from_numpy((np.asarray(p) + 0.5) * scale - 0.5).float() for p in (self.handles, self.targets)
        )
        spacing = 1.0 if self.mended else self.side / (self.side - 1)
        self.axis = torch.arange(self.side) * spacing
        self.start = self.w_plus.detach().clone()
        self.free = self.start[:, :ROWS].clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.free], lr=self.lr)

    @property
    def latent(self) -> Tensor:
        """w_plus as it is now."""
        return torch.cat([self.free, self.start[:, ROWS:]], 1)

    @property
    def places(self) -> np.ndarray:
        """The handles [n, 2] in pixels of the generator's picture."""
        scale = self.generator.config.img_resolution / self.side
        return ((self.points.double() + 0.5) * scale - 0.5).numpy()

    def step(self) -> None:
        """Synthesis, tracking, and unless all handles have arrived, one step of Adam."""
        features = published(self.generator, self.latent)[1][self.block]
        features = F.interpolate(features, (self.side, self.side), mode="bilinear")
        if not self.templates:
            self.points = self.points.round().clamp(0, self.side - 1)
            self.templates = [features[0, :, int(y), int(x)].detach() for x, y in self.points]
            self.original = features.detach()
        self.track(features.detach())
        left = (self.goals - self.points).norm(dim=1)
        self.reached = bool((left <= self.stop).all())
        if self.reached:
            return
        loss = self.loss(features, left)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1

    def track(self, features: Tensor) -> None:
        """The pixel most like the template (L2) in the square window around each handle."""
        for i, template in enumerate(self.templates):
            x, y = (int(v) for v in self.points[i])
            left, top = max(x - self.window_radius, 0), max(y - self.window_radius, 0)
            seen = features[0, :, top : y + self.window_radius + 1, left : x + self.window_radius + 1]
            best = int((seen - template[:, None, None]).norm(dim=0).argmin())
            self.points[i] = torch.tensor([left + best % seen.shape[2], top + best // seen.shape[2]])

    def loss(self, features: Tensor, left: Tensor) -> Tensor:
        """Each patch against itself one pixel on towards the target, and the mask."""
        total = features.new_zeros([])
        for point, goal, distance in zip(self.points, self.goals, left, strict=True):
            if distance <= 1:
                continue
            far = (self.axis - point[1]).square()[:, None] + (self.axis - point[0]).square()
            y, x = torch.where(far.sqrt() < self.patch_radius)
            shifted = torch.stack([x, y], 1) + (goal - point) / distance
            grid = (shifted / (self.side - 1) * 2 - 1)[None, None]
            padding = "border" if self.mended else "zeros"
            there = F.grid_sample(features, grid, align_corners=True, padding_mode=padding)[0, :, 0]
            total = total + F.l1_loss(there, features[0, :, y, x].detach())
        fixed = self.fixed
        if fixed is not None and fixed.min() == 0 and fixed.max() == 1:
            assert self.original is not None
            total = total + MASK_WEIGHT * F.l1_loss(features * fixed, self.original * fixed)
        return total

    def run(self, max_steps: int) -> None:
        """Steps until all handles have arrived; the last call looks once more."""
        while not self.reached and self.steps < max_steps:
            self.step()
