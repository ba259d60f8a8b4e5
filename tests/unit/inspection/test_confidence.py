"""A promise that one threshold keeps with a stated certainty."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from blemish.errors import CalibrationError, ConfigError
from blemish.inspection.categories import Categories, Known, Row, of_rows
from blemish.inspection.conformal import (
    TAIL,
    Calibrator,
    Further,
    Regions,
    conformal_threshold,
    images_needed,
    joint_thresholds,
)

CASES = [(0.01, 0.95), (0.05, 0.95), (0.05, 0.5), (0.1, 0.99), (0.3, 0.8)]


def above(n: int, alpha: float, confidence: float) -> int:
    """How many of n different scores lie above their threshold."""
    scores = [float(i) for i in range(n)]
    return n - 1 - int(conformal_threshold(scores, alpha, confidence=confidence))


@pytest.mark.parametrize(("alpha", "confidence"), CASES)
def test_the_rank_is_exact_for_every_n(alpha: float, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in range(1, 501):
        chances = stats.beta.sf(alpha, np.arange(n) + 1, n - np.arange(n))  # the rate of a threshold with r above
        allowed = int((chances <= (1 - confidence) * (1 + 1e-9)).sum()) - 1
        if allowed < 0:
            assert n < images_needed(alpha, confidence)
            with pytest.raises(CalibrationError, match=f"confidence {confidence:g}"):
                above(n, alpha, confidence)
        else:
            assert n >= images_needed(alpha, confidence)
            assert above(n, alpha, confidence) == allowed


def test_how_many_are_needed() -> None:
    assert (images_needed(0.05, 0.95), images_needed(0.01, 0.95), above(152, 0.05, 0.95)) == (59, 299, 2)
    assert images_needed(0.05, 0.95, together=2) == 93  # P(Bin(93, 0.05) <= 1) = 0.0500, and of 92 more
    with pytest.raises(CalibrationError) as raised:
        conformal_threshold([1.0] * 58, 0.05, confidence=0.95)
    assert "at least 59" in str(raised.value.hint)


def test_more_images_or_less_certainty_never_allow_fewer_above() -> None:
    by_n = [above(n, 0.05, 0.95) for n in range(59, 400)]
    assert by_n == sorted(by_n)
    by_confidence = [above(300, 0.05, c) for c in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)]
    assert by_confidence == sorted(by_confidence, reverse=True)
    assert len(set(by_confidence)) > 4
    assert above(20_000, 0.05, 0.95) < 1000 < above(20_000, 0.05, 0.5) + 2  # large n neither overflow nor vanish


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, 95, -1, math.nan])
def test_what_is_no_confidence(confidence: float) -> None:
    with pytest.raises(ConfigError, match="confidence has to be"):
        Calibrator.fit([0.0, 1.0], [0.0, 1.0], 0.5, confidence=confidence)


def test_ties_never_cost_the_promise() -> None:
    scores = [0.0] * 50 + [1.0] * 50
    assert conformal_threshold(scores, 0.05, confidence=0.95) == 1.0
    assert conformal_threshold([2.0] * 100, 0.05, confidence=0.95) == 2.0


def broken(rates: Sequence[float], alpha: float) -> float:
    return float(np.mean(np.array(rates) > alpha))


def test_the_share_of_calibrations_above_the_rate() -> None:
    generator = np.random.default_rng(0)
    certain, average = [], []
    for _ in range(2000):
        scores = generator.random(152).tolist()
        certain.append(1 - conformal_threshold(scores, 0.05, confidence=0.95))
        average.append(1 - conformal_threshold(scores, 0.05))
    assert broken(certain, 0.05) < 0.05  # 1.7 % exactly
    assert broken(average, 0.05) > 0.3


def test_several_thresholds_together() -> None:
    """Of K independent uniform statistics the rate of any is known: 1 minus the product of thresholds."""
    generator = np.random.default_rng(1)
    rates = []
    for _ in range(1000):
        found = joint_thresholds(generator.random((3, 181)).tolist(), 0.05, confidence=0.95)
        rates.append(1 - math.prod(found))
    # as exact as one threshold: r + 1 blocks whatever is cut first, here P(Bin(181, 0.05) <= 4) = 0.0486
    assert 0.02 < broken(rates, 0.05) < 0.075
    same = generator.random(181).tolist()
    assert joint_thresholds([same], 0.05, confidence=0.95) == (conformal_threshold(same, 0.05, confidence=0.95),)
    with pytest.raises(CalibrationError, match="over 3 thresholds together"):
        joint_thresholds([same[:80]] * 3, 0.05, confidence=0.95)


def test_per_unit_the_share_of_the_images_of_a_new_unit_is_bounded() -> None:
    """Images of a unit share its level: the share above t of a new unit is P(level + noise > t)."""
    generator = np.random.default_rng(2)
    units = np.repeat(np.arange(80), 5).tolist()
    fresh = np.sort((generator.random((20_000, 1)) + 0.3 * generator.random((20_000, 5))).ravel())
    rates = []
    for _ in range(400):
        scores = (generator.random((80, 1)) + 0.3 * generator.random((80, 5))).ravel().tolist()
        threshold = conformal_threshold(scores, 0.05, units, 0.95)
        assert threshold >= conformal_threshold(scores, 0.05, units)
        rates.append(1 - np.searchsorted(fresh, threshold, "right") / len(fresh))
    assert broken(rates, 0.05) <= 0.05
    assert max(rates) > 0.005  # and yet is a threshold that something exceeds


def calibrator(n: int = 120, **given: object) -> Calibrator:
    scores = np.random.default_rng(3).random(n)
    return Calibrator.fit(scores.tolist(), (scores * 2).tolist(), 0.05, **given)  # type: ignore[arg-type]


def test_the_sentence_and_json() -> None:
    made = calibrator(confidence=0.95)
    assert made.promise == "95 % sure: at most 5 % of good parts rejected, from 120 held-out good images"
    assert made.region_promise == "95 % sure: at most 5 % of good images show a region, from 120 held-out good images"
    read = Calibrator.from_json(json.loads(json.dumps(made.to_json())))
    assert read == made
    assert (read.threshold, read.map_threshold) == (made.threshold, made.map_threshold)
    assert read.threshold > calibrator().threshold
    assert read.map_threshold > calibrator().map_threshold


def test_without_a_confidence_nothing_changes() -> None:
    plain = calibrator()
    assert "confidence" not in plain.to_json()  # as earlier versions wrote it
    assert Calibrator.from_json(plain.to_json()).confidence is None
    assert plain.promise == "at most 0.05 of good parts rejected, from 120 held-out good images"


def test_another_rate_keeps_the_confidence() -> None:
    made = calibrator(confidence=0.95)
    assert made.again(0.1).confidence == 0.95
    assert calibrator().again(0.1, confidence=0.9).confidence == 0.9
    with pytest.raises(CalibrationError, match="confidence 0.95"):
        made.again(0.01)


@pytest.mark.parametrize("kind", ["cross", "leave_one_out"])
def test_what_is_learned_from_gives_no_confidence(kind: str) -> None:
    with pytest.raises(CalibrationError, match="learned from") as raised:
        calibrator(kind=kind, confidence=0.95)
    assert "--calibration" in str(raised.value.hint)


def test_images_of_units_counted_one_by_one_give_no_confidence() -> None:
    units = [i // 2 for i in range(120)]
    with pytest.raises(CalibrationError, match="several show one thing") as raised:
        calibrator(units=units, confidence=0.95)
    assert "--promise-per unit" in str(raised.value.hint)
    assert calibrator(units=units, per_unit=True, confidence=0.95).exact


def further(n: int, **given: object) -> list[Further]:
    values = np.random.default_rng(4).random((n, 2))
    return [Further(**{**given, "areas": (float(a), float(b))}) for a, b in values]  # type: ignore[arg-type]


def test_named_areas() -> None:
    made = calibrator(further=further(120), confidence=0.95)
    plain = calibrator(further=further(120))
    assert all(c > p for c, p in zip(made.area_thresholds, plain.area_thresholds, strict=True))
    assert made.promise.startswith("95 % sure: at most 5 % of good parts rejected by one of 2 areas together")
    areas = np.array([f.areas for f in made.further])
    assert (areas > made.area_thresholds).any(axis=1).sum() <= above(120, 0.05, 0.95)


@pytest.mark.parametrize("decide", ["rules", "both"])
def test_rules(decide: str) -> None:
    limits = np.random.default_rng(5).random(120)
    rows = [Further(limit=float(limit)) for limit in limits]
    made = calibrator(further=rows, confidence=0.95, regions=Regions(decide=decide))  # type: ignore[arg-type]
    fired = limits[[list(rows).index(f) for f in made.further]] > made.map_threshold
    rejected = fired | (np.array(made.scores) > made.threshold) if decide == "both" else fired
    assert 0 < rejected.sum() + 1 <= above(120, 0.05, 0.95) + 1


def test_regions_by_area() -> None:
    """Of each image half its area is 0, and shares of the grid rise to its largest value."""
    peaks = np.random.default_rng(6).random(120)
    rows = [Further(tail=tuple(float(p * (1 - share)) for share in TAIL)) for p in peaks]
    made = {
        c: Calibrator.fit(peaks.tolist(), peaks.tolist(), 0.05, regions=Regions(per="area"), further=rows, confidence=c)
        for c in (None, 0.8, 0.95)
    }
    values = [made[c].map_threshold for c in (None, 0.8, 0.95)]
    assert values[0] < values[1] < values[2]
    assert made[0.95].region_promise.startswith("95 % sure: at most 5 % of good area lies in regions, on average")


def rows(n: int, units: int = 0) -> list[Row]:
    scores = np.random.default_rng(7).random(n)
    return [Row(float(s), float(s), f"u{i % units if units else i}", f"c{i}") for i, s in enumerate(scores)]


def test_of_each_category() -> None:
    made = of_rows(rows(70), 0.05, per_unit=False, confidence=0.95)
    assert made is not None
    assert of_rows(rows(58), 0.05, per_unit=False, confidence=0.95) is None  # too few
    both = Categories(("a", "b"), {"f32": Known((made, None), (made, None))})
    assert str(both.promise).startswith("95 % sure of each: at most 5 % of good parts rejected in 1 of 2 categories")
    assert Categories.from_json(both.to_json()) == both
    again = both.again(0.1, confidence=0.9).known["f32"].scores[0]
    assert again is not None
    assert again.confidence == 0.9


def test_units_of_a_category_are_no_want_of_images() -> None:
    with pytest.raises(CalibrationError, match="several show one thing"):
        of_rows(rows(70, units=10), 0.05, per_unit=False, confidence=0.95)
    plain = of_rows(rows(70, units=35), 0.05, per_unit=False)
    with pytest.raises(CalibrationError, match="several show one thing"):
        Categories(("a",), {"f32": Known((plain,), (None,))}).again(0.05, confidence=0.95)
