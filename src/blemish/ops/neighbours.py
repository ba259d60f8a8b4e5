"""Exact nearest neighbours in a bank, written so that the search may run in a short number format."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, arange, cat

_CHUNK = 2048  # bank rows per product: the block of dot products stays in the second-level cache
_REFINED = 4  # chunk winners whose distance is computed again, exactly


def nearest(x: Tensor, bank: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Distance to, and index of, each query's nearest bank row.

    x (N, C), bank (M, C), both around the same centre -> (N,) float32, (N,) int64.

    Each chunk of the bank names its nearest row by |b|^2 - 2 x.b, where the dot products are `product`'s; the best
    few of these are then measured as |x - b| in float32, so what is returned is a true distance to a true row
    whatever format the search ran in. With a float32 product the row is the nearest one.
    """
    doubled = -2 * x
    values, indices = [], []
    for start in range(0, int(bank.shape[0]), _CHUNK):
        rows = bank[start : start + _CHUNK]
        order = product(doubled, rows.T) + rows.square().sum(1)
        best = order.topk(1, dim=1, largest=False)
        values.append(best.values)
        indices.append(best.indices + start)
    order, candidates = cat(values, 1), cat(indices, 1)
    keep = order.topk(min(_REFINED, len(values)), dim=1, largest=False).indices
    candidates = candidates.gather(1, keep)
    exact = (x[:, None] - bank[candidates]).square().sum(2)
    first = exact.topk(1, dim=1, largest=False)
    return first.values[:, 0].clamp_min(0).sqrt(), candidates.gather(1, first.indices)[:, 0]


def nearest_within(bank: Tensor, k: int) -> Tensor:
    """(M, C) -> (M, k) indices of each row's k nearest rows, itself first; computed in blocks."""
    if k == 1:
        return arange(len(bank))[:, None]
    norms = bank.square().sum(1)
    out = []
    for start in range(0, int(bank.shape[0]), 1024):
        block = bank[start : start + 1024]
        order = norms - 2 * block @ bank.T
        order[range(len(block)), range(start, start + len(block))] = -float("inf")
        out.append(order.topk(min(k, len(bank)), dim=1, largest=False).indices)
    return cat(out)
