"""What may break unseen in the trainer: growing, resuming and going on from exported files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from realdrag.stylegan import GeneratorConfig, build_generator

SIZE = {"channel_base": 256, "channel_max": 16}
NETWORKS = ("G", "D", "E", "ema", "P")
CONFIG = GeneratorConfig(8, 8, 16, 2, **SIZE)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The trainer's module; the scripts import each other by bare names."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "training"))
    import generator

    yield generator
    for name in ("generator", "critics", "faces", "lpips_teacher"):
        sys.modules.pop(name, None)


@pytest.fixture
def lpips(training: Any, tmp_path: Path) -> Any:
    """SqueezeNet with random weights."""
    torch.manual_seed(1)
    widths = (64, 128, 256, 384, 384, 512, 512)
    shapes = {"0": (64, 3, 3, 3)}
    fires = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
    fires |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
    for i, (n_in, squeeze, expand) in fires.items():
        shapes |= {f"{i}.squeeze": (squeeze, n_in, 1, 1), f"{i}.expand1x1": (expand, squeeze, 1, 1)}
        shapes[f"{i}.expand3x3"] = (expand, squeeze, 3, 3)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"features.{name}.weight"] = torch.randn(shape) / (shape[1] * shape[2] ** 2) ** 0.5
        tensors[f"features.{name}.bias"] = torch.zeros(shape[0])
    tensors |= {f"lin{k}": torch.rand(c) / c for k, c in enumerate(widths)}
    save_file(tensors, tmp_path / "squeeze.safetensors")
    return training.SqueezeLPIPS(tmp_path / "squeeze.safetensors")


def trainer(training: Any, lpips: Any, config: GeneratorConfig = CONFIG) -> Any:
    torch.manual_seed(0)
    settings = training.Settings(batch=4, precision="fp32", ada_target=0.6)
    return training.Trainer(settings, config, lpips, torch.device("cpu"))


def weights(it: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for name in NETWORKS for p in getattr(it, name).parameters()])


def steps(it: Any, count: int) -> None:
    for _ in range(count):
        it.step(torch.rand(2, 3, 16, 16) * 2 - 1, 1.0)


def test_resumed_run_takes_the_same_steps(training: Any, lpips: Any, tmp_path: Path) -> None:
    whole = trainer(training, lpips)
    steps(whole, 2)
    whole.save(tmp_path / "state.pt")
    steps(whole, 1)
    again = trainer(training, lpips)
    again.resume(training.read_source(tmp_path / "state.pt"))
    steps(again, 1)
    assert torch.equal(weights(whole), weights(again))
    assert (whole.seen, whole.steps) == (again.seen, again.steps) == (12, 3)


def test_grown_critic_and_encoder_judge_as_before(training: Any, lpips: Any) -> None:
    small, large = trainer(training, lpips), trainer(training, lpips, GeneratorConfig(8, 8, 32, 2, **SIZE))
    for name in ("D", "E"):
        training.grow_into(getattr(large, name), getattr(small, name).state_dict())
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(large.D(x), small.D(F.avg_pool2d(x, 2)), rtol=1e-4, atol=1e-5)
    mean = torch.zeros(8)
    torch.testing.assert_close(large.E(x, mean)[:, :6], small.E(F.avg_pool2d(x, 2), mean), rtol=1e-4, atol=1e-5)


def test_exported_files_are_the_packages_and_start_a_run(training: Any, lpips: Any, tmp_path: Path) -> None:
    first = trainer(training, lpips)
    steps(first, 1)
    first.export(tmp_path)
    source = training.read_source(tmp_path / "faces-16")
    assert (source.config, source.seen) == (CONFIG, 4)
    build_generator(source.networks["G"], {"config": training.json.dumps(training.asdict(CONFIG))}, "faces-16")
    second = trainer(training, lpips)
    second.start(source)
    torch.testing.assert_close(second.G.state_dict(), first.ema.state_dict(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(second.P.state_dict(), first.P.state_dict(), rtol=1e-3, atol=1e-4)
    steps(second, 1)


def test_average_keeps_its_noise(training: Any, lpips: Any) -> None:
    it = trainer(training, lpips)
    before = it.ema.synthesis.b16.conv1.noise_const.clone()
    steps(it, 1)
    assert torch.equal(it.ema.synthesis.b16.conv1.noise_const, before)
    assert not torch.equal(it.G.synthesis.b16.conv1.noise_const, before)


def test_rate_falls_over_the_last_part(training: Any) -> None:
    settings = training.Settings(minutes=10, decay_last=0.5)
    assert [training.rate_at(60 * t, settings) for t in (0, 5, 7.5, 10, 11)] == [1.0, 1.0, 0.5, 0.0, 0.0]
