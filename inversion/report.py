"""What a person looks at after an inversion: photo, picture and difference, the curves, and a verdict in words."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from realdrag.geometry import resize
from realdrag.values import Latent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the figure "domain": how far the nearest picture in W is from the photo, beside two of the model's own from each
# other. `balanced` with LPIPS: 24 faces that the embedded model was not trained on, and eight portraits, came to 0.3 to
# 0.75; a cat, a cup, a wall, noise and faces lying on their side to 0.9 to 3.2. One of two faces upside down passed.
USUAL, OUTSIDE = 0.8, 0.9
UNLIKE = 16.0  # dB: with the fewest steps 32 faces came to 17 and more
GAIN = 4  # of the difference shown
FIGURES = (("lpips", "LPIPS", "↓"), ("psnr", "PSNR, dB", "↑"), ("ssim", "SSIM", "↑"))
PHASES = ("w", "w+", "tune")
COLOURS = {"perceptual": "C0", "pixels": "C1", "prior": "C2", "elsewhere": "C3"}  # noise's loss is of another size
ADVICE = "is it upright, is the right thing in the crop (--face, --box), is this the --model for it?"


def verdict(metrics: Mapping[str, float | None]) -> str:
    """Where the photo lies by the figure "domain", in words; "" for a latent that was not made here.

    Begins with "inside", "at the edge of" or "outside".
    """
    domain, psnr = metrics.get("domain"), metrics.get("psnr")
    if domain is None:
        return ""
    if psnr is not None and psnr < UNLIKE:
        return f"{place(domain)}; the inversion came out unlike the photo: try --preset quality"
    return place(domain)


def place(domain: float) -> str:
    """The verdict by "domain" alone."""
    found = f"{domain:g} times the difference of two of the model's own pictures; up to {USUAL:g} is usual"
    if domain <= USUAL:
        return f"inside the model's domain ({found})"
    if domain <= OUTSIDE:
        return f"at the edge of the model's domain ({found}): look at the inversion first"
    return f"outside the model's domain ({found}): {ADVICE}"


def draw(crop: npt.NDArray[np.uint8], latent: Latent) -> bytes:
    """A PNG: the crop [s, s, 3] uint8, the latent's picture, their difference, the loss at each step, the verdict."""
    # Not pyplot: it would look for a screen. Half a second to import.
    from matplotlib.figure import Figure

    photo = resize(crop, len(latent.picture))
    difference = np.abs(photo.astype(np.int16) - latent.picture) * GAIN
    figure = Figure(figsize=(10, 7.2), layout="constrained", dpi=100)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.4, 3))[:, 0]
    names = ("photo", "inversion", f"difference × {GAIN}")
    for axes, name, picture in zip(above.subplots(1, 3), names, (photo, latent.picture, difference), strict=True):
        axes.imshow(picture.clip(0, 255).astype(np.uint8), interpolation="nearest" if len(photo) < 256 else None)
        axes.set_title(name, fontsize=11)
        axes.set_axis_off()
    axes = below.subplots()
    _curves(axes, latent.curves)
    figures = ", ".join(
        f"{name} {latent.metrics[key]:g} {better}"
        for key, name, better in FIGURES
        if latent.metrics.get(key) is not None
    )
    title = f"{figures}  (arrow: better; guided by {latent.loss})\n{verdict(latent.metrics)}"
    figure.suptitle(title.strip(), fontsize=10, wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "realdrag"})
    return buffer.getvalue()


def _curves(axes: Axes, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """The terms of the loss over the steps of all phases, one after another."""
    lines: dict[str, tuple[list[int], list[float]]] = {}
    first = 0
    for phase in (phase for phase in PHASES if phase in curves):  # a stored latent's come in any order
        terms = curves[phase]
        steps = max((len(values) for values in terms.values()), default=0)
        for term, values in ((term, terms[term]) for term in COLOURS if term in terms):
            x, y = lines.setdefault(term, ([], []))
            x.extend(range(first + 1, first + len(values) + 1))
            y.extend(values)
        if steps:
            axes.axvline(first + 0.5, color="0.8", linewidth=1)
            axes.text(first + 1, 1.01, phase, transform=axes.get_xaxis_transform(), fontsize=9)
        first += steps
    for term, (x, y) in lines.items():
        axes.plot(x, y, label=term, color=COLOURS[term], linewidth=1.5)
    axes.set(xlabel="step", ylabel="term of the loss")
    if lines:
        axes.set(yscale="log", xlim=(0.5, first + 0.5))
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        axes.text(0.5, 0.5, "this latent was not made here: it has no curves", transform=axes.transAxes, ha="center")
