"""What determines a generator's shape, under the published constructor names. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

GENERATOR_FORMAT = "realdrag-generator-1"  # of our safetensors files, in their headers
ENCODER_FORMAT = "realdrag-encoder-1"
LEFT, RIGHT = ":left", ":right"  # behind the name of a weight whose change is kept as two factors


@dataclass(frozen=True)
class GeneratorConfig:
    """The published constructor names. Channels at resolution r are min(channel_base // r, channel_max)."""

    z_dim: int
    w_dim: int
    img_resolution: int
    num_layers: int  # of the mapping network
    channel_base: int
    channel_max: int
    c_dim: int = 0  # labels of a conditional model
    img_channels: int = 3
    conv_clamp: float | None = None
    lr_multiplier: float = 0.01  # of the mapping network: its stored weights are 1/lr times the effective ones

    @property
    def resolutions(self) -> list[int]:
        """4, 8, … img_resolution: one block each."""
        return [2**i for i in range(2, self.img_resolution.bit_length())]

    @property
    def num_ws(self) -> int:
        """Rows of w_plus: 2·log2(R) − 2."""
        return 2 * len(self.resolutions)

    def channels(self, resolution: int) -> int:
        """Feature channels of the block at `resolution`."""
        return min(self.channel_base // resolution, self.channel_max)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Published name → shape of everything a generator of this shape holds, buffers included."""
        label = self.w_dim if self.c_dim else 0
        shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (self.w_dim,)}
        if self.c_dim:
            shapes |= _dense("mapping.embed", self.c_dim, self.w_dim)
        for i in range(self.num_layers):
            shapes |= _dense(f"mapping.fc{i}", self.w_dim if i else self.z_dim + label, self.w_dim)
        for r in self.resolutions:
            c, block = self.channels(r), f"synthesis.b{r}"
            shapes[f"{block}.resample_filter"] = (4, 4)
            if r == 4:
                shapes[f"{block}.const"] = (c, 4, 4)
            else:
                shapes |= self._conv(f"{block}.conv0", self.channels(r // 2), c, r)
            shapes |= self._conv(f"{block}.conv1", c, c, r)
            shapes |= _dense(f"{block}.torgb.affine", self.w_dim, c)
            shapes |= {
                f"{block}.torgb.weight": (self.img_channels, c, 1, 1),
                f"{block}.torgb.bias": (self.img_channels,),
            }
        return shapes

    def _conv(self, name: str, n_in: int, n_out: int, resolution: int) -> dict[str, tuple[int, ...]]:
        return _dense(f"{name}.affine", self.w_dim, n_in) | {
            f"{name}.weight": (n_out, n_in, 3, 3),
            f"{name}.bias": (n_out,),
            f"{name}.noise_strength": (),
            f"{name}.noise_const": (resolution, resolution),
            f"{name}.resample_filter": (4, 4),
        }


def _dense(name: str, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


BUFFERS = ("w_avg", "noise_const", "resample_filter")  # the last part of names that are no parameters
FIXED = ("w_avg", "resample_filter")  # of those that no photo changes


MAX_WIDTH = 8192  # channels, z or w: sixteen times what was ever published


def config_of(
    shapes: Mapping[str, tuple[int, ...]], *, conv_clamp: float | None = None, lr_multiplier: float = 0.01
) -> GeneratorConfig:
    """The config that tensors of these published names and shapes have. Raises ValueError when none fits."""
    sides = [r for r in (2**i for i in range(2, 13)) if f"synthesis.b{r}.conv1.weight" in shapes]
    layers = [i for i in range(64) if f"mapping.fc{i}.weight" in shapes]
    if not sides or sides[-1] < 8 or sides[0] != 4 or not layers:
        raise ValueError("the layers of a StyleGAN2 generator are missing")
    width = {r: shapes[f"synthesis.b{r}.conv1.weight"][0] for r in sides}
    labels = shapes.get("mapping.embed.weight", (0, 0))[-1]
    w_dim = shapes["synthesis.b4.conv1.affine.weight"][-1]
    z_dim = shapes["mapping.fc0.weight"][-1] - (w_dim if labels else 0)
    if not all(1 <= size <= MAX_WIDTH for size in (z_dim, w_dim, *width.values())):
        raise ValueError("a width is impossible")
    return GeneratorConfig(
        z_dim=z_dim,
        w_dim=w_dim,
        img_resolution=sides[-1],
        num_layers=len(layers),
        # Of the widths min(base // r, max).
        channel_base=max(width[r] * r for r in sides),
        channel_max=max(width.values()),
        c_dim=labels,
        img_channels=shapes["synthesis.b4.torgb.weight"][0],
        conv_clamp=conv_clamp,
        lr_multiplier=lr_multiplier,
    )


def disagreement(want: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """The first three differences between two sets of shapes, in words; "" where there is none."""
    faults = [f"{name} is missing" for name in want.keys() - found.keys()]
    faults += [f"{name[:80]} is unknown" for name in found.keys() - want.keys()]
    both = want.keys() & found.keys()
    faults += [f"{name} is {list(found[name])}, not {list(want[name])}" for name in both if found[name] != want[name]]
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(sorted(faults)[:3]) + more


def delta_fault(config: GeneratorConfig, delta: Mapping[str, npt.NDArray[np.float16]]) -> str:
    """Why `delta` cannot be one of such a generator's, in words; "" where it can."""
    shapes = config.shapes()
    for name, array in delta.items():
        side = next((side for side in (LEFT, RIGHT) if name.endswith(side)), "")
        shape = shapes.get(name.removesuffix(side))
        other = delta.get(name.removesuffix(side) + (RIGHT if side == LEFT else LEFT))
        if shape is None or name.rpartition(".")[2] in FIXED:
            return f"{name[:80]} is unknown"
        if side and len(shape) == 4:
            ours, theirs = (2, 0) if side == LEFT else (0, 2)  # the axis of the rank
            rank = array.shape[ours] if array.ndim == 3 else 0
            want = (shape[0], shape[2], rank) if side == LEFT else (rank, shape[1], shape[3])
            whole = other is not None and other.ndim == 3 and other.shape[theirs] == rank > 0
            shape = want if whole else ()
        if array.shape != shape or not np.isfinite(array).all():
            return f"{name[:80]} does not fit"
    return ""
