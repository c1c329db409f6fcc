"""Other programs' latents are read as they are, and nothing in a file is run or believed."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realdrag.errors import InputError
from realdrag.stylegan import latents
from realdrag.stylegan.latents import fitted, read_latents

ROWS, WIDTH = 8, 16
W_PLUS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
OTHER = W_PLUS[::-1].copy()


def npy(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(save: Callable[..., None] = np.savez, **arrays: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def pt(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


TENSOR = torch.from_numpy(W_PLUS)
HALF = W_PLUS.astype(np.float16)
GOOD: dict[str, tuple[bytes, np.ndarray[Any, Any]]] = {
    "NVIDIA's projected_w.npz": (npz(w=W_PLUS[None]), W_PLUS),
    "compressed": (npz(np.savez_compressed, w=W_PLUS[None]), W_PLUS),
    "one array of another name": (npz(arr_0=W_PLUS), W_PLUS),
    "among others": (npz(w=W_PLUS[None], noise=np.zeros(3)), W_PLUS),
    "[1, 1, w] of W": (npz(w=W_PLUS[None, :1]), np.repeat(W_PLUS[:1], ROWS, 0)),
    "npy [rows, w]": (npy(W_PLUS), W_PLUS),
    "npy [1, rows, w]": (npy(W_PLUS[None]), W_PLUS),
    "npy [w]": (npy(W_PLUS[0]), np.repeat(W_PLUS[:1], ROWS, 0)),
    "double": (npy(W_PLUS.astype(np.float64)), W_PLUS),
    "half": (npy(HALF), HALF.astype(np.float32)),
    "big-endian": (npy(W_PLUS.astype(">f4")), W_PLUS),
    "by columns": (npy(np.asfortranarray(W_PLUS)), W_PLUS),
    "18 rows of W": (npy(np.repeat(W_PLUS[:1], 18, 0)), np.repeat(W_PLUS[:1], ROWS, 0)),
    "PTI's pivot": (pt(TENSOR[None]), W_PLUS),
    "PTI's pivot, before PyTorch 1.6": (pt(TENSOR[None], _use_new_zipfile_serialization=False), W_PLUS),
    "a parameter": (pt(torch.nn.Parameter(TENSOR[None])), W_PLUS),
    "a view": (pt(torch.stack([TENSOR, TENSOR])[1:]), W_PLUS),
    "bfloat16": (pt(TENSOR.bfloat16()), TENSOR.bfloat16().float().numpy()),
    "a dict": (pt({"w": TENSOR[None], "noise": [torch.zeros(1)]}), W_PLUS),
    "rosinality's": (pt({"a.png": {"latent": TENSOR, "noise": [torch.zeros(1)]}}), W_PLUS),
    "rosinality's in W": (pt({"a.png": {"latent": TENSOR[0]}}), np.repeat(W_PLUS[:1], ROWS, 0)),
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_latent_is_read(kind: str) -> None:
    data, wanted = GOOD[kind]
    found = fitted(read_latents(memoryview(data), "file"), ROWS, WIDTH, None, "file")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "data",
    [
        pt(torch.from_numpy(np.stack([W_PLUS, OTHER]))),
        pt({name: {"latent": torch.from_numpy(w)} for name, w in (("a", W_PLUS), ("b", OTHER))}),
        npz(w=np.stack([W_PLUS, OTHER])),
    ],
    ids=["e4e's latents.pt", "rosinality's", "npz"],
)
def test_one_of_several_is_chosen(data: bytes) -> None:
    found = read_latents(memoryview(data), "file")
    np.testing.assert_array_equal(fitted(found, ROWS, WIDTH, 0, "file"), W_PLUS)
    np.testing.assert_array_equal(fitted(found, ROWS, WIDTH, 1, "file"), OTHER)
    with pytest.raises(InputError, match="file: holds 2 latents; say which one: --index 0 to --index 1"):
        fitted(found, ROWS, WIDTH, None, "file")
    for index in (2, -1):
        with pytest.raises(InputError, match=f"file: holds no latent {index}; it holds 2, counted from 0"):
            fitted(found, ROWS, WIDTH, index, "file")


@pytest.mark.parametrize("shape", [(ROWS + 2, WIDTH), (ROWS, WIDTH + 1), (1, ROWS, 2 * WIDTH), (WIDTH + 1,)])
def test_another_models_latent_is_refused(shape: tuple[int, ...]) -> None:
    other = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    with pytest.raises(InputError, match=f"the model takes {ROWS} × {WIDTH}; .*--model"):
        fitted(other, ROWS, WIDTH, None, "file")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    broken = W_PLUS.astype(np.float64)
    broken[3, 4] = value  # the last one is finite until it is float32
    with pytest.raises(InputError, match="not finite"):
        fitted(broken, ROWS, WIDTH, None, "file")


def header(shape: str, kind: str = "<f4", version: int = 1) -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello", "not a latent"),
    "a picture": (b"\x89PNG\r\n", "not a latent"),
    "objects": (npy(np.array([{}], object), allow_pickle=True), "Python objects.*refused"),
    "objects in npz": (npz(w=np.array([{}], object)), "Python objects.*refused"),
    "whole numbers": (npy(np.zeros((ROWS, WIDTH), np.int64)), "type <i8: latents are floating-point"),
    "records": (npy(np.zeros(3, [("a", "f4")])), "records"),
    "a scalar": (npy(np.float32(1)), "no latent has"),
    "nothing": (npy(np.zeros((0, ROWS, WIDTH), np.float32)), "without numbers"),
    "nothing and a huge shape": (header(f"(0, {10**17}, {10**17})"), "without numbers"),
    "four axes": (npy(np.zeros((1, 1, ROWS, WIDTH), np.float32)), "no latent has"),
    "cut short": (npy(W_PLUS)[:-1], "more numbers than the file holds: refused"),
    "a header alone": (npy(W_PLUS)[:40], "damaged header"),
    "an endless header": (header("(" + "1," * 9000 + ")"), "damaged header"),
    "a huge shape": (header("(1000000, 18, 512)"), "more numbers than the file holds: refused"),
    "a shape beyond all numbers": (header(f"({10**40}, {10**40})"), "impossible shape"),
    "a negative shape": (header("(-1, 18, 512)"), "damaged header"),
    "many axes": (header("(" + "1," * 40 + ")"), "impossible shape"),
    "a long number": (header("(" + "1" * 9000 + "x)"), "damaged header"),
    "a shape with a program": (header("(__import__('os').getpid(), 2)"), "damaged header"),
    "nested brackets": (header("(" * 3000), "damaged header"),
    "version 9": (header("(8, 16)", version=9), "of a version"),
    "npz without w": (npz(a=W_PLUS, b=W_PLUS), "holds no array `w` but a, b"),
    "npz of no arrays": (zipped(**{"w.npy": b"hello"}), "something else than arrays"),
    "npz damaged": (npz(np.savez_compressed, w=W_PLUS)[:-200] + bytes(200), "damaged or cut short"),
    "a zip file": (zipped(a=b"hello"), "not one that torch.save wrote"),
    "a state dict": (
        pt({"conv.weight": torch.zeros(3)}),
        "a checkpoint, not a latent; .* --model",
    ),
    "a tensor of whole numbers": (pt(torch.zeros(ROWS, WIDTH, dtype=torch.int64)), "floating-point"),
    "a list": (pt([torch.zeros(1)]), "holds no latent"),
    "several shapes": (pt({k: {"latent": torch.zeros(n, 4)} for k, n in (("a", 1), ("b", 2))}), "several shapes"),
    "torch cut short": (pt(TENSOR)[:-300], "damaged or cut short|ends too early"),
    "a pickle": (pickle.dumps(W_PLUS), "not a latent"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_latent_is_refused_in_one_line(kind: str) -> None:
    data, words = BAD[kind]
    with pytest.raises(InputError, match=words) as refusal:
        read_latents(memoryview(data), "the file")
    assert str(refusal.value).startswith("the file: ")
    assert "\n" not in str(refusal.value)


class Program:
    """Pickled as a call of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a dict"])
