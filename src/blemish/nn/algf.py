"""Fusion of the feature maps of two networks of different kinds."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn

from blemish.nn.blocks import norm_of, resized
from blemish.nn.transformer import ProductAttention

Grid = tuple[int, ...]
Exchange = Literal["tokens", "channel", "off"]


def pointwise(inside: int, outside: int) -> nn.Sequential:
    """1 x 1 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), norm_of("batch", outside), nn.ReLU())


class LocalGlobalFusion(nn.Module):
    """z = a + b + gamma * h: both networks' features brought to one size, and a hybrid of them.

    The adaptive local-global fusion (ALGF) of Yu et al., arXiv 2506.16050, 2025, on one level; gamma is learned, one a
    channel, and starts at 0.1.

    Args:
        local, others: channels of either network's features; None for `others` leaves z = a.
        width: of z.
        grid: of the local features, and of z; the others are resampled to it.
        exchange: how h comes about: "tokens" (cross attention in both directions between pooled tokens, at most `most`
            along a side), "channel" (the sum's channels, weighed by both features' means), "off" (there is no h).

    (B, local, *grid), (B, others, …) -> (B, width, *grid).
    """

    def __init__(
        self, local: int, others: int | None, width: int, grid: Grid, exchange: Exchange, heads: int = 4, most: int = 14
    ) -> None:
        super().__init__()
        self.grid = grid
        self.kind = exchange if others is not None else "off"
        self.local = pointwise(local, width)
        self.others = pointwise(others, width) if others is not None else None
        if self.kind == "off":
            return
        self.gamma = nn.Parameter(torch.full((width, 1, 1), 0.1))
        if self.kind == "channel":
            inner = max(width // 4, 4)
            self.gate = nn.Sequential(nn.Linear(2 * width, inner), nn.ReLU(), nn.Linear(inner, width), nn.Sigmoid())
            return
        self.tokens = (_pooled(grid[0], most), _pooled(grid[1], most))
        inner = min(width, 128) // heads * heads
        self.to_local, self.to_global = nn.Linear(width, inner), nn.Linear(width, inner)
        self.position = nn.Parameter(torch.randn(1, self.tokens[0] * self.tokens[1], inner) * 0.02)
        self.local_asks, self.global_asks = ProductAttention(inner, heads), ProductAttention(inner, heads)
        self.back = nn.Linear(2 * inner, width)

    def forward(self, local: Tensor, others: Tensor | None) -> Tensor:
        a = self.local(local)
        if self.others is None or others is None:
            return a  # type: ignore[no-any-return]
        b = self.others(resized(others, self.grid))
        if self.kind == "off":
            return a + b  # type: ignore[no-any-return]
        hybrid = self.exchange(a, b) if self.kind == "tokens" else self.gated(a, b)
        return a + b + self.gamma * hybrid  # type: ignore[no-any-return]

    def exchange(self, a: Tensor, b: Tensor) -> Tensor:
        """Cross attention in both directions between pooled tokens; a map again."""
        local = self.to_local(_tokens(a, self.tokens)) + self.position
        others = self.to_global(_tokens(b, self.tokens)) + self.position
        both = cat([self.local_asks(local, others), self.global_asks(others, local)], 2)
        hybrid = self.back(both).transpose(1, 2)
        return resized(hybrid.reshape(-1, self.back.out_features, *self.tokens), self.grid)

    def gated(self, a: Tensor, b: Tensor) -> Tensor:
        """Instead: channels of the sum, weighed by both means over places."""
        weights = self.gate(cat([a.mean((2, 3)), b.mean((2, 3))], 1))
        return weights[..., None, None] * (a + b)  # type: ignore[no-any-return]


def _pooled(side: int, most: int) -> int:
    """Tokens along a side: halved until there are few enough."""
    while side > most:
        side = -(-side // 2)
    return side


def _tokens(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, N, C): block means where the grid divides, bilinear elsewhere."""
    height, width = int(x.shape[2]), int(x.shape[3])
    if height % grid[0] == 0 and width % grid[1] == 0:
        x = F.avg_pool2d(x, (height // grid[0], width // grid[1]))
    return resized(x, grid).flatten(2).transpose(1, 2)
