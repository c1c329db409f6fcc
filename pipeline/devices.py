"""What computes: device, threads, precision, the process's memory, and imports that need a hand."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from realdrag.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

# mallopt's parameters (glibc's malloc.h) and what we set them to.
_PAGES = {
    -4: 0,  # M_MMAP_MAX: no allocation gets a mapping of its own
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: the heap's end is not given back
    -2: 64 << 20,  # M_TOP_PAD: the heap grows by 64 MiB at a time
}

_operators: list[torch.library.Library] = []  # what defines torchvision's operators must stay referenced


def pick(device: str) -> torch.device:
    """The torch device; `auto` is the first of cuda, mps, cpu present. InputError if it is missing."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, present in there.items() if present))
    if device not in there:
        raise InputError(f"unknown device {device!r}", f"one of {', '.join(get_args(Device))}")
    if not there[device]:
        present = [name for name in there if there[name]]
        raise InputError(f"torch finds no {device} device here", f"there is {' and '.join(present)}")
    return torch.device(device)


def kind(device: str) -> str:
    """ "cpu", "cuda" or "mps": what `pick` chooses."""
    return pick(device).type


def check_precision(precision: str, device: str) -> None:
    """InputError for a precision that is none, or that `device` has no unit for."""
    if precision not in get_args(Precision):
        raise InputError(f"unknown precision {precision!r}", f"one of {', '.join(get_args(Precision))}")
    if precision == "fp16" and kind(device) == "cpu":
        raise InputError("fp16 is slow on a processor, which has no unit for it", "take --precision auto, fp32 or bf16")


def pick_precision(precision: str, device: torch.device, *, small: bool) -> str:
    """ "fp32", "bf16" or "fp16": what `auto` stands for on `device`, another as it is. small: the model is.

    `auto` is fp16 on CUDA, and bf16 on a processor that is fast at it unless the model is small: there the
    convolutions are too short for it to pay.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "fp16"
    return "bf16" if device.type == "cpu" and not small and fast_bf16(device) else "fp32"


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """`count` threads for torch's and OpenCV's operations inside (None: no change); afterwards as before."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    set_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def set_threads(threads: int | None) -> None:
    """Threads of torch's and OpenCV's operations; None leaves the libraries' choice."""
    if threads is None:
        return
    if threads < 1:
        raise InputError(f"{threads} threads cannot compute", "give 1 or more")
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def keep_pages() -> None:
    """Lets the process keep memory it has freed: an optimisation wants the same tensors at every step.

    glibc otherwise returns each to the system and pays for fresh pages on the next step (up to half of the
    time at 1024 px). It holds for the whole process and for good, so commands call it and imports do not.
    Does nothing where the C library is not glibc.
    """
    if os.name != "posix":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    for parameter, value in _PAGES.items():
        libc.mallopt(parameter, value)


def fast_bf16(device: torch.device | None = None) -> bool:
    """Whether bfloat16 computes faster than float32 on `device` (None: the CPU).

    For a CPU this is read, not measured, so that the same machine always answers the same: precision is
    part of a latent's key. With avx512_bf16 a 3×3 convolution of 128 or 256 channels takes 0.6 of the time.
    """
    if device is not None and device.type == "cuda":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device is not None and device.type != "cpu":
        return False
    return bool(_processor_words() & {"avx512_bf16", "amx_bf16"})


def _processor_words() -> set[str]:
    """What Linux says about the processor; empty elsewhere."""
    try:
        return set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        return set()


def bf16() -> str:
    """What computes bfloat16 here, for people: "cuda", "amx_bf16, avx512_bf16", "none", or "unknown"."""
    import torch

    if torch.cuda.is_available() and fast_bf16(torch.device("cuda")):
        return "cuda"
    words = _processor_words()
    # x86 lists flags, ARM Features; elsewhere nothing is known.
    absent = "none" if words & {"flags", "Features"} else "unknown"
    return ", ".join(sorted(words & {"amx_bf16", "avx512_bf16", "bf16"})) or absent


def import_torchvision() -> ModuleType:
    """torchvision, also where its operators were compiled for another torch (CUDA beside a CPU torch).

    There `import torchvision` fails because it describes operators that were not loaded. We declare the two
    it asks for, without a body: nothing of ours calls them.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        operators = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms"):
            operators.define(name + signature)  # type: ignore[no-untyped-call]
        _operators.append(operators)
        import torchvision
    module: ModuleType = torchvision
    return module


def import_lpips() -> ModuleType:
    """The `lpips` package."""
    import_torchvision()
    import lpips

    module: ModuleType = lpips
    return module


@contextlib.contextmanager
def quiet_torchvision() -> Iterator[None]:
    """Around `lpips.LPIPS(…)`, which uses old parameters of torchvision: hides those two warnings."""
    with warnings.catch_warnings():
        for message in ("The parameter 'pretrained' is deprecated", "Arguments other than a weight enum"):
            warnings.filterwarnings("ignore", message, UserWarning, r"torchvision\.models\._utils")
        yield