def test_nothing_in_a_file_is_run(tmp_path: Path, new: bool, inside: bool) -> None:
    program = Program(f"touch {tmp_path / 'ran'}")
    value = {"w": TENSOR, "more": program} if inside else program
    with pytest.raises(InputError, match=r"asks for `posix.system`.*refused"):
        read_latents(memoryview(pt(value, _use_new_zipfile_serialization=new)), "file")
    objects = npy(np.array([program], object), allow_pickle=True)
    with pytest.raises(InputError, match="refused"):
        read_latents(memoryview(objects), "file")
    assert not (tmp_path / "ran").exists()


def test_a_small_file_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed array is unpacked up to a limit, whatever the archive says of its size."""
    monkeypatch.setattr(latents, "MAX_NPY", 1 << 20)
    bomb = zipped(**{"w.npy": header("(1, 600000)") + bytes(2_400_000)})
    assert len(bomb) < 10_000
    with pytest.raises(InputError, match="more than 1 MiB: refused"):
        read_latents(memoryview(bomb), "file")


def test_every_flipped_byte_of_a_file_is_read_or_refused() -> None:
    """Nothing but InputError comes out."""
    for data in (npz(w=W_PLUS[:2, :4]), npy(W_PLUS[:2, :4]), pt(TENSOR[:2, :4].clone())):
        for at in range(0, len(data), 3):
            changed = data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :]
            with contextlib.suppress(InputError):
                fitted(read_latents(memoryview(changed), "file"), 2, 4, None, "file")


def test_the_shared_hostile_files_are_refused(shared: Path) -> None:
    for path in sorted((shared / "golden" / "hostile").glob("*.p*")):
        with pytest.raises(InputError):
            read_latents(memoryview(path.read_bytes()), path.name)
