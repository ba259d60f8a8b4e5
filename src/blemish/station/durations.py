"""How long something has taken, counted so that another process can show it."""

from __future__ import annotations

import bisect
from typing import Any

BUCKETS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds


class Durations:
    """A histogram of seconds since the process has started."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def state(self) -> dict[str, Any]:
        """Plain values: what `rows` takes."""
        return {"counts": self.counts, "sum": self.sum}


def rows(state: dict[str, Any]) -> list[tuple[str, float]]:
    """Upper ends and how many were no longer, as Prometheus counts."""
    total, out = 0, []
    for end, count in zip([*map(str, BUCKETS), "+Inf"], state["counts"], strict=True):
        total += count
        out.append((end, float(total)))
    return out
