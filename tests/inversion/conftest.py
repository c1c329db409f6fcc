from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from realdrag.devices import import_lpips, quiet_torchvision, threads
from realdrag.stylegan import Generator, GeneratorConfig, to_picture


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="session")
def generator() -> Generator:
    """Network A of the golden files, 32 px: a step takes two milliseconds."""
    config = GeneratorConfig(64, 64, 32, num_layers=3, channel_base=512, channel_max=64)
    net = Generator(config)
    with np.load(Path(__file__).parents[1] / "golden" / "sg2-32.npz") as file:
        names = [name for name in file.files if name.startswith("param/")]
        net.load_state_dict({k.removeprefix("param/"): torch.from_numpy(file[k]) for k in names})
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@pytest.fixture(scope="session")
def crop(generator: Generator) -> np.ndarray:
    """A picture that the generator can make, [32, 32, 3]."""
    z = torch.randn(1, 64, generator=torch.Generator().manual_seed(5))
    return to_picture(generator.synthesize(generator.truncated(z, 0.6)))


@pytest.fixture(scope="session")
def package() -> torch.nn.Module:
    """LPIPS of the `lpips` package with its own heads and a random backbone."""
    lpips = import_lpips()
    with quiet_torchvision(), torch.random.fork_rng():
        torch.manual_seed(0)
        module = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    return module.eval().requires_grad_(False)
