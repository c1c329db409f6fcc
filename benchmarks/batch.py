"""How fast a folder of portraits goes through, and whether worker processes pay.

    python benchmarks/batch.py FOLDER [--count 60] [--preset fast] [--skip-single]

The same photos and the same move, each time on an empty store: two workers of one thread, one of one, one of two; then
`edit --threads 1` one by one, whose results must be the batch's to the byte. Of the workers' memory (resident set) the
largest is told after ten photos and at the end. The processes' start, about 3 s, is in the rates.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-c", "from realdrag.cli import main; main()"]
MOVE = ["--move", "smile=0.5"]
SETUPS = ((2, 1), (1, 1), (1, 2))  # workers, threads of each


def environment(root: Path, name: str) -> dict[str, str]:
    """A home of its own, which knows that no host need be asked."""
    home = root / f"home-{name}"
    home.mkdir()
    if (told := Path(os.environ.get("REALDRAG_HOME", "")) / "network.json").is_file():
        (home / "network.json").write_bytes(told.read_bytes())
    return os.environ | {"REALDRAG_HOME": str(home)}


def largest(process: psutil.Popen) -> float:
    """Resident megabytes of the largest worker."""
    sizes = [0]
    for child in process.children(recursive=True):
        try:
            sizes.append(child.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return max(sizes) / 1e6


def run_batch(photos: Path, root: Path, workers: int, threads: int, preset: str) -> tuple[dict, list[float]]:
    """The summary, and the largest worker's megabytes after each photo."""
    name = f"{workers}x{threads}"
    command = [*COMMAND, "batch", str(photos), "-o", str(root / name), *MOVE, "--preset", preset, "--json"]
    command += ["--workers", str(workers), "--threads", str(threads)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(root, name))
    sizes, report = [], root / name / "report.jsonl"
    while process.poll() is None:
        rows = report.read_bytes().count(b"\n") if report.exists() else 0
        if rows > len(sizes):
            sizes += [largest(process)] * (rows - len(sizes))
        time.sleep(0.2)
    return json.loads(process.stdout.read()), sizes


def run_alone(photo: Path, root: Path, preset: str) -> Path:
    """The result of `edit --threads 1` on an empty store."""
    out = root / "alone" / photo.name
    command = [*COMMAND, "edit", str(photo), "-o", str(out), *MOVE, "--preset", preset, "--threads", "1", "--quiet"]
    subprocess.run(command, env=environment(root, f"alone-{photo.name}"), check=False, stderr=subprocess.DEVNULL)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--skip-single", action="store_true", help="do not compare with `edit` one by one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="realdrag-") as folder:
        root = Path(folder)
        photos, results = root / "photos", {}
        for made in (photos, root / "alone"):
            made.mkdir()
        for photo in sorted(p for p in args.folder.iterdir() if p.suffix in (".jpg", ".png"))[: args.count]:
            (photos / photo.name).write_bytes(photo.read_bytes())
        print("| workers | threads | photos a second | done | memory after 10, at the end, MB |\n|---|---|---|---|---|")
        for workers, threads in SETUPS:
            found, sizes = run_batch(photos, root, workers, threads, args.preset)
            results[workers, threads] = found["rate"]
            memory = f"{sizes[min(9, len(sizes) - 1)]:.0f}, {max(sizes[-10:]):.0f}"
            print(f"| {workers} | {threads} | {found['rate']:.3f} | {found['ok']} | {memory} |", flush=True)
        two, one, wide = (results[setup] for setup in SETUPS)
        print(f"\ntwo workers over one: {two / one:.2f} ×; over one of two threads: {two / wide:.2f} ×", flush=True)
        if not args.skip_single:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                alone = list(pool.map(lambda p: run_alone(p, root, args.preset), sorted(photos.iterdir())))
            batch = [root / "2x1" / path.name for path in alone]
            same = sum(a.exists() == b.exists() and (not a.exists() or a.read_bytes() == b.read_bytes())
                       for a, b in zip(alone, batch, strict=True))  # fmt: skip
            print(f"equal to `edit --threads 1`, byte for byte: {same} of {len(alone)}")


if __name__ == "__main__":
    main()
