"""How methods are compared without defects: rules from scores of good samples and of the same with synthetic defects.

`separation` (AUROC) on graded defects orders methods as well as any rule that was tried. `rise` and `overtaken` compare
a sample with itself, and `rise` goes on where every defect is found; `found` counts at a rate of false alarms. How far
each of them agrees with real defects is measured by `benchmarks/ranks.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.errors import DataError
from blemish.evaluation.metrics.intervals import Estimate
from blemish.evaluation.metrics.ranking import auroc

RATE = 0.05  # of false alarms, at which `found` counts
LEAST = 8  # good samples of a bootstrap: of fewer, replicas may hold a single one


class Trial(NamedTuple):
    """Raw scores of one method; no sample is one that it has learned from."""

    good: NDArray[np.float64]  # (n,) of good samples
    defects: NDArray[np.float64]  # (m,) of the same with a synthetic defect each
    source: NDArray[np.int64]  # (m,) the good sample that each was made of

    @classmethod
    def of(cls, good: ArrayLike, defects: ArrayLike, source: ArrayLike) -> Trial:
        """DataError where a score is missing or not finite, all good scores are equal, or a source is none."""
        trial = cls(np.asarray(good, np.float64), np.asarray(defects, np.float64), np.asarray(source, np.int64))
        n, m = len(trial.good), len(trial.defects)
        if trial.good.ndim != 1 or trial.defects.ndim != 1 or trial.source.shape != (m,) or n < 2 or m < 1:
            raise DataError(
                f"{n} good scores, {m} of defects and {len(trial.source)} sources make no trial",
                hint="two good samples at least, a defect at least, and the source of each",
            )
        for name, values in (("good samples", trial.good), ("defects", trial.defects)):
            if not np.isfinite(values).all():
                raise DataError(f"{np.count_nonzero(~np.isfinite(values))} scores of {name} are not finite")
        strange = trial.source[(trial.source < 0) | (trial.source >= n)]
        if strange.size:
            raise DataError(f"a defect was made of sample {strange[0]}, and there are {n} good ones")
        return trial


def rise(trial: Trial) -> float:
    """Median over defects of (score with the defect - score of the same sample without), in standard deviations of the
    good scores. Unchanged where all scores are shifted or scaled. DataError where good scores do not differ."""
    spread = float(trial.good.std(ddof=1))
    if spread == 0:
        raise DataError("all good samples have the same score", hint="a rise is counted in what they differ by")
    return float(np.median(trial.defects - trial.good[trial.source]) / spread)


def separation(trial: Trial) -> float:
    """AUROC of the defects against the good samples."""
    labels = np.concatenate([np.zeros(len(trial.good), int), np.ones(len(trial.defects), int)])
    return auroc(labels, np.concatenate([trial.good, trial.defects]))


def found(trial: Trial) -> float:
    """Share of the defects above all but `RATE` of the good samples."""
    return float((trial.defects > np.quantile(trial.good, 1 - RATE, method="higher")).mean())


def overtaken(trial: Trial) -> float:
    """Median over defects of the share of good samples that the sample overtakes through its defect. Unchanged by any
    strictly increasing transform of the scores, as AUROC and `found` are."""
    ranked = np.sort(trial.good)
    sides = [
        np.searchsorted(ranked, scores, "left") + np.searchsorted(ranked, scores, "right")
        for scores in (trial.defects, trial.good[trial.source])
    ]
    return float(np.median(sides[0] - sides[1]) / (2 * len(ranked)))


RULES: dict[str, Callable[[Trial], float]] = {
    "AUROC": separation,
    "found": found,
    "rise": rise,
    "overtaken": overtaken,
}


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's, of two lists of figures; equal figures share the mean of their ranks, and a list of equal ones alone
    orders nothing: 0. DataError for fewer than three, or lists of unequal lengths."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise DataError(f"ranks of {x.size} and {y.size} figures cannot be compared", hint="at least three of each")
    if (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def agreement(
    trials: list[Trial],
    labels: ArrayLike,
    scores: list[NDArray[Any]],
    rule: Callable[[Trial], float] = separation,
    *,
    draws: int = 300,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Rank correlation of the rule's figures with AUROCs on real samples, over methods; with a bootstrap interval.

    trials  of each method, on the same samples
    labels  (N,) 0 or 1 of real test samples; `scores` are each method's (N,)

    A replica draws good samples (with what was made of them), real good and real defective ones anew, each of them
    once for all methods. Replicas have more noise than the figures themselves, so the interval reaches lower.
    DataError where methods were not tried on the same samples, or on fewer than `LEAST` good ones.
    """
    y = np.asarray(labels)
    if any(len(t.good) != len(trials[0].good) or not np.array_equal(t.source, trials[0].source) for t in trials):
        raise DataError("the methods were not tried on the same samples", hint="one set of defects for all of them")
    if len(trials[0].good) < LEAST:
        raise DataError(f"{len(trials[0].good)} good samples are drawn anew in vain", hint=f"{LEAST} at least")
    value = rank_correlation([rule(t) for t in trials], [auroc(y, s) for s in scores])
    generator = np.random.default_rng(seed)
    sides = [np.flatnonzero(y == side) for side in (0, 1)]
    replicas = []
    for _ in range(draws):
        kept = generator.integers(len(trials[0].good), size=len(trials[0].good))
        real = np.concatenate([generator.choice(side, len(side)) for side in sides])
        drawn = [rule(_redrawn(trial, kept)) for trial in trials]
        replicas.append(rank_correlation(drawn, [auroc(y[real], np.asarray(s)[real]) for s in scores]))
    low, high = np.quantile(replicas, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def _redrawn(trial: Trial, kept: NDArray[np.int64]) -> Trial:
    """The good samples `kept`, and the defects made of each of them as often as it is there."""
    made = [np.flatnonzero(trial.source == k) for k in range(len(trial.good))]
    rows = np.concatenate([made[k] for k in kept])
    places = np.repeat(np.arange(len(kept)), [len(made[k]) for k in kept])
    return Trial(trial.good[kept], trial.defects[rows], places.astype(np.int64))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], np.float64)
