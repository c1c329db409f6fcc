"""The device asked for, memory that stays, and lpips beside a torchvision that does not fit."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from realdrag import devices
from realdrag.errors import InputError


@pytest.fixture(autouse=True)
def own_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALDRAG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_auto_takes_the_best_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.pick("auto") == torch.device("cpu")
    assert devices.pick("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.pick("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick("auto") == torch.device("cuda")
    assert devices.kind("auto") == "cuda"
    assert devices.pick("cpu") == torch.device("cpu")


def test_a_missing_device_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"no cuda device here; there is .*cpu"):
        devices.pick("cuda")
    with pytest.raises(InputError, match="unknown device 'gpu'; one of auto, cpu, cuda, mps"):
        devices.pick("gpu")


def test_threads_within_a_block_end_with_it() -> None:
    before, before_cv = torch.get_num_threads(), cv2.getNumThreads()
    with devices.threads(1):
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        with devices.threads(None):
            assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (before, before_cv)


def test_threads() -> None:
    before, before_cv = torch.get_num_threads(), cv2.getNumThreads()
    try:
        devices.set_threads(1)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        devices.set_threads(None)
        assert torch.get_num_threads() == 1
        with pytest.raises(InputError, match="0 threads"):
            devices.set_threads(0)
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(before_cv)


def kept_after_freeing(before: str) -> float:
    """MB still resident after 64 MB were allocated, written and freed, in a process that ran `before`."""
    code = f"""
        import ctypes
        from pathlib import Path
        from realdrag import devices
        {before}
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.free.argtypes = [ctypes.c_void_p]
        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        start = resident()
        block = libc.malloc(64 << 20)
        ctypes.memset(block, 1, 64 << 20)
        libc.free(block)
        print((resident() - start) / 2**20)
        """
    return float(subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)]))


@pytest.mark.skipif(not hasattr(os, "confstr") or not sys.platform.startswith("linux"), reason="glibc's")
def test_freed_memory_stays_with_the_process() -> None:
    assert kept_after_freeing("") < 8
    assert kept_after_freeing("devices.keep_pages()") > 56


def test_bf16_is_read_from_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, fast in (
        ("flags : fpu avx512f avx512_bf16", True),
        ("flags : amx_bf16", True),
        ("flags : avx512f", False),
    ):
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        assert devices.fast_bf16() is fast
        assert devices.fast_bf16(torch.device("cpu")) is fast
        assert devices.fast_bf16(torch.device("mps")) is False

    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert devices.fast_bf16() is False


def test_bf16_on_cuda_is_torchs_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda answer=answer, **_: answer)
        assert devices.fast_bf16(torch.device("cuda")) is answer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flags : fpu avx512_bf16 amx_bf16", "amx_bf16, avx512_bf16"),
        ("flags : fpu avx2", "none"),
        ("Features : asimd bf16", "bf16"),
        ("", "unknown"),
    ],
)
def test_bf16_for_people(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert devices.bf16() == said


def test_lpips_can_be_built_and_differentiated_without_warnings() -> None:
    lpips = devices.import_lpips()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with devices.quiet_torchvision():
            distance = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    distance(picture, torch.rand(1, 3, 64, 64)).sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 0


def test_only_those_two_warnings_are_hidden() -> None:
    with pytest.warns(UserWarning, match="something else"), devices.quiet_torchvision():
        warnings.warn_explicit("something else", UserWarning, "_utils.py", 1, "torchvision.models._utils")
    with pytest.warns(UserWarning, match="'pretrained'"), devices.quiet_torchvision():
        warnings.warn("The parameter 'pretrained' is deprecated", UserWarning, stacklevel=1)


def fake_torchvision(folder: Path, body: str) -> dict[str, str]:
    """An environment in which `import torchvision` runs `body`."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(textwrap.dedent(body))
    (folder / "torchvision" / "part.py").write_text("")
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_operators_that_were_not_loaded_are_declared(tmp_path: Path) -> None:
    """As a CUDA torchvision beside a CPU torch: the import asks torch for an operator that nobody defined."""
    env = fake_torchvision(
        tmp_path,
        """
        import torch
        import torchvision.part
        if not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "Meta"):
            torch.library.register_fake("torchvision::qnms", lambda dets, scores, iou_threshold: scores)
        """,
    )
    code = """
        from realdrag import devices
        a = devices.import_torchvision()
        assert a.part
        assert devices.import_torchvision() is a
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, check=True)


def test_another_failure_of_torchvision_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> object:
        if name == "torchvision":
            raise RuntimeError("something else")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(RuntimeError, match="something else"):
        devices.import_torchvision()


@pytest.mark.parametrize(
    ("device", "small", "fast", "found"),
    [
        ("cuda", True, False, "fp16"),
        ("cuda", False, True, "fp16"),
        ("cpu", False, True, "bf16"),
        ("cpu", True, True, "fp32"),
        ("cpu", False, False, "fp32"),
        ("mps", False, True, "fp32"),
    ],
)
def test_auto_precision(device: str, small: bool, fast: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "fast_bf16", lambda _=None: fast)
    assert devices.pick_precision("auto", torch.device(device), small=small) == found
    for said in ("fp32", "bf16", "fp16"):
        assert devices.pick_precision(said, torch.device(device), small=small) == said


def test_precisions_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cpu", "auto"):
        with pytest.raises(InputError, match="fp16 is slow on a processor"):
            devices.check_precision("fp16", device)
        devices.check_precision("bf16", device)
    with pytest.raises(InputError, match="unknown precision 'half'"):
        devices.check_precision("half", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices.check_precision("fp16", "auto")
