"""Several thresholds with one promise, and thresholds of maps: against their definitions and against simulation."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from blemish.errors import CalibrationError, ConfigError
from blemish.inspection.conformal import TAIL, Calibrator, Further, Regions, conformal_threshold, joint_thresholds
from blemish.inspection.measuring import tail


@pytest.mark.parametrize("n", [19, 30, 59])
@pytest.mark.parametrize("ties", [False, True])
def test_one_statistic_has_the_threshold_of_the_plain_formula(n: int, ties: bool) -> None:
    values = np.random.default_rng(n).exponential(3, n)
    scores = (values.round() if ties else values).tolist()
    for alpha in (0.05, 0.1, 0.3):
        assert joint_thresholds([scores], alpha) == (conformal_threshold(scores, alpha),)


@pytest.mark.parametrize(("n", "alpha", "count"), [(39, 0.05, 2), (59, 0.05, 3), (40, 0.1, 3), (99, 0.1, 4)])
@pytest.mark.parametrize("kind", ["independent", "alike", "ties", "heavy"])
def test_any_of_several_thresholds_is_exceeded_at_the_promised_rate(
    n: int, alpha: float, count: int, kind: str
) -> None:
    """Over many draws of the held-out images and of a new one; where they are independent the rate is nearly reached,
    which Bonferroni's correction would not do for statistics that are alike."""
    generator = np.random.default_rng([n, count])
    draws, exceeded = 3000, 0
    for _ in range(draws):
        x = generator.standard_normal((count, n + 1))
        if kind == "alike":
            x = x[:1] + 0.05 * x
        if kind == "ties":
            x = (2 * x).round()
        if kind == "heavy":
            x = np.exp(3 * x) * np.arange(1, count + 1)[:, None]
        limits = joint_thresholds(x[:, :-1].tolist(), alpha)
        exceeded += bool((x[:, -1] > limits).any())
    rate = exceeded / draws
    assert rate <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / draws)
    if kind == "alike" and n == 99:
        assert rate > 1.2 * alpha / count


def test_the_order_of_images_does_not_matter_and_units_count_once() -> None:
    columns = np.random.default_rng(0).standard_normal((2, 40))
    turned = columns[:, np.random.default_rng(1).permutation(40)]
    assert joint_thresholds(columns.tolist(), 0.1) == joint_thresholds(turned.tolist(), 0.1)
    twice = np.repeat(columns, 2, axis=1) - np.tile([0.0, 5.0], 40)
    units = [i // 2 for i in range(80)]
    assert joint_thresholds(twice.tolist(), 0.1, units) == joint_thresholds(columns.tolist(), 0.1)


def test_too_few_images_for_all_thresholds_together() -> None:
    columns = np.random.default_rng(0).standard_normal((3, 30)).tolist()
    assert len(joint_thresholds(columns[:1], 0.05)) == 1
    with pytest.raises(CalibrationError, match="3 thresholds together") as caught:
        joint_thresholds([[float(i == k) for i in range(30)] for k in range(3)], 0.05)
    assert "at least 59 " in str(caught.value.hint)


def test_a_new_image_is_deep_where_the_symmetric_rule_says_so() -> None:
    """Every one of n + 1 images taken as the new one: no more than alpha (n + 1) of them exceed their thresholds."""
    for seed in range(40):
        x = np.random.default_rng(seed).integers(0, 9 if seed % 2 else 1000, (3, 30)).astype(float)
        exceeded = 0
        for new in range(30):
            limits = joint_thresholds(np.delete(x, new, 1).tolist(), 0.2)
            exceeded += bool((x[:, new] > limits).any())
        assert exceeded <= 0.2 * 30


def maps(seed: int, n: int, side: int = 12) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.gamma(2, 1, (n, side, side)) * generator.gamma(4, 1, (n, 1, 1))).astype(np.float32)


