"""Which feature block tracks best: drags on aligned portraits, judged by a dense optical flow between the pictures.

    python benchmarks/blocks.py FOLDER [COUNT]

FOLDER holds FFHQ-aligned portraits (squares). The flow knows nothing of the features: what it says of the handles is a
second opinion on what the tracker says. Errors are in shares of the way from handle to target.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import realdrag
from realdrag.composite.motion import FLOW_SIZE, find_motion
from realdrag.geometry import resize, resize_matrix, transform

# Handles and targets in sides of the crop: mouth corners, chin, brows, nose.
DRAGS = {
    "smile": ([(0.40, 0.725), (0.60, 0.725)], [(0.375, 0.70), (0.625, 0.70)]),
    "jaw": ([(0.5, 0.86)], [(0.5, 0.90)]),
    "brows": ([(0.36, 0.42), (0.64, 0.42)], [(0.36, 0.385), (0.64, 0.385)]),
    "turn": ([(0.5, 0.61)], [(0.455, 0.61)]),
}


def main(folder: Path, count: int) -> None:
    """Print one row a block."""
    editor = realdrag.Editor()
    photos = [realdrag.open(path) for path in sorted(folder.glob("*.jpg"))[:count]]
    faces = [(photo, alignment := editor.align(photo, whole=True), editor.invert(alignment)[0]) for photo in photos]
    print("| block | reached | steps | left | error by flow | change of the picture | seconds |")
    print("|---|---|---|---|---|---|---|")
    for block in [b for b in editor.generator.blocks if int(b[1:]) >= 8]:
        editor.settings = replace(editor.settings, drag=replace(editor.settings.drag, block=block))
        rows = [one(editor, *face, *drag) for face in faces for drag in DRAGS.values()]
        reached = sum(row[0] == realdrag.Outcome.REACHED for row in rows)
        median = [statistics.median(float(row[k]) for row in rows) for k in range(1, 6)]
        print(f"| {block} | {reached} of {len(rows)} | {median[0]:.0f} | {median[1]:.2f} | {median[2]:.2f} "
              f"| {median[3]:.1f} | {median[4]:.2f} |")  # fmt: skip


def one(editor, photo, alignment, latent, handles, targets):  # type: ignore[no-untyped-def]
    """Outcome, steps, share of the way left by the tracker, error by the flow, mean change in levels, seconds."""
    side = photo.size[0]
    start, end = (np.array(points) * side - 0.5 for points in (handles, targets))
    began = time.perf_counter()
    drag = editor.drag(photo, alignment, latent, list(zip(start.tolist(), end.tolist(), strict=True)))
    took = time.perf_counter() - began
    before, after = (resize(x.astype(np.float32), FLOW_SIZE) for x in (latent.picture, drag.picture))
    flow = find_motion(after, before)  # where each pixel of the first picture went
    at, to = (transform(resize_matrix(side, FLOW_SIZE), points) for points in (start, end))
    went = np.array([flow[round(y), round(x)] for x, y in at])
    error = np.linalg.norm(to - at - went, axis=1).mean() / np.linalg.norm(to - at, axis=1).mean()
    left = np.mean([h.distance_end / h.distance_start for h in drag.handles])
    return drag.outcome, drag.steps, left, error, np.abs(after - before).mean(), took


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 6)
