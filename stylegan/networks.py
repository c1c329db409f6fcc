"""The StyleGAN2 generator with the published arithmetic and parameter names, and the encoder that starts inversions.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020. Names follow stylegan2-ada-pytorch, so
that every checkpoint loads by name. Shapes: z [n, z_dim]; w_plus [n, num_ws, w_dim]; pictures [n, 3, r, r] in −1..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realdrag.stylegan.config import GeneratorConfig

SQRT2 = math.sqrt(2)
CHANNELS_LAST = torch.channels_last
# What gradients are multiplied by in float16: those of a mean over a large picture's pixels, 3e-7, would be lost there.
GRADIENT_SCALE = 2.0**12
Make = Callable[[Tensor, torch.dtype], tuple[Tensor, ...]]


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


class _Narrow(torch.autograd.Function):
    """To float16; the gradient that comes back is divided by its scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return x.half()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.to(ctx.dtype) / GRADIENT_SCALE


class _Widen(torch.autograd.Function):
    """From float16 to float32; the gradient that comes back is multiplied by its scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient * GRADIENT_SCALE).half()


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in the precision of the convolutions."""
    narrowed: Tensor = _Narrow.apply(x) if dtype == torch.float16 else x.to(dtype)  # type: ignore[no-untyped-call]
    return narrowed


def widen(x: Tensor) -> Tensor:
    """`x`, in the precision of the convolutions, as float32."""
    widened: Tensor = _Widen.apply(x) if x.dtype == torch.float16 else x.float()  # type: ignore[no-untyped-call]
    return widened


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate: stored weights are 1/lr times the effective ones."""

    def __init__(self, n_in: int, n_out: int, *, lr: float = 1.0, bias: float = 0.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr)
        self.bias = nn.Parameter(torch.full([n_out], bias))
        self.weight_gain, self.bias_gain, self.activate = lr / math.sqrt(n_in), lr, activate

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias * self.bias_gain, x, self.weight.t(), alpha=self.weight_gain)
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


class Kept:
    """What was made of a parameter, kept while that is frozen and unchanged; a copy of a network begins empty.

    A change is seen by the parameter's address or its version, so one through `.data` in place is not.
    """

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.source: Tensor | None = None  # held, so that no other parameter can come to lie at its address
        self.made: tuple[Tensor, ...] = ()

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    def get(self, parameter: Tensor, dtype: torch.dtype, make: Make) -> tuple[Tensor, ...]:
        """`make(parameter, dtype)`, made now or before."""
        if parameter.requires_grad or parameter.is_inference():
            self.key, self.source, self.made = (), None, ()
            return make(parameter, dtype)
        key = parameter.data_ptr(), parameter._version, parameter.dtype, parameter.device, dtype
        if key != self.key:
            with torch.inference_mode(False):  # else no later gradient could pass it
                self.source, self.made = parameter.detach(), make(parameter, dtype)
            self.key = key
        return self.made


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
        # Laid out as `prepared` wants it, which then makes no copy in float32; loading keeps a parameter's layout.
        self.weight.data = self.turned(self.turned(self.weight.data, up).contiguous(memory_format=CHANNELS_LAST), up)
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", filter_taps())
        self.up, self.clamp = up, clamp
        self.kept = Kept()

    @staticmethod
    def turned(weight: Tensor, up: bool) -> Tensor:
        """As a transposed convolution takes it, and back."""
        return weight.transpose(0, 1) if up else weight

    def prepared(self, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The weight as the convolution reads it fastest, each kernel's power [n_out, n_in], and size [n_out].

        For float16 the weight is divided by the size, so that no sum of products can overflow; else that is 1.
        """
        power = weight.square().sum((2, 3))
        size = power.new_ones(len(power))
        if dtype == torch.float16:
            size = weight.detach().abs().amax((1, 2, 3)).clamp(min=1e-8) * math.sqrt(weight[0].numel())
            weight = weight / size[:, None, None, None]
        weight = narrow(self.turned(weight, self.up), dtype).contiguous(memory_format=CHANNELS_LAST)
        return weight, power, size

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w)  # [n, n_in]
        weight, power, size = self.kept.get(self.weight, x.dtype, self.prepared)
        gain = SQRT2 * (style.square() @ power.t() + 1e-8).rsqrt()  # [n, n_out], with that of the leaky ReLU
        if x.dtype == torch.float16:  # the largest style becomes 1, and the gain makes up for both sizes
            largest = style.detach().abs().amax(1, keepdim=True).clamp(min=1e-8)
            style, gain = style / largest, gain * largest * size
        x = x * narrow(style, x.dtype)[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight, stride=2)
            x = filter_after_upconv(x, self.resample_filter)
        else:
            x = F.conv2d(x, weight, padding=1)
        # Channels last, as x is: adding the other layout takes ten times as long.
        offset = (self.noise_const[:, :, None] * self.noise_strength + self.bias).permute(2, 0, 1) * SQRT2
        x = torch.addcmul(narrow(offset, x.dtype), x, narrow(gain, x.dtype)[:, :, None, None])
        x = F.leaky_relu_(x, 0.2)
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
        x = F.conv2d(x * narrow(style, x.dtype)[:, :, None, None], narrow(self.weight, x.dtype))
        x = widen(x + narrow(self.bias, x.dtype)[:, None, None])
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
    """StyleGAN2. `dtype` is the precision of the convolutions; styles and the picture are always fp32.

    Against float32, root mean square over standard deviation: pictures and features differ by at most 2 % in bfloat16
    and 0.3 % in float16, gradients by 3 % and 1 %.
    """

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

    def synthesize(
        self, w_plus: Tensor, until: str | None = None, *, each: Callable[[str, int, Tensor], Tensor] | None = None
    ) -> Tensor:
        """The picture [n, 3, R, R], or the features [n, c, r, r] after block `until` ("b64").

        Noise is the model's constant maps. With `until` neither a block above it nor any colour layer is computed.
        each: called after every block with "features", and then with "picture", the size and what was made; what it
        returns is gone on with.
        """
        rows = w_plus.unbind(1)
        row = 0
        x: Tensor
        picture: Tensor | None = None
        for r in self.config.resolutions:
            block = self.synthesis.block(r)
            if r == 4:
                const = block.const[None].expand(len(w_plus), -1, -1, -1)
                x = narrow(const, self.dtype).contiguous(memory_format=CHANNELS_LAST)
            else:
                x = block.conv0(x, rows[row])
                row += 1
            x = block.conv1(x, rows[row])
            row += 1
            x = x if each is None else each("features", r, x)
            if until is None:
                rgb = block.torgb(x, rows[row])  # this row is also the next block's conv0
                picture = rgb if picture is None else upsample(picture, block.resample_filter) + rgb
                picture = picture if each is None else each("picture", r, picture)
            elif until == f"b{r}":
                return widen(x)
        if picture is None:
            raise ValueError(f"no block {until!r}; there are {', '.join(self.blocks)}")
        return picture
