"""Transformers of tokens that may not look at themselves nor at their neighbours.

You et al., A Unified Model for Multi-class Anomaly Detection, NeurIPS 2022 (UniAD): what sees itself learns to copy,
and then copies defects too. Layers have ReLU and are post-norm (Vaswani et al., 2017), as the paper's, or pre-norm
(Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020), which learns in fewer steps. Tokens
(B, N, d) lie in row-major order on a grid. A position is added to queries and keys, never to values. Mask and queries
broadcast over the batch.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.attention import CrossAttention

Grid = tuple[int, int]
Where = Literal["all", "encoder", "decoder", "none"]
Norm = Literal["pre", "post"]  # what a part of a layer gets is normed, or what it has been added to


def window_of(grid: Grid) -> Grid:
    """Sides of the neighbourhood, 2 * floor(n / 4) + 1 of an axis of n tokens: 7 of 14, as in the paper."""
    return 2 * (grid[0] // 4) + 1, 2 * (grid[1] // 4) + 1


def neighbour_mask(grid: Grid, window: Grid) -> Tensor:
    """(N, N), to be added to products of queries and keys: -inf within the window around a token, itself included.

    The window is clipped at the borders of the grid. ValueError where a token would see nothing.
    """
    half = window[0] // 2, window[1] // 2
    y, x = torch.arange(grid[0]), torch.arange(grid[1])
    near_y = (y[:, None] - y[None]).abs() <= half[0]
    near_x = (x[:, None] - x[None]).abs() <= half[1]
    near = (near_y[:, None, :, None] & near_x[None, :, None, :]).reshape(grid[0] * grid[1], -1)
    if near.all(1).any():
        raise ValueError(f"a window of {window} leaves a token of a {grid} grid nothing to look at")
    return torch.zeros(near.shape).masked_fill(near, -torch.inf)


def jittered(tokens: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """(B, N, C) with noise whose expected length is `ratio` of each token's own (feature jittering).

    The paper's alpha is ratio * sqrt(C): the standard deviation of a channel is alpha * |f| / C.
    """
    spread = tokens.square().mean(2, keepdim=True).sqrt() * ratio  # |f| / sqrt(C), times the ratio
    return tokens + spread * torch.randn(tokens.shape, generator=generator)


def xavier(module: nn.Module) -> None:
    """Glorot-uniform weights and no bias in every linear layer and convolution inside."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def drop_attention(module: nn.Module, share: float) -> None:
    """Dropout of what is attended to, apart from that of all else."""
    for part in module.modules():
        if isinstance(part, MaskedAttention):
            part.dropout.p = share


