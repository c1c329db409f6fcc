"""What each named move does to portraits, judged by landmarks found again and by a dense optical flow.

    python benchmarks/moves.py FOLDER [COUNT] [SHEETS]

FOLDER holds portraits with one face each; every third is taken. A figure's change is in distances of the eyes, for
`turn` in degrees. Shares are of the way that the handles were asked to go; the flow compares the photos before and
after, the landmarks are found in them anew (and are blind to lids: those are a few pixels for the network). SHEETS: a
folder for a contact sheet of each move, before and after.
"""

import statistics
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import realdrag
from realdrag.composite.motion import FLOW_SIZE, find_motion
from realdrag.drag.moves import face_frame
from realdrag.geometry import resize, resize_matrix, transform, warp
from realdrag.placing import Wanted, place

MOVES = [
    *(("smile", 0.5), ("smile", 1), ("smile", -0.5), ("open-mouth", 1), ("open-mouth", -1)),
    *(("jaw", 1), ("jaw", -1), ("chin", 1), ("chin", -1), ("eyes", 1), ("brows", 1)),
    *(("turn", 5), ("turn", -5), ("turn", 10), ("turn", -10)),
]


def lids(face):  # type: ignore[no-untyped-def]
    return np.mean([face[b, 1] - face[a, 1] for a, b in ((37, 41), (38, 40), (43, 47), (44, 46))])


def yaw(face):  # type: ignore[no-untyped-def]
    """Degrees, from where the nose's tip lies between the sides of the head (1.35 = 0.45 + 0.9, the depths assumed)."""
    return np.degrees(np.arcsin(np.clip((face[30, 0] - (face[2, 0] + face[14, 0]) / 2) / 1.35, -1, 1)))


# What a move is about, from landmarks in the face's frame.
FIGURES = {
    "smile": ("width of the mouth", lambda f: f[54, 0] - f[48, 0]),
    "open-mouth": ("between the lips", lambda f: f[66, 1] - f[62, 1]),
    "jaw": ("width of the jaw", lambda f: f[12, 0] - f[4, 0]),
    "chin": ("eyes to chin", lambda f: f[8, 1]),
    "eyes": ("between the lids", lids),
    "brows": ("brows above the eyes", lambda f: -f[17:27, 1].mean()),
    "turn": ("yaw", yaw),
}


def main(folder: Path, count: int, sheets: Path | None) -> None:
    """Print one row a move."""
    editor = realdrag.Editor()
    faces = []
    for path in sorted(folder.glob("*.jpg"))[::3][:count]:
        photo = realdrag.open(path)
        alignment = editor.align(photo)
        faces.append((photo, alignment, editor.invert(alignment)[0]))
    print("| move | reached | share by landmarks | share by flow | figure | change (quartiles) | right way |")
    print("|---|---|---|---|---|---|---|")
    for name, number in MOVES:
        done = [one(editor, *face, name, number) for face in faces]
        rows = [row for row in done if row is not None]
        reached = sum(row[0] == realdrag.Outcome.REACHED for row in rows)
        landmarks, flow = (statistics.median(row[k] for row in rows) for k in (1, 2))
        low, middle, high = np.percentile([row[3] for row in rows], [25, 50, 75])
        right = sum(np.sign(row[3]) == np.sign(number) for row in rows)
        print(f"| `{name}={number:g}` | {reached} of {len(rows)} | {landmarks:.2f} | {flow:.2f} | {FIGURES[name][0]} "
              f"| {middle:+.3f} ({low:+.3f} … {high:+.3f}) | {right} |", flush=True)  # fmt: skip
        if sheets is not None:
            strips = [row[4] for row in rows]
            strips += [np.zeros_like(strips[0])] * (-len(strips) % 4)
            grid = [np.hstack(strips[k : k + 4]) for k in range(0, len(strips), 4)]
            Image.fromarray(np.vstack(grid)).save(sheets / f"{name}={number:g}.png")


def one(editor, photo, alignment, latent, name, number):  # type: ignore[no-untyped-def]
    """Outcome, share by landmarks, share by flow, change of the figure, strip; None if no face is found afterwards."""
    placed = place(Wanted(moves={name: number}), alignment, photo.size)
    drag = editor.drag(
        photo, alignment, latent, list(zip(placed.handles.tolist(), placed.targets.tolist(), strict=True))
    )
    result = editor.composite(photo, alignment, latent.picture, drag.picture)
    try:
        after = editor.align(realdrag.open(result.photo.pixels))
    except realdrag.NoFaceError:
        return None
    before, found = (in_frame(x.landmarks) for x in (alignment, after))
    which = [int(np.linalg.norm(alignment.landmarks - h, axis=1).argmin()) for h in placed.handles]
    to_photo, _ = face_frame(alignment.landmarks)
    asked = (placed.targets - placed.handles) @ np.linalg.inv(to_photo).T
    landmarks = ((found - before)[which] * asked).sum() / (asked**2).sum()
    crops = [warp(p.pixels, alignment.to_crop, alignment.size) for p in (photo, result.photo)]
    small = [resize(crop, FLOW_SIZE).astype(np.float32) for crop in crops]
    flow = find_motion(small[1], small[0])  # where each pixel of the first picture went
    to_flow = resize_matrix(alignment.size, FLOW_SIZE) @ alignment.to_crop
    at, to = (transform(to_flow, points) for points in (placed.handles, placed.targets))
    went = np.array([flow[round(y), round(x)] for x, y in at])
    by_flow = (went * (to - at)).sum() / ((to - at) ** 2).sum()
    figure = FIGURES[name][1]
    return drag.outcome, landmarks, by_flow, figure(found) - figure(before), np.hstack([resize(c, 256) for c in crops])


def in_frame(landmarks):  # type: ignore[no-untyped-def]
    """Landmarks in the face's own frame (`realdrag.drag.moves`)."""
    to_photo, origin = face_frame(landmarks)
    return (landmarks - origin) @ np.linalg.inv(to_photo).T


if __name__ == "__main__":
    folder, count, sheets = [*sys.argv[1:], *("", "16", "")[len(sys.argv) - 1 :]]
    main(Path(folder), int(count), Path(sheets) if sheets else None)
