"""Promises where several images show one thing."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import CalibrationError
from blemish.inspection.conformal import Calibrator, conformal_threshold


def drawn(generator: np.random.Generator, units: int, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 1 to 12 images of each unit; `alike` is how much of the spread units share."""
    sizes = generator.integers(1, 13, units)
    numbers = np.repeat(np.arange(units), sizes)
    return alike * generator.normal(size=units)[numbers] + (1 - alike) * generator.normal(size=len(numbers)), numbers


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.95])
def test_the_promise_per_unit_holds_for_images_of_a_new_unit(alike: float) -> None:
    generator = np.random.default_rng(0)
    alpha, rejected, trials = 0.2, 0, 4000
    for _ in range(trials):
        scores, numbers = drawn(generator, 13, alike)
        fresh = scores[numbers == 12][0]  # an image of the thirteenth unit
        held = numbers < 12
        rejected += fresh > conformal_threshold(scores[held].tolist(), alpha, numbers[held].tolist())
    assert rejected / trials <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / trials)


def test_p_value_threshold_and_verdict_agree_per_unit() -> None:
    generator = np.random.default_rng(1)
    for alpha in (0.05, 0.1, 0.3):
        scores, numbers = drawn(generator, 25, 0.6)
        calibrator = Calibrator.fit(scores.tolist(), scores.tolist(), alpha, units=numbers.tolist(), per_unit=True)
        for score in [*scores.tolist(), *(scores + 1e-9).tolist(), scores.min() - 1, scores.max() + 1]:
            share = sum((scores[numbers == u] >= score).mean() for u in range(25))
            assert calibrator.p_value(score) == pytest.approx((1 + share) / 26)
            assert (score > calibrator.threshold) == (calibrator.p_value(score) <= alpha + 1e-9)


def test_one_image_to_a_unit_is_the_plain_rule() -> None:
    scores = np.random.default_rng(2).normal(size=40).tolist()
    plain = Calibrator.fit(scores, scores, 0.1)
    for per_unit in (False, True):
        assert Calibrator.fit(scores, scores, 0.1, units=range(40), per_unit=per_unit).threshold == plain.threshold
    assert plain.exact


def test_the_sentence_says_what_holds() -> None:
    scores, units = [float(i) for i in range(60)], [i // 2 for i in range(60)]
    about = Calibrator.fit(scores, scores, 0.1, units=units)
    exact = Calibrator.fit(scores, scores, 0.1, units=units, per_unit=True)
    assert about.promise.startswith("about 0.1 ")
    assert exact.promise == "at most 0.1 of good parts rejected, from 60 held-out good images of 30 units"
    assert exact.threshold >= about.threshold
    with pytest.raises(CalibrationError, match="30 units of good images"):
        exact.again(0.01)
    assert about.again(0.02).alpha == 0.02
