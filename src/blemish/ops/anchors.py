"""Which category an image shows: its positions vote by the nearest of a few anchors of each category.

Wang et al., Deep feature clustering for multi-class industrial image anomaly detection, Knowledge-Based Systems 311,
2025 (DFC): category anchor construction and category information mining. How anchors are clustered, weighed and
searched is ours; the paper's abstract says no more than that anchors of a small subset vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.ops.arrays import as_float, constant, largest, mean, rows, top, total, unit, where_equal
from blemish.ops.draws import Draws
from blemish.ops.patches import mean_around

Floats = NDArray[np.float32]

CANDIDATES = 8  # categories whose anchors are inspected, where there are more: the nearest ones as whole images
RESTARTS = 5
STEPS = 25


def spread(x: Floats, k: int, draws: Draws) -> list[int]:
    """(N, D) unit vectors -> k rows, drawn one by one, each as likely as it is far from those before by 1 - cosine.

    Source  Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
    """
    chosen = [draws.below(len(x))]
    far = 1 - x @ x[chosen[0]]
    while len(chosen) < k:
        heights = np.cumsum(np.maximum(far, 1e-9), dtype=np.float64)
        chosen.append(min(int(np.searchsorted(heights, draws.share() * heights[-1], side="right")), len(x) - 1))
        far = np.minimum(far, 1 - x @ x[chosen[-1]])
    return chosen


def spherical_kmeans(x: Floats, k: int, draws: Draws) -> Floats:
    """Unit vectors (N, D) -> (min(k, N), D) unit centres of the best of a few starts (k-means++ on 1 - cosine)."""
    k = min(k, len(x))
    best, highest = x[:k], -np.inf
    for _ in range(RESTARTS):
        centres: Floats = x[spread(x, k, draws)]
        for _ in range(STEPS):
            sums = _members((x @ centres.T).argmax(1), k).T @ x
            moved = unit(np.where(np.abs(sums).sum(1, keepdims=True) > 0, sums, centres), 1)
            if np.array_equal(moved, centres):
                break
            centres = moved
        if (inside := float((x @ centres.T).max(1).sum(dtype=np.float64))) > highest:
            best, highest = centres, inside
    return best


def _members(owner: NDArray[np.int64], count: int) -> Floats:
    """(N,) cluster numbers -> (N, count) of ones and zeros."""
    found: Floats = (owner[:, None] == np.arange(count)).astype(np.float32)
    return found


def silhouette(x: Floats, owner: NDArray[np.int64]) -> float:
    """Mean silhouette of unit vectors (N, D) in at least two clusters, by 1 - cosine (Rousseeuw 1987)."""
    member = _members(owner, int(owner.max()) + 1)  # (N, K)
    count = member.sum(0)
    sums = (1 - x @ x.T) @ member
    rows_of, at = np.arange(len(x)), owner
    inside = sums[rows_of, at] / np.maximum(count[at] - 1, 1)
    others = sums / count
    others[rows_of, at] = np.inf
    nearest = others.min(1)
    value = (nearest - inside) / np.maximum(np.maximum(nearest, inside), 1e-12)
    return float(np.where(count[at] > 1, value, 0.0).mean())


def cluster(x: Floats, count: int, most: int, draws: Draws) -> NDArray[np.int64]:
    """Unit vectors (N, D) of images -> (N,) cluster numbers: `count` clusters, or for 0 the number of 2 to `most` with
    the largest silhouette."""
    best, highest = np.zeros(len(x), np.int64), -np.inf
    for k in [count] if count else range(2, min(most, len(x) - 1) + 1):
        owner = np.unique((x @ spherical_kmeans(x, k, draws).T).argmax(1), return_inverse=True)[1].reshape(-1)
        value = silhouette(x, owner) if not count and int(owner.max()) else 0.0
        if value > highest:
            best, highest = owner, value
    return best


class Anchors:
    """Anchors of K categories, and the votes of an image's local features for them.

    Args:
        mean, deviation: (D,) of the channels, one for all categories: what is standardised by category gives it away.

    `add` takes the local features of one category's images; what is there already stays as it is, bit for bit.

    (B, D, h, w) -> votes (B, K), which sum up to 1, and strangeness (B,) in [0, 2]: the mean of how far the image's
    positions lie from their nearest anchors, and how far its mean feature from that of the decided category, both as
    1 - cosine. Products of one material differ in the second, those that vary differ in the first.
    """

    anchors: Floats  # (K, M, D) unit vectors
    weight: Floats  # (K, M) of a vote
    centres: Floats  # (K, D) unit vectors: mean feature of a category's images

    def __init__(self, mean: Floats, deviation: Floats, *, count: int = 16, reliable: bool = True) -> None:
        self.count, self.reliable = count, reliable
        self.mean, self.deviation = mean, np.maximum(deviation, np.float32(1e-6))
        self.anchors = np.zeros((0, count, len(mean)), np.float32)
        self.weight = np.zeros((0, count), np.float32)
        self.centres = np.zeros((0, len(mean)), np.float32)

    def __len__(self) -> int:
        return len(self.anchors)

    def state(self) -> dict[str, Floats]:
        """Everything, by name."""
        return {name: getattr(self, name) for name in ("mean", "deviation", "anchors", "weight", "centres")}

    @classmethod
    def of(cls, state: Mapping[str, Floats], count: int) -> Anchors:
        """From what `state` gave."""
        found = cls(state["mean"], state["deviation"], count=count)
        found.anchors, found.weight, found.centres = state["anchors"], state["weight"], state["centres"]
        return found

    def local(self, level: Any, grid: tuple[int, int]) -> Any:
        """(B, D, h, w) -> (B, h * w, D): means over 3 x 3, standardised, of length one."""
        x = mean_around(level, 3, "inside").reshape(-1, len(self.mean), grid[0] * grid[1]).transpose(0, 2, 1)
        return unit((x - self.mean) / self.deviation, 2)

    def add(self, categories: Sequence[Floats], draws: Draws) -> None:
        """Anchors of further categories, from the maps (n, D, h, w) of a few good images of each.

        An anchor's vote weighs as often as features that are nearest to it are of its own category: backgrounds that
        several categories share say little. Weights of categories that were there before stay as they are.
        """
        samples = [self.local(level, level.shape[2:]) for level in categories]
        flat = [sample.reshape(-1, sample.shape[2]) for sample in samples]
        found = [spherical_kmeans(sample, self.count, draws) for sample in flat]
        found = [a[np.arange(self.count) % len(a)] for a in found]  # fewer features than anchors: some stand twice
        first = len(self)
        self.anchors = np.concatenate([self.anchors, np.stack(found)])
        self.centres = np.concatenate([self.centres, np.stack([unit(sample.mean(0), 0) for sample in flat])])
        hits, right = np.zeros((2, len(self), self.count), np.float32)
        every = self.anchors.reshape(-1, self.anchors.shape[2])
        for k, sample in enumerate(flat, first):
            counted = np.bincount((sample @ every.T).argmax(1), minlength=hits.size).reshape(hits.shape)
            hits += counted
            right[k] += counted[k]
        weight = right / np.maximum(hits, 1) if self.reliable else np.ones_like(hits)
        self.weight = np.concatenate([self.weight, weight[first:]])

    def __call__(self, level: Any, grid: tuple[int, int] | None = None) -> tuple[Any, Any]:
        """Votes and strangeness; `grid` is that of a drawn level."""
        width, many = len(self.mean), len(self) > CANDIDATES
        x = self.local(level, grid or level.shape[2:])  # (B, P, D)
        whole = unit(mean(x, 1), 1)
        if many:
            chosen = top(whole @ np.ascontiguousarray(self.centres.T), CANDIDATES)[1]  # (B, C)
            near = x @ rows(constant(self.anchors, like=x), chosen).reshape(
                -1, CANDIDATES * self.count, width
            ).transpose(0, 2, 1)
            weight = rows(constant(self.weight, like=x), chosen).reshape(-1, 1, CANDIDATES * self.count)
        else:
            near = x @ np.ascontiguousarray(self.anchors.reshape(-1, width).T)  # (B, P, K * M)
            weight = self.weight.reshape(1, 1, -1)
        best = largest(near, 2, keepdims=True)
        hits = as_float(near >= best) * weight + 1e-9  # the small constant: an image for which no anchor counts
        votes = total(total(hits, 1).reshape(-1, min(len(self), CANDIDATES), self.count), 2)
        votes = votes / total(votes, 1, keepdims=True)
        if many:
            at = where_equal(chosen[:, :, None], np.arange(len(self))[None, None])  # (B, C, K)
            votes = (votes[:, None] @ at)[:, 0]
        decided = rows(constant(self.centres, like=x), top(votes, 1)[1][:, 0])
        apart = 1.0 - total(whole * decided, 1)
        return votes, (1.0 - mean(best[:, :, 0], 1) + apart) / 2.0