def test_a_tail_says_what_no_more_than_a_share_exceeds() -> None:
    one = maps(3, 1)[0]
    found = tail(one)
    assert found[0] == one.max()
    for share, value in zip(TAIL, found, strict=True):
        assert (one > value).mean() <= share
    inside = np.zeros(one.shape, bool)
    inside[:3] = True
    assert tail(one, inside)[0] == one[:3].max()


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_expected_share_of_good_area_above_the_threshold_is_kept(alpha: float) -> None:
    shares = []
    for seed in range(100):
        found = maps(seed, 25)
        calibrator = by_area(found[:-1], alpha)
        shares.append((found[-1] > calibrator.map_threshold).mean())
    assert np.mean(shares) <= alpha + 3 * np.std(shares) / math.sqrt(len(shares))
    assert np.mean(shares) > 0.15 * alpha  # not idle


def by_area(found: np.ndarray, alpha: float) -> Calibrator:
    peaks = found.max((1, 2)).tolist()
    further = [Further(tail(one)) for one in found]
    return Calibrator.fit(peaks, peaks, 0.5, regions=Regions(alpha, "area"), further=further)


def test_by_area_regions_are_cut_lower_than_by_image_and_it_is_said() -> None:
    found = maps(0, 40)
    area = by_area(found, 0.05)
    image = area.again(0.5, Regions(0.05))
    assert area.map_threshold < image.map_threshold == conformal_threshold(area.peaks, 0.05)
    assert area.threshold == image.threshold
    assert "0.05 of good area" in area.region_promise
    assert "0.05 of good images show a region" in image.region_promise
    assert Calibrator.from_json(json.loads(json.dumps(area.to_json()))) == area
    assert (area.to_json()["map_threshold_per"], area.to_json()["region_rate"]) == ("area", 0.05)


def test_what_is_not_known_of_the_images_cannot_be_promised() -> None:
    plain = Calibrator.fit([float(i) for i in range(30)], [float(i) for i in range(30)], 0.1)
    with pytest.raises(CalibrationError, match="how large an area"):
        plain.again(0.1, Regions(per="area"))
    with pytest.raises(CalibrationError, match="there is none"):
        plain.again(0.1, Regions(decide="rules"))
    with pytest.raises(CalibrationError, match="30 good images cannot"):
        plain.again(0.1, Regions(0.01))
    with pytest.raises(ConfigError, match="where rules decide"):
        Regions(0.01, decide="both")
    for rate in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            Regions(rate)


def test_models_of_earlier_versions_are_read() -> None:
    plain = Calibrator.fit([float(i) for i in range(30)], [float(i) for i in range(30)], 0.1)
    older = {k: v for k, v in plain.to_json().items() if k not in ("map_threshold_per", "region_rate")}
    assert Calibrator.from_json(older) == plain


def test_score_and_rules_together() -> None:
    generator = np.random.default_rng(5)
    scores, limits = (generator.standard_normal(59).tolist() for _ in range(2))
    further = [Further(limit=limit) for limit in limits]
    made = Calibrator.fit(scores, scores, 0.1, regions=Regions(decide="both"), further=further)
    assert (made.threshold, made.map_threshold) == joint_thresholds([sorted(scores), made._limits], 0.1)
    alone = made.again(0.1, Regions(decide="rules"))
    assert alone.map_threshold == conformal_threshold(limits, 0.1) < made.map_threshold
    assert alone.threshold == conformal_threshold(scores, 0.1) < made.threshold
    assert len({c.promise for c in (made, alone, made.again(0.1, Regions()))}) == 3


def test_named_areas_have_one_promise() -> None:
    generator = np.random.default_rng(6)
    areas = generator.standard_normal((79, 3))
    scores = areas.max(1).tolist()
    further = [Further(areas=tuple(row)) for row in areas.tolist()]
    made = Calibrator.fit(scores, scores, 0.1, further=further)
    rejected = (areas > made.area_thresholds).any(1).sum()
    assert 1 <= rejected <= 0.1 * 80
    assert "3 areas together" in made.promise
    assert made.to_json()["area_thresholds"] == list(made.area_thresholds)
    assert all(a != b for a, b in itertools.pairwise(made.area_thresholds))
