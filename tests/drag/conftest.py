from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from realdrag.devices import threads
from realdrag.stylegan import Generator, to_picture
from realdrag.values import Latent
from realdrag.weights import load_generator, resolve_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="session")
def generator() -> Generator:
    """The embedded faces, 128 px."""
    return load_generator(resolve_model(None))


@pytest.fixture(scope="session")
def latent(generator: Generator) -> Latent:
    """A face drawn at psi 0.7, as an inversion hands it over."""
    z = torch.randn(1, generator.config.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        w_plus = generator.truncated(z, 0.7).clone()
        picture = to_picture(generator.synthesize(w_plus))
    return Latent(w_plus[0].numpy(), None, picture, "", "embedded", {"lpips": None, "psnr": 40.0, "ssim": 1.0})
