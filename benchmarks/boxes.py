"""Where FFHQ's square lies around the cascade's box, measured on aligned portraits (their square is the picture).

    python benchmarks/boxes.py FOLDER

Prints quartiles over the faces found: side of the square in box sides (`quad.BOX_TO_QUAD`), and where its centre lies
from the box's, in box sides, right and down (`quad.BOX_OFFSET`). Only square pictures are looked at.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from realdrag.align import CascadeDetector, Face

SUFFIXES = {".jpg", ".jpeg", ".png"}


def figures(face: Face, side: int) -> tuple[float, float, float]:
    """Ratio of sides and the two offsets for a face found in a portrait of `side` px."""
    x0, y0, x1, y1 = face.box
    box = x1 - x0 + 1
    return side / box, ((side - 1) / 2 - (x0 + x1) / 2) / box, ((side - 1) / 2 - (y0 + y1) / 2) / box


def measure(folder: Path) -> tuple[npt.NDArray[np.float64], int, int, float]:
    """Figures [faces, 3], the number of portraits, of faces beyond the first in any of them, and seconds a portrait."""
    detector = CascadeDetector()
    rows, portraits, extra, seconds = [], 0, 0, 0.0
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        with Image.open(path) as picture:
            rgb = np.asarray(picture.convert("RGB"))
        if rgb.shape[0] != rgb.shape[1]:
            continue
        portraits += 1
        start = time.perf_counter()
        faces = detector.detect(rgb)
        seconds += time.perf_counter() - start
        if faces:
            rows.append(figures(max(faces, key=lambda face: face.area), rgb.shape[0]))
            extra += len(faces) - 1
    return np.array(rows).reshape(-1, 3), portraits, extra, seconds / max(1, portraits)


def main() -> None:
    """Measures the folder named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/boxes.py FOLDER")
    rows, portraits, extra, seconds = measure(Path(sys.argv[1]))
    print(f"{len(rows)} of {portraits} portraits have a face, {extra} more than one; {seconds:.2f} s a portrait")
    if len(rows):
        for name, column in zip(("square / box", "right", "down"), rows.T, strict=True):
            low, middle, high = np.percentile(column, [25, 50, 75])
            print(f"{name:>12}: median {middle:6.3f}, quartiles {low:6.3f} … {high:6.3f}")


if __name__ == "__main__":
    main()
