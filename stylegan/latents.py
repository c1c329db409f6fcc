"""Latents out of other programs' files: `.npz`, `.npy`, torch's `.pt`. Needs no torch, runs nothing of a file.

What the public programs write: NVIDIA's projectors `projected_w.npz` with `w` [1, num_ws, w_dim]; PTI's pivots and
e4e's `latents.pt` a bare tensor [n, num_ws, w_dim]; rosinality's projector a dict of dicts with `latent`.
"""

from __future__ import annotations

import io
import lzma
import math
import re
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from realdrag.errors import InputError
from realdrag.stylegan.pickles import Made, entries, one_line
from realdrag.stylegan.stored import (
    BFLOAT16,
    LEGACY_START,
    MAX_AXES,
    ZIP_START,
    Storages,
    is_fractions,
    single,
    tensor,
    torch_legacy,
    torch_zip,
)

Array = npt.NDArray[Any]

NPY_START = b"\x93NUMPY"
MAX_NPY = 64 << 20  # bytes of an array within a zip file: more than a thousand latents of a 1024 px model
MAX_HEADER = 10_000  # bytes before a .npy file's numbers, as numpy's own limit
# The one form in which numpy and others write it; numpy's reader takes any dict, as Python text.
_HEADER = re.compile(
    rb"\{\s*'descr':\s*'([<>=|]?\w{1,8})',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(([\d,\s]*)\),?\s*\}\s*"
)
NAMES = ("w", "w_plus", "latent", "latents", "w_pivot")  # what dicts and .npz files call a latent
KINDS = "projected_w.npz, .npy, and tensors in .pt files are read"


def read_latents(data: memoryview, name: str) -> Array:
    """The latents in `data`, the content of a file called `name`: [w_dim], [rows, w_dim] or [n, rows, w_dim], floats.

    A view of `data` where it can be. Raises InputError, one line, for everything else.
    """
    try:
        with np.errstate(all="ignore"):  # a file may hold any numbers
            found = _read(data)
        if not is_fractions(found):
            raise InputError(f"holds {found.dtype.name} numbers: latents are floating-point", KINDS)
        if not 1 <= found.ndim <= 3 or not found.size:
            raise InputError(f"holds an array of shape {_shape(found.shape)}, which no latent has", KINDS)
        return single(found) if found.dtype == BFLOAT16 else found
    except InputError as error:
        raise InputError(f"{name}: {one_line(error.message)}", error.hint) from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{name}: not a sound file: {type(error).__name__}") from error


def fitted(found: Array, num_ws: int, w_dim: int, index: int | None, name: str) -> npt.NDArray[np.float32]:
    """One of the latents of `read_latents` as a model takes it, [num_ws, w_dim].

    A single row, or rows that are all the same (some programs repeat it 18 times for any model), is a latent of W and
    stands for all rows. Raises InputError for what does not fit, is not finite, or if `index` (from 0) must choose.
    """
    several = found if found.ndim == 3 else found.reshape(1, -1, found.shape[-1])
    count, rows, width = several.shape
    if index is None and count > 1:
        raise InputError(f"{name}: holds {count} latents", f"say which one: --index 0 to --index {count - 1}")
    if not 0 <= (index or 0) < count:
        raise InputError(f"{name}: holds no latent {index}", f"it holds {count}, counted from 0")
    with np.errstate(all="ignore"):
        one: npt.NDArray[np.float32] = several[index or 0].astype(np.float32)
    if width == w_dim and rows != num_ws and (one == one[:1]).all():
        one = np.repeat(one[:1], num_ws, 0)
    if one.shape != (num_ws, w_dim):
        raise InputError(
            f"{name}: is a latent of {rows} × {width}, and the model takes {num_ws} × {w_dim}",
            "it was made with another model: name that with --model",
        )
    if not np.isfinite(one).all():
        raise InputError(f"{name}: holds numbers that are not finite", "the program that wrote it went astray")
    return one


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape[:8])) or "()"


