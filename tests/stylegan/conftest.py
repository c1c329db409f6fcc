from __future__ import annotations

import json
from collections.abc import Iterator
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
def tensors(golden: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {k.removeprefix("param/"): torch.from_numpy(v) for k, v in golden.items() if k.startswith("param/")}


@pytest.fixture
def header() -> dict[str, str]:
    return {"format": GENERATOR_FORMAT, "config": json.dumps(CONFIG)}


@pytest.fixture
def generator(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> Generator:
    return build_generator(tensors, header, "sg2-32")
