"""Some images' features of each category, to draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Kept:
    lot: bytes
    name: str
    x: Tensor  # (C, h, w) float16


class FeatureBank:
    """Up to `most` images of each category, chosen at random: which depends on seed and names alone, not on order."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed = most, seed
        self.kept: dict[int, list[_Kept]] = {}
        self.sums: dict[int, Tensor] = {}  # of all images of a category: their means over places
        self.counts: dict[int, int] = {}

    def add(self, x: Tensor, names: Sequence[str], categories: Sequence[int]) -> None:
        """Take in (B, C, h, w)."""
        for one, name, k in zip(x, names, categories, strict=True):
            lot = sha256(f"{self.seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
            self._take(k, [_Kept(lot, name, one.half())], one.double().mean((1, 2)), 1)

    def merge(self, other: FeatureBank) -> None:
        """Take over what another one has taken in."""
        for k, kept in other.kept.items():
            self._take(k, kept, other.sums[k], other.counts[k])

    def _take(self, k: int, kept: list[_Kept], total: Tensor, count: int) -> None:
        self.kept[k] = sorted(self.kept.get(k, []) + kept, key=lambda e: e.lot)[: self.most]
        self.sums[k] = self.sums[k] + total if k in self.sums else total
        self.counts[k] = self.counts.get(k, 0) + count

    def draw(self, names: Sequence[str], categories: Sequence[int], generator: torch.Generator) -> Tensor:
        """(B, C, h, w): for each image another one of its category; itself where there is no other."""
        drawn = []
        for name, k in zip(names, categories, strict=True):
            others = [e for e in self.kept[k] if e.name != name] or self.kept[k]
            drawn.append(others[int(torch.randint(len(others), (), generator=generator))].x.float())
        return torch.stack(drawn)  # of float32: autocast on a CPU stacks no float16

    def medoids(self, scale: Tensor) -> Tensor:
        """(K, C, h, w): of each category the kept image whose mean over places is nearest to that of all its images.

        Channels are divided by `scale` (C,). A category without an image gets what is in the middle of all.
        """
        total = torch.stack(list(self.sums.values())).sum(0) / sum(self.counts.values())
        every = [e for kept in self.kept.values() for e in kept]
        found = []
        for k in range(max(self.kept) + 1):
            middle, kept = (self.sums[k] / self.counts[k], self.kept[k]) if k in self.kept else (total, every)
            pooled = torch.stack([e.x.double().mean((1, 2)) for e in kept])
            found.append(kept[int(((pooled - middle) / scale).norm(dim=1).argmin())].x)
        return torch.stack(found).float()
