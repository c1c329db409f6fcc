"""Pictures that are the original's outside a mask, whatever their latent.

A latent moves all of a face: a loss that asks it to leave one part alone holds the others fast as well. Here the
original's features take the place of the edited ones wherever the mask lets nothing move, from the feature block of the
drag on, and its colours: blending in feature space (Suzuki et al. 2018; Collins et al. 2020). What is
outside is then equal, and what is inside is free to follow its handles.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from realdrag.geometry import resize
from realdrag.stylegan import Generator


class Held:
    """The synthesis of one original, edited inside a mask.

    original: w_plus [1, num_ws, w_dim]. movable: [r, r] uint8 of the generator's picture, 255 may move. block: the
    drag's.
    """

    def __init__(self, generator: Generator, original: Tensor, movable: npt.NDArray[np.uint8], block: str) -> None:
        self.generator = generator
        first = int(block.removeprefix("b"))
        # Where the edit enters it is weighted by the mask: the block's features, and the colours made before them. From
        # there on what convolutions carry outside is taken back, so that a grey mask is counted once.
        self.shares = dict[tuple[str, int], Tensor]()
        for r in (r for r in generator.config.resolutions if r >= first // 2):
            share = torch.from_numpy(resize(movable.astype(np.float32) / np.float32(255), r)).to(original.device)
            if r >= first:
                self.shares["features", r] = share if r == first else (share > 0).to(share.dtype)
            self.shares["picture", r] = share if r < first else (share > 0).to(share.dtype)
        self.before = dict[tuple[str, int], Tensor]()
        with torch.no_grad():
            generator.synthesize(original, each=self._keep)

    def synthesize(self, w_plus: Tensor, until: str | None = None) -> Tensor:
        """As the generator's own, of one latent [1, num_ws, w_dim]; `until` the drag's block or a later one."""
        return self.generator.synthesize(w_plus, until, each=self._inside)

    def _keep(self, what: str, r: int, now: Tensor) -> Tensor:
        if (what, r) in self.shares:
            self.before[what, r] = now
        return now

    def _inside(self, what: str, r: int, now: Tensor) -> Tensor:
        share = self.shares.get((what, r))
        return now if share is None else inside(self.before[what, r], now, share)


def inside(before: Tensor, now: Tensor, share: Tensor) -> Tensor:
    """`now` [1, c, r, r] where `share` [r, r] is 1, `before` itself where it is 0."""
    return before.lerp(now, share.to(now.dtype))
