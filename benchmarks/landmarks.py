"""How exact drags are, on generators' own pictures: the published protocol, with no edit, the published loop and ours.

    python benchmarks/landmarks.py [--models MODEL …] [--count 100] [--points 1 5 68] [--results FILE] [--plot FILE]

Pairs of faces are drawn at psi 1. Landmarks of the first are dragged to where the second has them (the tip of the
nose; with it the outer corners of eyes and mouth; all), at most 300 steps, and found again by the embedded network.
Each drag is then done backwards, from its targets to its handles, on what it ended with. With fewer than 68 points
there is a second drag that may only move what lies near handles and targets. Last, the paired reconstruction: a
second latent a quarter of the way to another face's, 32 places of the dense flow between the pictures as points, 100
steps. Methods: "none", and the drags of the presets "paper" (step for step `published_drag.py` without its faults) and
"balanced", the default.

Distances are in px of a 512 picture, LPIPS is alex's at 256 px, times 10; MSE is of pictures in −1..1, times 100; the
change outside the mask is the mean of the absolute differences, in grey levels, and for the features of the block in
their own mean absolute deviation. The floor is the distance between readings of the same picture shifted by up to 6
of 512 px. Intervals hold 95 % of means of resampled pairs. A result is a line in the file: what is cut off goes on.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from samples import SIDE, landmarks
from scipy.spatial import ConvexHull

from realdrag.composite.motion import FLOW_SIZE, find_motion
from realdrag.devices import keep_pages
from realdrag.drag import choose_block, drag
from realdrag.drag.held import Held
from realdrag.geometry import resize, resize_matrix, transform
from realdrag.inversion import Perceptual
from realdrag.presets import load
from realdrag.progress import Silent
from realdrag.stylegan import Generator, to_picture, to_tensor
from realdrag.values import Latent, Outcome
from realdrag.weights import EMBEDDED, load_generator, load_landmarks, load_perceptual, resolve_model

CHOSEN = {1: [30], 5: [36, 45, 30, 48, 54], 68: list(range(68))}
METHODS = ("none", "paper", "default")
PSI, MAX_STEPS, RECONSTRUCTION_STEPS, SHARE, FLOW_POINTS = 1.0, 300, 100, 0.25, 32
MARGIN = 32  # the mask reaches so far beyond handles and targets, px of 512
SHIFT = 6  # px of 512


@dataclass(frozen=True, eq=False)
class Dragged:
    """Where a method ended: w_plus [1, num_ws, w_dim], how that is rendered, steps, seconds, whether all handles have
    arrived in its view.
    """

    w_plus: torch.Tensor
    synthesize: Callable[..., torch.Tensor]
    steps: int
    seconds: float
    reached: bool


def no_drag(generator, w_plus, handles, targets, movable, max_steps):  # type: ignore[no-untyped-def]
    return Dragged(w_plus, generator.synthesize, 0, 0.0, False)


def by_preset(name, generator, w_plus, handles, targets, movable, max_steps):  # type: ignore[no-untyped-def]
    latent = Latent(w_plus[0].numpy(), None, np.zeros((1, 1, 3), np.uint8), "", "", {})
    settings = load(name)[1].drag
    settings = replace(settings, max_steps=min(max_steps, settings.max_steps))
    began = time.perf_counter()
    done = drag(
        latent, generator, handles, targets, to_model=np.eye(3), movable=movable, settings=settings, progress=Silent()
    )
    seconds = time.perf_counter() - began
    w = torch.from_numpy(done.way[done.chosen])[None]
    synthesize = generator.synthesize
    if done.movable is not None:
        synthesize = Held(generator, w_plus, done.movable, done.block).synthesize
    return Dragged(w, synthesize, done.steps, seconds, done.outcome is Outcome.REACHED)


DRAGS: dict[str, Callable[..., Dragged]] = {
    "none": no_drag,
    "paper": partial(by_preset, "paper"),
    "default": partial(by_preset, None),
}


class Bench:
    """One model's pairs and what judges drags on them."""

    def __init__(self, model: str) -> None:
        self.generator: Generator = load_generator(resolve_model(model))
        self.net = load_landmarks()
        self.block = choose_block(self.generator, "auto")
        self.to_512 = resize_matrix(self.generator.config.img_resolution, SIDE)

    @cached_property
    def lpips(self) -> Perceptual:
        return load_perceptual("alex", torch.device("cpu"))

    def picture(self, w_plus: torch.Tensor, by: Callable[..., torch.Tensor] | None = None) -> np.ndarray:
        with torch.no_grad():
            return to_picture((by or self.generator.synthesize)(w_plus))

    def features(self, w_plus: torch.Tensor, by: Callable[..., torch.Tensor] | None = None) -> torch.Tensor:
        with torch.no_grad():
            return (by or self.generator.synthesize)(w_plus, self.block)

    def face(self, seed: int) -> torch.Tensor:
        """w_plus [1, num_ws, w_dim] of a sample."""
        z = torch.randn(1, self.generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return self.generator.truncated(z, PSI).contiguous()

    def read(self, picture: np.ndarray) -> np.ndarray | None:
        """Landmarks [68, 2], px of 512, or None."""
        return landmarks(self.net, picture)

    def apart(self, a: np.ndarray, b: np.ndarray) -> float:
        """LPIPS · 10 of two pictures."""
        return 10 * self.lpips.measure(to_tensor(a), to_tensor(b))

    def drag(self, method, w_plus, handles, targets, movable=None, max_steps=MAX_STEPS):  # type: ignore[no-untyped-def]
        """A drag with points in px of 512."""
        back = np.linalg.inv(self.to_512)
        handles, targets = transform(back, handles), transform(back, targets)
        return DRAGS[method](self.generator, w_plus, handles, targets, movable, max_steps)

    def floor(self, picture: np.ndarray, points: np.ndarray, seed: int) -> np.ndarray:
        """How far landmarks [68] of the picture, shifted and shifted back, lie from `points`; px of 512."""
        large = resize(picture, SIDE)
        dx, dy = np.random.default_rng(seed).uniform(-SHIFT, SHIFT, 2).round().astype(int)
        padded = np.pad(large, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "reflect")
        moved = padded[SHIFT + dy : SHIFT + dy + SIDE, SHIFT + dx : SHIFT + dx + SIDE]
        again = self.read(moved)
        return np.full(68, np.nan) if again is None else np.linalg.norm(again - points + np.array([dx, dy]), axis=1)

    def landmark_drag(self, pair: int, points: int, method: str) -> dict[str, float | None] | None:
        """One pair dragged there and back, and within a mask. None where a face is not found."""
        w_plus, other = self.face(2 * pair), self.face(2 * pair + 1)
        picture = self.picture(w_plus)
        here, there = self.read(picture), self.read(self.picture(other))
        if here is None or there is None:
            return None
        chosen = CHOSEN[points]
        handles, targets = here[chosen], there[chosen]
        row = {"asked": mean_distance(handles, targets)}
        done = self.drag(method, w_plus, handles, targets)
        row |= {"steps": done.steps, "seconds": done.seconds, "reached": done.reached}
        after = self.picture(done.w_plus)
        found = self.read(after)
        row["distance"] = None if found is None else mean_distance(found[chosen], targets)
        row["lpips"] = self.apart(picture, after)
        row["floor"] = none_if_nan(self.floor(after, found, pair)[chosen].mean()) if found is not None else None
        back = self.drag(method, done.w_plus, targets, handles)
        row["ccsd"] = self.apart(picture, self.picture(back.w_plus))
        if points < 68:
            movable = near(np.concatenate([handles, targets]), self.generator.config.img_resolution)
            held = self.drag(method, w_plus, handles, targets, movable)
            after = self.picture(held.w_plus, held.synthesize)
            found = self.read(after)
            row["masked distance"] = None if found is None else mean_distance(found[chosen], targets)
            outside = movable < 0.5
            row["pixels outside"] = float(np.abs(after.astype(float) - picture)[outside].mean())
            before, now = self.features(w_plus)[0], self.features(held.w_plus, held.synthesize)[0]
            fixed = torch.from_numpy(resize(movable, before.shape[-1]) < 0.5)
            spread = (before - before.mean((1, 2), keepdim=True)).abs().mean()
            row["features outside"] = float((now - before)[:, fixed].abs().mean() / spread)
        return row

    def reconstruction(self, pair: int, method: str) -> dict[str, float | None]:
        """One latent dragged to another's picture by points of the flow between them."""
        w_plus = self.face(2 * pair)
        other = w_plus.lerp(self.face(2 * pair + 1), SHARE)
        picture, wanted = self.picture(w_plus), self.picture(other)
        motion = find_motion(*(resize(p.astype(np.float32), FLOW_SIZE) for p in (wanted, picture)))
        x, y = np.random.default_rng(pair).integers(0, FLOW_SIZE, (2, FLOW_POINTS))
        to_512 = resize_matrix(FLOW_SIZE, SIDE)
        handles = np.stack([x, y], 1).astype(float)
        targets = handles + motion[y, x]
        done = self.drag(method, w_plus, transform(to_512, handles), transform(to_512, targets),
                         max_steps=RECONSTRUCTION_STEPS)  # fmt: skip
        after = self.picture(done.w_plus)
        mse = float(np.square((after.astype(float) - wanted) / 127.5).mean())
        return {"steps": done.steps, "seconds": done.seconds, "mse": 100 * mse, "lpips": self.apart(after, wanted)}


def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b, axis=1).mean())


