"""Where a lead of a recording does not move, or moves much less than in what was learned from, and where it has gaps.

Where a lead does not move, nothing was recorded: its electrode has come off, or its amplifier stands at a rail. Such a
stretch is found like a gap, from the values as they were recorded. Where a lead moves much less than in what was
learned from, the window is refused too: a method would find nothing wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.signal.recordings import Recording
from blemish.errors import DataError, OutOfRange

LONGEST_GAP = 0.2  # seconds that are bridged by a straight line; a window with a longer gap is refused
STILL = 1.0  # seconds that a lead may stand still, or a tenth of a window where that is longer; at most half of one
MOVES = 0.01  # of a lead's usual span in that time: less is no movement,
STEPS = 2.0  # nor are this many steps of its converter, where it usually moves by more
COARSE = 0.05  # of a lead's usual span that steps may have at most to count so
PARTS = 4  # of a window, each of which has to move, and
LEAST = 0.02  # of the deviation of a usual window by which it has to, where nothing was learned about that
SLACK = 0.5  # of the least movement that was learned from, and at most
FULL = 0.1  # of the deviation of a usual window: a lead that moves by that much may show a change of rhythm
ELECTRODE = "is the electrode connected?"


class Stretch(NamedTuple):
    """Seconds of a recording in which nothing was recorded, or a lead does not move."""

    start: float
    stop: float
    lead: str  # that does not move; "" where nothing was recorded

    @property
    def why(self) -> str:
        """The message for it."""
        return f"{self.lead} does not move" if self.lead else "nothing was recorded"

    def spoils(self, start: float, stop: float) -> bool:
        """Whether a window from `start` to `stop` contains so much of it that it cannot be judged."""
        return min(stop, self.stop) - max(start, self.start) > (LONGEST_GAP if self.lead else 0)


def lacking(recording: Recording, rate: float, window: float) -> tuple[Stretch, ...]:
    """What a recording lacks, whichever lead a model takes: gaps, and where a lead does not move. A lead that is empty
    or flat from beginning to end is left out: reading the recording reports that."""
    values = recording.values.astype(np.float64)
    names = names_of(recording, range(len(values)))
    recorded = [k for k, lead in enumerate(values) if np.isfinite(lead).any()]
    missing = [long_gaps(values[k], rate) for k in recorded]
    still = [still_in(bridged(values[k], names[k]), patience(window, rate), step_of(values[k])) for k in recorded]
    alive = [k for k in range(len(recorded)) if not still[k].all()]
    return lacks_of([missing[k] for k in alive], [still[k] for k in alive], [names[recorded[k]] for k in alive], rate)


def lacks_of(
    missing: Sequence[NDArray[np.bool_]], still: Sequence[NDArray[np.bool_]], names: Sequence[str], rate: float
) -> tuple[Stretch, ...]:
    gaps = {(a, b) for lead in missing for a, b in _runs(lead)}
    found = [Stretch(a / rate, b / rate, "") for a, b in gaps]
    for name, lead, gap in zip(names, still, missing, strict=True):
        found += [Stretch(a / rate, b / rate, name) for a, b in _runs(lead & ~gap)]
    return tuple(sorted(found))


def patience(window: float, rate: float) -> int:
    """Samples for which a lead may stand still."""
    return max(2, math.ceil(min(max(STILL, window / 10), window / 2) * rate))


def long_gaps(lead: NDArray[np.float64], rate: float) -> NDArray[np.bool_]:
    """(N,) where a gap is that is too long to be bridged."""
    out = np.zeros(len(lead), np.bool_)
    for a, b in _runs(~np.isfinite(lead)):
        out[a:b] = (b - a) / rate > LONGEST_GAP
    return out


def still_in(lead: NDArray[np.float64], size: int, step: float) -> NDArray[np.bool_]:
    """(N,) which samples lie in a stretch of at least `size` in which a lead does not move: its span stays below a
    share of the usual one, or within two of its converter's `step`s. A shorter recording is inspected whole."""
    size = min(size, len(lead))
    span = _rolling(lead, size, np.maximum) - _rolling(lead, size, np.minimum)
    steps = STEPS * step * 1.01  # float32 rounds each value
    slices = span[::size]
    lively = slices[slices > steps]
    usual = float(np.quantile(lively if len(lively) else slices, 0.75))
    within = span <= max(MOVES * usual, min(steps, COARSE * usual) if len(lively) else steps)
    edges = np.zeros(len(lead) + 1, np.int64)
    np.add.at(edges, np.flatnonzero(within), 1)
    np.add.at(edges, np.flatnonzero(within) + size, -1)
    return np.asarray(edges.cumsum()[:-1] > 0)


def step_of(lead: NDArray[np.float64]) -> float:
    """The smallest difference between values of a lead: a step of the converter, or nearly nothing."""
    thinned = lead[:: max(1, len(lead) // 1_000_000)]
    values = np.unique(thinned[np.isfinite(thinned)])
    return float(np.diff(values).min()) if len(values) > 1 else 0.0


def _rolling(values: NDArray[np.float64], size: int, best: np.ufunc) -> NDArray[np.float64]:
    """(N - size + 1,) maximum or minimum of each `size` values side by side (van Herk 1992: three passes)."""
    count = len(values) - size + 1
    blocks = np.pad(values, (0, -len(values) % size), mode="edge").reshape(-1, size)
    ahead = best.accumulate(blocks, axis=1).reshape(-1)
    behind = best.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].reshape(-1)
    return np.asarray(best(behind[:count], ahead[size - 1 : size - 1 + count]))


def movement(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """(K,) of a window (K, L) in deviations of a usual one: how much each lead moves in that part where it moves least.

    Parts are quarters of the window, each half over the last one.
    """
    size = max(x.shape[1] // PARTS, 2)
    starts = range(0, x.shape[1] - size + 1, max(size // 2, 1))
    parts = [x[:, a : a + size].std(axis=1) for a in (*starts, x.shape[1] - size)]
    return np.asarray(np.min(parts, axis=0), np.float64)


def check_movement(
    x: NDArray[np.float32],
    recording: Recording,
    order: Sequence[int],
    least: Sequence[float] | None,
    at: tuple[float, float],
) -> None:
    """OutOfRange where a lead moves much less than in any window that was learned from."""
    learned: Sequence[float | None] = least or [None] * len(order)
    for name, moves, known in zip(names_of(recording, order), movement(x), learned, strict=True):
        if moves < (LEAST if known is None else min(SLACK * known, FULL)):
            part = f"{name} hardly moves in a part of {at[0]:.2f} to {at[1]:.2f} s"
            message = f"{part}: {moves:.2g} of its usual deviation"
            others = "" if known is None else f", and windows that were learned from {known:.2g} or more"
            raise OutOfRange(message + others, hint=ELECTRODE)


def names_of(recording: Recording, order: Sequence[int]) -> list[str]:
    return [f"lead {i + 1}" + (f" ({recording.leads[i]})" if recording.leads[i] else "") for i in order]


def _runs(missing: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches of True as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def bridged(lead: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    recorded = np.isfinite(lead)
    if recorded.all():
        return lead
    if not recorded.any():
        raise DataError(f"{name} holds no number", hint=ELECTRODE)
    return filled_in(lead, recorded)


def filled_in(lead: NDArray[np.float64], recorded: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) with straight lines where nothing is `recorded`."""
    at = np.arange(len(lead))
    return np.interp(at, at[recorded], lead[recorded])
