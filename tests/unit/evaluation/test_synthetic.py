"""Rules that compare methods without defects, and how their order is compared with the real one."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import DataError
from blemish.evaluation.synthetic import (
    RULES,
    Trial,
    agreement,
    found,
    overtaken,
    rank_correlation,
    rise,
    separation,
)


def trial(effect: float, *, samples: int = 40, noise: float = 1.0, seed: int = 0) -> Trial:
    """Each good sample and two defects of it, which raise its score by about `effect`."""
    rng = np.random.default_rng(seed)
    good = rng.normal(10, noise, samples)
    source = np.arange(2 * samples) % samples
    return Trial.of(good, good[source] + effect * rng.uniform(0.5, 1.5, len(source)), source)


def test_a_rise_is_counted_from_the_own_sample_in_deviations_of_good_ones() -> None:
    one = Trial.of([0, 2, 4], [3, 5, 5], [0, 1, 2])  # rises of 3, 3, 1; a deviation of 2
    assert rise(one) == pytest.approx(1.5)
    assert rise(Trial.of([0, 20, 40], [30, 50, 50], [0, 1, 2])) == pytest.approx(1.5)
    assert rise(Trial.of([7, 9, 11], [10, 12, 12], [0, 1, 2])) == pytest.approx(1.5)


def test_what_good_samples_differ_by_does_not_hide_a_rise() -> None:
    """Where every defect is found, AUROC tells methods no longer apart, and a rise still does."""
    strong, stronger = trial(20), trial(40)
    assert separation(strong) == separation(stronger) == 1
    assert found(strong) == found(stronger) == 1
    assert rise(stronger) == pytest.approx(2 * rise(strong))


def test_shares_of_good_samples() -> None:
    one = Trial.of([0, 1, 2, 3], [2.5, 4, 1], [0, 3, 1])
    # below: 3, 4, 1.5 of 4, of their own samples 0.5, 3.5, 1.5
    assert overtaken(one) == pytest.approx(0.5 / 4)
    assert separation(one) == pytest.approx((3 + 4 + 1.5) / 12)
    assert found(one) == pytest.approx(1 / 3)


@pytest.mark.parametrize("rule", ["overtaken", "AUROC", "found"])
def test_these_rules_know_the_order_alone(rule: str) -> None:
    one = trial(1.0)
    other = Trial.of(np.exp(one.good), np.exp(one.defects), one.source)
    assert RULES[rule](other) == RULES[rule](one)


@pytest.mark.parametrize("rule", RULES)
def test_a_better_method_has_a_larger_figure(rule: str) -> None:
    figures = [RULES[rule](trial(effect)) for effect in (0.0, 1.0, 2.0)]
    assert figures == sorted(figures)
    assert figures[0] < figures[2]


@pytest.mark.parametrize(
    ("good", "defects", "source", "message"),
    [
        ([1.0], [2.0], [0], "make no trial"),
        ([1.0, 2.0], [], [], "make no trial"),
        ([1.0, 2.0], [3.0], [0, 1], "make no trial"),
        ([1.0, np.nan], [3.0], [0], "of good samples are not finite"),
        ([1.0, 2.0], [np.inf], [0], "of defects are not finite"),
        ([1.0, 2.0], [3.0], [2], "of sample 2"),
        ([1.0, 2.0], [3.0, 3.0], [-1, 1], "of sample -1"),
    ],
)
def test_other_scores_are_refused(good: list[float], defects: list[float], source: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Trial.of(good, defects, source)


def test_equal_good_scores_have_no_deviation() -> None:
    with pytest.raises(DataError, match="same score"):
        rise(Trial.of([1.0, 1.0], [2.0], [0]))


def test_rank_correlation_is_spearmans() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2, 3], [1, 2, 3, 3]) == pytest.approx(8 / 9)  # ties share their ranks
    assert rank_correlation([5, 5, 5], [1, 2, 3]) == 0
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    x, y = np.random.default_rng(0).integers(0, 6, (2, 30))
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2])])
def test_too_few_figures_have_no_ranks(a: list[int], b: list[int]) -> None:
    with pytest.raises(DataError, match="cannot be compared"):
        rank_correlation(a, b)


def test_agreement_is_high_where_the_order_is_that_of_real_defects() -> None:
    labels = np.repeat([0, 1], 60)
    effects = [0.3, 0.8, 1.5, 2.5]
    real = [np.random.default_rng(1).normal(0, 1, 120) + e * labels for e in effects]
    right = agreement([trial(e) for e in effects], labels, real, draws=50)
    wrong = agreement([trial(e) for e in effects[::-1]], labels, real, draws=50)
    assert right.value == pytest.approx(1)
    assert 0.5 < right.low <= right.high == pytest.approx(1)
    assert wrong.value == pytest.approx(-1)
    assert agreement([trial(e) for e in effects], labels, real, draws=50) == right


def test_the_interval_shows_that_equal_methods_have_no_order() -> None:
    labels = np.repeat([0, 1], 60)
    rng = np.random.default_rng(2)
    trials = [trial(1.0, seed=0)._replace(defects=trial(1.0, seed=0).defects + rng.normal(0, 1, 80)) for _ in range(5)]
    estimate = agreement(trials, labels, [rng.normal(0, 1, 120) + labels for _ in range(5)], draws=80)
    assert estimate.low < 0 < estimate.high


def test_methods_that_saw_other_samples_are_not_compared() -> None:
    labels, scores = [0, 1, 0], [np.arange(3.0)] * 3
    with pytest.raises(DataError, match="not tried on the same"):
        agreement([trial(1), trial(1, samples=41), trial(1)], labels, scores)
    with pytest.raises(DataError, match="5 good samples"):
        agreement([trial(1, samples=5)] * 3, labels, scores)
