"""A bank of centres of normal features, and steps away from them (Chen et al., TCSVT 35(2), 2025: PBAS)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest_by_cosine(x: Tensor, centres: Tensor) -> Tensor:
    """(..., C), (M, C) -> (...): which centre has the highest cosine to each row."""
    return (x @ F.normalize(centres, dim=1).T).argmax(-1)  # the length of x changes no order


def aligned(centres: Tensor, means: Tensor, momentum: float) -> Tensor:
    """Centres (M, C) after a batch's mean features (L, C) have been matched to them, each moved by moving average.

    Every mean goes to its nearest centre by cosine, by the centres as they were before. Then, mean by mean in order,
    its centre becomes momentum * centre + (1 - momentum) * mean; several may move one centre (PBAS, feature alignment).
    All at once: of n means of one centre the i-th counts momentum^(n - i), and the centre itself momentum^n.
    """
    owner = nearest_by_cosine(means, centres)
    order = owner.sort(stable=True).indices  # by centre; within one, as they came
    count = torch.bincount(owner, minlength=len(centres))
    last = count.cumsum(0)  # behind the last mean of each centre, in that order
    later = torch.empty_like(owner)  # how many means move the same centre after this one
    later[order] = last[owner[order]] - 1 - torch.arange(len(owner))
    weight = (1 - momentum) * torch.pow(momentum, later.to(means.dtype))
    kept = centres * torch.pow(momentum, count.to(means.dtype))[:, None]
    return kept.index_add(0, owner, weight[:, None] * means)


class CentreWindow:
    """The nearest centre within a square of cells, where each cell of a grid has its centre: (h * w, C).

    Searched row by row: a row's features are compared with the centres of 2 * reach + 1 rows alone, in one product.

    Args:
        centres: one for each cell, row by row.
        grid: (h, w).
        reach: cells to each side. None = anywhere: one product with all centres.
    """

    def __init__(self, centres: Tensor, grid: tuple[int, int], reach: int | None) -> None:
        self.centres, self.reach = centres, reach
        if reach is None:
            return
        h, w = grid
        shifts = torch.arange(-reach, reach + 1)
        rows = (torch.arange(h)[:, None] + shifts).clamp(
            0, h - 1
        )  # the border's rows come twice, which changes nothing
        self.index = (rows[:, :, None] * w + torch.arange(w)).flatten(1)  # (h, S) cells
        self.column = torch.arange(w).repeat(len(shifts))  # (S,)
        self.strips = F.normalize(centres, dim=1)[self.index].transpose(1, 2).contiguous()  # (h, C, S)

    def nearest(self, x: Tensor, columns: Tensor) -> Tensor:
        """Features (h, N, n, C) of each row, and what column each is from, (h, N, n) or (n,) -> (h, N, n) indices."""
        if self.reach is None:
            return nearest_by_cosine(x, self.centres)
        cosine = torch.bmm(x.flatten(1, 2), self.strips).view(*x.shape[:3], -1)  # times the length of x
        far = (columns[..., None] - self.column).abs() > self.reach
        at = cosine.masked_fill(far, -torch.inf).argmax(-1)  # (h, N, n)
        return torch.gather(self.index, 1, at.flatten(1)).view(at.shape)


def ray(offset: Tensor, least: Tensor, generator: torch.Generator) -> Tensor:
    """Offsets from a centre (T, C) -> unit vectors (T, C) along them; any direction where one is shorter than `least`.

    A feature that lies on its centre has no ray.
    """
    length = offset.norm(dim=1, keepdim=True)
    unit: Tensor = offset / length.clamp_min(1e-12)
    if bool((length < least).any()):
        unit = torch.where(length < least, anywhere(offset, generator), unit)
    return unit


def anywhere(like: Tensor, generator: torch.Generator) -> Tensor:
    """Unit vectors (T, C) in random directions."""
    return F.normalize(torch.randn(like.shape, generator=generator), dim=1)
