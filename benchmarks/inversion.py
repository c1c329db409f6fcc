"""Likeness against seconds: our presets beside the published projector and pivotal tuning, same generator, one run.

    python benchmarks/inversion.py FOLDER [--count 24] [--ways 'projector;pti;…'] [--results FILE] [--plot FILE]

FOLDER holds FFHQ-aligned faces (squares) that the model was not trained on. The references are written here in the
published manner and with its constants, the perceptual network aside, which is the same LPIPS for all. Each row of the
table is a median over the faces; LPIPS is that of the `lpips` package at 256 px, of the 8-bit pictures. Every picture's
result is a line in the results file, so that a run that was cut off goes on.
"""

import argparse
import copy
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import realdrag
from realdrag.devices import keep_pages
from realdrag.geometry import resize
from realdrag.inversion import invert
from realdrag.inversion.projection import measure
from realdrag.presets import load
from realdrag.progress import Silent
from realdrag.stylegan import to_picture, to_tensor
from realdrag.weights import load_encoder, load_perceptual

REFERENCES = ("projector", "pti", "pti-long")
WAYS = (
    *REFERENCES,
    "fast",
    "balanced",
    "quality",
    "paper",
    "balanced:tune=full",
    "balanced:tune=none",
    "balanced:start=mean",
)


