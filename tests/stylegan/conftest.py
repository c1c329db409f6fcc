from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from realdrag.devices import threads
from realdrag.stylegan import GENERATOR_FORMAT, Generator, build_generator

CONFIG = {"z_dim": 64, "w_dim": 64, "img_resolution": 32, "num_layers": 3, "channel_base": 512, "channel_max": 64}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Network A: its parameters, inputs, and what the published program makes of them."""
    with np.load(Path(__file__).parents[1] / "golden" / "sg2-32.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def golden_file() -> Callable[[str], Path]:
    """The path of a golden file: ours, else the shared one."""

    def find(name: str) -> Path:
        ours = Path(__file__).parents[1] / "golden" / name
        theirs = Path(os.environ.get("REALDRAG_SHARED") or Path(__file__).parents[3] / "shared") / "golden" / name
        if not ours.is_file() and not theirs.is_file():
            pytest.skip(f"{theirs} is not there: set REALDRAG_SHARED")
        return ours if ours.is_file() else theirs

    return find


@pytest.fixture(scope="session")
def tensors(golden: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {k.removeprefix("param/"): torch.from_numpy(v) for k, v in golden.items() if k.startswith("param/")}


@pytest.fixture
def header() -> dict[str, str]:
    return {"format": GENERATOR_FORMAT, "config": json.dumps(CONFIG)}


@pytest.fixture
def generator(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> Generator:
    return build_generator(tensors, header, "sg2-32")
