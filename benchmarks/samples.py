"""Drags of mouth, jaw, pose and hairline on generators' own samples: do they change what they should?

    python benchmarks/samples.py MODEL … [--count N] [--pictures FOLDER]

Nothing was inverted and nothing tuned here, so what is seen is the generator alone. Three judges beside the tracker:
the dense flow at the handles and, where a landmark is dragged, the embedded landmark network, both as the share of
the way that was gone; and how much of the picture changed. Pictures: a row of before and after for each sample.
"""

import argparse
import statistics
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

import realdrag
from realdrag.align.embedded import find_landmarks
from realdrag.align.quad import square
from realdrag.composite.motion import FLOW_SIZE, find_motion
from realdrag.drag import drag
from realdrag.geometry import resize, resize_matrix, transform
from realdrag.progress import Silent
from realdrag.settings import DragSettings
from realdrag.stylegan import to_picture
from realdrag.values import Latent
from realdrag.weights import load_generator, load_landmarks, resolve_model

SIDE = 512  # points are in pixels of the sample enlarged to this
# Landmarks that are dragged (None: a place between the brows and the hair), and where to, in distances of the eyes.
DRAGS = {
    "mouth": ([48, 54], [(-0.1, -0.1), (0.1, -0.1)]),
    "jaw": ([8], [(0.0, 0.15)]),
    "turn": ([30], [(-0.2, 0.0)]),
    "hairline": ([None], [(0.0, 0.2)]),
}


def sampled(model: str, count: int):  # type: ignore[no-untyped-def]
    """The generator and `count` samples at psi 0.7: w_plus, picture, landmarks [68, 2] or None."""
    generator, net = load_generator(resolve_model(model)), load_landmarks()
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        w_plus = generator.truncated(z, 0.7).contiguous()
        pictures = [to_picture(generator.synthesize(w[None])) for w in w_plus]
    return generator, [(w, picture, landmarks(net, picture)) for w, picture in zip(w_plus, pictures, strict=True)]


def landmarks(net, picture):  # type: ignore[no-untyped-def]
    """[68, 2] in pixels of the enlarged picture."""
    large = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    found = find_landmarks(net, large, square(np.full(2, (SIDE - 1) / 2), np.array([SIDE / 2, 0.0])))
    return None if found is None or found.confidence < 0.5 else found.points


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+")
    p.add_argument("--count", type=int, default=12)
    p.add_argument("--pictures", type=Path)
    args = p.parse_args()
    torch.set_num_threads(1)
    net = load_landmarks()
    print("| model | faces | drag | reached | gone by flow | gone by landmarks | change of the picture |")
    print("|---|---|---|---|---|---|---|")
    for model in args.models:
        generator, samples = sampled(model, args.count)
        name, faces = Path(model).stem, [sample for sample in samples if sample[2] is not None]
        sheet = []
        for kind, (indices, offsets) in DRAGS.items():
            rows = []
            for w, picture, points in faces:
                eyes = np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
                hair = points[27] + 0.9 * (points[27] - points[33])
                start = np.array([hair if i is None else points[i] for i in indices])
                end = start + np.array(offsets) * eyes
                latent = Latent(w.numpy(), None, picture, "", "", {})
                done = drag(
                    latent, generator, start, end, to_model=resize_matrix(SIDE, picture.shape[0]), movable=None,
                    settings=DragSettings(), progress=Silent(),
                )  # fmt: skip
                before, after = (resize(x.astype(np.float32), FLOW_SIZE) for x in (picture, done.picture))
                flow, to_flow = find_motion(after, before), resize_matrix(SIDE, FLOW_SIZE)
                asked = (end - start) * FLOW_SIZE / SIDE
                at = transform(to_flow, start).clip(0, FLOW_SIZE - 1)
                went = np.array([flow[round(y), round(x)] for x, y in at])
                gone = float((went * asked).sum() / (asked**2).sum())
                moved, seen = landmarks(net, done.picture), None
                if moved is not None and None not in indices:
                    seen = float(((moved - points)[indices] * (end - start)).sum() / ((end - start) ** 2).sum())
                rows.append(
                    (done.outcome == realdrag.Outcome.REACHED, gone, seen, float(np.abs(after - before).mean()))
                )
                sheet.append(np.hstack([picture, done.picture]))
            reached = sum(row[0] for row in rows)
            seen = [row[2] for row in rows if row[2] is not None]
            by_landmarks = f"{statistics.median(seen):.2f}" if seen else "—"
            gone, change = (statistics.median(row[k] for row in rows) for k in (1, 3))
            print(f"| {name} | {len(faces)} of {len(samples)} | {kind} | {reached} of {len(rows)} | {gone:.2f} "
                  f"| {by_landmarks} | {change:.1f} |", flush=True)  # fmt: skip
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            grid = np.vstack([np.hstack(sheet[i :: len(faces)]) for i in range(len(faces))])
            Image.fromarray(grid).save(args.pictures / f"{name}-drags.png")


if __name__ == "__main__":
    main()
