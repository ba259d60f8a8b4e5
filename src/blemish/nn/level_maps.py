"""From the patch scores of several levels to one smooth map of the input's size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from blemish.ops.smoothing import smooth_map, upsampling_matrix


class LevelMaps(nn.Module):
    """Sums maps of several grids into one of the input's size: bilinear, then a Gaussian blur, as one product.

    Args:
        grids: (h, w) of each level.
        size: (H, W) of the network's input.
        sigma: of the blur, in pixels of the input.
        aligned: corner cells lie on corner pixels.
        every: only each so-many-th row and column of the map.
    """

    def __init__(
        self,
        grids: Sequence[tuple[int, ...]],
        size: tuple[int, int],
        sigma: float,
        *,
        aligned: bool = False,
        every: int = 1,
    ) -> None:
        super().__init__()
        self.matrices = [
            tuple(
                torch.from_numpy(upsampling_matrix(grid[axis], size[axis], sigma, aligned=aligned)[::every].copy())
                for axis in (0, 1)
            )
            for grid in grids
        ]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, h_l, w_l) of each level -> (B, H, W), of each `every`-th row and column."""
        pairs = zip(maps, self.matrices, strict=True)
        each = [smooth_map(grid, rows, columns) for grid, (rows, columns) in pairs]
        total: Tensor = reduce(torch.add, each)  # a stack of one, summed and flattened, OpenVINO computes wrongly
        return total
