"""The embedded perceptual network: a distance, and one that follows LPIPS on pictures it never saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from scipy.stats import spearmanr

from realdrag.inversion import Embedded
from realdrag.inversion.losses import resized
from realdrag.inversion.perceptual import between
from realdrag.stylegan import to_tensor
from realdrag.weights import load_perceptual

Picture = np.ndarray
Harm = Callable[[Picture, float], Picture]


@pytest.fixture(scope="module")
def loss() -> Embedded:
    found = load_perceptual("embedded", torch.device("cpu"))
    assert isinstance(found, Embedded)
    return found


def face(size: int) -> Picture:
    return cv2.resize(skimage.data.astronaut()[40:210, 140:310], (size, size), interpolation=cv2.INTER_AREA)


def blurred(picture: Picture, much: float) -> Picture:
    return cv2.GaussianBlur(picture, (0, 0), much)


def shifted(picture: Picture, much: float) -> Picture:
    matrix = np.float32([[1, 0, much], [0, 1, 0]])
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def noisy(picture: Picture, much: float) -> Picture:
    grain = np.random.default_rng(0).standard_normal(picture.shape) * 8 * much
    return (picture + grain).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("harm", [blurred, shifted, noisy])
@pytest.mark.parametrize("size", [32, 64, 160])
def test_more_harm_is_farther(loss: Embedded, size: int, harm: Harm) -> None:
    picture = face(size)
    distance = loss.to(to_tensor(picture))
    values = [float(distance(to_tensor(harm(picture, much)))) for much in (0.7, 1.5, 3.0)]
    assert 1e-4 < values[0] < values[1] < values[2] < 1


def test_it_is_symmetric_and_zero_for_the_same(loss: Embedded) -> None:
    a, b = to_tensor(face(96)), to_tensor(blurred(face(96), 2))
    assert float(loss.to(a)(a.clone())) == pytest.approx(0, abs=1e-7)
    assert float(loss.to(a)(b)) == pytest.approx(float(loss.to(b)(a)), rel=1e-5)
    assert float(loss.to(a)(b)) > 0.01


def test_its_gradient_leads_back(loss: Embedded) -> None:
    a, b = to_tensor(face(128)), to_tensor(blurred(face(128), 2)).requires_grad_()
    distance = loss.to(a)
    value = distance(b)
    (gradient,) = torch.autograd.grad(value, b)
    assert gradient.isfinite().all()
    with torch.no_grad():
        assert distance(b - 0.002 * gradient.sign()) < value


def test_flat_pictures_have_a_gradient(loss: Embedded) -> None:
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss.to(-torch.ones(1, 3, 32, 32))(flat), flat)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


def lpips(shared: Path) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """SqueezeNet's LPIPS as features whose squared differences it is, by the published weights."""
    from safetensors.torch import load_file

    from realdrag.devices import import_lpips, quiet_torchvision

    tensors = load_file(shared / "weights" / "lpips-squeeze.safetensors")
    with quiet_torchvision():
        module = import_lpips().LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    wanted = {key: f"features.{key.partition('.')[2]}" for key in module.net.state_dict()}
    module.net.load_state_dict({key: tensors[name] for key, name in wanted.items()})

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        maps = [y / (y.square().sum(1, keepdim=True).sqrt() + 1e-10) for y in module.net(module.scaling_layer(x))]
        return [y * tensors[f"lin{k}"].view(1, -1, 1, 1).sqrt() for k, y in enumerate(maps)]

    return features


def mixed(picture: Picture, much: float) -> Picture:
    """Another face shines through."""
    return cv2.addWeighted(picture, 1 - much / 6, np.roll(face(128)[:, ::-1], 9, 0), much / 6, 0)


def darker(picture: Picture, much: float) -> Picture:
    return (picture * (1 - 0.2 * much)).astype(np.uint8)


def test_it_ranks_as_lpips_does(loss: Embedded, shared: Path) -> None:
    """On held-out faces: 0.9 over all pairs, 0.8 within each kind of harm at one strength."""
    with np.load(shared / "faces" / "faces-128.npz") as data:
        ends, raw = data["ends"][:60], data["jpegs"]
    starts = [0, *ends[:-1]]
    faces = [cv2.imdecode(raw[a:b], cv2.IMREAD_COLOR)[..., ::-1].copy() for a, b in zip(starts, ends, strict=True)]
    true, ours, theirs = lpips(shared), [], []
    with torch.no_grad():
        plain = torch.cat([to_tensor(picture) for picture in faces])
        mine_plain, its_plain = loss.net(plain), true(plain)
        for harm in (blurred, shifted, noisy, mixed, darker):
            for much in (0.8, 2.5):
                made = torch.cat([to_tensor(harm(picture, much)) for picture in faces])
                mine, its = between(loss.net(made), mine_plain).numpy(), between(true(made), its_plain).numpy()
                assert spearmanr(mine, its)[0] > 0.8, (harm.__name__, much)
                ours.append(mine)
                theirs.append(its)
    assert spearmanr(np.concatenate(ours), np.concatenate(theirs))[0] > 0.9


def test_small_pictures_are_compared_enlarged(loss: Embedded) -> None:
    a, b = to_tensor(face(64)), to_tensor(blurred(face(64), 2))
    with torch.no_grad():
        enlarged = between(loss.net(resized(a, 128)), loss.net(resized(b, 128)))
    assert float(loss.to(a)(b)) == pytest.approx(float(enlarged), rel=1e-5)
