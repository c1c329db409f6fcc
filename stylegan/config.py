"""What determines a generator's shape, under the published constructor names. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


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
