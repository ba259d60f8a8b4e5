"""Rebuilding a pyramid from partly hidden tokens: masks over a token grid, and the network that fills them in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.blocks import Residual, conv3, norm_of, resized

DILATIONS = ((1, 2), (2, 4))
"""Of the context encoder's units, in turn: four units see 37 cells, more than the largest hidden block and its rim."""


def block_masks(
    count: int, grid: tuple[int, int], ratio: tuple[float, float], sides: Sequence[int], generator: torch.Generator
) -> Tensor:
    """(count, *grid) bool, True = hidden; each mask drawn for itself.

    A mask consists of square blocks of one of the `sides`, aligned at a random offset; a share of the blocks drawn
    uniformly from `ratio` is hidden, one at least and never all where there are several.
    """
    low, high = ratio
    out = torch.zeros(count, *grid, dtype=torch.bool)
    draws = torch.rand(count, 4, generator=generator).tolist()
    for mask, (which, share, dy, dx) in zip(out, draws, strict=True):
        side = min(sides[int(which * len(sides))], *grid)
        top, left = int(dy * side), int(dx * side)
        h, w = math.ceil((grid[0] + top) / side), math.ceil((grid[1] + left) / side)
        wanted = round((low + share * (high - low)) * h * w)
        chosen = torch.randperm(h * w, generator=generator)[: max(1, min(wanted, h * w - 1))]
        blocks = torch.zeros(h * w, dtype=torch.bool)
        blocks[chosen] = True
        whole = blocks.view(h, w).repeat_interleave(side, 0).repeat_interleave(side, 1)
        mask.copy_(whole[top : top + grid[0], left : left + grid[1]])
    return out


def damaged_cells(mask: Tensor, grid: tuple[int, int], reach: int = 1) -> Tensor:
    """(B, H, W) bool pixels -> (B, *grid) bool: the cells with a damaged pixel, and all within `reach` cells of one."""
    cells = F.adaptive_max_pool2d(mask[:, None].float(), grid)
    return F.max_pool2d(cells, 2 * reach + 1, 1, reach)[:, 0] > 0


def complementary_masks(grid: tuple[int, int], count: int, side: int = 2) -> Tensor:
    """(count, *grid) bool, True = hidden: lattices of blocks that hide every cell in exactly one of them.

    Where the grid has too few blocks for `count` lattices, some of them hide nothing.
    """
    rows, columns = torch.arange(grid[0])[:, None] // side, torch.arange(grid[1])[None] // side
    number = (rows + (count // 2) * columns) % count
    return number[None] == torch.arange(count)[:, None, None]


def on_grid(mask: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, h, w) bool -> (B, *grid) bool, nearest."""
    if tuple(mask.shape[1:]) == tuple(grid):
        return mask
    return F.interpolate(mask[:, None].float(), size=(grid[0], grid[1]), mode="nearest")[:, 0] > 0


class Restorer(nn.Module):
    """Tokens (B, inside, h, w) to a pyramid: context encoder, narrow code, decoder. Nothing comes in at the side.

    The encoder is a 1 x 1 convolution and residual units with growing dilation, so that a cell sees far beyond the
    largest hidden block; the code has `code` channels. The decoder starts at the level whose grid is the tokens' own
    and works outwards from there: finer levels along bilinear steps, coarser ones along means. Norms are over groups of
    channels: hidden and unhidden tokens may be one batch without meeting in a statistic.

    Args:
        inside: channels of the tokens and of the encoder.
        code: channels between encoder and decoder.
        channels, grids, widths: of the levels to rebuild, finest first; `widths` of the decoder's stages.
        start: the level whose grid the tokens have.
        units: residual units of the encoder.

    Returns one map (B, C_l, *grid_l) a level, finest first.
    """

    def __init__(
        self,
        inside: int,
        code: int,
        channels: Sequence[int],
        grids: Sequence[tuple[int, ...]],
        widths: Sequence[int],
        start: int,
        units: int = 4,
    ) -> None:
        super().__init__()
        self.grids, self.start = tuple(grids), start
        turns = [DILATIONS[i % len(DILATIONS)] for i in range(units)]
        self.encoder = nn.Sequential(
            nn.Conv2d(inside, inside, 1),
            *(Residual(inside, inside, dilations=dilations, norm="group") for dilations in turns),
            nn.Conv2d(inside, code, 1),
        )
        stages: list[nn.Module] = []
        for level, width in enumerate(widths):
            before = code if level == start else widths[level + 1 if level < start else level - 1]
            stages.append(_stage(before, width))
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(nn.Conv2d(w, c, 1) for w, c in zip(widths, channels, strict=True))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        first = self.stages[self.start](self.encoder(tokens))
        made = {self.start: first}
        for level in range(self.start - 1, -1, -1):
            made[level] = self.stages[level](resized(made[level + 1], self.grids[level]))
        for level in range(self.start + 1, len(self.grids)):
            made[level] = self.stages[level](_shrunk(made[level - 1], self.grids[level]))
        return tuple(head(made[level]) for level, head in enumerate(self.heads))


def _stage(inside: int, width: int) -> nn.Sequential:
    """Two 3 x 3 convolutions."""
    layers = [conv3(inside, width), norm_of("group", width), nn.ReLU()]
    return nn.Sequential(*layers, conv3(width, width), norm_of("group", width), nn.ReLU())


def _shrunk(x: Tensor, grid: Sequence[int]) -> Tensor:
    """To a coarser grid: block means where it divides, bilinear elsewhere."""
    height, width = int(x.shape[2]), int(x.shape[3])
    if height % grid[0] == 0 and width % grid[1] == 0:
        return F.avg_pool2d(x, (height // grid[0], width // grid[1]))
    return resized(x, grid)


class PixelStem(nn.Module):
    """An image (B, 3, *size) to tokens (B, width, *grid): convolutions of stride 2 down to the grid."""

    def __init__(self, size: tuple[int, int], grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        halvings = max(1, int(math.log2(max(1, min(size[0] // grid[0], size[1] // grid[1])))))
        widths = [3, *(max(16, width // 2 ** (halvings - 1 - i)) for i in range(halvings - 1)), width]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [conv3(before, after, stride=2), norm_of("group", after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return resized(self.layers(x), self.grid)
