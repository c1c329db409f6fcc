"""A crop into the generator's latent space: W, then W+, then the generator itself around the pivot.

Projection after Karras et al. 2020 (appendix D), pivotal tuning after Roich et al. 2021 ("PTI"). The noise maps stay
the model's own, or are optimised and kept: the published projectors optimise them on a copy and drop it, and so show
another picture than the one they optimised.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from realdrag.geometry import resize
from realdrag.inversion.losses import Lpips, Perceptual, pixel_distance
from realdrag.inversion.noise import FreeNoise
from realdrag.inversion.optimise import Checkpoint, Phase, Phases
from realdrag.inversion.spread import Spread
from realdrag.inversion.tuning import cost, tune
from realdrag.progress import Progress
from realdrag.settings import InversionSettings
from realdrag.stylegan import Encoder, Generator, to_picture, to_tensor, with_delta
from realdrag.values import Latent


def invert(
    crop: npt.NDArray[np.uint8],
    generator: Generator,
    encoder: Encoder | None,
    perceptual: Perceptual,
    spread: Spread,
    settings: InversionSettings,
    *,
    model_sha256: str,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    watch: Callable[[npt.NDArray[np.float32]], None] = lambda w_plus: None,
) -> Latent:
    """The latent whose picture is most like `crop` [s, s, 3] uint8 (reduced by area to the generator's size).

    `checkpoint` takes up interrupted work; the result is the same to the byte. The generator is left as it was.
    watch: told w_plus [num_ws, w_dim] after each step of the projection.
    """
    device = generator.mapping.w_avg.device
    small = np.ascontiguousarray(resize(crop, generator.config.img_resolution))
    target = to_tensor(small).to(device)
    distance = perceptual.to(target)
    encoder = encoder if settings.start == "auto" else None
    plan = {"w": settings.steps_w if encoder is not None else settings.steps_w_from_mean}
    plan |= {"w+": settings.steps_w_plus} if settings.space == "w+" else {}
    plan |= {"tune": settings.tune_steps} if settings.tune != "none" else {}
    phases = Phases(checkpoint, progress, plan, {"tune": cost(generator, settings)})
    noise = FreeNoise(generator) if settings.noise == "optimised" else None
    scene = generator if noise is None else noise.generator
    maps, after = ({}, nothing) if noise is None else (noise.maps, noise.normalise)

    def likeness(picture: Tensor, pixel_weight: float) -> dict[str, Tensor]:
        terms = {"perceptual": distance(picture)}
        return terms | ({"pixels": pixel_weight * pixel_distance(picture, target)} if pixel_weight else {})

    def projected(w_plus: Tensor) -> dict[str, Tensor]:
        terms = likeness(scene.synthesize(w_plus), settings.pixel_weight)
        if settings.prior_weight:
            terms["prior"] = settings.prior_weight * spread.strangeness(w_plus).mean()
        return terms | ({} if noise is None else {"noise": noise.irregularity()})

    def stepped(w_plus: Tensor) -> None:
        after()
        watch(w_plus[0].detach().cpu().numpy())

    start = starting_point(generator, encoder, target, settings.space)
    common = torch.zeros_like(start[:, :1]).requires_grad_()
    phases.run(
        Phase("w", {"offset": common, **maps}, settings.lr, plan["w"], settings.warm_up, plateau=settings.plateau),
        lambda step: projected(start + common + wandering(settings.explore * spread.deviation, step, plan["w"], start)),
        lambda: stepped(start + common),
    )
    pivot = (start + common).detach()
    with torch.no_grad():
        nearest = float(distance(scene.synthesize(pivot)))
    if settings.space == "w+":
        free = pivot.clone().requires_grad_()
        phases.run(
            Phase("w+", {"w_plus": free, **maps}, settings.lr, plan["w+"], settings.warm_up, plateau=settings.plateau),
            lambda step: projected(free),
            lambda: stepped(free),
        )
        pivot = free.detach()
    for one in maps.values():
        one.requires_grad_(False)
    delta = tune(scene, pivot, lambda x: likeness(x, settings.tune_pixel_weight), perceptual, settings, phases)
    delta |= {} if noise is None else noise.delta()
    with torch.no_grad():
        # Rendered with the delta as it is kept (fp16), so that every later load shows these bytes.
        picture = to_picture(with_delta(generator, delta).synthesize(pivot))
    return Latent(
        w_plus=pivot[0].cpu().numpy(),
        delta=delta or None,
        picture=picture,
        model_sha256=model_sha256,
        loss=perceptual.name,
        metrics=measure(picture, small, perceptual)
        | {"domain": round(nearest / max(spread.strangers(perceptual), 1e-6), 2)},
        curves=phases.curves,
    )


def nothing() -> None: ...


def wandering(size: float, step: int, steps: int, like: Tensor) -> Tensor:
    """The noise [1, 1, w_dim] that the published projector adds to w, less and less over three quarters of its steps.

    size: its standard deviation at first. The same for the same step.
    """
    now = size * max(0.0, 1 - step / steps / 0.75) ** 2
    return now * torch.randn(1, 1, like.shape[-1], generator=torch.Generator().manual_seed(step)).to(like)


def starting_point(generator: Generator, encoder: Encoder | None, target: Tensor, space: str) -> Tensor:
    """Where optimisation begins, [1, num_ws, w_dim]: the encoder's estimate, else the mean latent; one row for W."""
    num_ws = generator.config.num_ws
    mean = generator.mapping.w_avg
    if encoder is None:
        return mean.expand(1, num_ws, -1).clone()
    with torch.no_grad():
        estimate: Tensor = encoder(target, mean)
    return estimate.mean(1, keepdim=True).repeat(1, num_ws, 1) if space == "w" else estimate


def measure(
    picture: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], perceptual: Perceptual
) -> dict[str, float | None]:
    """LPIPS (None without a backbone), PSNR in dB and SSIM of two [r, r, 3] uint8 pictures."""
    from skimage.metrics import structural_similarity  # a third of a second to import

    error = np.square(picture.astype(np.float64) - target).mean()
    lpips = perceptual.measure(to_tensor(picture), to_tensor(target)) if isinstance(perceptual, Lpips) else None
    return {
        "lpips": None if lpips is None else round(lpips, 4),
        "psnr": round(float(10 * np.log10(255**2 / max(error, 1e-4))), 2),
        "ssim": round(float(structural_similarity(picture, target, channel_axis=2)), 4),
    }
