"""Checkpoints of other programs made into our safetensors, once each.

A file that is given as a model is converted at its first use; the copy lies in `<home>/models/converted`, named by the
sha256 of the original, and is used from then on. The original is only ever read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from realdrag.errors import InputError, WorkError
from realdrag.progress import Progress
from realdrag.settings import Aligner
from realdrag.store import home, write_whole

if TYPE_CHECKING:
    from realdrag.stylegan import Checkpoint


CONVERSION = 1  # raise it when `stylegan.layouts` makes something else of the same file


def check_file(path: Path) -> None:
    """InputError unless it is a file: a pipe would wait for ever."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "there is no such file"
        raise InputError(f"{path}: {what}", "give the path of a checkpoint")


def file_sha256(path: Path) -> str:
    """Of the file's content, hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def mapped(path: Path) -> memoryview:
    """The content of a file, mapped and not copied. InputError when it is none or cannot be read."""
    check_file(path)
    try:
        with path.open("rb") as file:
            whole = file.seek(0, 2) and mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return memoryview(whole or b"")  # what is empty cannot be mapped


def read_file(path: Path) -> Checkpoint:
    """The generator in a checkpoint of any published format; its arrays are views of the file.

    Needs no torch and runs nothing of the file. Raises InputError.
    """
    from realdrag.stylegan import read_checkpoint

    return read_checkpoint(mapped(path), str(path))


def check_target(target: Path, source: Path, aligner: str) -> None:
    """InputError, before any work, for a target that cannot be what `convert` writes."""
    if aligner not in (known := get_args(Aligner)):
        raise InputError(f"there is no aligner {aligner!r}", f"one of {', '.join(known)}")
    check_file(source)
    if is_safetensors(source):
        raise InputError(f"{source}: is a safetensors file already", "it can be used as it is")
    if target.suffix != ".safetensors":
        raise InputError(f"{target}: must end in .safetensors", "that is what is written")
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{target}: cannot be written there", "name a file in a folder that exists", code="unwritable")
    if target.exists() and target.samefile(source):
        raise InputError(f"{target}: is the checkpoint itself", "choose another name", code="overwrite")


def convert(source: Path, target: Path, about: Mapping[str, str]) -> Checkpoint:
    """Writes the generator of the checkpoint `source` to `target` as our safetensors, whole or not at all.

    about: goes into the header: `domain`, `aligner`, `licence`, `url`, … Raises InputError for an unreadable source.
    """
    import numpy as np
    from safetensors.numpy import save

    from realdrag.stylegan import GENERATOR_FORMAT

    checkpoint = read_file(source)
    header = {
        "format": GENERATOR_FORMAT,
        "config": json.dumps(dataclasses.asdict(checkpoint.config)),
        "source": checkpoint.format,
        "source_sha256": file_sha256(source),
        # What a name holds that is no text cannot be written.
        **{key: value.encode(errors="replace").decode() for key, value in about.items()},
    }
    # (np.ascontiguousarray would turn a scalar into [1].)
    arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.tensors.items()}
    write_whole(target, _reproducible(bytearray(save(arrays, header))))
    return checkpoint


def _reproducible(data: bytearray) -> bytearray:
    """A safetensors file with its metadata in order: the library's is random, and latents are keyed by the hash."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    data[8:end] = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(end - 8)
    return data


def converted(path: Path, progress: Progress) -> Path:
    """Our copy of the checkpoint `path`, made now if this is its first use, or if it is not what was made then."""
    sha256 = file_sha256(path)
    target = home() / "models" / "converted" / f"{sha256}-{CONVERSION}.safetensors"
    with contextlib.suppress(InputError):
        if target.is_file() and safetensors_header(target).get("source_sha256") == sha256:
            return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"cannot write {target.parent}: {error.strerror or error}", "see REALDRAG_HOME") from error
    checkpoint = convert(path, target, {})
    progress.say(f"{path.name} ({checkpoint.format}, {checkpoint.config.img_resolution} px) was converted, once")
    for note in checkpoint.notes:
        progress.say(f"{path.name}: {note}")
    return target


def safetensors_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. InputError when it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return dict(sorted((file.metadata() or {}).items()))  # the library's order is random
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable safetensors file: {reason}") from error


def is_safetensors(path: Path) -> bool:
    """Whether the content begins as such a file does: the header's length, then the header, JSON."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 100 << 20


def inspect(path: Path) -> dict[str, Any]:
    """What is in a checkpoint or safetensors generator, as JSON takes it; needs no torch. Raises InputError."""
    from realdrag.stylegan import GENERATOR_FORMAT, GeneratorConfig, describe

    check_file(path)
    if not is_safetensors(path):
        checkpoint = read_file(path)
        shapes = {name: array.shape for name, array in checkpoint.tensors.items()}
        found = {"format": checkpoint.format} | describe(checkpoint.config, shapes)
        return found | {"notes": list(checkpoint.notes), "sha256": file_sha256(path), "bytes": path.stat().st_size}
    from safetensors import safe_open

    from realdrag.stylegan.config import disagreement

    header = safetensors_header(path)
    if header.get("format") != GENERATOR_FORMAT:
        raise InputError(f"{path}: not a generator: its header says {header.get('format', 'no format')[:40]!r}")
    try:
        config = GeneratorConfig(**json.loads(header.pop("config")))
        with safe_open(path, "np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        sides = config.resolutions if 8 <= config.img_resolution <= 4096 and 1 <= config.num_layers <= 64 else None
        fault = disagreement(config.shapes(), shapes) if sides else "impossible sizes"
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{path}: unusable header: {type(error).__name__}") from error
    if fault:
        raise InputError(f"{path}: tensors and header disagree: {fault}")
    about = {key: value for key, value in header.items() if key != "format"}
    found = {"format": "realdrag"} | describe(config, shapes) | {"about": about, "notes": []}
    return found | {"sha256": file_sha256(path), "bytes": path.stat().st_size}
