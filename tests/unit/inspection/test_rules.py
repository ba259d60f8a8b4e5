"""Acceptance rules: the grammar, what they see, and the threshold from which on they are silent."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from blemish.data.image.modality import Images, Located
from blemish.data.image.preprocess import Preprocess
from blemish.errors import ConfigError
from blemish.inspection.conformal import Regions, conformal_threshold
from blemish.inspection.limits import level_above, limit_of, next_below
from blemish.inspection.measuring import Measuring
from blemish.inspection.rules import Condition, check_rules, parse_rule
from blemish.types import ALARM, AnomalyResult, Region


def region(length: float, width: float = 1.0, area: str | None = None) -> Region:
    size = round(length * width)
    mm = {"length_mm": length / 10, "width_mm": width / 10, "area_mm2": size / 100}
    return Region((0, 0, 1, 1), size, 1.0, 1.0, length_px=length, width_px=width, area=area, **mm)


@pytest.mark.parametrize(
    ("text", "conditions", "count", "area"),
    [
        ("length > 0.3mm", [("length", ">", 0.3, "mm")], None, None),
        ("LENGTH>=300 um", [("length", ">=", 0.3, "mm")], None, None),
        ("area > 0.2mm2 in seal", [("area", ">", 0.2, "mm")], None, "seal"),
        ("area > 20px", [("area", ">", 20, "px")], None, None),
        ("area > 20 px2", [("area", ">", 20, "px")], None, None),
        ("area > 200 um²", [("area", ">", 2e-4, "mm")], None, None),
        ("count > 3", [], 3, None),
        ('count > 3 and length > 2px in "the seal: 1"', [("length", ">", 2, "px")], 3, "the seal: 1"),
        ("scratch: length > 1 cm and width < .1mm", [("length", ">", 10, "mm"), ("width", "<", 0.1, "mm")], None, None),
        ("count > 3 in region-1", [], 3, "region-1"),
    ],
)
def test_the_grammar(text: str, conditions: list[tuple[str, str, float, str]], count: float, area: str) -> None:
    rule = parse_rule(text)
    assert rule.text == text
    assert [(c.quantity, c.comparison, c.unit) for c in rule.conditions] == [(q, s, u) for q, s, _, u in conditions]
    assert [c.number for c in rule.conditions] == pytest.approx([n for _, _, n, _ in conditions])
    assert (rule.count and rule.count.number, rule.area) == (count, area)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ends where length"),
        ("length > 0.3", "unit of length 0.3 is missing"),
        ("length > 0.3 and width < 1mm", "unit of length 0.3 is missing"),
        ("area > 0.2mm", "'mm' is no unit of area"),
        ("length > 0.2mm2", "'mm2' is no unit of length"),
        ("length > 3 inch", "'inch' is no unit"),
        ("lenght > 3mm", "'lenght' is no quantity"),
        ("length 3mm", "comparison .* is wanted, not '3'"),
        ("length = 3mm", "'=' is not understood"),
        ("length > mm", "a number is wanted, not 'mm'"),
        ("length > -3mm", "'-3mm' is not understood"),
        ("length > 3mm or count > 3", "'or' is too much"),
        ("length > 3mm and", "ends where length"),
        ("count > 3mm", "'mm' is no unit of a count"),
        ("count < 3", "rejects a part without any region"),
        ("count >= 0", "rejects a part without any region"),
        ("count > 3 and count > 4", "more than one count"),
        ("length > 3mm in", "ends where the name of an area"),
        ("length > 3mm in seal rim", "'rim' is too much"),
    ],
)
def test_what_is_no_rule_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_rule(text)
    assert f"rule '{text}'" in str(caught.value)
    assert caught.value.hint


def test_rules_need_what_they_name() -> None:
    with pytest.raises(ConfigError, match="size of a pixel is not known"):
        check_rules([parse_rule("length > 1mm")], scaled=False, areas=())
    with pytest.raises(ConfigError, match="no area 'seel'") as caught:
        check_rules([parse_rule("count > 1 in seel")], scaled=False, areas=("seal", "rim"))
    assert caught.value.hint == "did you mean 'seal'?"
    with pytest.raises(ConfigError, match="no area 'seal'"):
        check_rules([parse_rule("count > 1 in seal")], scaled=False, areas=())
    check_rules([parse_rule("length > 1mm in rim")], scaled=True, areas=("seal", "rim"))


@pytest.mark.parametrize(
    ("text", "fired", "value"),
    [
        ("length > 10px", True, 20),
        ("length > 1.9mm", True, 2.0),
        ("length > 2mm", False, 2.0),
        ("length >= 2mm", True, 2.0),
        ("length > 10px and width < 2px", False, 8),
        ("length > 5px and width < 2px", True, 16),
        ("width < 0.5px", False, 1),
        ("width < 1.5px", True, 1),
        ("count > 2", True, 3),
        ("count > 3", False, 3),
        ("count > 1 and width >= 2px", False, 1),
        ("area > 50px in seal", False, 16),
        ("area > 50px in rim", True, 60),
        ("length > 10px and width > 9px", False, None),
    ],
)
def test_a_rule_fires_by_one_region_or_by_their_number(text: str, fired: bool, value: float | None) -> None:
    found = [region(20, 3, "rim"), region(8, 1, "rim"), region(16, 1, "seal")]
    if text == "length > 10px and width < 2px":
        found[2] = region(6, 1)
    result = parse_rule(text).judge(found)
    assert (result.fired, result.value) == (fired, value)
    assert result.to_json() == {"rule": text, "fired": fired, "value": value}


def test_without_a_region_no_rule_fires() -> None:
    for text in ("length > 1px", "width < 9px", "count > 0"):
        assert not parse_rule(text).judge([]).fired


@pytest.mark.parametrize("value", [1.0, 3.7, 1e-3, -2.5, -1e-4, 0.0, 1e9])
def test_levels_are_those_of_one_grid(value: float) -> None:
    level = level_above(value)
    assert level >= value
    assert level_above(level) == level
    below = next_below(level)
    assert below < level
    assert level_above(below) == below
    assert below < value or value == level
    middle = (level + below) / 2
    assert level_above(middle) == level


@pytest.mark.parametrize("shift", [0.0, -1.5, 100.0])
@pytest.mark.parametrize("text", ["count > 3", "length > 5px", "width < 2px", "count > 1 and length > 3px"])
def test_the_limit_is_the_threshold_from_which_on_nothing_fires(text: str, shift: float) -> None:
    rule, images = parse_rule(text), Images(Preprocess((24, 30)))

    for seed in range(6):
        coarse = np.random.default_rng(seed).gamma(2, 1, (6, 7)).astype(np.float32)
        found = np.kron(coarse, np.ones((4, 4), np.float32)) + np.float32(shift)

        def fires(t: float, found: np.ndarray = found) -> bool:
            return rule.judge(images.measured(found, t, Located(found), None)).fired

        limit = limit_of(found, fires)
        levels, level = [], level_above(float(found.max()))
        while level >= float(np.median(found)):
            levels.append(level)
            level = next_below(level)
        assert not any(fires(t) for t in levels if t >= limit)
        below = next_below(limit)
        assert fires(below) or below < float(np.median(found))


def test_a_number_of_regions_is_not_monotone_and_the_limit_knows() -> None:
    """One blob that falls into two as the threshold rises: silent at 1.5, firing at 2.5."""
    found = np.ones((9, 20), np.float32)
    found[3:6, 2:18] = 2
    found[3:6, 3:6] = found[3:6, 12:15] = 3
    images = Images(Preprocess((9, 20)))
    rule = parse_rule("count > 1")
    at = {t: rule.judge(images.measured(found, t, Located(found), None)).fired for t in (1.5, 2.5, 3.5)}
    assert at == {1.5: False, 2.5: True, 3.5: False}
    limit = limit_of(found, lambda t: rule.judge(images.measured(found, t, Located(found), None)).fired)
    assert 3 <= limit <= 3 * 2 ** (1 / 32)


def test_the_rate_of_a_set_of_rules_is_kept_in_simulation() -> None:
    images = Images(Preprocess((18, 18)))
    measuring = Measuring.of(images, Regions(decide="rules"), ["count > 2", "length > 7px and width < 4px"])
    assert measuring is not None
    generator = np.random.default_rng(1)

    def one() -> np.ndarray:
        coarse = generator.gamma(2, 1, (6, 6)) * generator.gamma(6, 1)
        return np.kron(coarse, np.ones((3, 3))).astype(np.float32)

    maps = [one() for _ in range(400)]
    limits = [float(measuring.further(m, Located(np.zeros((18, 18))), None).limit or 0) for m in maps]
    alpha, n, fired, tried = 0.2, 19, 0, 0
    for start in range(0, 380, 20):
        held, new = limits[start : start + n], maps[start + n]
        threshold = conformal_threshold(held, alpha)
        regions = images.measured(new, threshold, Located(new), None)
        fired += any(rule.judge(regions).fired for rule in measuring.rules)
        fires_above = limits[start + n] > threshold
        assert fires_above or not any(rule.judge(regions).fired for rule in measuring.rules)
        tried += 1
    assert fired / tried <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / tried)


def test_regions_lie_in_the_area_that_has_most_of_them() -> None:
    from blemish.data.image.roi import pack_roi

    left, right = np.zeros((2, 20, 20), bool)
    left[:, :10], right[:, 10:18] = True, True
    areas = (("left", pack_roi(left, (20, 20))), ("right", pack_roi(right, (20, 20))))
    images = Images(Preprocess((20, 20), roi=pack_roi(left | right, (20, 20)), areas=areas))
    found = np.zeros((20, 20), np.float32)
    found[2:4, 8:16] = 3  # 4 pixels left, 12 right
    found[10:12, 1:4] = 2
    found[18, 19] = 1
    assert [r.area for r in images.measured(found, 0.5, Located(found), None)] == ["right", "left", None]
    assert images.area_scores(found) == (3, 3)


def test_a_condition_of_what_was_not_measured_is_nought() -> None:
    assert Condition("length", ">", 1.0, "mm").of(Region((0, 0, 1, 1), 1, 1.0, 1.0)) == 0


def test_an_image_without_a_part_is_rejected_whatever_decides() -> None:
    images = Images(Preprocess((20, 20)))
    measuring = Measuring.of(images, Regions(decide="rules"), ["count > 1"])
    assert measuring is not None
    assert measuring.lost().limit == ALARM  # counts as one that fires
    for decided in ("score", "rules", "both"):
        result = AnomalyResult("a.png", ALARM, np.zeros((2, 2), np.float32), threshold=1.0, alarm="no part found")
        assert replace(result, decided_by=decided).verdict == "anomalous"
