"""Points of normal samples, the coreset that is kept of them, and that coreset without some of the samples."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from blemish.ops.coreset import greedy_k_centre
from blemish.ops.draws import Draws
from blemish.ops.neighbours import nearest

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Owners = list[tuple[str, int]]
"""Samples by their ids, and how many points each has, in the order of the points."""


class Pool:
    """Points in memory while learning, and which samples they come from.

    Args:
        ratio: share of all points that a coreset keeps.
        bank: maximum number of points that it keeps.
        most: maximum number of points in memory; more are condensed on the way, to twice the bank.
        draws: where each coreset starts.
    """

    def __init__(self, ratio: float, bank: int, most: int, draws: Draws) -> None:
        self.ratio, self.bank, self.most = ratio, bank, most
        self.parts: list[Floats] = []
        self.owners: Owners | None = []  # None once points were condensed
        self.size = self.seen = 0
        self.radius = 0.0  # every point seen lies within this distance of what was kept
        self._draws = draws

    def add(self, points: Floats, owners: Owners) -> None:
        """Offer the points (n, d) of some samples, one sample after the other."""
        self._take([points], owners)
        self.seen += len(points)

    def merge(self, other: Pool) -> None:
        """Take over what another pool holds."""
        self._take(other.parts, other.owners)
        self.seen += other.seen
        self.radius = max(self.radius, other.radius)  # each side covers its own points

    def recall(self, bank: Floats, seen: int, radius: float) -> None:
        """Go on from a coreset of so many points seen, which no sample owns."""
        self.parts, self.owners, self.size = [bank], [("", len(bank))], len(bank)
        self.seen, self.radius = seen, radius

    def _take(self, parts: list[Floats], owners: Owners | None) -> None:
        size = sum(map(len, parts))
        if self.size + size > self.most:
            self.condense()
        self.parts = self.parts + parts
        self.size += size
        self.owners = None if self.owners is None or owners is None else self.owners + owners

    def condense(self) -> None:
        """Keep a coreset where there are more points than twice the bank."""
        if self.size > 2 * self.bank:
            points = self._emptied()
            kept = points[self._picks(points, 2 * self.bank)]
            self.parts, self.size, self.owners = [kept], len(kept), None

    def coreset(self, *, keep: bool = False) -> tuple[Floats, Kept | None]:
        """What is kept of all points seen, (k, d); with `keep` also what leaves samples out of it again, or None where
        points were condensed, since those that others stood for are gone. The pool is empty afterwards.
        """
        owners, points = self.owners, self._emptied()
        near = np.empty(len(points), np.int64) if keep and owners is not None else None
        picks = self._picks(points, max(1, min(round(self.ratio * self.seen), self.bank)), near)
        kept = None if near is None or owners is None else Kept(points, owners, picks, near)
        return points[picks], kept

    def _emptied(self) -> Floats:
        points = np.concatenate(self.parts)
        self.parts, self.size, self.owners = [], 0, []
        return points

    def _picks(self, points: Floats, k: int, near: Ints | None = None) -> Ints:
        picks, radius = greedy_k_centre(points, k, start=self._draws.below(len(points)), near=near)
        self.radius += radius
        return picks


class Kept:
    """A coreset with all that it was picked from, so that samples can be left out of it.

    points (N, d) of `owners`, picks (k,) among them, near (N,) each point's nearest pick.
    """

    def __init__(self, points: Floats, owners: Owners, picks: Ints, near: Ints) -> None:
        self.points, self.picks, self.near = points, picks, near
        self.numbers = {name: i for i, (name, _) in enumerate(owners)}
        self.samples = np.repeat(np.arange(len(owners)), [count for _, count in owners])

    def without(self, ids: Collection[str]) -> Floats:
        """The coreset as if these samples had not been there, nearly: scores by it differ from those by one that is
        picked anew about as much as those by two that start at other points (docs/results/held_out.md).

        Their picks go. The points of others that these were nearest to get as many again, the farthest from all picks
        first. KeyError for an id that was not seen.
        """
        gone = np.isin(self.samples, [self.numbers[name] for name in ids])
        left = self.picks[~gone[self.picks]]
        bank, lonely = self.points[left], self.points[gone[self.near] & ~gone]
        return np.concatenate([bank, lonely[farthest_first(lonely, bank, len(self.picks) - len(left))]])


def farthest_first(points: Floats, bank: Floats, k: int) -> Ints:
    """Up to k of the points (n, d), each the farthest from the bank (m, d) and those before it."""
    picks: list[int] = []
    if len(points) == 0:
        return np.array(picks, np.int64)
    centre = points.mean(0)
    points = points - centre
    distance = nearest(points, bank - centre)[0] if len(bank) else np.full(len(points), np.inf, np.float32)
    while len(picks) < min(k, len(points)):
        picks.append(int(distance.argmax()))
        distance = np.minimum(distance, np.sqrt(((points - points[picks[-1]]) ** 2).sum(1)))
        distance[picks] = -1
    return np.array(picks, np.int64)
