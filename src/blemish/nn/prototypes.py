"""Prototypes of features that may have a place on the grid."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-6  # smallest largest distance


def positions(grid: tuple[int, ...]) -> Tensor:
    """(P, 2) of the cells, row by row; the corners are those of the unit square."""
    return torch.cartesian_prod(torch.linspace(0, 1, grid[0]), torch.linspace(0, 1, grid[1]))


def apart(grid: Tensor, places: Tensor) -> Tensor:
    """(P, 2), (M, 2) -> (P, M): distances over the largest of them."""
    distance: Tensor = torch.linalg.vector_norm(grid[:, None] - places, dim=2)
    return distance / distance.amax().clamp_min(TINY)


def nearest_means(cost: Tensor, points: Tensor, now: Tensor) -> Tensor:
    """(N, M), (N, D), (M, D) -> (M, D): means of the points that each column is cheapest for; `now` where it is for
    none. This is vector quantisation, in which prototypes can be forgotten."""
    owner = cost.argmin(1)
    mass = torch.bincount(owner, minlength=len(now))[:, None]
    sums = torch.zeros_like(now).index_add_(0, owner, points)
    return torch.where(mass > 0, sums / mass.clamp_min(1), now)


def squared(x: Tensor, y: Tensor) -> Tensor:
    """(..., C), (M, C) -> (..., M): squared distances."""
    return (x.square().sum(-1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)


def distinct(x: Tensor, cells: Tensor, same: float) -> Tensor:
    """Indices of rows (M, C), in order, without copies: rows of one cell that are as near to one before them, which is
    kept, as unit vectors with a cosine above `same` are."""
    limit = 2 * (1 - same) * x.square().sum(1)
    kept = torch.zeros(0, dtype=torch.int64)
    for rows in torch.split(torch.arange(len(x)), 1024):
        alike = (squared(x[rows], x[kept]) < limit[kept]) & (cells[rows, None] == cells[kept])
        rows = rows[~alike.any(1)]
        among = ((squared(x[rows], x[rows]) < limit[rows]) & (cells[rows, None] == cells[rows])).tril(-1)
        good = torch.ones(len(rows), dtype=torch.bool)
        for i in among.any(1).nonzero()[:, 0].tolist():
            good[i] = not bool((among[i] & good).any())
        kept = torch.cat([kept, rows[good]])
    return kept