def none_if_nan(x: float) -> float | None:
    return None if np.isnan(x) else float(x)


def near(points: np.ndarray, resolution: int) -> np.ndarray:
    """[r, r] float32, 1 within `MARGIN` of the hull of `points` (px of 512)."""
    around = MARGIN * np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 24)), np.sin(a)], 1)
    hull = ConvexHull((points[:, None] + around).reshape(-1, 2))
    y, x = np.mgrid[0:resolution, 0:resolution]
    grid = transform(resize_matrix(resolution, SIDE), np.stack([x, y], -1).reshape(-1, 2))
    inside = (grid @ hull.equations[:, :2].T + hull.equations[:, 2] <= 0).all(1)
    return inside.reshape(resolution, resolution).astype(np.float32)


def interval(values: list[float]) -> tuple[float, float, float]:
    """The mean, and the 95 % interval of means of values drawn again."""
    x = np.array(values)
    drawn = x[np.random.default_rng(0).integers(0, len(x), (2000, len(x)))].mean(1)
    return float(x.mean()), *(float(q) for q in np.percentile(drawn, [2.5, 97.5]))


COLUMNS = {
    "distance": ("distance, px", 2), "floor": ("floor, px", 2), "lpips": ("LPIPS·10", 2), "ccsd": ("CCSD", 2),
    "masked distance": ("with a mask, px", 2), "pixels outside": ("pixels outside", 2),
    "features outside": ("features outside", 3), "mse": ("MSE·100", 2), "steps": ("steps", 0),
    "seconds": ("s", 1), "reached": ("reached", 2),
}  # fmt: skip


