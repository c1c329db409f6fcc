"""A crop into the generator's latent space: W, then W+, then the generator itself around the pivot.

Projection after Karras et al. 2020 (appendix D), pivotal tuning after Roich et al. 2021 ("PTI"). The noise maps stay
the model's own throughout: the published projectors optimise them on a copy and drop it, and so show another picture
than the one they optimised.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from realdrag.geometry import resize
from realdrag.inversion.losses import Lpips, Perceptual, pixel_distance
from realdrag.inversion.optimise import Checkpoint, Phases
from realdrag.inversion.tuning import tune
from realdrag.progress import Progress
from realdrag.settings import InversionSettings
from realdrag.stylegan import Encoder, Generator, to_picture, to_tensor, with_delta
from realdrag.values import Latent


def invert(
    crop: npt.NDArray[np.uint8],
    generator: Generator,
    encoder: Encoder | None,
    perceptual: Perceptual,
    settings: InversionSettings,
    *,
    model_sha256: str,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> Latent:
    """The latent whose picture is most like `crop` [s, s, 3] uint8 (reduced by area to the generator's size).

    `checkpoint` takes up interrupted work; the result is the same to the byte. The generator is left as it was.
    """
    device = generator.mapping.w_avg.device
    small = np.ascontiguousarray(resize(crop, generator.config.img_resolution))
    target = to_tensor(small).to(device)
    distance = perceptual.to(target)
    phases = Phases(checkpoint, progress)

    def loss(picture: Tensor) -> Tensor:
        return distance(picture) + settings.pixel_weight * pixel_distance(picture, target)

    start = starting_point(generator, encoder, target, settings.space)
    common = torch.zeros_like(start[:, :1]).requires_grad_()
    phases.run(
        "w",
        {"offset": common},
        lambda: loss(generator.synthesize(start + common)),
        lr=settings.lr,
        steps=settings.steps_w if encoder is not None else settings.steps_w_from_mean,
    )
    pivot = (start + common).detach()
    if settings.space == "w+":
        anchor, free = pivot, pivot.clone().requires_grad_()
        phases.run(
            "w+",
            {"w_plus": free},
            lambda: loss(generator.synthesize(free)) + settings.prior_weight * (free - anchor).square().mean(),
            lr=settings.lr,
            steps=settings.steps_w_plus,
        )
        pivot = free.detach()
    delta = tune(generator, pivot, loss, settings, phases)
    with torch.no_grad():
        # Rendered with the delta as it is kept (fp16), so that every later load shows these bytes.
        picture = to_picture(with_delta(generator, delta).synthesize(pivot))
    return Latent(
        w_plus=pivot[0].cpu().numpy(),
        delta=delta,
        picture=picture,
        model_sha256=model_sha256,
        loss=perceptual.name,
        metrics=measure(picture, small, perceptual),
    )


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
) -> Mapping[str, float | None]:
    """LPIPS (None without a backbone), PSNR in dB and SSIM of two [r, r, 3] uint8 pictures."""
    from skimage.metrics import structural_similarity  # a third of a second to import

    error = np.square(picture.astype(np.float64) - target).mean()
    lpips = perceptual.measure(to_tensor(picture), to_tensor(target)) if isinstance(perceptual, Lpips) else None
    return {
        "lpips": None if lpips is None else round(lpips, 4),
        "psnr": round(float(10 * np.log10(255**2 / max(error, 1e-4))), 2),
        "ssim": round(float(structural_similarity(picture, target, channel_axis=2)), 4),
    }
