"""Exact nearest neighbours in a bank, written so that the search may run in a short number format."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.ops.arrays import coarse_product, constant, joined, picked, rows, sqrt, top, total

_CHUNK = 2048  # bank rows per product: the block of dot products stays in the second-level cache
_REFINED = 4  # chunk winners whose distance is computed again, exactly


def nearest(x: Any, bank: NDArray[np.float32]) -> tuple[Any, Any]:
    """Distance to, and index of, each query's nearest bank row.

    x (N, C), bank (M, C), both around the same centre -> (N,) float32, (N,) int64.

    Each chunk of the bank names its nearest row by |b|^2 - 2 x.b, where the dot products are coarse ones; the best few
    of these are then measured as |x - b| in float32, so what is returned is a true distance to a true row whatever
    format the search ran in. With a float32 product the row is the nearest one.
    """
    doubled, kept = -2.0 * x, constant(bank, like=x)
    values, indices = [], []
    for start in range(0, len(bank), _CHUNK):
        part = kept[start : start + _CHUNK]
        order = coarse_product(doubled, part.transpose(1, 0)) + total(part * part, 1)
        value, index = top(order, 1, smallest=True)
        values.append(value)
        indices.append(index + np.int64(start))
    order, candidates = joined(values, 1), joined(indices, 1)
    candidates = picked(candidates, top(order, min(_REFINED, len(values)), smallest=True)[1])
    apart = x[:, None] - rows(kept, candidates)
    distance, first = top(total(apart * apart, 2), 1, smallest=True)
    return sqrt(distance[:, 0]), picked(candidates, first)[:, 0]


def nearest_within(bank: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(M, C) -> (M, k) indices of each row's k nearest rows, itself first; computed in blocks."""
    if k == 1:
        return np.arange(len(bank))[:, None]
    norms = (bank * bank).sum(1)
    found = []
    for start in range(0, len(bank), 1024):
        block = bank[start : start + 1024]
        order = norms - 2 * block @ bank.T
        order[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        found.append(top(order, min(k, len(bank)), smallest=True)[1])
    return np.concatenate(found)
