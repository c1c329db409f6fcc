"""Drags of mouth, jaw, pose and hairline on generators' own samples: do they change what they should?

    python benchmarks/samples.py MODEL … [--count N] [--pictures FOLDER] [--inverted FOLDER --ways 'balanced;…']

On samples nothing was inverted and nothing tuned, so what is seen is the generator alone. With --inverted the same
drags are done on inversions of aligned faces (squares in FOLDER) too, by presets with or without changed settings:
does an inversion drag as well? Three judges beside the tracker: the dense flow at the handles and, where a landmark is
dragged, the embedded landmark network, both as the share of the way that was gone; and how much of the picture changed.
"Left" is the distance of the landmarks to their targets in pixels of the sample enlarged to 512, mean and standard
error. Pictures: a row of before and after for each face.
"""

import argparse
import statistics
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

import realdrag
from inversion import settings_of
from realdrag.align.embedded import find_landmarks
from realdrag.align.quad import square
from realdrag.composite.motion import FLOW_SIZE, find_motion
from realdrag.drag import drag
from realdrag.geometry import resize, resize_matrix, transform
from realdrag.inversion import invert
from realdrag.progress import Silent
from realdrag.settings import DragSettings
from realdrag.stylegan import to_picture, with_delta
from realdrag.values import Latent
from realdrag.weights import load_encoder, load_landmarks, load_perceptual

SIDE = 512  # points are in pixels of the sample enlarged to this
# Landmarks that are dragged (None: a place between the brows and the hair), and where to, in distances of the eyes.
DRAGS = {
    "mouth": ([48, 54], [(-0.1, -0.1), (0.1, -0.1)]),
    "jaw": ([8], [(0.0, 0.15)]),
    "turn": ([30], [(-0.2, 0.0)]),
    "hairline": ([None], [(0.0, 0.2)]),
}


def sampled(generator, net, count: int):  # type: ignore[no-untyped-def]
    """`count` samples at psi 0.7: the latent, the generator that shows it, landmarks [68, 2] or None."""
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        w_plus = generator.truncated(z, 0.7).contiguous()
        pictures = [to_picture(generator.synthesize(w[None])) for w in w_plus]
    latents = [Latent(w.numpy(), None, picture, "", "", {}) for w, picture in zip(w_plus, pictures, strict=True)]
    return [(latent, generator, landmarks(net, latent.picture)) for latent in latents]


def inverted(editor, net, folder: Path, way: str, count: int):  # type: ignore[no-untyped-def]
    """The same of the first `count` pictures in `folder`, inverted."""
    encoder, perceptual = load_encoder(editor.model), load_perceptual(editor.loss, torch.device("cpu"))
    found = []
    for face in sorted(f for f in folder.iterdir() if f.suffix in (".png", ".jpg"))[:count]:
        latent = invert(
            editor.align(realdrag.open(face), whole=True).crop, editor.generator, encoder, perceptual, editor.spread,
            settings_of(way), model_sha256="", progress=Silent(),
        )  # fmt: skip
        found.append((latent, with_delta(editor.generator, latent.delta), landmarks(net, latent.picture)))
    return found


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
    p.add_argument("--inverted", type=Path)
    p.add_argument("--ways", default="balanced;quality")
    args = p.parse_args()
    torch.set_num_threads(1)
    net = load_landmarks()
    print("| model | faces | drag | reached | gone by flow | gone by landmarks | left, px | change of the picture |")
    print("|---|---|---|---|---|---|---|---|")
    for model in args.models:
        editor = realdrag.Editor(model=model, threads=1)
        show(Path(model).stem, sampled(editor.generator, net, args.count), net, args.pictures)
        for way in args.ways.split(";") if args.inverted else ():
            found = inverted(editor, net, args.inverted, way, args.count)
            show(f"{Path(model).stem}, {way}", found, net, args.pictures)


def show(name, subjects, net, pictures) -> None:  # type: ignore[no-untyped-def]
    """A row for each kind of drag, and one for all landmarks' distances."""
    faces, sheet, all_left = [subject for subject in subjects if subject[2] is not None], [], []
    for kind, (indices, offsets) in DRAGS.items():
        rows = []
        for latent, generator, points in faces:
            eyes = np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
            hair = points[27] + 0.9 * (points[27] - points[33])
            start = np.array([hair if i is None else points[i] for i in indices])
            end = start + np.array(offsets) * eyes
            before = latent.picture
            done = drag(
                latent, generator, start, end, to_model=resize_matrix(SIDE, before.shape[0]), movable=None,
                settings=DragSettings(), progress=Silent(),
            )  # fmt: skip
            flow = find_motion(*(resize(x.astype(np.float32), FLOW_SIZE) for x in (done.picture, before)))
            to_flow = resize_matrix(SIDE, FLOW_SIZE)
            asked = (end - start) * FLOW_SIZE / SIDE
            at = transform(to_flow, start).clip(0, FLOW_SIZE - 1)
            went = np.array([flow[round(y), round(x)] for x, y in at])
            moved, seen, left = landmarks(net, done.picture), None, None
            if moved is not None and None not in indices:
                seen = float(((moved - points)[indices] * (end - start)).sum() / ((end - start) ** 2).sum())
                left = float(np.linalg.norm(moved[indices] - end, axis=1).mean())
            changed = float(np.abs(done.picture.astype(float) - before).mean())
            gone = float((went * asked).sum() / (asked**2).sum())
            rows.append((done.outcome == realdrag.Outcome.REACHED, gone, seen, left, changed))
            sheet.append(np.hstack([before, done.picture]))
        reached = sum(row[0] for row in rows)
        seen = [row[2] for row in rows if row[2] is not None]
        left = [row[3] for row in rows if row[3] is not None]
        all_left += left
        by_landmarks = f"{statistics.median(seen):.2f} | {with_error(left)}" if seen else "— | —"
        gone, change = (statistics.median(row[k] for row in rows) for k in (1, 4))
        print(f"| {name} | {len(faces)} of {len(subjects)} | {kind} | {reached} of {len(rows)} | {gone:.2f} "
              f"| {by_landmarks} | {change:.1f} |", flush=True)  # fmt: skip
    print(f"| {name} | {len(faces)} of {len(subjects)} | all landmarks | | | | {with_error(all_left)} | |", flush=True)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        grid = np.vstack([np.hstack(sheet[i :: len(faces)]) for i in range(len(faces))])
        Image.fromarray(grid).save(pictures / f"{name}-drags.png")


def with_error(values) -> str:  # type: ignore[no-untyped-def]
    """Mean ± standard error."""
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


if __name__ == "__main__":
    main()
