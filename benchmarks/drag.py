"""How long a step and a whole drag take, by ours and by the published loop, and what both hold in memory.

    python benchmarks/drag.py [--models ffhq-1024 …] [--precision fp32 bf16] [--mask] [--pairs 12] [--points 1 5]

A step is all that lies between two looks at a drag's state: synthesis, tracking, loss, gradient, update; five handles
whose targets are far, of random weights at FFHQ's sizes. The published loop (`published_drag.py`) makes three,
after one that is not counted, with the system's allocator; ours keep freed memory, as the commands do. The floor is the
arithmetic of forward and backward to the feature block at the rate of a large matrix product (`synthesis.py`). Whole
drags are the embedded model's: landmarks of one sample to another's (`landmarks.py`), the same pairs and handles for
both, until each takes them for arrived, at most 300 steps. Each figure comes from a process of its own, and the peak is
what that one held at most (VmHWM); for steps up to the last of them, before the dragged picture is made. With --mask
the upper quarter of the picture is held in the steps of both, which costs the published loop most.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import synthesis
import torch
from published_drag import SMALLEST, PublishedDrag

from realdrag import devices
from realdrag.drag import drag
from realdrag.geometry import resize, transform
from realdrag.presets import load
from realdrag.progress import Silent
from realdrag.stylegan import Generator
from realdrag.values import Latent
from realdrag.weights import EMBEDDED

REFERENCE_STEPS = 3
# Handles and targets in shares of the side: as far apart as a face is wide, so that no step is the last.
HANDLES = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.55], [0.38, 0.7], [0.62, 0.7]])
FAR = np.array([0.12, 0.16])


def measure_steps(generator: Generator, what: str, repeats: int, masked: bool) -> dict[str, float]:
    """Median milliseconds of a step of a drag with five handles, and the peak. what: paper, default."""
    side = generator.config.img_resolution
    handles, targets = HANDLES * side, (HANDLES + FAR) * side
    with torch.no_grad():
        z = torch.randn(1, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
        w_plus = generator.truncated(z).contiguous()
    movable = np.ones((side, side), np.float32)
    movable[: side // 4] = 0
    looks, peak = [time.perf_counter()], 0.0
    if what == "paper":
        fixed = torch.from_numpy(1 - resize(movable, max(side, SMALLEST))) if masked else None
        loop = PublishedDrag(generator, w_plus, handles, targets, fixed)
        for _ in range(1 + REFERENCE_STEPS):
            loop.step()
            looks.append(time.perf_counter())
        return {"ms": statistics.median(np.diff(looks[1:])) * 1e3, "mb": peak_mb()}

    def look() -> bool:
        nonlocal peak
        peak = peak_mb()
        looks.append(time.perf_counter())
        return False

    latent = Latent(w_plus[0].numpy(), None, np.zeros((1, 1, 3), np.uint8), "", "", {})
    settings = replace(load(None)[1].drag, max_steps=3 + repeats)
    drag(latent, generator, handles, targets, to_model=np.eye(3), movable=movable if masked else None,
         settings=settings, progress=Silent(), cancelled=look)  # fmt: skip
    return {"ms": statistics.median(np.diff(looks[3:])) * 1e3, "mb": peak}


def whole_drags(what: str, precision: str, pairs: int, points: int) -> dict[str, float]:
    """Medians of seconds, steps and distance of drags on the embedded model, and how many arrived."""
    from landmarks import CHOSEN, Bench, mean_distance

    bench = Bench(EMBEDDED)
    rows = []
    for pair in range(pairs):
        w_plus = bench.face(2 * pair)
        here, there = (bench.read(bench.picture(w)) for w in (w_plus, bench.face(2 * pair + 1)))
        if here is None or there is None:
            continue
        handles, targets = here[CHOSEN[points]], there[CHOSEN[points]]
        bench.generator.dtype = synthesis.DTYPES[precision]
        if what == "paper":
            done = by_reference(bench, w_plus, handles, targets)
        else:
            done = bench.drag(what, w_plus, handles, targets)
        bench.generator.dtype = torch.float32
        found = bench.read(bench.picture(done.w_plus))
        left = np.nan if found is None else mean_distance(found[CHOSEN[points]], targets)
        rows.append((done.seconds, done.steps, done.reached, left))
    seconds, steps, reached, left = np.array(rows, float).T
    return {
        "seconds": float(np.median(seconds)), "mean": float(seconds.mean()), "steps": float(np.median(steps)),
        "reached": int(reached.sum()), "pairs": len(rows), "left": float(np.nanmean(left)),
    }  # fmt: skip


def by_reference(bench, w_plus, handles, targets):  # type: ignore[no-untyped-def]
    """The published loop, points in px of 512."""
    from landmarks import MAX_STEPS, Dragged

    back = np.linalg.inv(bench.to_512)
    began = time.perf_counter()
    loop = PublishedDrag(bench.generator, w_plus, transform(back, handles), transform(back, targets))
    loop.run(MAX_STEPS)
    seconds = time.perf_counter() - began
    bench.generator.requires_grad_(False).zero_grad()
    return Dragged(loop.latent.detach(), loop.steps, seconds, loop.reached)


def peak_mb() -> float:
    """The most memory that this process held, in 10⁶ bytes."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def measure(args: argparse.Namespace) -> dict[str, float]:
    """What `--one` asks for: floor, paper or default; with `--points` whole drags."""
    name, precision, cpu = args.models[0], args.precision[0], torch.device("cpu")
    if args.one == "floor":
        return synthesis.measure("floor", name, precision, cpu, args.repeats)
    if args.one == "default":
        devices.keep_pages()
    if name == EMBEDDED:
        torch.set_num_threads(1)
    if args.points:
        return {**whole_drags(args.one, precision, args.pairs, args.points[0]), "mb": peak_mb()}
    generator, _ = synthesis.built(name)
    generator.dtype = synthesis.DTYPES[precision]
    return measure_steps(generator, args.one, args.repeats, args.mask)


