"""Levels of a pyramid that are mapped onto each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.blocks import conv3, norm_of, resized
from blemish.nn.reverse import Grid, halvings

Ways = Literal["both", "down", "up"]
FIRST = (1.0, 0.0, -0.5)  # theta of a level itself, of the next one, of those further away


class LevelMap(nn.Module):
    """(B, inside, *source) -> (B, outside, *target): depthwise stride 2 downwards, bilinear upwards, 1 x 1 in both."""

    def __init__(self, inside: int, outside: int, source: Grid, target: Grid) -> None:
        super().__init__()
        self.target = tuple(target)
        down: list[nn.Module] = []
        for _ in range(halvings(source, target)):
            down += [conv3(inside, inside, 2, groups=inside), norm_of("batch", inside)]
        self.body = nn.Sequential(*down, nn.Conv2d(inside, outside, 1, bias=False), norm_of("batch", outside))

    def forward(self, x: Tensor) -> Tensor:
        return resized(self.body(x), self.target)


class MutualMappingFusion(nn.Module):
    """Maps every level onto every other one, fuses them with unequal weights, and adds where they disagree.

    h_j = own projection, m_ij = level i mapped onto j, alpha_j = softmax(theta_j):

        s_j = alpha_jj h_j + sum_i alpha_ij m_ij        inhomogeneous fusion
        e_j = conv(sum_i |h_j - m_ij|)                  what differs between the scales
        g_j = relu(norm(conv(s_j + gamma_j e_j))) + h_j

    Tong et al., IEEE Transactions on Big Data 10(4), 2024; its abstract names the parts, the equations are ours.

    Args:
        channels, grids: of the levels, finest first.
        widths: channels of the fused levels.
        learned: alpha is learned, from a start where the own level weighs most; else they stay equal.
        discrepancy: whether e_j is there. gamma starts at 0, so training starts as a plain fusion.
        ways: the maps that are there: `down` from finer levels, `up` from coarser ones.

    (B, channels_l, *grid_l) -> (B, widths_l, *grid_l), a level each.
    """

    def __init__(
        self,
        channels: Sequence[int],
        grids: Sequence[Grid],
        widths: Sequence[int],
        *,
        learned: bool = True,
        discrepancy: bool = True,
        ways: Ways = "both",
    ) -> None:
        super().__init__()
        levels = range(len(channels))
        self.sources = [[i for i in levels if _wanted(i, j, ways)] for j in levels]
        self.own = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, d, 1, bias=False), norm_of("batch", d), nn.ReLU())
            for c, d in zip(channels, widths, strict=True)
        )
        self.maps = nn.ModuleDict(
            {f"{i}_{j}": LevelMap(widths[i], widths[j], grids[i], grids[j]) for j in levels for i in self.sources[j]}
        )
        first = [[FIRST[min(abs(i - j), 2)] if learned else 0.0 for i in levels] for j in levels]
        absent = [[i != j and i not in self.sources[j] for i in levels] for j in levels]
        self.theta = nn.Parameter(torch.tensor(first))
        self.absent: Tensor
        self.register_buffer("absent", torch.tensor(absent), persistent=False)
        self.learned = learned
        self.differ = nn.ModuleList(nn.Conv2d(d, d, 1, bias=False) for d in (widths if discrepancy else ()))
        self.gamma = nn.Parameter(torch.zeros(len(channels)))
        self.out = nn.ModuleList(nn.Sequential(conv3(d, d), norm_of("batch", d), nn.ReLU()) for d in widths)

    @property
    def alpha(self) -> Tensor:
        """(L, L): row j holds the weights of all sources of level j; they sum to 1."""
        theta = self.theta if self.learned else self.theta.detach()
        return F.softmax(theta.masked_fill(self.absent, -torch.inf), 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        h = [own(x) for own, x in zip(self.own, maps, strict=True)]
        alpha, fused = self.alpha, []
        for j, out in enumerate(self.out):
            mapped = {i: self.maps[f"{i}_{j}"](h[i]) for i in self.sources[j]}
            total = alpha[j, j] * h[j]
            for i, m in mapped.items():
                total = total + alpha[j, i] * m
            if len(self.differ) and mapped:
                apart = sum(_difference(h[j], m) for m in mapped.values())
                total = total + self.gamma[j] * self.differ[j](apart)
            fused.append(out(total) + h[j])
        return fused


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|, in float32 whatever they were computed in."""
    if a.dtype != torch.float32:
        a, b = a.float(), b.float()
    return (a - b).abs()


def _wanted(source: int, target: int, ways: Ways) -> bool:
    """Whether there is a map from a level to another; two levels of one grid count as finer and coarser by number."""
    if source == target:
        return False
    return ways == "both" or (ways == "down") == (source < target)
