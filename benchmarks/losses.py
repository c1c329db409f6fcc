"""How alike an inversion is by true LPIPS, for each perceptual loss that it can be guided by.

    python benchmarks/losses.py FOLDER [COUNT] [LOSS …]

FOLDER holds FFHQ-aligned faces (squares). Losses: embedded, squeeze, alex, vgg, and none (pixels alone); those of LPIPS
need their backbone, and so does the judgement (SqueezeNet's and AlexNet's, in torch's folder: see `realdrag doctor`).
Two ends are judged: after W+ alone, and after the generator is tuned as well (`balanced`).
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

import realdrag
from realdrag.inversion import invert
from realdrag.progress import Silent
from realdrag.settings import Settings
from realdrag.stylegan import to_tensor
from realdrag.weights import load_encoder, load_perceptual


class Nothing:
    """No perceptual loss: what the pixel term reaches alone."""

    name = "none"

    def to(self, target):  # type: ignore[no-untyped-def]
        return lambda picture: picture.sum() * 0


def main(folder: Path, count: int, losses: list[str]) -> None:
    """Print one row a loss and end."""
    torch.set_num_threads(1)
    editor, cpu = realdrag.Editor(), torch.device("cpu")
    encoder = load_encoder(editor.model)
    judges = {name: load_perceptual(name, cpu) for name in ("squeeze", "alex")}
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg"))[:count]
    crops = [editor.align(realdrag.open(path), whole=True).crop for path in paths]
    print(f"{editor.model.name}, {len(crops)} faces, medians; LPIPS at 256 px")
    print("| guided by | end | LPIPS squeeze | LPIPS alex | PSNR | seconds |")
    print("|---|---|---|---|---|---|")
    for loss in losses:
        guide = Nothing() if loss == "none" else load_perceptual(loss, cpu)
        for end in ("none", "full"):
            settings, rows = replace(Settings().inversion, tune=end), []
            for crop in crops:
                began = time.perf_counter()
                latent = invert(crop, editor.generator, encoder, guide, settings, model_sha256="", progress=Silent())
                took = time.perf_counter() - began
                size = (editor.resolution,) * 2
                target = torch.nn.functional.interpolate(to_tensor(crop), size=size, mode="area")
                found = to_tensor(latent.picture)
                far = [judge.measure(found, target) for judge in judges.values()]  # type: ignore[attr-defined]
                rows.append((*far, latent.metrics["psnr"], took))
            squeeze, alex, psnr, seconds = (statistics.median(column) for column in zip(*rows, strict=True))
            what = "tuned" if end == "full" else "W+"
            print(f"| {loss} | {what} | {squeeze:.4f} | {alex:.4f} | {psnr:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else 12,
        sys.argv[3:] or ["embedded", "squeeze", "none"],
    )
