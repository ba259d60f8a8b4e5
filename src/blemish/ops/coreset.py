"""Greedy k-centre selection, exact, in lazy batches."""

from __future__ import annotations

import torch
from torch import Tensor


def _squared_distances(a: Tensor, a2: Tensor, b: Tensor, b2: Tensor) -> Tensor:
    """(n, d), (m, d) with their squared norms -> (n, m)."""
    return torch.addmm(b2[None], a, b.T, alpha=-2).add_(a2[:, None])


def greedy_k_centre(
    points: Tensor, k: int, *, start: int = 0, lazy: int = 1024, tile: int = 16384
) -> tuple[Tensor, float]:
    """The indices of k points chosen farthest-first (Gonzalez 1985; PatchCore Algorithm 1), and the covering radius.

    points (n, d) float32 -> indices (k,) int64, radius = the largest distance of any point to its nearest pick.

    Exact lazy batches: the `lazy` points that are farthest now are played against each other alone for as long as the
    best of them is at least as far as the next one outside; the distances of all others can only fall, so the picks
    are those of the plain loop (up to rounding in near ties). Then one matrix product per tile brings every distance
    up to date: a few dozen products instead of k passes over the points. Memory beside the points: n floats and one
    tile x lazy block.
    """
    n = int(points.shape[0])
    k = min(k, n)
    centred = points - points.mean(0)  # distances are unchanged, and rounding is smaller
    norms = centred.square().sum(1)
    distance = _squared_distances(centred, norms, centred[start : start + 1], norms[start : start + 1])[:, 0]
    distance[start] = 0
    picks = [start]
    while len(picks) < k:
        size = min(lazy, n - 1)
        top = distance.topk(size + 1)
        limit, pool = float(top.values[size]), top.indices[:size]
        batch = _play(centred[pool], norms[pool], top.values[:size].clone(), limit, k - len(picks))
        chosen = pool[batch]
        picks.extend(chosen.tolist())
        for s in range(0, n, tile):
            part = slice(s, s + tile)
            near = _squared_distances(centred[part], norms[part], centred[chosen], norms[chosen]).amin(1)
            torch.minimum(distance[part], near, out=distance[part])
        distance[chosen] = 0
    return torch.tensor(picks), float(distance.max().clamp_min(0).sqrt())


def _play(points: Tensor, norms: Tensor, distance: Tensor, limit: float, most: int) -> Tensor:
    """Farthest-first among `points` alone while the best is still at least `limit` away; at least one pick."""
    import numpy as np

    # numpy, because this loop makes thousands of tiny steps and its overhead per step is a third of torch's
    gram = _squared_distances(points, norms, points, norms).numpy()
    left = distance.numpy()
    picks: list[int] = []
    while len(picks) < most:
        j = int(left.argmax())
        if picks and left[j] < limit:
            break
        picks.append(j)
        np.minimum(left, gram[j], out=left)
        left[j] = -1.0  # never twice, even among identical points
        if len(picks) == len(left):
            break
    return torch.tensor(picks)
