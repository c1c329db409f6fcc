"""Everything that loads weights: models, perceptual backbones, and whether face-alignment's files are there.

What is heavy to import is imported where it is used.
"""

from __future__ import annotations

import importlib.resources
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from realdrag import library, network
from realdrag.conversion import converted, file_sha256, is_safetensors, safetensors_header
from realdrag.errors import InputError, WorkError
from realdrag.network import fetch
from realdrag.presets import nearest
from realdrag.progress import Progress, Silent
from realdrag.stylegan.catalogue import CATALOGUE, find

if TYPE_CHECKING:
    import torch

    from realdrag.align.landmarks import LandmarkNet
    from realdrag.inversion import Perceptual
    from realdrag.stylegan import Encoder, Generator, GeneratorConfig

__all__ = [
    "BACKBONES",
    "EMBEDDED",
    "FAN",
    "ModelFile",
    "Remote",
    "checkpoints",
    "embedded_models",
    "fan_ready",
    "fetch",
    "find_backbone",
    "load_encoder",
    "load_generator",
    "load_landmarks",
    "load_perceptual",
    "loss_identity",
    "model_config",
    "model_resolution",
    "present",
    "resolve_model",
]

EMBEDDED = "faces-128"
LANDMARKS, PERCEPTUAL = "landmarks.safetensors", "perceptual.safetensors"


@dataclass(frozen=True)
class ModelFile:
    """A generator on disk, and the encoder that goes with it, or None. sha256: of the files, hex."""

    name: str
    path: Path
    sha256: str
    encoder_path: Path | None
    encoder_sha256: str | None


@dataclass(frozen=True)
class Remote:
    """A file that others publish, and what its sha256 begins with."""

    url: str
    sha256_prefix: str

    @property
    def name(self) -> str:
        """Its file name, there and here."""
        return self.url.rpartition("/")[2]


