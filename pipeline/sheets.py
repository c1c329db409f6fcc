"""What a model makes of random numbers: pictures that each depend on their own seed alone, on one sheet."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

from realdrag.errors import InputError
from realdrag.photo_write import FORMATS, MAX_SIDE, write, write_bytes
from realdrag.progress import Progress, stretch
from realdrag.values import Photo

if TYPE_CHECKING:
    from realdrag.stylegan import Generator

MOST_SEEDS = 4096
MOST_PIXELS = 2**27  # of a sheet: 400 MB in memory; 121 pictures of 1024 px
LAST_SEED = 2**32 - 1  # of numpy's RandomState

XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{about}</rdf:li></rdf:Alt></dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
# IPTC's word for what a trained model made whole.
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True)
class Sample:
    """A picture of the sheet: its seed, its class (None: the model has none), and its place, from 0."""

    seed: int
    label: int | None
    row: int
    column: int


def parse_seeds(text: str) -> list[int]:
    """The numbers of "0-15,20,33" in this order, each once. InputError when it names none, or too many."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19})\s*)?", part, re.ASCII)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else -1
        if not first <= last <= LAST_SEED:
            raise InputError(f"--seeds {text!r}: {part.strip()!r} is no seed", "write seeds and ranges, as in 0-15,20")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise InputError(f"--seeds {text!r}: too many", f"a sheet has at most {MOST_SEEDS} pictures")
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


def check(path: Path, resolution: int, count: int, columns: int | None) -> int:
    """The sheet's columns (None: as square as it gets). InputError for a sheet that is too large for its format."""
    if columns is not None and columns < 1:
        raise InputError(f"--columns {columns}: a sheet has at least one")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    width, height = columns * resolution, -(-count // columns) * resolution
    limit = MAX_SIDE.get(FORMATS[path.suffix.lower()], 2**31)
    if width * height > MOST_PIXELS or max(width, height) > limit:
        message = f"{path}: a sheet of {width} × {height} pixels is too large"
        raise InputError(message, "name fewer --seeds" + ("" if max(width, height) <= limit else ", or use .png"))
    return columns


def sample(
    generator: Generator, seeds: list[int], columns: int, progress: Progress, *, psi: float, label: int | None = None
) -> tuple[npt.NDArray[np.uint8], list[Sample]]:
    """The sheet [h, w, 3] uint8 and what is on it, row by row; cells that are left over are white.

    psi: 1 draws as the model learnt, 0 is its mean picture. label: the class, for conditional models; None: each seed
    draws its own. InputError for a class that the model does not have, and for a psi that is no number.
    """
    import torch

    from realdrag.stylegan import to_picture

    config = generator.config
    if not math.isfinite(psi):
        raise InputError(f"--psi {psi}: is no number", "0.7 is usual")
    if label is not None and not config.c_dim:
        raise InputError(f"--class {label}: the model has no classes", "leave it out")
    if label is not None and not 0 <= label < config.c_dim:
        raise InputError(f"--class {label}: the model has no such class", f"it has 0 to {config.c_dim - 1}")
    side, device = config.img_resolution, generator.mapping.w_avg.device
    sheet = np.full((-(-len(seeds) // columns) * side, columns * side, 3), 255, np.uint8)
    samples = []
    with stretch(progress, "sample", len(seeds)) as bar, torch.no_grad():
        for n, seed in enumerate(seeds):
            draw = np.random.RandomState(seed)  # as the published generate.py: the same picture for the same seed
            z = torch.from_numpy(draw.randn(1, config.z_dim)).float()
            c, own = None, None
            if config.c_dim:
                own = int(draw.randint(config.c_dim)) if label is None else label
                c = torch.nn.functional.one_hot(torch.tensor([own]), config.c_dim).float().to(device)
            w_plus = generator.truncated(z.to(device), psi, c)
            row, column = divmod(n, columns)
            place = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            sheet[place] = to_picture(generator.synthesize(w_plus))
            samples.append(Sample(seed, own, row, column))
            bar.step(n + 1)
    return sheet, samples


def write_sheet(sheet: npt.NDArray[np.uint8], path: Path, about: str, texts: dict[str, str]) -> None:
    """The sheet as the kind of file that the suffix names, marked as generated; `about` and, in a PNG, `texts` too."""
    xmp = XMP.format(source=GENERATED, about=escape(about))
    if FORMATS[path.suffix.lower()] != "PNG":
        write(Photo(sheet, "RGB", sha256="", xmp=xmp.encode()), path)
        return
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info, out = PngInfo(), io.BytesIO()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    for key, text in texts.items():
        info.add_text(key, text)
    Image.fromarray(sheet).save(out, "PNG", pnginfo=info)
    write_bytes(out.getvalue(), path)


def lines(samples: list[Sample]) -> list[str]:
    """The seeds row by row, and their classes."""
    rows: dict[int, list[str]] = {}
    for each in samples:
        label = "" if each.label is None else f" (class {each.label})"
        rows.setdefault(each.row, []).append(f"{each.seed}{label}")
    return [f"row {row + 1}: " + ", ".join(cells) for row, cells in rows.items()]


def as_json(samples: list[Sample]) -> list[dict[str, Any]]:
    """The pictures as `--json` lists them."""
    return [{"seed": s.seed, "class": s.label, "row": s.row, "column": s.column} for s in samples]
