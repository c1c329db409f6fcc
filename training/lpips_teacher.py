"""LPIPS 0.1 on SqueezeNet 1.1, from one safetensors file; equal to `lpips.LPIPS(net="squeeze")`, without torchvision.

Used for training and checks only. Keys: `features.<torchvision name>` and `lin<k>` [channels].
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Fire(nn.Module):
    def __init__(self, n_in, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(n_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeLPIPS(nn.Module):
    """Distance [n] between pictures [n, 3, h, w] in -1..1."""

    taps = (1, 4, 7, 9, 10, 11, 12)

    def __init__(self, path):
        super().__init__()
        pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        state = load_file(str(path))
        self.features.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("features.")})
        for k in range(len(self.taps)):
            self.register_buffer(f"lin{k}", state[f"lin{k}"].view(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def embed(self, x):
        x, out = (x - self.shift) / self.scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                out.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return out

    def forward(self, a, b):
        total = 0
        for k, (x, y) in enumerate(zip(self.embed(a), self.embed(b), strict=True)):
            total = total + ((x - y).square() * getattr(self, f"lin{k}")).sum(1).mean((1, 2))
        return total
