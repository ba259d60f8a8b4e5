"""What restoring distillation is made of: a pyramid becomes one small embedding, and what was restored is compared.

Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022 (RD4AD). The decoder is
`blocks.MirroredDecoder`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from blemish.nn.blocks import Residual, conv3, norm_of, resized
from blemish.nn.losses import cosine_map, cosine_whole

Grid = tuple[int, ...]


def halvings(grid: Grid, target: Grid) -> int:
    """How often (h, w) is halved to come nearest to the target's height; 0 where it is no finer."""
    return max(round(math.log2(grid[0] / target[0])), 0)


class OneClassEmbedding(nn.Module):
    """A pyramid (B, C_l, *grid_l) -> one embedding (B, outside, h, w), small enough to lose what is not normal.

    RD4AD, section 3.3: every level is brought to the coarsest grid by 3 x 3 convolutions of stride 2 whose channels
    grow by one factor, the levels are joined (multi-scale fusion), and residual units make the embedding of them
    (one-class embedding).

    Args:
        channels, grids: of the levels, finest first.
        outside: channels of the embedding.
        joined: most channels that a level is brought to; the coarsest one is taken as it is.
        stride: of the first residual unit: the coarsest grid against the embedding's.
        blocks: residual units.
        attention: makes what the joined levels go through, of their channels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        grids: Sequence[Grid],
        outside: int,
        *,
        joined: int = 128,
        stride: int = 1,
        blocks: int = 2,
        attention: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.grid = tuple(grids[-1])
        to, total = min(channels[-1], joined), 0
        self.reduce = nn.ModuleList()
        for inside, grid in zip(channels, grids, strict=True):
            count = halvings(grid, self.grid)
            widths = [round(inside * (to / inside) ** (i / max(count, 1))) for i in range(count + 1)]
            steps = [
                nn.Sequential(conv3(a, b, 2), norm_of("batch", b), nn.ReLU())
                for a, b in zip(widths, widths[1:], strict=False)
            ]
            self.reduce.append(nn.Sequential(*steps))
            total += widths[-1]
        units = [Residual(total if i == 0 else outside, outside, stride=stride if i == 0 else 1) for i in range(blocks)]
        self.attention: nn.Module = attention(total) if attention else nn.Identity()
        self.units = nn.Sequential(*units)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [resized(reduce(x), self.grid) for reduce, x in zip(self.reduce, maps, strict=True)]
        return self.units(self.attention(torch.cat(levels, 1)))  # type: ignore[no-any-return]


def embedding_stride(grids: Sequence[Grid], size: tuple[int, int], stride: int) -> int:
    """Stride of the residual stage between the coarsest level and an embedding of `stride` pixels; 1 at least."""
    coarsest = size[0] / grids[-1][0]
    return int(2 ** max(round(math.log2(stride / coarsest)), 0))


def restoring_terms(features: Sequence[Tensor], restored: Sequence[Tensor], *, whole: bool) -> dict[str, Tensor]:
    """The distillation loss, a term a level: 1 - cosine of features and what was restored.

    whole   each map is one vector per image, as in RD4AD's code; else the mean over positions, as in its Eq. 2
    """
    distance = cosine_whole if whole else cosine_map
    return {f"restore_{i}": distance(f, r).mean() for i, (f, r) in enumerate(zip(features, restored, strict=True))}


def restoring_maps(features: Sequence[Tensor], restored: Sequence[Tensor]) -> list[Tensor]:
    """(B, h_l, w_l) a level, in [0, 2]: 1 - cosine at every position (RD4AD, Eq. 1)."""
    return [cosine_map(f, r) for f, r in zip(features, restored, strict=True)]
