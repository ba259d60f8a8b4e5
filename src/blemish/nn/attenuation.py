"""A soft mask over an encoder's features: what is not known as normal is weakened before a decoder sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.blocks import resized

OPEN = 3.0  # logit that a gate starts at: 0.95, close to the network without it


def pooled(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *grid): block means of a finer map, bilinear of a coarser one."""
    height, width = int(x.shape[2]), int(x.shape[3])
    if height % grid[0] == 0 and width % grid[1] == 0:
        return F.avg_pool2d(x, (height // grid[0], width // grid[1]))
    return resized(x, grid)


class PatchGate(nn.Module):
    """Two linear layers at each patch: the maps of an encoder to logits of how much of a patch is let through.

    Park et al., Feature Attenuation of Defective Representation, 2024. Channels are standardised by what `standardise`
    was told; nothing but the layers is learned, C h + 2 h + 1 weights for C channels in all.

    Args:
        channels: of the maps, finest first.
        grid: of the patches.
        hidden: units between the layers, h.
        apart: a perceptron for each map, which sees that map alone, instead of one that sees all.
    """

    mean: Tensor  # (C, 1, 1)
    deviation: Tensor  # (C, 1, 1)
    low: Tensor  # () error of a patch up to which the gate is to stay open
    span: Tensor  # () from there to where it is to be shut

    def __init__(self, channels: Sequence[int], grid: tuple[int, int], hidden: int, *, apart: bool = False) -> None:
        super().__init__()
        self.channels, self.grid, self.apart = tuple(channels), grid, apart
        self.register_buffer("mean", torch.zeros(sum(channels), 1, 1))
        self.register_buffer("deviation", torch.ones(sum(channels), 1, 1))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("span", torch.ones(()))
        # 1 x 1 convolutions are linear layers at each place
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inside, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))
            for inside in (channels if apart else [sum(channels)])
        )
        for layer in self.layers:
            nn.init.constant_(layer[2].bias, OPEN)  # type: ignore[index]

    def tokens(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, C, *grid): all maps on the patches' grid, side by side, as they come."""
        return torch.cat([pooled(x, self.grid) for x in maps], 1)

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Takes (C,) means and spreads of the tokens of good images."""
        self.mean.copy_(mean[:, None, None])
        self.deviation.copy_(deviation[:, None, None])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, 1, *grid); apart: (B, number of maps, *grid)."""
        tokens = (self.tokens(maps) - self.mean) / self.deviation
        parts = torch.split(tokens, list(self.channels), 1) if self.apart else (tokens,)
        return torch.cat([layer(part) for layer, part in zip(self.layers, parts, strict=True)], 1)

    def targets(self, errors: Tensor) -> Tensor:
        """(B, 1, *grid) errors of the patches -> how far the gate is to be open there, in [0, 1]."""
        return 1 - ((errors - self.low) / self.span).clamp(0, 1)


def attenuated(maps: Sequence[Tensor], gate: Tensor, *, skips_only: bool = False) -> tuple[Tensor, ...]:
    """Maps (B, C_l, h_l, w_l) times a gate (B, 1, *grid), or times one of (B, number of maps, *grid) each.

    skips_only   the last map, the bottleneck, stays as it is
    """
    last = len(maps) - 1
    each = [gate] * len(maps) if gate.shape[1] == 1 else list(torch.split(gate, 1, 1))
    return tuple(
        x if skips_only and level == last else x * resized(own, x.shape[2:])
        for level, (x, own) in enumerate(zip(maps, each, strict=True))
    )
