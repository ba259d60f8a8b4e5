"""From which map threshold on an image breaks no rule.

Regions shrink as the threshold rises, and their number may rise all the same, where one falls into two: no rule can be
taken to be silent above a threshold at which it is silent. The limit of a good image is therefore the smallest
threshold from which on no rule fires at any higher one, and above the split-conformal threshold of the limits at most
the promised share of good images fires any rule. Thresholds are those of a fixed grid, a factor of 2^(1/32) (2.2 %)
apart, that no image has a part in. Below its own median no map is searched, where regions would be most of the picture,
so that no limit lies below it. Both err towards fewer false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STEPS = 32  # of the map threshold in a factor of two
LEAST = -24 * STEPS  # thresholds nearer to 0 are 0


def level_above(value: float) -> float:
    """The smallest threshold of the grid that is `value` or more."""
    least = 2.0 ** (LEAST / STEPS)
    if -least < value <= least:
        return 0.0 if value <= 0 else least
    exact = STEPS * math.log2(abs(value))
    step = math.ceil(exact - 1e-9) if value > 0 else math.floor(exact + 1e-9)
    return math.copysign(2.0 ** (step / STEPS), value)


def next_below(level: float) -> float:
    """The threshold of the grid under another of it."""
    least = 2.0 ** (LEAST / STEPS)
    if level == 0 or 0 < level <= least:
        return 0.0 if level > 0 else -least
    step = round(STEPS * math.log2(abs(level))) + (-1 if level > 0 else 1)
    return math.copysign(2.0 ** (step / STEPS), level)


def limit_of(anomaly_map: NDArray[np.float32], fires: Callable[[float], bool]) -> float:
    """The smallest threshold of the grid from which on `fires` is false at every one; see the module.

    Not below the map's median. Between two values of the map nothing changes, so that a level is tried once for each
    set of places above it.
    """
    values = np.unique(anomaly_map)
    floor = level_above(float(np.median(anomaly_map)))
    silent = level_above(float(values[-1]))  # nothing lies above it
    while silent > floor:
        level = next_below(silent)
        above = int(np.searchsorted(values, level, "right"))
        if above == len(values):
            silent = level
            continue
        if fires(level):
            return silent
        under = float(values[above - 1]) if above else floor  # down to it, the same places are above
        silent = min(level, max(level_above(under), floor))
    return max(silent, floor)
