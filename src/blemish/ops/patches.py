"""From a pyramid of feature maps to one descriptor per patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, cat

from blemish.errors import ConfigError
from blemish.types import FeatureSpec, Pyramid


def grid_of(spec: FeatureSpec, level: int) -> tuple[int, int]:
    """The (h, w) grid of one level of the pyramid; ConfigError where there is no such level."""
    if not -len(spec.grids) <= level < len(spec.grids):
        raise ConfigError(f"level {level} of a pyramid of {len(spec.grids)}", hint="0 is the finest, -1 the coarsest")
    h, w = spec.grids[level]
    return h, w


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


def patch_descriptors(pyramid: Pyramid, grid: tuple[int, int], neighbourhood: int = 3) -> Tensor:
    """Locally aware patch features, all levels on one grid.

    Each level is averaged over `neighbourhood` x `neighbourhood` positions (PatchCore Eq. 2, with the mean as the
    aggregation; the border averages over what is there), brought to `grid` and concatenated.

    Returns (B, h*w, sum of channels).
    """
    half = neighbourhood // 2
    levels = [
        to_grid(F.avg_pool2d(x, neighbourhood, 1, half, count_include_pad=False) if half else x, grid)
        for x in pyramid.maps
    ]
    return cat(levels, 1).flatten(2).transpose(1, 2)