def apart(what: str, name: str, precision: str, args: argparse.Namespace, points: int = 0) -> dict[str, float]:
    """`measure` in a new process, with the system's allocator as it comes."""
    command = [sys.executable, __file__, "--one", what, "--models", name, "--precision", precision]
    command += ["--repeats", str(args.repeats), "--pairs", str(args.pairs), "--points", *([str(points)] * bool(points))]
    command += ["--mask"] * args.mask
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=plain)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    models = ["ffhq-1024", "ffhq-512", EMBEDDED]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="*", default=models, choices=models)
    p.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], help="default: fp32, and bf16 if it is fast")
    p.add_argument("--repeats", type=int, default=9)
    p.add_argument("--pairs", type=int, default=12)
    p.add_argument("--points", nargs="*", type=int, default=[1, 5], choices=[1, 5, 68], help="of whole drags")
    p.add_argument("--mask", action="store_true", help="hold the upper quarter in the steps")
    p.add_argument("--one", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    half = devices.pick_precision("auto", torch.device("cpu"), small=False)
    precisions = args.precision or sorted({"fp32", half}, reverse=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; one thread for {EMBEDDED}\n")
    print("| model | precision | published step | step | times faster | floor | step / floor | peak: published, ours |")
    print("|" + "---|" * 8)
    for name in args.models:
        old = apart("paper", name, "fp32", args)
        for precision in precisions:
            new, floor = (apart(what, name, precision, args) for what in ("default", "floor"))
            least = floor["gmac"] / max(floor["product"], floor["convolution"]) * 1e3
            print(f"| {name} | {precision} | {old['ms']:.0f} ms | {new['ms']:.1f} ms | {old['ms'] / new['ms']:.1f} "
                  f"| {least:.1f} ms | {new['ms'] / least:.2f} "
                  f"| {old['mb']:.0f}, {new['mb']:.0f} MB ({old['mb'] / new['mb']:.1f}) |", flush=True)  # fmt: skip
    if EMBEDDED not in args.models:
        return
    print("\n| points | pairs | method | arrived | steps | s: median, mean | times faster (mean) | left, px of 512 "
          "| peak |\n|" + "---|" * 9)  # fmt: skip
    for points in args.points:
        old = apart("paper", EMBEDDED, "fp32", args, points)
        for method in ("paper", *precisions):
            found = old if method == "paper" else apart("default", EMBEDDED, method, args, points)
            print(f"| {points} | {found['pairs']} | {'paper' if method == 'paper' else f'default, {method}'} "
                  f"| {found['reached']} | {found['steps']:.0f} | {found['seconds']:.2f}, {found['mean']:.2f} "
                  f"| {old['mean'] / found['mean']:.1f} | {found['left']:.2f} | {found['mb']:.0f} MB |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
