"""Pivotal tuning: the generator itself changed a little around one latent, wholly or at low rank.

Roich et al. 2021 ("PTI") tune all weights. Here the colour layers stay unless asked for, since tuning them makes later
edits worse (Alaluf et al. 2022, "HyperStyle"), and the change can be held to a low rank (Hu et al. 2021, "LoRA"):
kilobytes to keep for each photo instead of megabytes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realdrag.inversion.losses import Perceptual
from realdrag.inversion.optimise import Phase, Phases, Terms, total
from realdrag.inversion.spread import samples
from realdrag.settings import InversionSettings
from realdrag.stylegan import LEFT, RIGHT, Generator, delta_between, product
from realdrag.stylegan.networks import ModulatedConv, ToRGB

BALL = 30.0  # how far from the pivot the generator is held to itself, over all rows (Roich et al. 2021)
BALL_PSI = 0.5
LOCALITY_COST = 2.3  # of a step of tuning: with a second picture

Delta = dict[str, npt.NDArray[np.float16]]
Loss = Callable[[Tensor], Terms]


def cost(generator: Generator, settings: InversionSettings) -> float:
    """Of a step of tuning, in steps in W: measured 1.4 to 1.6 at 128 px and 2.1 at 1024 px without locality."""
    alone = 1.5 if generator.config.img_resolution <= 256 else 2.0
    return alone * (LOCALITY_COST if settings.locality else 1)


def tune(
    generator: Generator,
    pivot: Tensor,
    loss: Loss,
    perceptual: Perceptual,
    settings: InversionSettings,
    phases: Phases,
) -> Delta:
    """What tuning adds to the generator, as `with_delta` takes it; empty where the settings say so.

    pivot: [1, num_ws, w_dim], stays. loss: of a picture [1, 3, r, r]. The generator is left as it was.
    """
    if settings.tune == "none":
        return {}
    tuned, colours = copy.deepcopy(generator), settings.tune_layers == "all"
    factors = None
    if settings.tune == "full":
        weights = {k: p for k, p in tuned.synthesis.named_parameters() if colours or "torgb" not in k}
        parameters: dict[str, Tensor] = {k: p.requires_grad_() for k, p in weights.items()}
    else:
        factors = LowRank(tuned, settings.tune_rank, lambda: total(loss(tuned.synthesize(pivot))), colours=colours)
        parameters = factors.parameters

    def terms(step: int) -> Terms:
        if factors is not None:
            factors.apply()
        found = dict(loss(tuned.synthesize(pivot)))
        if settings.locality:
            found["elsewhere"] = settings.locality * elsewhere(generator, tuned, pivot, perceptual, step)
        return found

    phases.run(
        Phase(
            "tune",
            parameters,
            settings.tune_lr,
            settings.tune_steps,
            settings.warm_up,
            stop=settings.tune_stop,
        ),
        terms,
    )
    totals = [sum(terms) for terms in zip(*phases.curves["tune"].values(), strict=True)]
    if totals and totals[-1] > totals[0]:
        return {}  # too few steps, or too high a rate: the generator as it was is nearer
    return delta_between(generator, tuned) if factors is None else factors.delta()


def elsewhere(base: Generator, tuned: Generator, pivot: Tensor, perceptual: Perceptual, seed: int) -> Tensor:
    """How much tuning changed a picture near the pivot: PTI's locality regularisation, one sample a step."""
    with torch.no_grad():
        away = base.mapping.w_avg.lerp(samples(base, 1, seed), BALL_PSI)[:, None] - pivot
        there = pivot + BALL * away / away.norm()
        before = base.synthesize(there)
    after = tuned.synthesize(there)
    return perceptual.to(before)(after) + F.mse_loss(after, before)


class LowRank:
    """Each convolution's weight as its own plus `product(left, right)`; biases change freely.

    A change of rank one is then a filter down the columns times one along the rows (Jaderberg et al. 2014), which costs
    three fifths of the numbers of a plain [n_out, n_in · 9] matrix's and comes nearer to full tuning for each. The
    right factors begin where the loss's gradient lies, the left ones at zero, so that the first step already goes
    downhill (Wang et al. 2024, "LoRA-GA"). colours: the colour layers too.
    """

    def __init__(self, tuned: Generator, rank: int, loss: Callable[[], Tensor], *, colours: bool = False) -> None:
        kinds = (ModulatedConv, ToRGB) if colours else (ModulatedConv,)
        convs = {k: m for k, m in tuned.synthesis.named_modules() if isinstance(m, kinds)}
        self.layers: dict[str, tuple[nn.Module, Tensor]] = {}
        self.parameters: dict[str, Tensor] = {}
        weights = {name: conv.weight.requires_grad_() for name, conv in convs.items()}
        gradients = torch.autograd.grad(loss(), list(weights.values()))
        for (name, conv), gradient in zip(convs.items(), gradients, strict=True):
            base = conv.weight.detach()
            del conv.weight  # a parameter; `apply` puts a tensor in its place
            self.layers[name] = conv, base
            n_out, n_in, height, width = gradient.shape
            right = leading_rows(gradient.transpose(1, 2).reshape(n_out * height, n_in * width), rank)
            left = torch.zeros(n_out, height, len(right), device=base.device)  # of a narrow layer fewer
            self.parameters[f"{name}.weight{LEFT}"] = left.requires_grad_()
            self.parameters[f"{name}.weight{RIGHT}"] = right.view(-1, n_in, width).requires_grad_()
            self.parameters[f"{name}.bias"] = conv.bias.requires_grad_()
        self.before = {name: p.detach().clone() for name, p in self.parameters.items() if name.endswith("bias")}
        self.apply()

    def apply(self) -> None:
        """Put the present factors into the generator."""
        for name, (conv, base) in self.layers.items():
            left, right = self.parameters[f"{name}.weight{LEFT}"], self.parameters[f"{name}.weight{RIGHT}"]
            conv.weight = base + product(left, right)

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
