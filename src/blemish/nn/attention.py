"""Attention blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CoordinateAttention(nn.Module):
    """x * a_h * a_w, with a_h constant along the width and a_w along the height.

    Hou et al., Coordinate Attention for Efficient Mobile Network Design, CVPR 2021, Eq. 4 to 7. Keeps (B, C, H, W).
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        inner = max(8, channels // reduction)
        self.shared = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.Hardswish())
        self.high = nn.Conv2d(inner, channels, 1)
        self.wide = nn.Conv2d(inner, channels, 1)

    def profiles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a_h (B, C, H, 1) and a_w (B, C, 1, W), each in (0, 1)."""
        height, width = int(x.shape[2]), int(x.shape[3])
        rows = x.mean(3, keepdim=True)
        columns = x.mean(2, keepdim=True).transpose(2, 3)
        both = self.shared(torch.cat([rows, columns], 2))
        rows, columns = both.split([height, width], 2)
        return self.high(rows).sigmoid(), self.wide(columns.transpose(2, 3)).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        high, wide = self.profiles(x)
        return x * high * wide


class CrossAttention(nn.Module):
    """Queries of one set of tokens look at another: (B, N, d), (B, M, d) -> (B, N, d). Several heads, no dropout."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, others: Tensor) -> Tensor:
        q, k, v = self._split(self.query(queries)), self._split(self.key(others)), self._split(self.value(others))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, heads, N, d / heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)
