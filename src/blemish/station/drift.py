"""Do good parts still come as they did? A test that may be looked at at any time, with a stated rate of false alarms.

Values of blocks of accepted parts are ranked among all blocks since the model went live. If nothing changes, their
order says nothing: the randomised ranks are independent and uniform (Vovk, Gammerman and Shafer 2005), without a fixed
reference that a small calibration set would have got wrong. Bets against that are summed up over all times at which a
change could have begun (Shiryaev-Roberts). Such a sum is an e-detector, and so is the mean of several: it stays below a
limit for at least as many blocks, on average, as the limit says, whatever the distribution (Shin, Ramdas and Rinaldo
2024).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

KAPPAS = (0.6, 0.8, 0.9)
BETS = tuple(f"{side}{kappa}" for side in ("up", "down") for kappa in KAPPAS)
LIMITS = {"amber": 1_000.0, "red": 10_000.0}  # mean blocks to a false alarm, at the least
KNOWN = 50  # blocks from which on a line is known
HUGE = 1e300


def bet(name: str, p: float) -> float:
    """What a bet pays on a uniform number: 1 on average. up bets on small p (larger values than before), down on large
    ones: kappa p^(kappa - 1), and the same of 1 - p."""
    kappa = float(name.removeprefix("up").removeprefix("down"))
    small = p if name.startswith("up") else 1 - p
    return float(kappa * max(small, 1e-12) ** (kappa - 1))


@dataclass
class Sum:
    """The Shiryaev-Roberts sum of one bet, and where the change began that it has most evidence for."""

    total: float = 0.0
    product: float = 0.0  # log of what the bet has paid since `start`
    start: int = 1  # number of a block

    def add(self, paid: float, number: int) -> None:
        self.total = min((1 + self.total) * paid, HUGE)
        if self.product <= 0:
            self.product, self.start = 0.0, number
        self.product += math.log(paid)


@dataclass
class Monitor:
    """One kind of value, block after block."""

    values: list[float] = field(default_factory=list)  # sorted
    sums: dict[str, Sum] = field(default_factory=lambda: {name: Sum() for name in BETS})
    count: int = 0

    def add(self, value: float, u: float) -> float:
        """Rank a block's value among all before it, ties drawn by u in [0, 1); its p-value, small where it is large."""
        above = len(self.values) - bisect.bisect_right(self.values, value)
        equal = len(self.values) - bisect.bisect_left(self.values, value) - above
        p = (above + u * (equal + 1)) / (len(self.values) + 1)
        bisect.insort(self.values, value)
        self.count += 1
        for name, each in self.sums.items():
            each.add(bet(name, p), self.count)
        return p

    @property
    def evidence(self) -> float:
        return sum(each.total / len(self.sums) for each in self.sums.values())

    @property
    def since(self) -> int:
        """The number of the block at which what is seen most probably began."""
        return max(self.sums.values(), key=lambda each: each.total).start

    def state(self) -> dict[str, list[float]]:
        """What is kept of it beside the values."""
        return {name: [each.total, each.product, each.start] for name, each in self.sums.items()}

    @classmethod
    def of(cls, values: Iterable[float], state: Mapping[str, list[float]]) -> Monitor:
        """As it was after these values."""
        kept = sorted(values)
        sums = {name: Sum(total, product, int(start)) for name, (total, product, start) in state.items()}
        return cls(kept, sums or {name: Sum() for name in BETS}, len(kept))


def combined(monitors: Iterable[Monitor]) -> float:
    """Evidence of several monitors together: their mean is an e-detector as each of them is."""
    each = [monitor.evidence for monitor in monitors]
    return sum(value / len(each) for value in each)


def level(evidence: float) -> str | None:
    """red, amber, or none."""
    return "red" if evidence >= LIMITS["red"] else "amber" if evidence >= LIMITS["amber"] else None


def lag_one(values: list[float]) -> float | None:
    """Correlation of each block with the one before; None under ten of them. Blocks that resemble their neighbours are
    too short: ranks are uniform only where the order of blocks says nothing."""
    if len(values) < 10:
        return None
    mean = sum(values) / len(values)
    left = [value - mean for value in values]
    square = sum(value * value for value in left)
    return sum(a * b for a, b in zip(left, left[1:], strict=False)) / square if square else 0.0
