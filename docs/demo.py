"""The README's demo: a wider smile for an astronaut, from the command line.

`make demo` runs it. The photo is NASA's portrait of Eileen Collins (public domain; it comes with scikit-image).
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

DRAGS = ["203,140:199.5,137", "247,140:250.5,137"]  # the corners of the mouth, outwards and up
MASK = (180, 118, 270, 174)  # an ellipse around the mouth may move
VIEW, ZOOM = (140, 40, 310, 210), 3  # what the comparison shows


def main(folder: Path) -> None:
    """Write the photo and its mask, edit it, and put before, after and difference side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    photo, mask, after = (folder / name for name in ("astronaut.png", "mask.png", "smile.png"))
    picture = Image.fromarray(data.astronaut())
    picture.save(photo)
    shape = Image.new("L", picture.size)
    ImageDraw.Draw(shape).ellipse(MASK, fill=255)
    shape.save(mask)

    command = ["realdrag", "edit", str(photo), "-o", str(after), "--mask", str(mask), "-w", str(folder / "work")]
    for drag in DRAGS:
        command += ["--drag", drag]
    sys.stderr.write(f"$ {' '.join(command)}\n")
    done = subprocess.run([str(Path(sys.executable).with_name("realdrag")), *command[1:]], check=False)
    if done.returncode:
        sys.exit(done.returncode)

    edited = Image.open(after)
    difference = np.abs(np.asarray(edited, np.int16) - np.asarray(picture, np.int16))
    views = [picture, edited, Image.fromarray((255 - difference * 8).clip(0, 255).astype(np.uint8))]
    side = (VIEW[2] - VIEW[0]) * ZOOM
    sheet = Image.new("RGB", (side * 3, side))
    for i, view in enumerate(views):
        sheet.paste(view.crop(VIEW).resize((side, side), Image.Resampling.LANCZOS), (i * side, 0))
    sheet.save(folder / "before-after.png")
    sys.stdout.write(f"before, after, difference ×8 (white: none): {folder / 'before-after.png'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
