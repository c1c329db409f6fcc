from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

SMALL = {"z_dim": 64, "w_dim": 64, "img_resolution": 32, "num_layers": 3, "channel_base": 512, "channel_max": 64}


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Network A of the golden files as a generator of ours: 32 px, w_plus [8, 64], a step takes milliseconds."""
    from safetensors.numpy import save_file

    from realdrag.stylegan import GENERATOR_FORMAT

    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    with np.load(Path(__file__).parents[1] / "golden" / "sg2-32.npz") as file:
        tensors = {name.removeprefix("param/"): file[name] for name in file.files if name.startswith("param/")}
    save_file(tensors, path, {"format": GENERATOR_FORMAT, "config": json.dumps(SMALL)})
    return path
