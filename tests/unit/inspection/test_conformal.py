"""Thresholds and p-values against their definitions, and the promise against simulation."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.errors import CalibrationError, ConfigError
from blemish.inspection.conformal import Calibrator, check_rate, conformal_threshold, images_needed

# Few distinct values, so that ties are common.
SCORES = st.lists(st.integers(0, 12).map(lambda v: v / 4), min_size=1, max_size=60)
RATES = st.fractions(Fraction(1, 80), Fraction(79, 80), max_denominator=80)


def calibrated(scores: list[float], alpha: float) -> Calibrator:
    return Calibrator.fit(scores, [2 * s for s in scores], alpha)


@given(SCORES, st.integers(-1, 13).map(lambda v: v / 4))
def test_p_value_is_its_definition(scores: list[float], score: float) -> None:
    calibrator = Calibrator(tuple(sorted(scores)), tuple(sorted(scores)), 0.5)
    assert calibrator.p_value(score) == (1 + sum(s >= score for s in scores)) / (len(scores) + 1)


@given(SCORES, RATES)
def test_threshold_is_its_definition(scores: list[float], rate: Fraction) -> None:
    n = len(scores)
    if n < 1 / rate - 1:
        with pytest.raises(CalibrationError):
            conformal_threshold(scores, float(rate))
        return
    rank = math.ceil((n + 1) * (1 - rate))  # exact: fractions
    assert conformal_threshold(scores, float(rate)) == sorted(scores)[rank - 1]


@given(SCORES, RATES, st.integers(-1, 13).map(lambda v: v / 4))
def test_rejected_exactly_where_p_is_at_most_alpha(scores: list[float], rate: Fraction, score: float) -> None:
    n = len(scores)
    if n < 1 / rate - 1:
        return
    calibrator = calibrated(scores, float(rate))
    p = Fraction(1 + sum(s >= score for s in scores), n + 1)
    assert (score > calibrator.threshold) == (p <= rate)
    assert (score > calibrator.threshold) == (calibrator.p_value(score) <= calibrator.alpha + 1e-12)


@given(RATES)
def test_images_needed_is_the_least_number(rate: Fraction) -> None:
    n = images_needed(float(rate))
    assert n == max(1, math.ceil(1 / rate - 1))
    scores = [float(i) for i in range(n)]
    assert conformal_threshold(scores, float(rate)) in scores
    if n > 1:
        with pytest.raises(CalibrationError, match=f"{n - 1} good images") as caught:
            conformal_threshold(scores[:-1], float(rate))
        assert f"at least {n} " in str(caught.value.hint)


@pytest.mark.parametrize(("n", "alpha", "rank"), [
    (19, 0.05, 19),  # (19 + 1) * 0.95 is 19.000000000000004 in floating point
    (99, 0.01, 99), (99, 0.05, 95), (20, 0.05, 20), (9, 0.1, 9), (4, 0.2, 4), (999, 0.001, 999), (1, 0.5, 1),
    (9, 1 - 0.9, 9), (29, 0.1, 27), (19, 0.15, 17), (999, 0.007, 993),
])  # fmt: skip
def test_edges_of_floating_point(n: int, alpha: float, rank: int) -> None:
    assert conformal_threshold([float(i) for i in range(1, n + 1)], alpha) == rank


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, math.nan, math.inf])
def test_a_rate_that_is_none(alpha: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        check_rate(alpha)
    with pytest.raises(ConfigError):
        images_needed(alpha)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["scores", "peaks"])
def test_scores_that_are_not_finite(bad: float, where: str) -> None:
    values = {"scores": [1.0] * 19, "peaks": [1.0] * 19}
    values[where][3] = bad
    with pytest.raises(CalibrationError, match="not finite"):
        Calibrator.fit(**values, alpha=0.05)


@given(SCORES, st.randoms())
def test_the_order_of_images_does_not_matter(scores: list[float], shuffler: object) -> None:
    turned = scores[:]
    shuffler.shuffle(turned)  # type: ignore[attr-defined]
    assert Calibrator.fit(scores, scores, 0.9) == Calibrator.fit(turned, turned, 0.9)


def test_json_round_trip() -> None:
    calibrator = Calibrator.fit([0.1 * i for i in range(30)], [math.sqrt(i) for i in range(30)], 0.07, "cross")
    text = json.dumps(calibrator.to_json(), allow_nan=False)
    assert Calibrator.from_json(json.loads(text)) == calibrator
    values = json.loads(text)
    assert values["n"] == 30
    assert values["threshold"] == calibrator.threshold
    assert values["map_threshold"] == calibrator.map_threshold == conformal_threshold(list(calibrator.peaks), 0.07)


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (30, 0.1), (99, 0.05), (7, 0.2)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_promise_holds_in_simulation(n: int, alpha: float, ties: bool) -> None:
    """P(p <= alpha) <= alpha for one more exchangeable score, over many draws of both; with ties it is lower still."""
    generator = np.random.default_rng(n)
    draws = 20_000
    scores = generator.exponential(size=(draws, n + 1))
    scores = scores.round() if ties else scores
    p = (1 + (scores[:, :-1] >= scores[:, -1:]).sum(1)) / (n + 1)
    rejected = (p <= alpha).mean()
    assert rejected <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / draws)
    for row in range(0, draws, 400):  # the class does what the vectorised formula above does
        calibrator = calibrated(scores[row, :-1].tolist(), alpha)
        assert calibrator.p_value(scores[row, -1]) == p[row]
        assert (scores[row, -1] > calibrator.threshold) == (p[row] <= alpha)


def test_the_promise_is_not_idle() -> None:
    """Without ties and where alpha (n + 1) is whole, the rate is reached, not only respected."""
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((20_000, 20))
    rejected = (scores[:, -1] > scores[:, :-1].max(1)).mean()
    assert rejected == pytest.approx(0.05, abs=0.005)


def test_the_sentence() -> None:
    split = Calibrator.fit([float(i) for i in range(50)], [1.0] * 50, 0.05)
    assert split.promise == "at most 0.05 of good parts rejected, from 50 held-out good images"
    cross = Calibrator.fit([float(i) for i in range(50)], [1.0] * 50, 0.05, "cross")
    assert "at most" not in cross.promise
    assert "no finite-sample guarantee" in cross.promise
    for kind, source in (
        ("cross", "50 good images{} in folds"),
        ("leave_one_out", "50 good images{}, each left out once"),
    ):
        for units, of in (((), ""), ([i // 2 for i in range(50)], " of 25 units")):
            found = Calibrator.fit([float(i) for i in range(50)], [1.0] * 50, 0.05, kind, units, per_unit=bool(units))
            sentence = f"about 0.05 of good parts rejected, from {source.format(of)} (no finite-sample guarantee)"
            assert found.promise == sentence
            assert not found.exact


def test_the_wide_threshold_is_counted_by_units() -> None:
    """By images where there are no units, by units where they suffice, else the largest score."""
    scores = [float(i) for i in range(40)]
    plain = Calibrator.fit(scores, scores, 0.05)
    assert plain.wide_threshold == plain.threshold == 38.0
    twenty = Calibrator.fit(scores, scores, 0.05, units=[i // 2 for i in range(40)])
    assert twenty.wide_threshold == conformal_threshold(scores, 0.05, [i // 2 for i in range(40)]) == 39.0
    assert twenty.threshold == 38.0
    two = Calibrator.fit(scores, scores, 0.05, units=[i % 2 for i in range(40)])
    assert two.wide_threshold == 39.0
    assert two.threshold == 38.0
    hundred = Calibrator.fit([float(i) for i in range(200)], [0.0] * 200, 0.05, units=[i // 2 for i in range(200)])
    assert hundred.wide_threshold < 199.0


def test_a_new_unit_sets_off_the_alarm_for_unknowns_no_more_than_promised() -> None:
    """Units that differ more than their images: by images the rate is missed, by units it is kept."""
    generator = np.random.default_rng(0)
    false = np.zeros(2)
    for _ in range(400):
        level = generator.normal(size=31)
        values = level[:, None] + 0.1 * generator.normal(size=(31, 10))
        units = np.repeat(np.arange(30), 10)
        made = Calibrator.fit(values[:30].ravel().tolist(), [0.0] * 300, 0.05, units=units.tolist())
        false += [float((values[30] > limit).mean()) for limit in (made.threshold, made.wide_threshold)]
    by_image, by_unit = false / 400
    assert by_unit <= 0.05
    assert by_image > by_unit
