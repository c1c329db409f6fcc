"""face-alignment's own classes through `FanDetector`, with weights that see colours instead of faces.

The real weights are large downloads. These have the same names and shapes: the box detector answers to a red square of
8 px, the landmark network puts all 68 points on the bluest spot, and everything in between is the package's code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from realdrag.align import FanDetector, align
from realdrag.errors import NoFaceError

BOX = 96.0  # side of the boxes that the detector gives, in pixels of the picture it searches
SQUARE = 8  # side of the red and blue squares there


@torch.no_grad()
def red_box_weights() -> dict[str, torch.Tensor]:
    """s3fd: channel 0 carries red minus blue down to stride 8, where such a cell is a face of `BOX` px."""
    from face_alignment.detection.sfd.net_s3fd import s3fd

    net = s3fd()
    for name, value in net.named_parameters():
        if not name.endswith("norm.weight"):
            value.zero_()
    net.conv1_1.weight[0, :, 1, 1] = torch.tensor([-1.0, 0.0, 1.0])  # its input is BGR, mean removed
    net.conv1_1.bias[0] = -150.0
    for name in ("conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv4_1", "conv4_2", "conv4_3"):
        getattr(net, name).weight[0, 0, 1, 1] = 1.0
    for layer in ("conv3_3_norm", "conv4_3_norm", "conv5_3_norm", "fc7", "conv6_2", "conv7_2"):
        getattr(net, f"{layer}_mbox_conf").bias[0] = 8.0  # no face, unless the next line says otherwise
    net.conv4_3_norm_mbox_conf.weight[1, 0, 1, 1] = 1.5  # ×8, what the normalisation leaves: 12
    net.conv4_3_norm_mbox_loc.bias[2:] = np.log(BOX / 32) / 0.2  # its anchors are 32 px wide
    return net.state_dict()


@torch.no_grad()
def blue_point_weights() -> dict[str, torch.Tensor]:
    """FAN: blue minus red goes through the residual branches, and all heat maps show it."""
    from face_alignment.models import FAN

    net = FAN(4)
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
            if module.kernel_size == (1, 1) and not name.startswith(("al", "bl")):
                to_maps = name in {"l0", "l1", "l2", "l3"}
                module.weight[slice(None) if to_maps else 0, 0] = 1.0
    net.conv1.weight[0, :, 3, 3] = torch.tensor([-1.0, 0.0, 1.0])
    return net.state_dict()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FanDetector]:
    home: Path = tmp_path_factory.mktemp("torch")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(red_box_weights(), folder / "s3fd-619a316812.pth")
    torch.save(blue_point_weights(), folder / "2DFAN4-11f355bf06.pth.tar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        patch.setattr(torch.hub, "_hub_dir", None)
        patch.setattr(torch.hub, "download_url_to_file", refuse)
        yield FanDetector("cpu")


def refuse(url: str, *rest: object, **more: object) -> None:
    raise AssertionError(f"the test would have fetched {url}")


def scene(width: int, height: int, scale: int, *faces: tuple[int, int]) -> np.ndarray:
    """Grey [h, w, 3]; for each face, in units of `scale` px, a red square at (8·column, 8·row) and a blue one whose
    centre lies 20 to the right and 12 below the red one's.
    """
    photo = np.full((height * scale, width * scale, 3), 128, np.uint8)
    size = SQUARE * scale
    for column, row in faces:
        left, top = 8 * column * scale, 8 * row * scale
        photo[top : top + size, left : left + size] = (255, 0, 0)
        left, top = left + 20 * scale, top + 12 * scale
        photo[top : top + size, left : left + size] = (0, 0, 255)
    return photo


@pytest.mark.parametrize(("width", "height", "scale"), [(240, 200, 1), (1024, 128, 5)])
def test_box_and_landmarks_in_photo_pixels(detector: FanDetector, width: int, height: int, scale: int) -> None:
    """`scale` > 1: a photo of more than 1024 px, searched reduced by so much."""
    column, row = 13, 7
    (face,) = detector.detect(scene(width, height, scale, (column, row)))
    red = np.array([8 * column + 4, 8 * row + 4]) * scale  # edge coordinates of the red square's centre
    centre = (np.array(face.box[:2]) + face.box[2:]) / 2
    np.testing.assert_allclose(centre, red - 0.5, atol=0.75 * scale)
    assert face.box[2] - face.box[0] == pytest.approx(BOX * scale, rel=0.01)
    assert face.confidence == pytest.approx(1 / (1 + np.exp(8 - 12)), abs=1e-3)
    assert face.landmarks is not None
    assert face.landmarks.shape == (68, 2)
    assert face.landmarks.dtype == np.float64
    blue = red + np.array([20, 12]) * scale - 0.5
    cell = BOX * scale * 200 / 195 / 64
    np.testing.assert_allclose(face.landmarks, np.broadcast_to(blue, (68, 2)), atol=1.25 * cell)


def test_each_face_has_its_own_landmarks(detector: FanDetector) -> None:
    """Two faces, one of which reaches beyond the photo."""
    faces = sorted(detector.detect(scene(400, 200, 1, (0, 10), (36, 10))), key=lambda face: face.box[0])
    assert len(faces) == 2
    assert faces[0].box[0] < 0
    for face, column in zip(faces, (0, 36), strict=True):
        assert face.landmarks is not None
        np.testing.assert_allclose(face.landmarks[0], [8 * column + 23.5, 80 + 15.5], atol=3)


def test_no_face_says_so_without_a_warning(detector: FanDetector) -> None:
    with pytest.raises(NoFaceError, match=r"\(detector: fan\)"):
        align(scene(240, 200, 1), detector, model_resolution=64)


@pytest.mark.parametrize("shape", [(1, 1), (10, 10), (31, 31), (32, 32), (15, 300), (100, 3300)])
def test_tiny_photos(detector: FanDetector, shape: tuple[int, int]) -> None:
    assert detector.detect(np.full((*shape, 3), 128, np.uint8)) == []