def project(generator, target, lpips, *, steps, lr, samples):  # type: ignore[no-untyped-def]
    """w [1, 1, w_dim] by stylegan2-ada-pytorch's projector (Karras et al. 2020, appendix D).

    Optimises noise maps on a copy, whose loss it is, and drops them: the caller renders with the stock noise.
    """
    generator = copy.deepcopy(generator)
    z = torch.from_numpy(np.random.RandomState(123).randn(samples, generator.config.z_dim)).float()
    with torch.no_grad():
        spread = generator.mapping(z)
    mean = spread.mean(0, keepdim=True)
    deviation = float(((spread - mean).square().sum() / samples).sqrt())
    noise = [buffer.requires_grad_() for name, buffer in generator.synthesis.named_buffers() if "noise_const" in name]
    with torch.no_grad():
        for one in noise:
            one.normal_()
    w = mean[None].clone().requires_grad_()
    optimizer = torch.optim.Adam([w, *noise], betas=(0.9, 0.999), lr=lr)
    there = lpips.features(target)
    for step in range(steps):
        t = step / steps
        ramp = min(1.0, (1 - t) / 0.25)
        ramp = (0.5 - 0.5 * math.cos(ramp * math.pi)) * min(1.0, t / 0.05)
        optimizer.param_groups[0]["lr"] = lr * ramp
        jitter = torch.randn_like(w) * deviation * 0.05 * max(0.0, 1 - t / 0.75) ** 2
        picture = generator.synthesize((w + jitter).expand(-1, generator.config.num_ws, -1))
        loss = lpips.between(lpips.features(picture), there) + 1e5 * sum(map(regularity, noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for one in noise:
                one.sub_(one.mean()).mul_(one.square().mean().rsqrt())
    return w.detach()


def regularity(noise):  # type: ignore[no-untyped-def]
    """Squared autocorrelation of a noise map at a shift of one, over a pyramid down to 8 px."""
    x, total = noise[None, None], 0
    while True:
        total = total + (x * x.roll(1, 3)).mean().square() + (x * x.roll(1, 2)).mean().square()
        if x.shape[2] <= 8:
            return total
        x = F.avg_pool2d(x, 2)


def pivotal(generator, target, lpips, *, stop):  # type: ignore[no-untyped-def]
    """PTI's pivot and tuned generator (Roich et al. 2021): 450 steps in W, up to 350 on all weights, locality off."""
    pivot = project(generator, target, lpips, steps=450, lr=0.01, samples=600)
    pivot = pivot.expand(-1, generator.config.num_ws, -1)
    tuned = copy.deepcopy(generator)
    weights = [p.requires_grad_() for p in tuned.parameters()]
    optimizer = torch.optim.Adam(weights, lr=3e-4)
    there = lpips.features(target)
    for _ in range(350):
        picture = tuned.synthesize(pivot)
        perceptual = lpips.between(lpips.features(picture), there)
        if stop and float(perceptual) <= 0.06:
            break
        optimizer.zero_grad()
        (perceptual + F.mse_loss(picture, target)).backward()
        optimizer.step()
    return tuned.requires_grad_(False), pivot


def settings_of(way):  # type: ignore[no-untyped-def]
    """Inversion settings of "preset" or "preset:key=value,…"."""
    preset, _, changes = way.partition(":")
    base = load(preset)[1].inversion
    given = dict(change.split("=") for change in changes.split(",") if change)
    return replace(base, **{key: type(getattr(base, key))(value) for key, value in given.items()})


def run(way, crop, generator, encoder, lpips, spread):  # type: ignore[no-untyped-def]
    """The picture [r, r, 3] that this way ends with."""
    if way not in REFERENCES:
        settings = settings_of(way)
        return invert(crop, generator, encoder, lpips, spread, settings, model_sha256="", progress=Silent()).picture
    target = to_tensor(np.ascontiguousarray(resize(crop, generator.config.img_resolution)))
    if way == "projector":
        w = project(generator, target, lpips, steps=1000, lr=0.1, samples=10_000)
        tuned, pivot = generator, w.expand(-1, generator.config.num_ws, -1)
    else:
        tuned, pivot = pivotal(generator, target, lpips, stop=way == "pti")
    with torch.no_grad():
        return to_picture(tuned.synthesize(pivot))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--count", type=int, default=24)
    p.add_argument("--ways", default=";".join(WAYS), help="with ; between")
    p.add_argument("--loss", default="alex", help="vgg, alex or squeeze: guides all, and judges")
    p.add_argument("--results", type=Path, default=Path("inversion.jsonl"))
    p.add_argument("--plot", type=Path)
    args = p.parse_args()
    keep_pages()
    torch.set_num_threads(1)
    editor = realdrag.Editor(threads=1)
    generator, encoder = editor.generator, load_encoder(editor.model)
    lpips = load_perceptual(args.loss, torch.device("cpu"))
    done = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    known = {(row["way"], row["face"]) for row in done}
    ways = args.ways.split(";")
    faces = sorted(f for f in args.folder.iterdir() if f.suffix in (".png", ".jpg"))[: args.count]
    for face in faces:
        crop = editor.align(realdrag.open(face), whole=True).crop
        small = np.ascontiguousarray(resize(crop, editor.resolution))
        for way in ways:
            if (way, face.name) in known:
                continue
            torch.manual_seed(0)
            began = time.perf_counter()
            picture = run(way, crop, generator, encoder, lpips, editor.spread)
            seconds = time.perf_counter() - began
            row = {"way": way, "face": face.name, "seconds": seconds, **measure(picture, small, lpips)}
            done.append(row)
            with args.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
    show(done, ways, args.plot)


def show(rows, ways, plot):  # type: ignore[no-untyped-def]
    """The table, and the plot."""
    print("| way | faces | seconds | LPIPS | PSNR | SSIM |\n|---|---|---|---|---|---|")
    points = {}
    for way in ways:
        mine = [row for row in rows if row["way"] == way]
        medians = [statistics.median(row[key] for row in mine) for key in ("seconds", "lpips", "psnr", "ssim")]
        print(f"| {way} | {len(mine)} | {medians[0]:.1f} | {medians[1]:.3f} | {medians[2]:.2f} | {medians[3]:.3f} |")
        points[way] = medians
    if plot:
        import matplotlib.pyplot as plt
        from matplotlib.ticker import LogLocator

        figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for axis, k, name in zip(axes, (1, 2), ("LPIPS (lower is better)", "PSNR, dB"), strict=True):
            for way, medians in points.items():
                axis.plot(medians[0], medians[k], "s" if way in REFERENCES else "o")
                axis.annotate(way, (medians[0], medians[k]), xytext=(4, 4), textcoords="offset points", fontsize=8)
            axis.set(xlabel="seconds a face", ylabel=name, xscale="log")
            axis.margins(x=0.2)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
        figure.savefig(plot, dpi=120)


if __name__ == "__main__":
    main()
