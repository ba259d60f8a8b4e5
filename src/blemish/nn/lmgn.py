"""Local multivariate Gaussian noise: in boxes, features give way to others that are as usual at that place."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]


class LocalGaussians:
    """N(mu_ij, Sigma_ij) of good features at every cell (i, j) of several maps, to draw from and nothing else.

    No covariance is stored. With centred features X_c (n, C) of a cell, `mu + X_c^T w / sqrt(n - 1)` with white w (n,)
    has exactly the covariance X_c^T X_c / (n - 1) of the cell; a ridge adds white noise. One w serves all cells of a
    box and all maps, so that what is drawn is coherent and yet each cell's own.

    Args:
        keep: rows a cell, at most; of more samples a uniform draw is kept.
        neighbourhood: side of the window of cells whose vectors count as samples of its centre.
        ridge: epsilon, as a share of a map's mean variance.
    """

    def __init__(self, keep: int, neighbourhood: int = 1, ridge: float = 0.01) -> None:
        self.keep, self.neighbourhood, self.ridge = keep, neighbourhood, ridge
        self.seen = 0
        self.rows = 0
        self._kept: list[tuple[Tensor, ...]] = []
        self.means: list[Tensor] = []  # (P, C)
        self.centred: list[Tensor] = []  # (P, n, C) over sqrt(n - 1)
        self.ridges: list[float] = []  # standard deviations

    def add(self, maps: Sequence[Tensor], generator: torch.Generator) -> None:
        """Offer samples, (B, C_l, *grid_l) a map; each of all that were offered is kept with the same chance."""
        for i in range(len(maps[0])):
            place = self.seen if self.seen < self.keep else int(torch.randint(self.seen + 1, (), generator=generator))
            self.seen += 1
            if place < self.keep:
                sample = tuple(m[i].clamp(-65504, 65504).half() for m in maps)
                self._kept[place : place + 1] = [sample]

    def conclude(self, generator: torch.Generator) -> None:
        """Means and centred features of what was kept."""
        kept, side = len(self._kept), self.neighbourhood
        shifts = torch.rand(kept, side * side, generator=generator).argsort(1)
        self.rows = min(self.keep, kept * side * side)
        pairs = [(r % kept, int(shifts[r % kept, r // kept])) for r in range(self.rows)]  # each image as often
        for level in range(len(self._kept[0])):
            x = torch.stack([self._shifted(self._kept[i][level], k) for i, k in pairs]).float()
            x = x.flatten(2).permute(2, 0, 1)  # (P, n, C)
            mean = x.mean(1)
            x = (x - mean[:, None]) / sqrt(max(self.rows - 1, 1))
            self.means.append(mean)
            self.ridges.append(sqrt(self.ridge * float(x.square().sum(1).mean())))
            self.centred.append(x.bfloat16())
        self._kept = []

    def _shifted(self, x: Tensor, shift: int) -> Tensor:
        """(C, h, w), each cell with the value of one of its neighbours; the border repeats itself."""
        half = self.neighbourhood // 2
        if not half:
            return x
        dy, dx = divmod(shift, self.neighbourhood)
        padded = F.pad(x[None].float(), (half,) * 4, mode="replicate")[0]
        return padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]

    def replace(
        self, maps: Sequence[Tensor], boxes: Tensor, generator: torch.Generator, strength: float = 1.0
    ) -> tuple[Tensor, ...]:
        """The maps with draws in the boxes; all other cells are the bits that came in.

        `boxes` as of `draw_boxes`; `strength` is s in x = mu + s L z.
        """
        most = max(int(boxes.max()), 1)
        w = strength * torch.randn(len(boxes), most, self.rows, generator=generator)
        out = []
        for x, mean, centred, ridge in zip(maps, self.means, self.centred, self.ridges, strict=True):
            box = on_grid(boxes, x.shape[2:])
            white = strength * ridge * torch.randn(len(boxes), most, x.shape[1], generator=generator)
            weights = _of_boxes(w, box).transpose(0, 1).to(centred.dtype)  # (P, B, n)
            drawn = mean + (weights @ centred).float().transpose(0, 1) + _of_boxes(white, box)
            out.append(_put(x, box, drawn))
        return tuple(out)


def standard_noise(maps: Sequence[Tensor], boxes: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """The maps with standard normal vectors in the boxes, one a box: noise that knows nothing of places."""
    out = []
    for x in maps:
        box = on_grid(boxes, x.shape[2:])
        white = torch.randn(len(boxes), max(int(boxes.max()), 1), x.shape[1], generator=generator)
        out.append(_put(x, box, _of_boxes(white, box)))
    return tuple(out)


def draw_boxes(
    batch: int,
    grid: tuple[int, int],
    generator: torch.Generator,
    *,
    cover: tuple[float, float] = (0.05, 0.15),
    most: int = 8,
    side: int = 3,
) -> Tensor:
    """(batch, *grid) int64: 0 outside, else the number of the box that a cell lies in.

    Boxes of 1 to `side` cells a side (fewer on grids under four times that) are put down, up to `most`, until a share
    of the cells is covered that is drawn from `cover`; there is always one.
    """
    height, width = grid
    sides = [
        1 + torch.randint(max(min(side, n // 4), 1), (batch, most, 1), generator=generator) for n in (height, width)
    ]
    corners = [
        (torch.rand(batch, most, 1, generator=generator) * (n - s + 1)).long()
        for n, s in zip((height, width), sides, strict=True)
    ]
    at = [(torch.arange(n) >= c) & (torch.arange(n) < c + s) for n, c, s in zip(grid, corners, sides, strict=True)]
    inside = at[0][..., :, None] & at[1][..., None, :]  # (batch, most, h, w)
    covered = inside.cumsum(1).bool().sum((2, 3))
    wanted = cover[0] + (cover[1] - cover[0]) * torch.rand(batch, 1, generator=generator)
    before = F.pad(covered[:, :-1], (1, 0))
    kept = (before < wanted * height * width)[..., None, None]
    return (torch.arange(1, most + 1)[:, None, None] * (inside & kept)).amax(1)


def on_grid(boxes: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, h, w) -> (B, cells): numbers on another grid; a coarser cell is a box's as soon as a part of it is."""
    return F.adaptive_max_pool2d(boxes[:, None].float(), (grid[0], grid[1])).flatten(1).long()


def _of_boxes(values: Tensor, box: Tensor) -> Tensor:
    """(B, boxes, d), (B, cells) -> (B, cells, d): of each cell's box, of any where there is none."""
    index = (box - 1).clamp_min(0)[..., None].expand(-1, -1, values.shape[2])
    return values.gather(1, index)


def _put(x: Tensor, box: Tensor, drawn: Tensor) -> Tensor:
    drawn = drawn.transpose(1, 2).reshape(x.shape).to(x.dtype)
    return torch.where((box > 0).view(len(x), 1, *x.shape[2:]), drawn, x)
