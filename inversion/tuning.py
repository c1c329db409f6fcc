"""Pivotal tuning: the generator itself changed a little around one latent, wholly or at low rank.

Roich et al. 2021 ("PTI") tune all weights. Here the colour layers stay, since tuning them makes later edits worse
(Alaluf et al. 2022, "HyperStyle"), and the change can be held to a low rank (Hu et al. 2021, "LoRA"): kilobytes to keep
for each photo instead of megabytes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from realdrag.inversion.optimise import Phases
from realdrag.settings import InversionSettings
from realdrag.stylegan import LEFT, RIGHT, Generator, delta_between
from realdrag.stylegan.networks import ModulatedConv

Delta = dict[str, npt.NDArray[np.float16]]
Loss = Callable[[Tensor], Tensor]


def tune(generator: Generator, pivot: Tensor, loss: Loss, settings: InversionSettings, phases: Phases) -> Delta | None:
    """What tuning adds to the generator, as `with_delta` takes it; None where the settings say so.

    pivot: [1, num_ws, w_dim], stays. loss: of a picture [1, 3, r, r]. The generator is left as it was.
    """
    if settings.tune == "none":
        return None
    tuned = copy.deepcopy(generator)
    if settings.tune == "full":
        weights = {k: p.requires_grad_() for k, p in tuned.synthesis.named_parameters() if "torgb" not in k}
        phases.run(
            "tune", weights, lambda: loss(tuned.synthesize(pivot)), lr=settings.tune_lr, steps=settings.tune_steps
        )
        return delta_between(generator, tuned)
    factors = LowRank(tuned, settings.tune_rank, lambda: loss(tuned.synthesize(pivot)))

    def value() -> Tensor:
        factors.apply()
        return loss(tuned.synthesize(pivot))

    phases.run("tune", factors.parameters, value, lr=settings.tune_lr, steps=settings.tune_steps)
    return factors.delta()


class LowRank:
    """Each convolution's weight as its own plus left · right, [n_out, rank] · [rank, n_in · 9]; biases change freely.

    The right factors begin where the loss's gradient lies, the left ones at zero, so that the first step already goes
    downhill (Wang et al. 2024, "LoRA-GA").
    """

    def __init__(self, tuned: Generator, rank: int, loss: Callable[[], Tensor]) -> None:
        convs = {k: m for k, m in tuned.synthesis.named_modules() if isinstance(m, ModulatedConv)}
        self.layers: dict[str, tuple[nn.Module, Tensor]] = {}
        self.parameters: dict[str, Tensor] = {}
        weights = {name: conv.weight.requires_grad_() for name, conv in convs.items()}
        gradients = torch.autograd.grad(loss(), list(weights.values()))
        for (name, conv), gradient in zip(convs.items(), gradients, strict=True):
            base = conv.weight.detach()
            del conv.weight  # a parameter; `apply` puts a tensor in its place
            self.layers[name] = conv, base
            right = leading_rows(gradient.flatten(1), rank)  # of a narrow layer fewer rows
            left = torch.zeros(len(base), len(right), device=base.device)
            self.parameters[f"{name}.weight{LEFT}"] = left.requires_grad_()
            self.parameters[f"{name}.weight{RIGHT}"] = right.requires_grad_()
            self.parameters[f"{name}.bias"] = conv.bias.requires_grad_()
        self.before = {name: p.detach().clone() for name, p in self.parameters.items() if name.endswith("bias")}
        self.apply()

    def apply(self) -> None:
        """Put the present factors into the generator."""
        for name, (conv, base) in self.layers.items():
            left, right = self.parameters[f"{name}.weight{LEFT}"], self.parameters[f"{name}.weight{RIGHT}"]
            conv.weight = base + (left @ right).view_as(base)

    def delta(self) -> Delta:
        """Factors and differences of biases, fp16."""
        out = {}
        for name, value in self.parameters.items():
            changed = value.detach() - self.before[name] if name in self.before else value.detach()
            out[f"synthesis.{name}"] = changed.cpu().to(torch.float16).numpy()
        return out


def leading_rows(gradient: Tensor, rank: int) -> Tensor:
    """The `rank` directions [rank, n] in which the rows of `gradient` [m, n] are largest, times √n / √rank.

    So the entries are of size one, as a generator's weights are.
    """
    rank = min(max(rank, 1), *gradient.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, right = torch.svd_lowrank(gradient, rank, niter=2)
    rows: Tensor = right.t() * (gradient.shape[1] / rank) ** 0.5
    return rows.contiguous()
