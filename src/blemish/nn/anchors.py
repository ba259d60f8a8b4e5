"""Which category an image shows: its positions vote by the nearest of a few anchors of each category.

Wang et al., Deep feature clustering for multi-class industrial image anomaly detection, Knowledge-Based Systems 311,
2025 (DFC): category anchor construction and category information mining. How anchors are clustered, weighed and
searched is ours; the paper's abstract says no more than that anchors of a small subset vote.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.ops.kmeans import spread

CANDIDATES = 8  # categories whose anchors are inspected, where there are more: the nearest ones as whole images
RESTARTS = 5
STEPS = 25


def spherical_kmeans(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Unit vectors (N, D) -> (min(k, N), D) unit centres of the best of a few starts (k-means++ on 1 - cosine)."""
    k = min(k, len(x))
    best, most = x[:k], -torch.inf
    for _ in range(RESTARTS):
        centres = x[spread(x, k, generator)]
        for _ in range(STEPS):
            owner = (x @ centres.T).argmax(1)
            sums = torch.zeros_like(centres).index_add_(0, owner, x)
            moved = F.normalize(torch.where(sums.abs().sum(1, keepdim=True) > 0, sums, centres), dim=1)
            if torch.equal(moved, centres):
                break
            centres = moved
        if (inside := float((x @ centres.T).amax(1).double().sum())) > most:
            best, most = centres, inside
    return best


def silhouette(x: Tensor, owner: Tensor) -> float:
    """Mean silhouette of unit vectors (N, D) in at least two clusters, by 1 - cosine (Rousseeuw 1987)."""
    distance = 1 - x @ x.T
    member = F.one_hot(owner).to(x.dtype)  # (N, K)
    count = member.sum(0)
    sums = distance @ member
    own = sums.gather(1, owner[:, None])[:, 0] / (count[owner] - 1).clamp_min(1)
    other = (sums / count).scatter(1, owner[:, None], torch.inf).amin(1)
    value = (other - own) / torch.maximum(other, own).clamp_min(1e-12)
    return float(torch.where(count[owner] > 1, value, torch.zeros_like(value)).mean())


def cluster(x: Tensor, count: int, most: int, generator: torch.Generator) -> Tensor:
    """Unit vectors (N, D) of images -> (N,) cluster numbers: `count` clusters, or for 0 the number of 2 to `most` with
    the largest silhouette."""
    best, highest = torch.zeros(len(x), dtype=torch.int64), -torch.inf
    for k in [count] if count else range(2, min(most, len(x) - 1) + 1):
        owner = (x @ spherical_kmeans(x, k, generator).T).argmax(1)
        owner = torch.unique(owner, return_inverse=True)[1]
        value = silhouette(x, owner) if not count and int(owner.max()) else 0.0
        if value > highest:
            best, highest = owner, value
    return best


class Anchors(nn.Module):
    """Anchors of K categories, and the votes of an image's local features for them.

    Args:
        mean, deviation: (D,) of the channels, one for all categories: what is standardised by category gives it away.

    `add` takes the local features of one category's images; what is there already stays as it is, bit for bit.

    (B, D, h, w) -> votes (B, K), which sum up to 1, and strangeness (B,) in [0, 2]: the mean of how far the image's
    positions lie from their nearest anchors, and how far its mean feature from that of the decided category, both as
    1 - cosine. Products of one material differ in the second, those that vary differ in the first.
    """

    mean: Tensor
    deviation: Tensor
    anchors: Tensor  # (K, M, D) unit vectors
    weight: Tensor  # (K, M) of a vote
    centres: Tensor  # (K, D) unit vectors: mean feature of a category's images

    def __init__(self, mean: Tensor, deviation: Tensor, *, count: int = 16, reliable: bool = True) -> None:
        super().__init__()
        self.count, self.reliable = count, reliable
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation.clamp_min(1e-6))
        self.register_buffer("anchors", torch.zeros(0, count, len(mean)))
        self.register_buffer("weight", torch.zeros(0, count))
        self.register_buffer("centres", torch.zeros(0, len(mean)))

    def __len__(self) -> int:
        return len(self.anchors)

    def local(self, level: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, h * w, D): means over 3 x 3, standardised, of length one."""
        x = F.avg_pool2d(level.float(), 3, 1, 1, count_include_pad=False).flatten(2).transpose(1, 2)
        return F.normalize((x - self.mean) / self.deviation, dim=2)

    @torch.no_grad()
    def add(self, categories: Sequence[Tensor], generator: torch.Generator) -> None:
        """Anchors of further categories, from the maps (n, D, h, w) of a few good images of each.

        An anchor's vote weighs as often as features that are nearest to it are of its own category: backgrounds that
        several categories share say little. Weights of categories that were there before stay as they are.
        """
        samples = [self.local(level) for level in categories]
        found = [spherical_kmeans(s.flatten(0, 1), self.count, generator) for s in samples]
        found = [a[torch.arange(self.count) % len(a)] for a in found]  # fewer features than anchors: some stand twice
        first = len(self)
        self.anchors = torch.cat([self.anchors, torch.stack(found)])
        own = torch.stack([F.normalize(s.mean((0, 1)), dim=0) for s in samples])
        self.centres = torch.cat([self.centres, own])
        hits, right = torch.zeros(2, len(self), self.count)
        for k, sample in enumerate(samples, first):
            nearest = (sample.flatten(0, 1) @ self.anchors.flatten(0, 1).T).argmax(1)
            counted = torch.bincount(nearest, minlength=hits.numel()).reshape(hits.shape).float()
            hits += counted
            right[k] += counted[k]
        weight = right / hits.clamp_min(1) if self.reliable else torch.ones_like(hits)
        self.weight = torch.cat([self.weight, weight[first:]])

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        x = self.local(level)  # (B, P, D)
        whole = F.normalize(x.mean(1), dim=1)
        if len(self) <= CANDIDATES:
            near = x @ self.anchors.flatten(0, 1).T  # (B, P, K * M)
            weight = self.weight.flatten()[None, None]
        else:
            chosen = (whole @ self.centres.T).topk(CANDIDATES, 1).indices  # (B, C)
            near = x @ self.anchors[chosen].flatten(1, 2).transpose(1, 2)
            weight = self.weight[chosen].flatten(1)[:, None]
        best = near.amax(2, keepdim=True)
        hits = (near >= best).float() * weight + 1e-9  # the small constant: an image for which no anchor counts
        votes = hits.sum(1).reshape(-1, min(len(self), CANDIDATES), self.count).sum(2)
        votes = votes / votes.sum(1, keepdim=True)
        if len(self) > CANDIDATES:
            at = (chosen[:, :, None] == torch.arange(len(self))).float()  # (B, C, K)
            votes = (votes[:, None] @ at)[:, 0]
        apart = 1 - (whole * self.centres[votes.argmax(1)]).sum(1)
        return votes, (1 - best[:, :, 0].mean(1) + apart) / 2
