"""Measure generators and their encoders beside each other.

    python training/compare.py models/faces-64.safetensors models/faces-128.safetensors --size 64 \\
        --faces faces-128.npz --alex lpips-alex.safetensors --squeeze lpips-squeeze.safetensors --pictures sheets

Samples against the real faces, on AlexNet features (the published figures use Inception, so these compare only with
figures of this script, at the same size and number of samples): Fréchet distance, kernel distance, precision and
recall, and the same between two halves of the real faces. With --squeeze also the encoder on the held-out faces, and
how near the samples come to pictures of the training.
"""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faces as data
import numpy as np
import torch
import torch.nn.functional as F
from lpips_teacher import SqueezeLPIPS
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file
from scipy import linalg
from torch import Tensor

from realdrag.stylegan import Encoder, Generator, build_encoder, build_generator

SEED = 1  # of the samples that are measured
CHUNK = 64  # pictures at a time
SUBSETS, SUBSET_SIZE = 50, 1000  # of the kernel distance
NEIGHBOURS = 3  # k of precision and recall
SHORTLIST = 48  # nearest by AlexNet, of which LPIPS picks the nearest
MEAN_STEPS, ENCODER_STEPS, RATE = 150, 60, 0.05


@dataclass(frozen=True)
class Model:
    """A generator, with the encoder that lies beside its file."""

    name: str
    generator: Generator
    encoder: Encoder | None

    @property
    def size(self) -> int:
        """Side of its pictures."""
        return self.generator.config.img_resolution