class GridPosition(nn.Module):
    """A learned position (N, d) of each token: one half by its column, one by its row.

    Args:
        normal: they start with a variance of 1, as long as the tokens they are added to; False starts them in [0, 1),
            as the paper, where their common part is longer than what tells them apart.
    """

    def __init__(self, grid: Grid, width: int, *, normal: bool = True) -> None:
        super().__init__()
        draw = torch.randn if normal else torch.rand
        self.rows = nn.Parameter(draw(grid[0], width // 2))
        self.columns = nn.Parameter(draw(grid[1], width - width // 2))

    def forward(self) -> Tensor:
        size = self.rows.shape[0], self.columns.shape[0]
        columns = self.columns[None].expand(*size, -1)
        return torch.cat([columns, self.rows[:, None].expand(*size, -1)], 2).flatten(0, 1)


class MaskedAttention(CrossAttention):
    """Attention of several heads whose values may differ from its keys, under an additive mask (N, M).

    The exported graph has plain products (see `ProductAttention`), and so have training in bf16 and dropout of
    attention, for which the fused kernel of a CPU is slow or missing; elsewhere a step of training takes half the time
    with it.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads)
        self.dropout = nn.Dropout(dropout)

    def shares(self, queries: Tensor, others: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, heads, N, M): how much of each value a query takes."""
        q, k = self._split(self.query(queries)), self._split(self.key(others))
        products = q * q.shape[3] ** -0.5 @ k.transpose(2, 3)
        return (products if mask is None else products + mask).softmax(3)  # type: ignore[no-any-return]

    def forward(
        self, queries: Tensor, others: Tensor, values: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        v = self._split(self.value(others if values is None else values))
        if self.training and not self.dropout.p and not torch.is_autocast_enabled(queries.device.type):
            q, k = self._split(self.query(queries)), self._split(self.key(others))
            q = q.expand(k.shape[0], -1, -1, -1)  # queries that are the same for all images: the kernel broadcasts none
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            mixed = self.dropout(self.shares(queries, others, mask)) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Added(nn.Module):
    """How a layer takes up what a part of it has found: LN(x + dropout(y)), or x + dropout(y) if the part got LN(x)."""

    def __init__(self, width: int, dropout: float, norm: Norm = "post") -> None:
        super().__init__()
        self.norm, self.dropout, self.first = nn.LayerNorm(width), nn.Dropout(dropout), norm == "pre"

    def given(self, x: Tensor) -> Tensor:
        """What the part gets."""
        return self.norm(x) if self.first else x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.dropout(y)
        return x if self.first else self.norm(x)


def ending(width: int, norm: Norm) -> nn.Module:
    """What makes a stream fit to be read: it has not been normed yet where layers are pre-norm."""
    return nn.LayerNorm(width) if norm == "pre" else nn.Identity()


def perceptron(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Two linear layers around a ReLU."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class EncoderLayer(nn.Module):
    """Tokens look at each other: (B, N, d) twice."""

    def __init__(self, width: int, hidden: int, heads: int, dropout: float, norm: Norm = "post") -> None:
        super().__init__()
        self.attention, self.perceptron = MaskedAttention(width, heads, dropout), perceptron(width, hidden, dropout)
        self.seen, self.thought = (Added(width, dropout, norm) for _ in range(2))

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        given = self.seen.given(x)
        placed = given + position
        x = self.seen(x, self.attention(placed, placed, given, mask))
        return self.thought(x, self.perceptron(self.thought.given(x)))  # type: ignore[no-any-return]


class MaskedEncoder(nn.Module):
    """Tokens (B, N, channels) of a grid become a memory (B, N, width); holds what a decoder needs too.

    Args:
        where: which attentions look past a token and its neighbours: this encoder's, a decoder's, both, none.
        neighbours: side of the window that is looked past; 0 = `window_of` the grid.
        normal: how positions start (see `GridPosition`).

    ValueError where the window leaves a token nothing to look at.
    """

    own: Tensor | None  # (N, N) mask of this encoder
    of_decoder: Tensor | None  # of a decoder behind it

    def __init__(
        self,
        channels: int,
        grid: Grid,
        layers: int,
        width: int,
        hidden: int,
        heads: int,
        dropout: float,
        norm: Norm = "post",
        *,
        where: Where = "all",
        neighbours: int = 0,
        normal: bool = True,
    ) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(channels, width), GridPosition(grid, width, normal=normal)
        self.layers = nn.ModuleList(EncoderLayer(width, hidden, heads, dropout, norm) for _ in range(layers))
        self.end = ending(width, norm)
        window = (neighbours, neighbours) if neighbours else window_of(grid)
        mask = None if where == "none" else neighbour_mask(grid, window)
        self.register_buffer("own", mask if where in ("all", "encoder") else None, persistent=False)
        self.register_buffer("of_decoder", mask if where in ("all", "decoder") else None, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x, position = self.embed(tokens), self.position()
        for layer in self.layers:
            x = layer(x, position, self.own)
        return self.end(x)  # type: ignore[no-any-return]


class QueryLayer(nn.Module):
    """A decoder layer that grows its output from learned queries of its own, one a token (layer-wise queries).

    They look at the encoder's memory first, and then at what the layer before has put out.

    Args:
        tokens: N.
        queries: False starts from the output of the layer before instead: no learned queries.
    """

    def __init__(
        self,
        tokens: int,
        width: int,
        hidden: int,
        heads: int,
        dropout: float,
        norm: Norm = "post",
        *,
        queries: bool = True,
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(tokens, width)) if queries else None
        self.of_memory, self.of_before = (MaskedAttention(width, heads, dropout) for _ in range(2))
        self.perceptron = perceptron(width, hidden, dropout)
        self.remembered, self.seen, self.thought = (Added(width, dropout, norm) for _ in range(3))
        self.of_layer = ending(width, norm)

    def forward(self, memory: Tensor, before: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        start = before if self.query is None else self.query[None]
        asked = self.remembered.given(start) + position
        t = self.remembered(start, self.of_memory(asked, memory + position, memory, mask))
        before = self.of_layer(before)
        t = self.seen(t, self.of_before(self.seen.given(t) + position, before + position, before, mask))
        return self.thought(t, self.perceptron(self.thought.given(t)))  # type: ignore[no-any-return]


class PromptLayer(nn.Module):
    """A decoder layer of two streams: the prompt reads the image, and the image reads what the prompt has become.

    Gao, Learning to Detect Multi-class Anomalies with Just One Normal Image Prompt, ECCV 2024 (OneNIP), as its code has
    it since its correction: the image takes up what its own attention has found.

    Args:
        both: False leaves the image as it is.
    """

    def __init__(
        self, width: int, hidden: int, heads: int, dropout: float, norm: Norm = "post", *, both: bool = True
    ) -> None:
        super().__init__()
        self.of_image, self.perceptron = MaskedAttention(width, heads, dropout), perceptron(width, hidden, dropout)
        self.seen, self.thought = (Added(width, dropout, norm) for _ in range(2))
        self.image_end, self.prompt_end = ending(width, norm), ending(width, norm) if both else None
        self.of_prompt = MaskedAttention(width, heads, dropout) if both else None
        self.answered = Added(width, dropout, norm) if both else None

    def forward(self, prompt: Tensor, image: Tensor, position: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prompt and image, (B, N, d) each, the prompt (1, N, d) where it is one for all -> both updated."""
        read = self.image_end(image)
        found = self.of_image(self.seen.given(prompt) + position, read + position, read, mask)
        prompt = self.seen(prompt, found)
        prompt = self.thought(prompt, self.perceptron(self.thought.given(prompt)))
        if self.of_prompt is None or self.answered is None or self.prompt_end is None:
            return prompt, image
        read = self.prompt_end(prompt)
        found = self.of_prompt(self.answered.given(image) + position, read + position, read, mask)
        return prompt, self.answered(image, found)
