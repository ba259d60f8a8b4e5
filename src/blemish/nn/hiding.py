"""Which patches of an image are hidden from a network that repaints them, and what stands in their place.

A mask is (B, 1, h, w), a patch a cell, 1 = hidden. It is a rule of one image alone: nothing is drawn at inspection.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Fixed = Literal["random", "checker", "centre"]
Grid = tuple[int, int]


def count_of(share: float, cells: int) -> int:
    """How many of so many cells a share is: one at least, and never all."""
    return max(1, min(round(share * cells), cells - 1))


def strangest(values: Tensor, share: float, soft: float = 0.0) -> Tensor:
    """(B, 1, h, w): 1 for the `share` of cells of (B, h, w) with the highest values of their own image.

    soft   width of the step between 0 and 1, as a share of the way from the lowest value to the limit. Without a width
           a rounding error may turn a cell, and with it the map; with a twentieth a few cells are hidden in part.
    """
    ordered = values.flatten(1).sort(1, descending=True).values
    count = count_of(share, int(ordered.shape[1]))
    inside, outside, lowest = (ordered[:, i, None, None] for i in (count - 1, count, -1))
    limit = (inside + outside) / 2
    width = (soft * (limit - lowest)).clamp_min(1e-6)
    return ((values - limit) / width + 0.5).clamp(0, 1)[:, None]


def drawn(count: int, grid: Grid, share: float, generator: torch.Generator) -> Tensor:
    """(count, 1, *grid): a `share` of the cells of each mask, at random."""
    cells = grid[0] * grid[1]
    order = torch.rand(count, cells, generator=generator).argsort(1)
    hidden = torch.zeros(count, cells).scatter_(1, order[:, : count_of(share, cells)], 1.0)
    return hidden.view(count, 1, *grid)


def fixed_mask(kind: Fixed, grid: Grid, share: float, seed: int = 0) -> Tensor:
    """(1, 1, *grid), the same for every image.

    random    one draw of the seed, of a `share` of the cells
    checker   every other cell, whatever the share
    centre    a box in the middle, of about a `share` of the cells and the grid's own proportions
    """
    if kind == "random":
        return drawn(1, grid, share, torch.Generator().manual_seed(seed))
    rows, columns = torch.arange(grid[0])[:, None], torch.arange(grid[1])[None]
    if kind == "checker":
        return ((rows + columns) % 2).float()[None, None]
    mask = torch.zeros(1, 1, *grid)
    high, wide = (max(1, min(round(n * share**0.5), n)) for n in grid)
    top, left = (grid[0] - high) // 2, (grid[1] - wide) // 2
    mask[..., top : top + high, left : left + wide] = 1
    return mask


def mosaic(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W): squares of `side` pixels in their mean colour; `side` divides H and W."""
    return F.interpolate(F.avg_pool2d(x, side), scale_factor=float(side), mode="nearest")


def hidden(x: Tensor, mask: Tensor, patch: int, hint: int) -> Tensor:
    """Images (B, C, H, W) with the patches of `patch` pixels of a mask replaced by a mosaic of `hint`; 0 = by black."""
    covered = F.interpolate(mask, scale_factor=float(patch), mode="nearest")
    seen = x * (1 - covered)
    return seen + mosaic(x, hint) * covered if hint else seen