def show(rows, models, tasks, methods, plot):  # type: ignore[no-untyped-def]
    """The tables, of pairs that every method has; and the plot of distances."""
    print("| model | points | method | pairs | " + " | ".join(title for title, _ in COLUMNS.values()) + " |")
    print("|" + "---|" * (4 + len(COLUMNS)))
    bars = {}
    for model in models:
        for task in tasks:
            mine = {m: {r["pair"]: r for r in rows if (r["model"], r["task"], r["method"]) == (model, task, m)}
                    for m in methods}  # fmt: skip
            common = set.intersection(*(set(r) for r in mine.values()))
            for key in COLUMNS:  # a figure that one method lacks at a pair is left out for all
                lacking = {p for p in common for m in methods if mine[m][p].get(key) is None}
                for pair in common:
                    if lacking >= common or pair in lacking:
                        for m in methods:
                            mine[m][pair].pop(key, None)
            for method in methods:
                cells = []
                for key, (_, digits) in COLUMNS.items():
                    values = [row[key] for pair in common if key in (row := mine[method][pair])]
                    if not values:
                        cells.append("—")
                        continue
                    mean, low, high = interval(values)
                    cells.append(f"{mean:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})")
                    if key == "distance":
                        bars[model, task, method] = mean, low, high
                print(f"| {model} | {task} | {method} | {len(common)} | {' | '.join(cells)} |")
    if plot and bars:
        draw(bars, methods, plot)


def draw(bars, methods, path):  # type: ignore[no-untyped-def]
    """Mean distances with their intervals: a group for each model and number of points."""
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys(key[:2] for key in bars))
    figure, axis = plt.subplots(figsize=(2 + 1.6 * len(groups), 4), layout="constrained")
    for k, method in enumerate(methods):
        at = np.arange(len(groups)) + k / (len(methods) + 1)
        mean, low, high = np.array([bars[(*group, method)] for group in groups]).T
        axis.bar(at, mean, 0.8 / len(methods), yerr=[mean - low, high - mean], capsize=3, label=method)
    names = [f"{model}, {task}" for model, task in groups]
    axis.set_xticks(np.arange(len(groups)) + (len(methods) - 1) / 2 / (len(methods) + 1), names)
    axis.set_ylabel("mean distance, px of 512")
    axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="+", default=[EMBEDDED])
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--points", nargs="+", type=int, default=[1, 5, 68], choices=CHOSEN)
    p.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    p.add_argument("--results", type=Path, default=Path("landmarks.jsonl"))
    p.add_argument("--plot", type=Path)
    args = p.parse_args()
    keep_pages()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    known = {(row["model"], row["task"], row["pair"], row["method"]) for row in rows}
    tasks = [*(str(n) for n in args.points), "flow"]
    for model in args.models:
        bench = Bench(model)
        for pair in range(args.count):
            for task in tasks:
                for method in args.methods:
                    key = {"model": model, "task": task, "pair": pair, "method": method}
                    if tuple(key.values()) in known:
                        continue
                    if task == "flow":
                        found = bench.reconstruction(pair, method)
                    else:
                        found = bench.landmark_drag(pair, int(task), method)
                    rows.append(key | (found or {}))
                    with args.results.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    chosen = [row for row in rows if row["pair"] < args.count and len(row) > 4]
    show(chosen, args.models, tasks, args.methods, args.plot)


if __name__ == "__main__":
    main()
