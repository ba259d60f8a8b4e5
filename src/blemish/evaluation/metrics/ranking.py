"""Ranking metrics of scores against 0/1 labels; larger scores are more anomalous.

Equal scores are one threshold, as in scikit-learn: AUROC joins their ends by a straight line, average precision and F1
see only the ends. Every value is therefore unchanged by a strictly increasing transform of the scores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.errors import DataError

Counts = NDArray[np.int64]


class F1Max(NamedTuple):
    """The best F1 of all thresholds; `score >= threshold` reaches it (the largest such threshold on a draw)."""

    value: float
    threshold: float


class RocCurve(NamedTuple):
    """Points (K,) of the ROC curve from (0, 0) to (1, 1); `thresholds[0]` is +inf: nothing is called anomalous."""

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def split_by_label(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check (N,) labels and scores and return the scores of the anomalous and of the good samples.

    Raises DataError where shapes differ, a label is neither 0 nor 1, a score is NaN, or one class is absent.
    """
    y, s = np.asarray(labels), np.asarray(scores)
    if y.ndim != 1 or y.shape != s.shape:
        raise DataError(f"labels and scores must be two lists of equal length, got shapes {y.shape} and {s.shape}")
    if not np.isin(y, (0, 1)).all():
        raise DataError("labels must be 0 (good) or 1 (anomalous)")
    if np.isnan(s).any():
        raise DataError(f"{int(np.isnan(s).sum())} of {s.size} scores are NaN")
    positive = y.astype(bool)
    if positive.all() or not positive.any():
        kind = "good" if y.size and positive.all() else "anomalous"
        raise DataError(f"a ranking metric needs both classes, but no sample is {kind}" if y.size else "no samples")
    return s[positive], s[~positive]


def cumulative_counts(positives: NDArray[Any], negatives: NDArray[Any]) -> tuple[Counts, Counts, NDArray[Any]]:
    """True and false positives (K,) at each distinct score (K,), from the largest score down."""
    scores = np.concatenate([positives, negatives])
    order = np.argsort(scores, kind="stable")[::-1]
    ranked, hit = scores[order], order < len(positives)
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # end of each group of equal scores
    true = np.cumsum(hit, dtype=np.int64)[last]
    return true, last + 1 - true, ranked[last]


def area_under_counts(true: Counts, false: Counts) -> float:
    """AUROC from cumulative counts (K,); exact in integers up to 2**62 pairs."""
    before = np.concatenate([[0], true[:-1]])
    doubled = int(np.dot(np.diff(false, prepend=0), true + before))
    return doubled / (2 * int(true[-1]) * int(false[-1]))


def precision_under_counts(true: Counts, false: Counts) -> float:
    """Average precision from cumulative counts (K,): sum of (R_k - R_{k-1}) P_k."""
    gained = np.diff(true, prepend=0)
    called = np.maximum(true + false, 1)  # 0 only where nothing is gained either
    return float(np.sum(gained * (true / called)) / true[-1])


def f1_of_counts(true: Counts, false: Counts) -> NDArray[np.float64]:
    """F1 (K,) at each threshold: 2 TP / (2 TP + FP + FN)."""
    return np.asarray(2 * true / (true + false + true[-1]))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of (N,) scores: P(anomalous > good) + P(equal) / 2. Errors: see `split_by_label`."""
    true, false, _ = cumulative_counts(*split_by_label(labels, scores))
    return area_under_counts(true, false)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision of (N,) scores, without interpolation. Errors: see `split_by_label`."""
    true, false, _ = cumulative_counts(*split_by_label(labels, scores))
    return precision_under_counts(true, false)


def f1_max(labels: ArrayLike, scores: ArrayLike) -> F1Max:
    """Largest F1 over all thresholds on (N,) scores. Errors: see `split_by_label`.

    An upper limit chosen with the labels in hand: report it, never decide with its threshold.
    """
    true, false, thresholds = cumulative_counts(*split_by_label(labels, scores))
    f1 = f1_of_counts(true, false)
    best = int(np.argmax(f1))
    return F1Max(float(f1[best]), float(thresholds[best]))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """One point per distinct score of (N,) scores, none dropped. Errors: see `split_by_label`."""
    true, false, thresholds = cumulative_counts(*split_by_label(labels, scores))
    return RocCurve(
        np.concatenate([[0.0], false / false[-1]]),
        np.concatenate([[0.0], true / true[-1]]),
        np.concatenate([[np.inf], thresholds]).astype(np.float64),
    )