# In the order in which `auto` prefers them.
BACKBONES = {
    "vgg": Remote(network.TORCH + "vgg16-397923af.pth", "397923af"),
    "alex": Remote(network.TORCH + "alexnet-owt-7be5be79.pth", "7be5be79"),
    "squeeze": Remote(network.TORCH + "squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
}
FAN = (
    Remote(network.FAN + "s3fd-619a316812.pth", "619a316812"),
    Remote(network.FAN + "2DFAN4-11f355bf06.pth.tar", "11f355bf06"),
)


def embedded_models() -> dict[str, Path]:
    """Name → file of the generators that come with the package."""
    encoders = sorted(_models().glob("*-encoder.safetensors"))
    names = [path.name.removesuffix("-encoder.safetensors") for path in encoders]
    return {name: _models() / f"{name}.safetensors" for name in names}


def _models() -> Path:
    return Path(str(importlib.resources.files("realdrag.models")))


def resolve_model(name: str | None, progress: Progress | None = None) -> ModelFile:
    """The model called `name`: an embedded one, one in the user's folder, or the path of a generator.

    None is the default one.
    A checkpoint of another program is converted at its first use and the copy found again; `progress` is told.
    """
    embedded = embedded_models()
    path = embedded.get(name or EMBEDDED) or library.own_models().get(name or "")
    if path is None:
        if name is None:
            raise WorkError(f"the embedded model {EMBEDDED} is missing", "install realdrag again")
        path = Path(name).expanduser()
        if not path.is_file():
            raise _no_model(name, embedded)
        if not is_safetensors(path):
            copy = converted(path, progress or Silent())
            return ModelFile(path.stem, copy, file_sha256(copy), None, None)
    encoder = path.with_name(f"{path.stem}-encoder.safetensors")
    if not encoder.is_file():
        return ModelFile(path.stem, path, file_sha256(path), None, None)
    return ModelFile(path.stem, path, file_sha256(path), encoder, file_sha256(encoder))


def _no_model(name: str, embedded: dict[str, Path]) -> InputError:
    if find(name) is not None:
        return InputError(f"the model {name} is not here", f"`realdrag models pull {name}` fetches it")
    known = f"embedded models: {', '.join(embedded)}"
    if Path(name).suffix in (".safetensors", ".pkl", ".pt", ".pth") or Path(name).name != name:
        return InputError(f"there is no model file {name}", known)
    near = nearest(name, [*embedded, *library.own_models(), *(entry.name for entry in CATALOGUE)])
    return InputError(f"there is no model {name!r}", f"{near}, or give the path of a checkpoint")


def model_config(model: ModelFile) -> GeneratorConfig:
    """The generator's sizes, from the file's header; needs no torch."""
    from realdrag.stylegan import GeneratorConfig

    try:
        return GeneratorConfig(**json.loads(safetensors_header(model.path)["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{model.path}: not a realdrag generator: its header has no sizes") from error


def model_resolution(model: ModelFile) -> int:
    """Side of the generator's picture in pixels, from the file's header; needs no torch."""
    try:
        return int(json.loads(safetensors_header(model.path)["config"])["img_resolution"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{model.path}: not a realdrag generator: its header has no resolution") from error


def load_generator(model: ModelFile, device: torch.device | None = None) -> Generator:
    """The generator on `device` (None: the CPU), frozen. InputError when the file is not a sound one."""
    from realdrag.stylegan import GENERATOR_FORMAT, build_generator

    generator = build_generator(*_read(model.path, GENERATOR_FORMAT), model.path.name)
    return generator.to(device or "cpu")


def load_encoder(model: ModelFile, device: torch.device | None = None) -> Encoder | None:
    """The encoder that belongs to the model on `device` (None: the CPU), or None where it has none."""
    if model.encoder_path is None:
        return None
    from realdrag.stylegan import ENCODER_FORMAT, build_encoder

    encoder = build_encoder(*_read(model.encoder_path, ENCODER_FORMAT), model.encoder_path.name)
    return encoder.to(device or "cpu")


def _read(path: Path, expected: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors (on the CPU) and header of a safetensors file of the format `expected`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header: dict[str, str] = file.metadata() or {}
            if header.get("format") != expected:
                found = header.get("format", "no format")
                raise InputError(f"{path}: not a {expected} file: its header says {found[:40]!r}")
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable safetensors file: {reason}") from error


def load_landmarks() -> LandmarkNet:
    """The embedded landmark network, frozen, on the CPU."""
    from realdrag.align.landmarks import LandmarkNet

    net = LandmarkNet()
    _fill(net, _models() / LANDMARKS, "realdrag-landmarks-1")
    return net


def _fill(net: torch.nn.Module, path: Path, expected: str) -> None:
    """The weights of an embedded network, which then stays as it is. WorkError when the installation is damaged."""
    try:
        tensors, _ = _read(path, expected)
        net.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    except (InputError, RuntimeError) as error:
        raise WorkError(f"the embedded {path.name} is missing or damaged", "install realdrag again") from error
    net.eval().requires_grad_(False)


def checkpoints() -> Path:
    """The folder where torch.hub, and so torchvision and face-alignment, keep files they fetched."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"


def present(remote: Remote) -> bool:
    """Whether the file lies in `checkpoints()`."""
    return (checkpoints() / remote.name).is_file()


def find_backbone(choice: str, progress: Progress) -> str:
    """The perceptual loss to use for `choice`: "vgg", "alex", "squeeze", or "embedded" (no backbone).

    `auto` is the first backbone present, else VGG if it can be fetched, else "embedded", and says so.
    WorkError when another choice is neither present nor to be fetched.
    """
    if choice == "embedded":
        return choice
    if choice == "auto":
        found = next((name for name, remote in BACKBONES.items() if present(remote)), None)
        if found:
            return found
    name = "vgg" if choice == "auto" else choice
    remote, folder = BACKBONES[name], checkpoints()
    try:
        _fetch(remote, progress)
    except WorkError as error:
        if choice != "auto":
            hint = f"put {remote.url} into {folder} as {remote.name}, or choose --perceptual auto"
            raise WorkError(f"the {name} backbone is missing: {error.message}", hint) from error
        progress.say(
            f"no LPIPS backbone is there and {error.message}: the embedded loss stands in (more: realdrag doctor)"
        )
        return "embedded"
    return name


def load_perceptual(name: str, device: torch.device) -> Perceptual:
    """The loss that `find_backbone` named, on `device`. WorkError when the backbone's file is unusable."""
    from realdrag.inversion import Embedded, Lpips, PerceptualNet

    if name == "embedded":
        net = PerceptualNet()
        _fill(net, _models() / PERCEPTUAL, "realdrag-perceptual-1")
        return Embedded(net.to(device))
    import torch

    from realdrag.devices import import_lpips, quiet_torchvision

    state = _backbone_state(name)
    lpips = import_lpips()
    # Random numbers that are overwritten at once must not move the caller's generator.
    with quiet_torchvision(), torch.random.fork_rng(devices=[]):
        module = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)
    wanted = {key: key.partition(".")[2] for key in module.net.state_dict()}  # slice<k>.<i>.<rest>
    missing = [f"features.{key}" for key in wanted.values() if f"features.{key}" not in state]
    path = checkpoints() / BACKBONES[name].name
    hint = f"remove the file and fetch {BACKBONES[name].url} again"
    if missing:
        raise WorkError(f"{path} is not the {name} backbone: {missing[0]} is missing", hint)
    try:
        module.net.load_state_dict({key: state[f"features.{old}"] for key, old in wanted.items()})
    except RuntimeError as error:
        raise WorkError(f"{path} is not the {name} backbone: a tensor has another shape", hint) from error
    return Lpips(module.eval().requires_grad_(False).to(device), name)


def loss_identity(name: str) -> str:
    """What a latent's key holds of the loss `name`: backbones are what they are for ever, the embedded one is not."""
    return f"{name} {file_sha256(_models() / PERCEPTUAL)}" if name == "embedded" else name


def _backbone_state(name: str) -> dict[str, torch.Tensor]:
    """torchvision's state dict of the backbone `name`, which must be present."""
    import torch

    path = checkpoints() / BACKBONES[name].name
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler lets through whatever garbage provokes
        hint = f"remove the file and fetch {BACKBONES[name].url} again"
        raise WorkError(f"{path} cannot be read", hint) from error
    return state if isinstance(state, dict) else {}


def fan_ready(progress: Progress) -> bool:
    """Whether face-alignment's detector and landmark files are there, fetched now if they can be.

    Where not, says so. Imports neither torch nor face_alignment.
    """
    try:
        for remote in FAN:
            _fetch(remote, progress)
    except WorkError as error:
        progress.say(f"face-alignment's weights are missing and {error.message}: the embedded landmarks stand in")
        return False
    return True


def _fetch(remote: Remote, progress: Progress) -> Path:
    return fetch(remote.url, checkpoints(), remote.name, remote.sha256_prefix, progress)
