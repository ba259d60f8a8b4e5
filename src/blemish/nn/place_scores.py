"""Level maps as z-scores: each place less its mean, over its spread, both of good images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

PRIOR = 100.0
"""Images that a level's mean variance counts as, beside the variance of those that were seen at a place."""

Way = Literal["z", "sum"]


class PlaceScores(nn.Module):
    """Level maps (B, h_l, w_l) of residuals -> the same as z-scores of good images' residuals at that level and place.

    Badly restored fine levels have large residuals that mean nothing, and borders have larger ones than the middle:
    what counts is how unusual a residual is for its level and place. Until `measure`, maps pass as they are.

    Args:
        grids: (h, w) of each level.
        way: z, or `sum` for maps as they are, as reverse distillation adds them.
    """

    def __init__(self, grids: Sequence[tuple[int, ...]], way: Way = "z") -> None:
        super().__init__()
        for i, grid in enumerate(grids):
            self.register_buffer(f"mean_{i}", torch.zeros(grid))
            self.register_buffer(f"spread_{i}", torch.ones(grid))
        self.levels, self.way = len(grids), way

    @torch.no_grad()
    def measure(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Take the figures of good images' maps; nothing to do where maps are summed as they are.

        A place's variance is drawn towards that of its level, which counts as `PRIOR` images: a few images do not tell
        it, and a place that hardly varied among them would outweigh all others.
        """
        if self.way == "sum":
            return
        n, sums, squares = 0, [torch.zeros(0)] * self.levels, [torch.zeros(0)] * self.levels
        origin: list[Tensor] = []  # squares of large numbers would cancel
        for maps in batches:
            origin = origin or [x.double().mean() for x in maps]
            n += len(maps[0])
            for i, x in enumerate(maps):
                around = x.double() - origin[i]
                first, second = around.sum(0), around.square().sum(0)
                sums[i] = sums[i] + first if n > len(x) else first
                squares[i] = squares[i] + second if n > len(x) else second
        for i in range(self.levels):
            place = sums[i] / n
            variance = (squares[i] / n - place.square()).clamp_min(0)
            variance = (n * variance + PRIOR * variance.mean()) / (n + PRIOR)
            least = 1e-6 * (origin[i].abs() + 1e-6)  # of a level that is constant
            self._set(i, place + origin[i], torch.maximum(variance.sqrt(), least))

    def fix(self, scales: Sequence[tuple[float, float]]) -> None:
        """The same figures for all places of a level: what is taken off, and what the rest is divided by."""
        for i, (mean, spread) in enumerate(scales):
            self._set(i, torch.tensor(mean), torch.tensor(spread))

    def _set(self, level: int, mean: Tensor, spread: Tensor) -> None:
        self.get_buffer(f"mean_{level}").copy_(mean)
        self.get_buffer(f"spread_{level}").copy_(spread)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [(x - self.get_buffer(f"mean_{i}")) / self.get_buffer(f"spread_{i}") for i, x in enumerate(maps)]
