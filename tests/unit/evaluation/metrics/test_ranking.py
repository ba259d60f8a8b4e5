from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import DataError
from blemish.evaluation.metrics import auroc, average_precision, f1_max, roc_curve

METRICS = (auroc, average_precision, lambda y, s: f1_max(y, s).value)


def test_hand_example_with_a_tie_across_classes() -> None:
    y, s = [1, 0, 1, 0], [3.0, 2.0, 2.0, 1.0]
    assert auroc(y, s) == 0.875  # three pairs in order, one equal
    assert average_precision(y, s) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert f1_max(y, s) == (0.8, 2.0)


def test_f1_threshold_is_inclusive_and_reaches_its_value() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 60)
    s = np.round(rng.normal(y, 1.0), 1)
    value, threshold = f1_max(y, s)
    called = s >= threshold
    assert value == pytest.approx(2 * (called & (y == 1)).sum() / (called.sum() + y.sum()))


def test_roc_curve_runs_from_corner_to_corner() -> None:
    curve = roc_curve([0, 1, 1, 0], [1, 2, 2, 0])
    assert curve.fpr.tolist() == [0, 0, 0.5, 1]
    assert curve.tpr.tolist() == [0, 1, 1, 1]
    assert curve.thresholds.tolist() == [np.inf, 2, 1, 0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unchanged_by_exp(metric, dtype) -> None:
    rng = np.random.default_rng(2)
    y = np.arange(400) % 2
    s = (rng.integers(-40, 40, 400) / 8 + y).astype(dtype)  # steps that exp keeps apart in float32
    assert len(np.unique(np.exp(s))) == len(np.unique(s))
    assert metric(y, np.exp(s)) == metric(y, s)
    assert metric(y, -s) != metric(y, s)


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max, roc_curve])
@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 0], [1.0, 2.0], "no sample is anomalous"),
        ([1, 1], [1.0, 2.0], "no sample is good"),
        ([], [], "no samples"),
        ([0, 1], [1.0, np.nan], "1 of 2 scores are NaN"),
        ([0, 2], [1.0, 2.0], "labels must be 0"),
        ([0, 1, 1], [1.0, 2.0], "equal length"),
    ],
)
def test_refuses(metric, labels, scores, words) -> None:
    with pytest.raises(DataError, match=words):
        metric(labels, scores)


def test_infinite_scores_are_ranks_like_others() -> None:
    assert auroc([0, 0, 1, 1], [-np.inf, 0.0, 1.0, np.inf]) == 1.0
