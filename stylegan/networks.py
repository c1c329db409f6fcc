"""The StyleGAN2 generator with the published arithmetic and parameter names, and the encoder that starts inversions.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020. Names follow stylegan2-ada-pytorch, so
that every checkpoint loads by name. Shapes: z [n, z_dim]; w_plus [n, num_ws, w_dim]; pictures [n, 3, r, r] in −1..1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realdrag.stylegan.config import GeneratorConfig

SQRT2 = math.sqrt(2)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU 0.2 with the gain √2 that keeps the variance."""
    return F.leaky_relu(x, 0.2) * SQRT2


def filter_taps() -> Tensor:
    """The [1, 3, 3, 1] low-pass filter as [4, 4], sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    taps = taps[:, None] * taps[None, :]
    return taps / taps.sum()


def filter_after_upconv(x: Tensor, taps: Tensor) -> Tensor:
    """The low-pass after a stride-2 transposed convolution: one pixel less, gain 4 for the inserted zeros."""
    c = x.shape[1]
    return F.conv2d(x, (taps * 4).to(x.dtype)[None, None].expand(c, 1, 4, 4), padding=1, groups=c)


def upsample(x: Tensor, taps: Tensor) -> Tensor:
    """Twice the size: zeros inserted and low-passed in one transposed convolution (pads 2 before, 1 after)."""
    c = x.shape[1]
    kernel = (taps * 4).to(x.dtype)[None, None].expand(c, 1, 4, 4)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=c)


def unit_length(x: Tensor) -> Tensor:
    """Each row [n, d] divided by the root of its mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate: stored weights are 1/lr times the effective ones."""

    def __init__(self, n_in: int, n_out: int, *, lr: float = 1.0, bias: float = 0.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr)
        self.bias = nn.Parameter(torch.full([n_out], bias))
        self.weight_gain, self.bias_gain, self.activate = lr / math.sqrt(n_in), lr, activate

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return leaky(y) if self.activate else y


class Mapping(nn.Module):
    """z (and the label of a conditional model) to w; `w_avg` is the mean w, where truncation leads."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.num_layers, self.c_dim = config.num_layers, config.c_dim
        if config.c_dim:
            self.embed = Dense(config.c_dim, config.w_dim)
        n_in = config.z_dim + (config.w_dim if config.c_dim else 0)
        for i in range(config.num_layers):
            layer = Dense(n_in, config.w_dim, lr=config.lr_multiplier, activate=True)
            self.add_module(f"fc{i}", layer)
            n_in = config.w_dim
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = unit_length(z)
        if self.c_dim:
            if c is None:
                raise ValueError(f"a conditional model needs a label of {self.c_dim} numbers")
            x = torch.cat([x, unit_length(self.embed(c))], 1)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x


class ModulatedConv(nn.Module):
    """3×3 convolution: input scaled by the style, output scaled back to unit variance, noise, bias, leaky ReLU.

    The activations are scaled rather than the weights, so a gradient for w needs none for the weights.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(self, n_in: int, n_out: int, w_dim: int, resolution: int, *, up: bool, clamp: float | None) -> None:
        super().__init__()
        self.affine = Dense(w_dim, n_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", filter_taps())
        self.up, self.clamp = up, clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w)  # [n, n_in]
        power = self.weight.square().sum((2, 3))  # [n_out, n_in]
        demodulation = (style.square() @ power.t() + 1e-8).rsqrt()  # [n, n_out]
        weight = self.weight.to(x.dtype)
        x = x * style[:, :, None, None].to(x.dtype)
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = filter_after_upconv(x, self.resample_filter)
        else:
            x = F.conv2d(x, weight, padding=1)
        x = x * demodulation[:, :, None, None].to(x.dtype)
        # Channels last, as x is: adding the other layout takes ten times as long.
        offset = (self.noise_const[:, :, None] * self.noise_strength + self.bias).permute(2, 0, 1)
        x = x + offset.to(x.dtype)
        x = leaky(x)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ToRGB(nn.Module):
    """1×1 convolution to colours: modulated, not demodulated, no activation; fp32 out."""

    def __init__(self, n_in: int, w_dim: int, *, clamp: float | None) -> None:
        super().__init__()
        self.affine = Dense(w_dim, n_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, n_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.gain, self.clamp = 1 / math.sqrt(n_in), clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) * self.gain
        x = F.conv2d(x * style[:, :, None, None].to(x.dtype), self.weight.to(x.dtype))
        x = (x + self.bias[:, None, None].to(x.dtype)).float()
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """One resolution: `conv0` (upsampling; not at 4 px), `conv1`, `torgb`."""

    resample_filter: Tensor

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        n_out, clamp, w_dim = config.channels(resolution), config.conv_clamp, config.w_dim
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(n_out, 4, 4))
        else:
            n_in = config.channels(resolution // 2)
            self.conv0 = ModulatedConv(n_in, n_out, w_dim, resolution, up=True, clamp=clamp)
        self.conv1 = ModulatedConv(n_out, n_out, w_dim, resolution, up=False, clamp=clamp)
        self.torgb = ToRGB(n_out, w_dim, clamp=clamp)
        self.register_buffer("resample_filter", filter_taps())


class Synthesis(nn.Module):
    """w_plus to picture, skip architecture."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.resolutions = config.resolutions
        for r in self.resolutions:
            self.add_module(f"b{r}", Block(config, r))

    def block(self, resolution: int) -> Block:
        """The block at `resolution`."""
        block = self.get_submodule(f"b{resolution}")
        assert isinstance(block, Block)
        return block


class Generator(nn.Module):
    """StyleGAN2. `dtype` is the precision of the convolutions; styles and the picture are always fp32."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.dtype = torch.float32
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    @property
    def blocks(self) -> list[str]:
        """Names of the feature blocks, "b4" first."""
        return [f"b{r}" for r in self.config.resolutions]

    def truncated(self, z: Tensor, psi: float = 1.0, c: Tensor | None = None) -> Tensor:
        """w_plus [n, num_ws, w_dim] of `z` and, for conditional models, labels `c` [n, c_dim] (one-hot).

        Drawn towards the mean by truncation psi.
        """
        w = self.mapping.w_avg.lerp(self.mapping(z, c), psi)
        return w[:, None].expand(-1, self.config.num_ws, -1)

    def synthesize(self, w_plus: Tensor, until: str | None = None) -> Tensor:
        """The picture [n, 3, R, R], or the features [n, c, r, r] after block `until` ("b64").

        Noise is the model's constant maps. With `until` neither a block above it nor any colour layer is computed.
        """
        rows = w_plus.unbind(1)
        row = 0
        x: Tensor
        picture: Tensor | None = None
        for r in self.config.resolutions:
            block = self.synthesis.block(r)
            if r == 4:
                const = block.const[None].expand(len(w_plus), -1, -1, -1)
                x = const.to(self.dtype, memory_format=torch.channels_last)
            else:
                x = block.conv0(x, rows[row])
                row += 1
            x = block.conv1(x, rows[row])
            row += 1
            if until is None:
                rgb = block.torgb(x, rows[row])  # this row is also the next block's conv0
                picture = rgb if picture is None else upsample(picture, block.resample_filter) + rgb
            elif until == f"b{r}":
                return x.float()
        if picture is None:
            raise ValueError(f"no block {until!r}; there are {', '.join(self.blocks)}")
        return picture
