"""What `benchmarks/synthesis.py` compares with computes the same thing, and counts what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realdrag.stylegan import Generator, GeneratorConfig

Golden = dict[str, np.ndarray]


@pytest.fixture
def synthesis(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark's module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import synthesis

    yield synthesis
    sys.modules.pop("synthesis", None)


def test_the_published_manner_gives_the_published_picture(synthesis: Any, generator: Generator, golden: Golden) -> None:
    w_plus = torch.from_numpy(golden["w_plus"]).requires_grad_()
    picture, features = synthesis.published(generator, w_plus)
    torch.testing.assert_close(picture, torch.from_numpy(golden["image_wplus"]), atol=1e-4, rtol=0)
    for block, found in features.items():
        torch.testing.assert_close(found, generator.synthesize(w_plus, block), atol=1e-4, rtol=0)


def test_the_lean_gradient_is_that_of_the_published_manner(
    synthesis: Any, generator: Generator, golden: Golden
) -> None:
    w_plus = torch.from_numpy(golden["w_plus"]).requires_grad_()
    losses = synthesis.published(generator, w_plus)[1]["b16"], generator.synthesize(w_plus, "b16")
    theirs, ours = (torch.autograd.grad(x.square().mean(), w_plus)[0] for x in losses)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_multiply_adds(synthesis: Any) -> None:
    """30.6·10⁹ forward to b128 at the full width; twice that with the gradient for the input."""
    full = GeneratorConfig(512, 512, 1024, 8, 32768, 512)
    assert synthesis.lean_gmac(full, "b128") == pytest.approx(2 * 30.6, rel=0.01)
    assert synthesis.lean_gmac(full, "b64") == pytest.approx(2 * 16.09, rel=0.01)
    assert synthesis.lean_gmac(GeneratorConfig(512, 512, 256, 8, 16384, 512), "b128") == pytest.approx(22.52, rel=0.01)
    with pytest.raises(ValueError, match="b2048"):
        synthesis.lean_gmac(full, "b2048")


@pytest.mark.parametrize("what", ["picture", "lean", "lean-default", "reference"])
def test_each_measurement_measures(
    synthesis: Any, generator: Generator, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(synthesis.devices, "keep_pages", lambda: kept.append(what))
    monkeypatch.setattr(synthesis, "built", lambda _: (generator, "b16"))
    found = synthesis.measure(what, "any", "fp32", torch.device("cpu"), 1)
    assert found["ms"] > 0
    assert found["mb"] > 50
    assert kept == ([what] if what in ("picture", "lean") else [])
    assert json.loads(json.dumps(found)) == found
    reached = [p.grad is not None for p in generator.synthesis.block(16).parameters()]
    assert any(reached) == (what == "reference")  # the published manner fills the weights' gradients too