def _read(data: memoryview) -> Array:
    if not len(data):
        raise InputError("the file is empty")
    start = bytes(data[: len(LEGACY_START)])
    if start.startswith(NPY_START):
        return _npy(data)
    if start.startswith(ZIP_START):
        members = _npy_members(data)
        return _npz(data, members) if members else _from_torch(*torch_zip(data))
    if start.startswith(LEGACY_START):
        return _from_torch(*torch_legacy(data))
    raise InputError("not a latent", KINDS)


def _npy(data: memoryview) -> Array:
    """numpy's file of one array, never one of Python objects."""
    version = bytes(data[6:8])
    wide = 4 if version == b"\2\0" else 2
    if version not in (b"\1\0", b"\2\0"):
        raise InputError("a .npy file of a version that no latent is written in")
    start = 8 + wide + int.from_bytes(data[8 : 8 + wide], "little")
    header = _HEADER.fullmatch(bytes(data[8 + wide : min(start, MAX_HEADER)]))
    if header is None or start > MAX_HEADER:
        raise InputError("a .npy file of records, or with a damaged header", "fetch it again")
    kind, fortran, sizes = (part.decode() for part in header.groups())
    if kind.endswith("O"):
        raise InputError("an array of Python objects, which would run as a program: refused", KINDS)
    if kind.lstrip("<>=|") not in ("f2", "f4", "f8"):
        raise InputError(f"holds numbers of type {kind}: latents are floating-point", KINDS)
    dtype, axes = np.dtype(kind), [size.strip() for size in sizes.split(",") if size.strip()]
    if len(axes) > MAX_AXES or any(not size.isdigit() or len(size) > 18 for size in axes):
        raise InputError("an array of an impossible shape: refused", KINDS)
    shape = tuple(map(int, axes))
    count = math.prod(shape)
    if not count:
        raise InputError("an array without numbers", KINDS)
    if count * dtype.itemsize > len(data) - start:
        raise InputError("an array declares more numbers than the file holds: refused")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if fortran == "True" else "C")


def _npy_members(data: memoryview) -> list[str]:
    """The arrays in a zip file as numpy writes it; none in torch's."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError) as error:
        raise InputError("a zip file that is damaged or cut short", "fetch it again") from error
    return [name for name in names if name.endswith(".npy")]


def _npz(data: memoryview, members: list[str]) -> Array:
    names = {name.removesuffix(".npy"): name for name in members}
    member = next((names[name] for name in NAMES if name in names), members[0] if len(members) == 1 else None)
    if member is None:
        raise InputError(f"holds no array `w` but {', '.join(sorted(names))[:80]}", KINDS)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(member) as file:
            content = file.read(MAX_NPY + 1)
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        lzma.LZMAError,
    ) as error:
        raise InputError("a zip file that is damaged or cut short", "fetch it again") from error
    if len(content) > MAX_NPY:
        raise InputError(f"an array of more than {MAX_NPY >> 20} MiB: refused")
    if not content.startswith(NPY_START):
        raise InputError("a zip file with something else than arrays", KINDS)
    return _npy(memoryview(content))


def _from_torch(value: Any, storages: Storages) -> Array:
    """A tensor, a dict that holds one under a name of `NAMES`, or rosinality's: picture → dict with `latent`."""
    found = entries(value)
    if found is None:
        if not isinstance(value, Made):
            raise InputError("holds no latent", KINDS)
        return tensor(value, storages)
    for name in NAMES:
        if name in found:
            return tensor(found[name], storages)
    pictures = [inner["latent"] for one in found.values() if (inner := entries(one)) and "latent" in inner]
    if not pictures:
        raise InputError("a checkpoint, not a latent", "a generator is given as --model")
    rows = [tensor(one, storages) for one in pictures]
    if any(row.ndim not in (1, 2) or row.shape != rows[0].shape or row.dtype != rows[0].dtype for row in rows):
        raise InputError("holds latents of several shapes", KINDS)
    if sum(row.nbytes for row in rows) > MAX_NPY:
        raise InputError(f"latents of more than {MAX_NPY >> 20} MiB: refused")
    return np.stack([row.reshape(-1, row.shape[-1]) for row in rows])