def load_model(path: Path) -> Model:
    """MODEL.safetensors, and MODEL-encoder.safetensors where there is one."""

    def read(file: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
        with safe_open(file, "pt") as opened:
            return load_file(file), opened.metadata() or {}, file.name

    beside = path.with_name(f"{path.stem}-encoder.safetensors")
    encoder = build_encoder(*read(beside)) if beside.exists() else None
    return Model(path.stem, build_generator(*read(path)), encoder)


def tensor(pictures: np.ndarray) -> Tensor:
    """[n, s, s, 3] uint8 to [n, 3, s, s] in −1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def reduced(x: Tensor, size: int) -> Tensor:
    """Pictures [n, 3, s, s] reduced by area to `size`."""
    return x if x.shape[-1] == size else F.interpolate(x, size=(size, size), mode="area")


class AlexFeatures:
    """Means of the last AlexNet map [n, 256], of pictures in −1..1 enlarged to 128 px."""

    # Layer, stride, padding, and whether a pool follows.
    layers = ((0, 4, 2, True), (3, 1, 2, True), (6, 1, 1, False), (8, 1, 1, False), (10, 1, 1, False))

    def __init__(self, path: Path) -> None:
        self.state = load_file(path)
        self.shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
        self.scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        chunks = []
        for x in pictures.split(CHUNK):
            x = F.interpolate(x, size=(128, 128), mode="bilinear", align_corners=False)
            x = (x - self.shift) / self.scale
            for k, stride, padding, pooled in self.layers:
                weight, bias = self.state[f"features.{k}.weight"], self.state[f"features.{k}.bias"]
                x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))
                x = F.max_pool2d(x, 3, 2) if pooled else x
            chunks.append(x.mean((2, 3)))
        return torch.cat(chunks)

    def of(self, pictures: np.ndarray, size: int) -> Tensor:
        """Of pictures [n, s, s, 3] uint8 reduced to `size`; not all as floats at once."""
        parts = range(0, len(pictures), CHUNK)
        return torch.cat([self(reduced(tensor(pictures[i : i + CHUNK]), size)) for i in parts])


def frechet(a: Tensor, b: Tensor) -> float:
    """Distance of the normal distributions with the means and covariances of features [n, d] (Heusel et al. 2017)."""
    x, y = a.double().numpy(), b.double().numpy()
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(linalg.sqrtm(cx @ cy))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * root))


def kernel_distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over subsets of the unbiased MMD² with a cubic kernel (Bińkowski et al. 2018)."""
    rng, found = torch.Generator().manual_seed(0), []
    m = min(SUBSET_SIZE, len(a) // 2, len(b) // 2)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.t() / x.shape[1] + 1) ** 3

    for _ in range(SUBSETS):
        x = a[torch.randperm(len(a), generator=rng)[:m]].double()
        y = b[torch.randperm(len(b), generator=rng)[:m]].double()
        within = sum((k.sum() - k.trace()) / (m * (m - 1)) for k in (kernel(x, x), kernel(y, y)))
        found.append(float(within - 2 * kernel(x, y).mean()))
    return float(np.mean(found)), float(np.std(found))


def precision_recall(made: Tensor, real: Tensor) -> tuple[float, float]:
    """Shares of samples among the real faces, and of real faces among the samples (Kynkäänniemi et al. 2019).

    Among: no farther from one of the others than that one's k-th neighbour of its own kind. Both sets are cut to the
    same number, of which the figures depend.
    """
    n = min(len(made), len(real))
    rng = torch.Generator().manual_seed(0)
    made, real = (x[torch.randperm(len(x), generator=rng)[:n]] for x in (made, real))

    def share(x: Tensor, others: Tensor) -> float:
        radius = torch.cdist(others, others).kthvalue(NEIGHBOURS + 1).values  # the first is the picture itself
        return float((torch.cdist(x, others) <= radius).any(1).float().mean())

    return share(made, real), share(real, made)


def distances(made: Tensor, real: Tensor) -> dict[str, float]:
    """All figures of one set of features beside another."""
    kernel, deviation = kernel_distance(made, real)
    precision, recall = precision_recall(made, real)
    return {
        "frechet": frechet(made, real),
        "kernel_x1000": 1000 * kernel,
        "kernel_sd_x1000": 1000 * deviation,
        "precision": precision,
        "recall": recall,
    }


@torch.no_grad()
def samples(generator: Generator, n: int, *, seed: int, psi: float = 1.0, size: int | None = None) -> Tensor:
    """[n, 3, size, size], cut to −1..1."""
    z = torch.randn(n, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    size = size or generator.config.img_resolution
    made = [reduced(generator.synthesize(generator.truncated(x, psi)).clamp(-1, 1), size) for x in z.split(CHUNK)]
    return torch.cat(made)


def lpips_between(lpips: SqueezeLPIPS, a: Tensor, b: Tensor, size: int) -> Tensor:
    """LPIPS [n] at `size`, to which the pictures are enlarged."""
    a, b = (
        x if x.shape[-1] == size else F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        for x in (a, b)
    )
    return lpips(a, b)


@torch.no_grad()
def reconstruct(model: Model, held_out: Tensor) -> Tensor:
    """What the encoder alone makes of faces of the model's size."""
    assert model.encoder is not None
    mean = model.generator.mapping.w_avg
    made = [model.generator.synthesize(model.encoder(x, mean)).clamp(-1, 1) for x in held_out.split(CHUNK)]
    return torch.cat(made)


@torch.no_grad()
def encoder_figures(model: Model, held_out: Tensor, lpips: SqueezeLPIPS, size: int) -> dict[str, float]:
    """LPIPS, at 256 px as the package reports it, and PSNR in dB of the encoder's reconstructions, seen at `size`."""
    a, b = reduced(reconstruct(model, held_out), size), reduced(held_out, size)
    chunks = zip(a.split(8), b.split(8), strict=True)
    distance = torch.cat([lpips_between(lpips, x, y, 256) for x, y in chunks])
    error = ((a - b) / 2).square().mean((1, 2, 3))
    return {"lpips": float(distance.mean()), "psnr": float((-10 * error.log10()).mean())}


def descend(model: Model, start: Tensor, target: Tensor, lpips: SqueezeLPIPS, steps: int) -> list[float]:
    """Mean LPIPS before each step of Adam on w_plus, and after the last; each face is on its own."""
    w_plus, values = start.clone().requires_grad_(), []
    optimiser = torch.optim.Adam([w_plus], lr=RATE)
    for step in range(steps + 1):
        made = model.generator.synthesize(w_plus)
        distance = lpips_between(lpips, made, target, max(128, model.size))
        values.append(float(distance.detach().mean()))
        if step < steps:
            (w_plus.grad,) = torch.autograd.grad(distance.sum(), w_plus)
            optimiser.step()
    return values


def start_figures(model: Model, held_out: Tensor, lpips: SqueezeLPIPS) -> dict[str, float | None]:
    """How many steps from the encoder's start bring as near as `MEAN_STEPS` from the mean latent."""
    assert model.encoder is not None
    mean = model.generator.mapping.w_avg
    middle = mean.expand(len(held_out), model.generator.config.num_ws, -1)
    with torch.no_grad():
        estimate = model.encoder(held_out, mean)
    from_mean = descend(model, middle, held_out, lpips, MEAN_STEPS)
    from_encoder = descend(model, estimate, held_out, lpips, ENCODER_STEPS)
    reached = [step for step, value in enumerate(from_encoder) if value <= from_mean[-1]]
    return {
        "mean_start": from_mean[0],
        f"mean_start_after_{MEAN_STEPS}": from_mean[-1],
        "encoder_start": from_encoder[0],
        f"encoder_start_after_{ENCODER_STEPS}": from_encoder[-1],
        "encoder_steps_to_equal": reached[0] if reached else None,
    }


@dataclass(frozen=True)
class Bank:
    """The training pictures of one size with their features, and what looks for a picture among them."""

    pictures: np.ndarray
    features: Tensor
    alex: AlexFeatures
    lpips: SqueezeLPIPS

    @torch.no_grad()
    def nearest(self, picture: Tensor, count: int = 4) -> tuple[Tensor, list[float]]:
        """The training pictures [count, 3, r, r] of least LPIPS from `picture` [3, r, r], and their LPIPS.

        Each is mirrored where that is nearer, since training mirrors too.
        """
        order = torch.cdist(self.alex(picture[None]), self.features)[0].argsort()[:SHORTLIST]
        found = tensor(self.pictures[order.numpy()])
        both = torch.cat([found, found.flip(3)])
        parts = [lpips_between(self.lpips, picture.expand_as(x), x, 128) for x in both.split(16)]
        straight, mirrored = torch.cat(parts).view(2, -1)
        best = torch.minimum(straight, mirrored)
        order = best.argsort()[:count]
        shown = torch.where((mirrored < straight)[order, None, None, None], found[order].flip(3), found[order])
        return shown, best[order].tolist()


def grid(pictures: Tensor, columns: int, texts: list[str] | None = None) -> Image.Image:
    """Pictures [n, 3, r, r] row by row, at least 128 px each, a text at the foot of each that has one."""
    r = pictures.shape[-1]
    rows = pictures.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    sheet = Image.fromarray((rows * 127.5 + 128).clamp(0, 255).byte().numpy())
    scale = max(128 // r, 1)
    sheet = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate(texts or []):
        corner = (i % columns * r * scale + 4, (i // columns + 1) * r * scale - 14)
        draw.text(corner, text, fill="white", stroke_fill="black", stroke_width=2)
    return sheet


@torch.no_grad()
def interpolations(generator: Generator, seed: int = 3) -> Tensor:
    """Four rows of eight between two samples at psi 0.7."""
    z = torch.randn(8, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    a, b = generator.truncated(z, 0.7).unflatten(0, (4, 2)).unbind(1)
    share = torch.linspace(0, 1, 8)[:, None, None]
    between = a[:, None] + share * (b - a)[:, None]  # [4, 8, num_ws, w_dim]
    return generator.synthesize(between.flatten(0, 1)).clamp(-1, 1)


def draw_sheets(model: Model, held_out: Tensor, bank: Bank | None, folder: Path) -> None:
    """PNG files named after the model."""
    folder.mkdir(parents=True, exist_ok=True)
    grid(samples(model.generator, 64, seed=7, psi=0.7), 8).save(folder / f"{model.name}-samples.png")
    grid(interpolations(model.generator), 8).save(folder / f"{model.name}-between.png")
    if model.encoder is not None:
        shown = held_out[:16]
        pairs = torch.cat(
            [x for two in zip(shown.split(8), reconstruct(model, shown).split(8), strict=True) for x in two]
        )
        grid(pairs, 8).save(folder / f"{model.name}-encoder.png")
    if bank is not None:
        rows, texts = [], []
        for picture in samples(model.generator, 8, seed=7, psi=0.7):
            found, distance = bank.nearest(picture)
            rows += [picture[None], found]
            texts += ["sample", *(f"{d:.3f}" for d in distance)]
        grid(torch.cat(rows), 5, texts).save(folder / f"{model.name}-nearest.png")


def nearest_figures(model: Model, held_out: Tensor, bank: Bank, count: int = 24) -> dict[str, float]:
    """Mean LPIPS to the nearest training picture, of samples and of faces never seen: copies would be far nearer."""
    made = samples(model.generator, count, seed=SEED)
    return {
        name: float(np.mean([bank.nearest(x, 1)[1][0] for x in pictures]))
        for name, pictures in (("samples", made), ("held_out", held_out[:count]))
    }


def measure(model: Model, args: argparse.Namespace, alex: AlexFeatures, lpips: SqueezeLPIPS | None) -> dict[str, Any]:
    """All figures of a model; writes the sheets on the way."""
    size = args.size or model.size
    if size > model.size:
        raise SystemExit(f"{model.name} makes {model.size} px, less than --size {size}")
    faces, unseen = load_faces(args.faces, model.size)
    held_out = tensor(unseen.pictures)
    whole = load_faces(args.faces, 128)[0] if args.size else faces  # then all are reduced in the same way
    real = alex.of(whole.pictures, size)
    shuffled = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(SEED))]
    found: dict[str, Any] = {
        "size": size,
        "made": distances(alex(samples(model.generator, args.samples, seed=SEED, size=size)), real),
        "real_halves": distances(shuffled[::2], shuffled[1::2]),
    }
    bank = None
    if lpips is not None:
        own = alex.of(faces.pictures, model.size) if args.size else real
        bank = Bank(faces.pictures, own, alex, lpips)
        found["nearest"] = nearest_figures(model, held_out, bank)
        if model.encoder is not None:
            found["encoder"] = encoder_figures(model, held_out, lpips, size)
            found["start"] = start_figures(model, held_out[: args.starts], lpips)
    if args.pictures:
        draw_sheets(model, held_out, bank, args.pictures)
    return found


@functools.cache
def load_faces(path: Path, size: int) -> tuple[data.Faces, data.Faces]:
    return data.load(str(path), size)


def table(found: dict[str, dict[str, Any]]) -> str:
    """One column a model, one row a figure."""

    def flat(groups: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for key, value in groups.items():
            out |= {f"{key} {k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        return out

    columns = {name: flat(groups) for name, groups in found.items()}
    names = list(dict.fromkeys(key for column in columns.values() for key in column))
    width = max(map(len, names))
    lines = [" " * width + "".join(f"{name:>16}" for name in columns)]
    for name in names:
        cells = (column.get(name) for column in columns.values())
        texts = (f"{x:.3f}" if isinstance(x, float) else "–" if x is None else str(x) for x in cells)
        lines.append(f"{name:<{width}}" + "".join(f"{text:>16}" for text in texts))
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", type=Path, nargs="+", help="MODEL.safetensors; MODEL-encoder.safetensors beside it")
    p.add_argument("--faces", type=Path, required=True, help="the data, see faces.py")
    p.add_argument("--alex", type=Path, required=True, help="LPIPS on AlexNet; its features are used")
    p.add_argument("--squeeze", type=Path, help="LPIPS on SqueezeNet, for encoders and neighbours")
    p.add_argument("--size", type=int, help="reduce all pictures to this first (default: each model's own)")
    p.add_argument("--samples", type=int, default=3000)
    p.add_argument("--starts", type=int, default=12, help="held-out faces to optimise from both starts")
    p.add_argument("--pictures", type=Path, help="folder for sheets")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = p.parse_args()
    alex = AlexFeatures(args.alex)
    lpips = SqueezeLPIPS(args.squeeze).eval().requires_grad_(False) if args.squeeze else None
    found = {path.stem: measure(load_model(path), args, alex, lpips) for path in args.models}
    print(json.dumps(found) if args.json else table(found))


if __name__ == "__main__":
    main()
