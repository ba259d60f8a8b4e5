"""Embedding, projection and discriminator of boundary learning (PBAS, Chen et al. 2025), and all three as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.blocks import resized

LEAK = 0.2  # of the discriminator's ReLU


class PatchEmbedding(nn.Module):
    """Levels (B, c_l, *grid_l) -> (B, C, *grid) on the finest grid, each cell with its neighbourhood.

    Nothing is learned, and all of it is linear. Outside of a level lie zeros.

    Args:
        channels, grids: of the levels, finest first.
        width: C; 0 = the sum of the channels. Another number is reached by an adaptive mean over neighbouring channels.
        side: of the square of cells that each is seen with, odd.
        faithful: as in the paper's code, the side^2 values of each channel stay apart until an adaptive mean brings
            each level to C values, and another one the levels, one behind the other, to C again; else means over the
            neighbourhood are joined.
    """

    def __init__(
        self,
        channels: Sequence[int],
        grids: Sequence[tuple[int, ...]],
        width: int = 0,
        side: int = 3,
        *,
        faithful: bool = False,
    ) -> None:
        super().__init__()
        self.grid = tuple(grids[0])
        self.width = width or sum(channels)
        self.joined = not faithful and self.width == sum(channels)
        self.mean = 1 if faithful else side  # of the square whose mean is taken before the kernels
        self.side = side if faithful else 1  # of the kernels
        if faithful:
            levels = [pooling(side**2 * c, self.width) for c in channels]
            last = pooling(self.width * len(levels), self.width)
            parts = [across @ each for across, each in zip(torch.split(last, self.width, 1), levels, strict=True)]
        else:
            parts = list(torch.split(pooling(sum(channels), self.width), list(channels), 1))
        self.matrices = parts  # of each level: (width, c_l * side^2)

    def neighbourhoods(self, x: Tensor) -> Tensor:
        """What the kernels are applied to."""
        return x if self.mean == 1 else F.avg_pool2d(x, self.mean, 1, self.mean // 2)

    def mixed(self, maps: Sequence[Tensor], matrices: Sequence[Tensor]) -> Tensor:
        """Each level through its matrix (K, c_l * side^2), and their sum on the finest grid: (B, K, *grid)."""
        total: Tensor | None = None
        for x, matrix in zip(maps, matrices, strict=True):
            kernel = matrix.view(matrix.shape[0], -1, self.side, self.side)
            level = resized(F.conv2d(self.neighbourhoods(x), kernel, padding=self.side // 2), self.grid)
            total = level if total is None else total + level
        assert total is not None
        return total

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if self.joined:
            return torch.cat([resized(self.neighbourhoods(x), self.grid) for x in maps], 1)
        return self.mixed(maps, self.matrices)


def pooling(inside: int, outside: int) -> Tensor:
    """(outside, inside): the adaptive mean of neighbours as a matrix."""
    return F.adaptive_avg_pool1d(torch.eye(inside)[None], outside)[0].T.contiguous()


class BoundaryDiscriminator(nn.Module):
    """(N, C) -> (N,) logits: high for fakes. Linear, batch norm, leaky ReLU, linear without a bias.

    Args:
        placed: it also gets each feature's offset from the centre of its place, through a linear layer of its own.
    """

    def __init__(self, width: int, hidden: int, *, placed: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(width, hidden), nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, 1, bias=False)
        self.beside = nn.Linear(width, hidden, bias=False) if placed else None

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        inner = self.first(x) if self.beside is None else self.first(x) + self.beside(offset)
        return self.last(F.leaky_relu(self.norm(inner), LEAK))[:, 0]  # type: ignore[no-any-return]


class FoldedBoundary(nn.Module):
    """All that lies between frozen levels and logits as one small convolution a level, a leaky ReLU and a product.

    Embedding, standardisation, projection, first layer and batch norm (by its running statistics) are linear, so one
    matrix holds them: exact but for rounding. It is applied on each level's own grid, before the coarser ones are
    resized. The centre of each place is a bias there. Computed again whenever the parts have changed.

    Args:
        embedding, projection, discriminator: the parts.
        mean, spread: (C,) of embedded features, by which they are standardised.
        centres: (M, C), of each place in turn or one for all.
    """

    @torch.no_grad()
    def __init__(
        self,
        embedding: PatchEmbedding,
        mean: Tensor,
        spread: Tensor,
        projection: nn.Linear,
        discriminator: BoundaryDiscriminator,
        centres: Tensor,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        first, norm, beside = discriminator.first, discriminator.norm, discriminator.beside
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        outer = first.weight.double()
        bias = (first.bias.double() - norm.running_mean.double())[:, None]
        if beside is not None:
            outer = outer + beside.weight.double()
            bias = bias - beside.weight.double() @ centres.double().T
        inner = outer @ projection.weight.double() / spread.double()
        bias = bias + (outer @ projection.bias.double() - inner @ mean.double())[:, None]  # (hidden, M) or (hidden, 1)
        bias = (scale[:, None] * bias + norm.bias.double()[:, None]).float()
        self.bias = bias.view(len(bias), *(embedding.grid if bias.shape[1] > 1 else (1, 1)))
        whole = scale[:, None] * inner  # (hidden, C)
        self.kernels = [(whole @ matrix.double()).float() for matrix in embedding.matrices]
        self.last = discriminator.last.weight.detach().clone()[:, :, None, None]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Levels (B, c_l, *grid_l) -> (B, *grid) logits."""
        hidden = self.embedding.mixed(maps, self.kernels) + self.bias
        return F.conv2d(F.leaky_relu(hidden, LEAK), self.last)[:, 0]
