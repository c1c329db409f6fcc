"""Models by name or path; backbones present, fetched or stood in for; files that are not what they seem."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from realdrag import network, weights
from realdrag.errors import InputError, WorkError
from realdrag.inversion import Lpips
from realdrag.network import Offline
from realdrag.progress import Silent
from realdrag.stylegan import GENERATOR_FORMAT, Encoder, Generator, GeneratorConfig

CPU = torch.device("cpu")
TINY = {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 8, "img_channels": 3}
TINY |= {"num_layers": 2, "channel_base": 64, "channel_max": 8}


class Told(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder and a home, both the test's own and empty."""
    monkeypatch.setenv("REALDRAG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A network where every connection is refused; the hosts tried."""
    hosts: list[str] = []

    def refuse(address: tuple[str, int], *_: object, **__: object) -> None:
        hosts.append(address[0])
        raise ConnectionRefusedError("refused by the test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return hosts


def tiny(path: Path, **changes: object) -> Path:
    config = {**TINY, **changes}
    tensors = {k: v.contiguous() for k, v in Generator(GeneratorConfig(**TINY)).state_dict().items()}  # type: ignore[arg-type]
    save_file(tensors, path, {"format": GENERATOR_FORMAT, "config": json.dumps(config)})
    return path


def backbone(name: str, hub: Path) -> dict[str, torch.Tensor]:
    """A file of random weights as torchvision writes it."""
    from realdrag.devices import import_torchvision

    models = import_torchvision().models
    make = {"vgg": models.vgg16, "alex": models.alexnet, "squeeze": models.squeezenet1_1}[name]
    with torch.device("meta"):  # the classifiers, most of the file, are not needed
        shapes = {k: v.shape for k, v in make(weights=None).state_dict().items() if k.startswith("features.")}
    state = {k: torch.randn(shape) * 0.05 for k, shape in shapes.items()}
    torch.save(state, hub / weights.BACKBONES[name].name)
    return state


def test_the_default_model_is_the_embedded_one() -> None:
    model = weights.resolve_model(None)
    assert model == weights.resolve_model("faces-128")
    assert model.name == "faces-128"
    assert model.sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    generator = weights.load_generator(model, CPU)
    encoder = weights.load_encoder(model, CPU)
    assert isinstance(encoder, Encoder)
    assert generator.config.img_resolution == weights.model_resolution(model) == 128
    assert model.encoder_path
    assert model.encoder_sha256 == hashlib.sha256(model.encoder_path.read_bytes()).hexdigest()
    assert not any(p.requires_grad for p in generator.parameters())


def test_a_model_can_be_a_path_with_or_without_an_encoder(tmp_path: Path) -> None:
    model = weights.resolve_model(str(tiny(tmp_path / "mine.safetensors")))
    assert (model.name, model.encoder_path, model.encoder_sha256) == ("mine", None, None)
    assert weights.model_resolution(model) == 8
    assert weights.load_encoder(model, CPU) is None
    assert weights.load_generator(model, CPU).config.img_resolution == 8
    (tmp_path / "mine-encoder.safetensors").write_bytes(b"not one")
    model = weights.resolve_model(str(model.path))
    with pytest.raises(InputError, match=r"mine-encoder\.safetensors: not a readable"):
        weights.load_encoder(model, CPU)


@pytest.mark.parametrize(
    ("name", "said"),
    [("faces-182", "did you mean faces-128"), ("gone/m.safetensors", "no model file"), ("m.pkl", "no model")],
)
def test_a_model_that_is_not_there_is_said(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        weights.resolve_model(name)
    assert "faces-128" in str(caught.value)


def test_malformed_models_are_one_line(tmp_path: Path) -> None:
    good = tiny(tmp_path / "good.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    tiny(tmp_path / "other.safetensors", w_dim=16)
    for name in ("cut", "bare", "other"):
        model = weights.resolve_model(str(tmp_path / f"{name}.safetensors"))
        with pytest.raises(InputError, match=f"{name}.safetensors") as caught:
            weights.load_generator(model, CPU)
        assert "\n" not in str(caught.value)
        if name != "other":
            with pytest.raises(InputError, match=f"{name}.safetensors"):
                weights.model_resolution(model)
    encoder = weights.resolve_model(None).encoder_path
    assert encoder
    with pytest.raises(InputError, match="realdrag-encoder-1"):
        weights.load_generator(weights.resolve_model(str(encoder)), CPU)


def test_the_folder_is_torch_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hubs() -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints"

    assert weights.checkpoints() == hubs() == tmp_path / "torch/hub/checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights.checkpoints() == hubs() == tmp_path / "cache/torch/hub/checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.checkpoints() == hubs()


def test_auto_takes_the_first_present_without_the_network(hub: Path, tried: list[str]) -> None:
    for name in ("squeeze", "alex", "vgg"):
        (hub / weights.BACKBONES[name].name).write_bytes(b"")
        assert weights.find_backbone("auto", Silent()) == name
    assert weights.find_backbone("squeeze", Silent()) == "squeeze"
    assert weights.find_backbone("embedded", Silent()) == "embedded"
    assert tried == []


def test_auto_offline_stands_in_says_so_and_asks_once(tried: list[str]) -> None:
    told = Told()
    for n in (1, 2):
        assert weights.find_backbone("auto", told) == "embedded"
        assert len(told.lines) == n
        assert "embedded" in told.lines[-1]
        assert "realdrag doctor" in told.lines[-1]
    assert tried.count("download.pytorch.org") == 1


def test_a_backbone_asked_for_is_fetched_or_an_error(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkError) as caught:
        weights.find_backbone("alex", Silent())
    for word in (weights.BACKBONES["alex"].url, "alexnet-owt-7be5be79.pth", str(hub)):
        assert word in caught.value.hint

    def fetch(url: str, folder: Path, name: str, prefix: str, _: object) -> Path:
        assert url.endswith(name)
        assert prefix in name
        (folder / name).write_bytes(b"")
        return folder / name

    monkeypatch.setattr(weights, "fetch", fetch)
    assert weights.find_backbone("alex", Silent()) == "alex"
    assert (hub / "alexnet-owt-7be5be79.pth").exists()
    (hub / "alexnet-owt-7be5be79.pth").unlink()
    assert weights.find_backbone("auto", Silent()) == "vgg"


@pytest.mark.parametrize("name", ["vgg", "alex", "squeeze"])
def test_lpips_is_the_packages_own(name: str, hub: Path) -> None:
    """Each layer holds the file's numbers, the value is the package's, the caller's dice are untouched."""
    state = backbone(name, hub)
    torch.manual_seed(3)
    want_next = torch.rand(1)
    torch.manual_seed(3)
    loss = weights.load_perceptual(name, CPU)
    assert torch.equal(torch.rand(1), want_next)
    assert isinstance(loss, Lpips)
    assert loss.name == f"lpips-{name}"
    assert not any(module.training for module in loss.module.modules())

    module: Any = loss.module
    for k in range(module.net.N_slices):
        for number, layer in getattr(module.net, f"slice{k + 1}").named_children():
            for key, value in layer.state_dict().items():
                assert torch.equal(value, state[f"features.{number}.{key}"])
    assert float(module.lin0.model[-1].weight.min()) >= 0  # the published heads are not negative
    a, b = torch.rand(2, 1, 3, 128, 128) * 2 - 1
    torch.testing.assert_close(loss.to(a)(b), module(a, b).squeeze(), rtol=1e-4, atol=1e-6)


def test_the_embedded_loss_needs_no_download() -> None:
    loss = weights.load_perceptual("embedded", CPU)
    picture = torch.rand(1, 3, 32, 32)
    assert loss.name == "embedded"
    assert loss.to(picture)(picture).item() == pytest.approx(0, abs=1e-6)


class Code:
    """What a pickle that carries code holds."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/nowhere"),)


def test_a_backbone_file_that_is_another_is_said(hub: Path) -> None:
    file = hub / weights.BACKBONES["squeeze"].name
    state = backbone("squeeze", hub)
    alike = {k: v[:1] for k, v in state.items()}
    for content in ({}, [1], alike, {"features.0.weight": Code()}):
        torch.save(content, file)
        with pytest.raises(WorkError, match=file.name) as caught:
            weights.load_perceptual("squeeze", CPU)
        assert weights.BACKBONES["squeeze"].url in caught.value.hint
        assert "\n" not in str(caught.value)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(WorkError, match="cannot be read"):
        weights.load_perceptual("squeeze", CPU)


def test_fan_is_ready_when_its_files_are_there(hub: Path, tried: list[str]) -> None:
    for remote in weights.FAN:
        assert not weights.fan_ready(Silent())
        (hub / remote.name).write_bytes(b"")
    assert weights.fan_ready(Silent())
    assert tried.count("www.adrianbulat.com") == 1


def test_one_refusal_serves_backbones_and_fan(monkeypatch: pytest.MonkeyPatch, tried: list[str]) -> None:
    """Where names cannot even be looked up, whoever asks first asks for all."""
    monkeypatch.setattr(network, "PATIENCE_S", 0.0)
    assert weights.find_backbone("auto", Silent()) == "embedded"
    assert not weights.fan_ready(Silent())
    assert sorted(tried) == ["download.pytorch.org", "www.adrianbulat.com"]


def test_offline_known_answers_without_torch(tried: list[str]) -> None:
    assert not weights.fan_ready(Silent())
    code = """
import sys, socket
from realdrag import weights
from realdrag.progress import Silent
socket.create_connection = None  # a call would be an error
assert not weights.fan_ready(Silent())
print({"torch", "face_alignment", "requests", "pooch", "cv2"} & set(sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "set()", out.stderr


def test_offline_is_a_work_error_with_its_own_word() -> None:
    with pytest.raises(Offline) as caught:
        weights.fetch(weights.BACKBONES["vgg"].url, Path("unused"), "name", "", Silent())
    assert (caught.value.code, caught.value.exit_code) == ("offline", 1)
