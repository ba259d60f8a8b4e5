"""Levels of a pyramid on one grid, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, cat


def to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *grid): block means where the grid divides, bilinear elsewhere.

    A block mean loses no pixel; plain bilinear sampling to half the size would skip none either, but to a quarter
    it reads 4 of 16.
    """
    height, width = int(x.shape[-2]), int(x.shape[-1])
    if (height, width) == grid:
        return x
    if height % grid[0] == 0 and width % grid[1] == 0:
        return F.avg_pool2d(x, (height // grid[0], width // grid[1]))
    return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)


def joined(maps: Sequence[Tensor], grid: tuple[int, int], way: Literal["area", "bilinear"] = "area") -> Tensor:
    """All levels (B, C_l, *grid_l) on one grid, side by side: (B, sum of C_l, *grid).

    area       as `to_grid`: no place of a finer level is skipped
    bilinear   samples with aligned corners, as UniAD's code (You et al. 2022) joins its levels
    """
    if way == "area":
        return cat([to_grid(x, grid) for x in maps], 1)
    return cat([F.interpolate(x, size=grid, mode="bilinear", align_corners=True) for x in maps], 1)
