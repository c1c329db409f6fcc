"""Between networks' tensors and 8-bit pictures, with the published scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_tensor(picture: npt.NDArray[np.uint8]) -> Tensor:
    """[r, r, 3] uint8 to [1, 3, r, r] float32 in −1..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_picture(x: Tensor) -> npt.NDArray[np.uint8]:
    """[1, 3, r, r] to [r, r, 3] uint8: 127.5·x + 128 cut to 0..255, as published."""
    levels = (x.detach()[0] * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
