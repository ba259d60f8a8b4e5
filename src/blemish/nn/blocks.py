"""Convolutional blocks that distillation shares: residual units, and a decoder that mirrors a pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "group"]


def norm_of(kind: Norm, channels: int) -> nn.Module:
    """Batch normalisation, or groups of channels: blind to the rest of the batch and to whether it is training."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def conv3(inside: int, outside: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    """3 x 3 without a bias: a norm follows."""
    return nn.Conv2d(inside, outside, 3, stride, dilation, dilation, groups, bias=False)


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016): (B, in, H, W) -> (B, out, H/stride, …)."""

    def __init__(
        self,
        inside: int,
        outside: int,
        *,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3(inside, outside, stride, dilations[0]),
            norm_of(norm, outside),
            nn.ReLU(),
            conv3(outside, outside, 1, dilations[1]),
            norm_of(norm, outside),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), norm_of(norm, outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resized(x: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *grid), bilinear; as it is where the grid is the same."""
    if tuple(x.shape[2:]) == tuple(grid):
        return x
    return F.interpolate(x, size=(grid[0], grid[1]), mode="bilinear", align_corners=False)


class MirroredDecoder(nn.Module):
    """An embedding becomes a pyramid again, coarsest level first; nothing of the encoder comes in at the side.

    Args:
        inside: channels of the embedding (B, inside, h, w).
        channels, grids: of the levels to rebuild, finest first.
        widths: of the stages, finest first; by default the levels' channels.
        blocks: residual units in a stage.
        after: makes what follows a stage, of its width (an attention, say).

    Returns one map (B, C_l, *grid_l) a level, finest first.
    """

    def __init__(
        self,
        inside: int,
        channels: Sequence[int],
        grids: Sequence[tuple[int, ...]],
        *,
        widths: Sequence[int] | None = None,
        blocks: int = 2,
        norm: Norm = "batch",
        after: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.stages, self.heads = nn.ModuleList(), nn.ModuleList()
        for width, out in zip(reversed(widths or channels), reversed(channels), strict=True):
            units = [Residual(inside if i == 0 else width, width, norm=norm) for i in range(blocks)]
            self.stages.append(nn.Sequential(*units, *([after(width)] if after else [])))
            self.heads.append(nn.Conv2d(width, out, 1))
            inside = width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        out: list[Tensor] = []
        for stage, head, grid in zip(self.stages, self.heads, reversed(self.grids), strict=True):
            x = stage(resized(x, grid))
            out.append(head(x))
        return tuple(reversed(out))
