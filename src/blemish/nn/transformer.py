"""A small vision transformer: patches of the image become tokens that all look at each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.attention import CrossAttention


class ProductAttention(CrossAttention):
    """The same as two plain products: learning in bf16 on a CPU, the fused kernel takes up to five times as long."""

    def forward(self, queries: Tensor, others: Tensor) -> Tensor:
        q, k, v = self._split(self.query(queries)), self._split(self.key(others)), self._split(self.value(others))
        shares = (q * q.shape[3] ** -0.5 @ k.transpose(2, 3)).softmax(3)
        return self.out((shares @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm (pre-norm), around shortcuts. (B, N, d) twice."""

    def __init__(self, width: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = ProductAttention(width, heads)
        self.perceptron = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.before_attention(x)
        x = x + self.attention(y, y)
        return x + self.perceptron(self.before_perceptron(x))  # type: ignore[no-any-return]


class SmallTransformer(nn.Module):
    """Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, without a class token and without dropout.

    Args:
        size: (H, W) of the image; what is missing to a multiple of `patch` is padded with zeros.
        taps: after how many blocks the tokens are given out.
        width, depth: channels of the tokens, and number of blocks; a head for every 32 channels.
        patch: side of a patch in pixels.

    (B, 3, H, W) -> one map (B, width, *grid) a tap, each token brought to mean 0 and variance 1.
    """

    def __init__(self, size: tuple[int, int], taps: Sequence[int], *, width: int, depth: int, patch: int = 16) -> None:
        super().__init__()
        self.taps, self.width = tuple(taps), width
        self.grid = (math.ceil(size[0] / patch), math.ceil(size[1] / patch))
        self.pad = (0, self.grid[1] * patch - size[1], 0, self.grid[0] * patch - size[0])
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, self.grid[0] * self.grid[1], width) * 0.02)
        self.unseen = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, max(width // 32, 1)) for _ in range(depth))

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, ...]:
        """`hidden` (B, *grid) bool: patches of which the network gets the place only."""
        tokens = self.embed(F.pad(x, self.pad)).flatten(2).transpose(1, 2)
        if hidden is not None:
            tokens = torch.where(hidden.flatten(1)[..., None], self.unseen.to(tokens.dtype), tokens)
        tokens = tokens + self.position
        after = [tokens]
        for block in self.blocks:
            after.append(block(after[-1]))
        return tuple(self._map(after[tap]) for tap in self.taps)

    def _map(self, tokens: Tensor) -> Tensor:
        even = F.layer_norm(tokens, (self.width,)).transpose(1, 2)
        return even.reshape(-1, self.width, *self.grid)


class MaskedGuess(nn.Module):
    """Guesses another network's features at hidden places from a map of tokens; only to learn with.

    (B, width, h, w) -> (B, channels, h, w), to be compared with `standard` features of the other network.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, channels, 1)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def settle(self, mean: Tensor, variance: Tensor) -> None:
        """Fill in the moments (channels,); channels that never vary stay finite."""
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("scale").copy_((variance + 1e-4 * variance.mean() + 1e-12).sqrt())

    def standard(self, features: Tensor) -> Tensor:
        """Channels at mean 0 and variance 1 over the samples whose moments were filled in."""
        mean, scale = self.get_buffer("mean"), self.get_buffer("scale")
        return (features.float() - mean[:, None, None]) / scale[:, None, None]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(tokens)  # type: ignore[no-any-return]


def hidden_cells(batch: int, grid: tuple[int, int], share: float, generator: torch.Generator) -> Tensor:
    """(batch, *grid) bool: the same number of cells in each sample, at least one, drawn at random."""
    cells = grid[0] * grid[1]
    order = torch.rand(batch, cells, generator=generator).argsort(1).argsort(1)
    return (order < max(round(share * cells), 1)).view(batch, *grid)
