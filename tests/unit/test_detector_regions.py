"""How regions are cut, from fit to the line of inspect."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish import CalibrationError, ConfigError, DataError, Detector
from blemish.inspection import modelfile
from blemish.inspection.conformal import TAIL, Regions, conformal_threshold, joint_thresholds
from blemish.inspection.modelfile import Model
from tests.fakes import good_image, write_images
from tests.tiny import RATE, fit_tiny

SHARE = 0.4  # of area, large enough for the four held-out images


@pytest.fixture(scope="module")
def by_area(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp("area"), region_per="area", region_rate=SHARE)


def test_by_area_is_kept_in_the_model_and_said_in_each_line(by_area: Model, tmp_path: Path) -> None:
    detector = Detector.from_model(by_area)
    calibrator = next(iter(by_area.calibrators.values()))
    assert calibrator.regions == Regions(SHARE, "area")
    assert all(len(f.tail) == len(TAIL) for f in calibrator.further)
    assert "of good area" in str(detector.region_promise)
    detector.save(tmp_path / "m")
    line = Detector.load(tmp_path / "m").inspect(good_image(900)).to_json()
    assert (line["map_threshold"], line["map_threshold_per"]) == (calibrator.map_threshold, "area")
    per_image = calibrator.again(RATE, Regions(SHARE))
    assert calibrator.map_threshold < per_image.map_threshold
    assert calibrator.threshold == per_image.threshold  # verdicts are the same


def test_calibrate_changes_what_is_counted(by_area: Model, tmp_path: Path) -> None:
    plain = Detector.from_model(fit_tiny(tmp_path / "model"))
    assert next(iter(plain.model.calibrators.values())).further == ()  # nothing that is not asked for is computed
    with pytest.raises(CalibrationError, match="how large an area"):
        plain.calibrate(false_alarm_rate=RATE, region_per="area")
    fresh = [record.path for record in write_images(tmp_path / "fresh", 12, first=700)]
    plain.calibrate(fresh, false_alarm_rate=RATE, region_per="area")
    assert "of good area" in str(plain.region_promise)
    plain.calibrate(false_alarm_rate=0.4, region_per="image", region_rate=0.3)
    assert "0.3 of good images show a region" in str(plain.region_promise)
    with pytest.raises(ConfigError, match="region_per"):
        plain.calibrate(false_alarm_rate=RATE, region_per="pixel")
    assert "of good area" in str(Detector.from_model(by_area).calibrate(false_alarm_rate=0.3).region_promise)


def test_the_share_of_good_area_is_near_the_rate(by_area: Model) -> None:
    detector = Detector.from_model(by_area)
    shares = [(r.anomaly_map > r.map_threshold).mean() for r in map(detector.inspect, map(good_image, range(900, 920)))]
    assert 0 < np.mean(shares) < 1.5 * SHARE


def test_leaving_one_out_knows_no_areas(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="whole maps"):
        fit_tiny(tmp_path, region_per="area", calibration="leave_one_out")
    folds = fit_tiny(tmp_path, region_per="area", false_alarm_rate=0.1)  # too few for a split
    assert {c.kind for c in folds.calibrators.values()} == {"cross"}


def test_the_rate_of_regions_takes_images_too(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="false-alarm rate of 0.01"):
        assert fit_tiny(tmp_path, region_rate=0.01).calibrators == {}
    with pytest.raises(ConfigError, match="between 0 and 1"):
        fit_tiny(tmp_path, region_rate=1.5)


def spotted(seed: int) -> np.ndarray:
    image = good_image(seed)
    image[20:26, 10:50] = 255
    return image


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp("scaled"), scale="0.1mm")


def test_regions_are_measured_in_millimetres(scaled: Model, tmp_path: Path) -> None:
    modelfile.save(scaled, tmp_path / "m")
    result = Detector.load(tmp_path / "m").inspect(spotted(900))
    assert result.regions
    for region, line in zip(result.regions, result.to_json()["regions"], strict=True):
        x0, y0, x1, y1 = region.bbox
        assert 0 < region.width_mm <= region.length_mm <= 0.1 * np.hypot(x1 - x0, y1 - y0) + 0.1
        assert region.area_mm2 == pytest.approx(0.01 * region.area_px)
        assert x0 * 0.1 < region.position_mm[0] < x1 * 0.1
        assert y0 * 0.1 < region.position_mm[1] < y1 * 0.1
        assert line["position_mm"] == list(region.position_mm)
        assert line["length_px"] == pytest.approx(10 * line["length_mm"])


def test_another_scale_at_inspection_changes_millimetres_alone(scaled: Model, tmp_path: Path) -> None:
    modelfile.save(scaled, tmp_path / "m")
    before = Detector.from_model(scaled).inspect(spotted(900))
    after = Detector.load(tmp_path / "m", scale="50um").inspect(spotted(900))
    assert after.score == before.score
    assert after.regions[0].length_mm == pytest.approx(before.regions[0].length_mm / 2)
    with pytest.raises(ConfigError, match="no unit"):
        Detector.load(tmp_path / "m", scale="0.05")


def test_without_a_scale_nothing_is_measured_and_regions_are_the_same(scaled: Model, tmp_path: Path) -> None:
    plain = Detector.from_model(fit_tiny(tmp_path))
    assert plain.inspector().measuring is None
    result, measured = plain.inspect(spotted(900)), Detector.from_model(scaled).inspect(spotted(900))
    assert set(result.to_json()["regions"][0]) == {"bbox", "area_px", "peak", "score"}
    assert [(r.bbox, r.area_px, r.peak, r.score) for r in result.regions] == [
        (r.bbox, r.area_px, r.peak, r.score) for r in measured.regions
    ]


def test_the_scale_of_each_file(tmp_path: Path) -> None:
    records = write_images(tmp_path / "good", 20)
    with pytest.raises(DataError, match=r"000\.png: states no resolution"):
        fit_tiny(tmp_path, records, scale="file")
    for record in records:
        Image.open(record.path).save(record.path, dpi=(508, 508))
    detector = Detector.from_model(fit_tiny(tmp_path, records, scale="file"))
    for name, dpi in (("coarse", 508), ("fine", 1016), ("unknown", 72)):
        Image.fromarray(spotted(900)).save(tmp_path / f"{name}.png", dpi=(dpi, dpi))
    coarse, unknown, fine = detector.inspect_many(
        [tmp_path / f"{name}.png" for name in ("coarse", "unknown", "fine")], errors="yield"
    )
    assert isinstance(unknown, DataError)
    assert coarse.regions[0].length_mm == pytest.approx(2 * fine.regions[0].length_mm, rel=1e-3)
    with pytest.raises(DataError, match="an array"):
        detector.inspect(spotted(900))


def test_a_scale_is_for_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is for images"):
        Detector("fpfh", scale="0.1mm").fit([tmp_path / "a.ply"])
    with pytest.raises(ConfigError, match="no unit"):
        Detector("padim", scale="0.1")


AREAS = {
    "regions": [
        {"name": "left", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]},
        {"name": "right", "polygon": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]},
    ]
}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("named")
    (folder / "areas.json").write_text(json.dumps(AREAS))
    records = write_images(folder / "good", 60)
    return fit_tiny(folder, records, roi=str(folder / "areas.json"), false_alarm_rate=0.2)


def test_each_area_has_a_score_and_a_threshold_and_any_of_them_decides(named: Model, tmp_path: Path) -> None:
    modelfile.save(named, tmp_path / "m")
    detector = Detector.load(tmp_path / "m")
    assert "2 areas together" in str(detector.promise)
    image = good_image(900)
    image[20:30, 40:60] = 255
    result = detector.inspect(image)
    left, right = result.to_json()["areas"]
    assert (left["name"], right["name"]) == ("left", "right")
    assert (right["label"], result.verdict) == ("anomalous", "anomalous")
    assert right["score"] > right["threshold"]
    good = [detector.inspect(good_image(seed)) for seed in range(900, 960)]
    for one in good:
        assert one.verdict == ("anomalous" if any(a.label == "anomalous" for a in one.areas) else "good")
    assert sum(one.verdict == "anomalous" for one in good) <= 60 * 0.2 + 3 * np.sqrt(60 * 0.2 * 0.8) + 4


def test_thresholds_of_areas_are_joint(named: Model) -> None:
    calibrator = next(iter(named.calibrators.values()))
    held = np.array([f.areas for f in calibrator.further])
    assert calibrator.area_thresholds == joint_thresholds(held.T.tolist(), 0.2)
    again = Detector.from_model(named).calibrate(false_alarm_rate=0.4)
    stricter = next(iter(again.model.calibrators.values())).area_thresholds
    assert all(a <= b for a, b in zip(stricter, calibrator.area_thresholds, strict=True))


def test_areas_take_as_many_images_as_both_thresholds_need(tmp_path: Path) -> None:
    (tmp_path / "areas.json").write_text(json.dumps(AREAS))
    with pytest.warns(UserWarning, match="without a threshold"):  # 5 would do for one
        few = fit_tiny(tmp_path, write_images(tmp_path / "good", 6), roi=str(tmp_path / "areas.json"))
    assert few.calibrators == {}
    assert Detector.from_model(few).inspect(good_image(1)).areas == ()


def test_a_plain_mask_stays_what_it_was(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[4:-4, 4:-4] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    detector = Detector.from_model(fit_tiny(tmp_path, roi=str(tmp_path / "roi.png")))
    assert "areas" not in detector.model.meta.preprocess
    assert detector.inspector().measuring is None
    assert "areas" not in detector.inspect(good_image(1)).to_json()


RULES = ("long: length > 2.5mm", "count > 2 in right")


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("ruled")
    (folder / "areas.json").write_text(json.dumps(AREAS))
    chosen = {"roi": str(folder / "areas.json"), "scale": "0.1mm", "rules": RULES, "false_alarm_rate": 0.2}
    return fit_tiny(folder, write_images(folder / "good", 60), **chosen)


def test_rules_are_kept_in_the_model_and_decide(ruled: Model, tmp_path: Path) -> None:
    modelfile.save(ruled, tmp_path / "m")
    detector = Detector.load(tmp_path / "m")
    assert detector.model.meta.rules == RULES
    assert "rejected by the rules" in str(detector.promise)
    assert "of good images fire a rule" in str(detector.region_promise)
    line = detector.inspect(spotted(900)).to_json()
    assert line["rules"][0] == {"rule": RULES[0], "fired": True, "value": pytest.approx(max_length(line))}
    assert (line["decided_by"], line["map_threshold_per"], line["pred_label"]) == ("rules", "rules", "anomalous")
    good = [detector.inspect(good_image(seed)) for seed in range(900, 930)]
    for one in good:
        assert one.verdict == ("anomalous" if any(rule.fired for rule in one.rules) else "good")
    assert sum(one.verdict == "anomalous" for one in good) <= 30 * 0.2 + 3 * np.sqrt(30 * 0.2 * 0.8) + 3


def max_length(line: dict[str, Any]) -> float:
    return max(region["length_mm"] for region in line["regions"])


def test_no_held_out_image_above_its_limit_fires(ruled: Model) -> None:
    for calibrator in ruled.calibrators.values():
        limits = sorted(f.limit for f in calibrator.further)
        assert calibrator.map_threshold == conformal_threshold(limits, 0.2)


@pytest.mark.parametrize("decide", ["score", "both"])
def test_what_decides_is_chosen(tmp_path: Path, decide: str) -> None:
    model = fit_tiny(tmp_path, write_images(tmp_path / "good", 60), rules=["length > 20px"], decide=decide)
    detector = Detector.from_model(model)
    for image in (good_image(900), spotted(900)):
        result = detector.inspect(image)
        assert result.decided_by == decide
        by_score, by_rules = result.score > result.threshold, any(rule.fired for rule in result.rules)
        assert (result.verdict == "anomalous") == (by_score or (decide == "both" and by_rules))
    assert ("together" in str(detector.promise)) == (decide == "both")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rules": ["length > 1mm"]}, "size of a pixel is not known"),
        ({"rules": ["length > 1px in seal"]}, "no area 'seal'"),
        ({"rules": ["length > 1"]}, "unit of length 1 is missing"),
        ({"decide": "rules"}, "there is no rule"),
        ({"rules": ["count > 1"], "region_per": "area"}, "keep their promise"),
        ({"rules": ["count > 1"], "region_rate": 0.1}, "where rules decide"),
        ({"rules": ["count > 1"], "calibration": "leave_one_out"}, "whole maps"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused_before_work(tmp_path: Path, options: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        fit_tiny(tmp_path, **options)
    assert caught.value.hint


def test_another_scale_breaks_the_promise_of_rules_and_says_so(ruled: Model, tmp_path: Path) -> None:
    modelfile.save(ruled, tmp_path / "m")
    with pytest.warns(UserWarning, match="another scale"):
        Detector.load(tmp_path / "m", scale="0.2mm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Detector.load(tmp_path / "m", scale="100um")


def test_calibrate_makes_a_new_threshold_for_the_same_rules(ruled: Model, tmp_path: Path) -> None:
    detector = Detector.from_model(ruled)
    before = next(iter(ruled.calibrators.values())).map_threshold
    wider = detector.calibrate(false_alarm_rate=0.5).inspect(spotted(900)).map_threshold
    assert wider < before
    fresh = [record.path for record in write_images(tmp_path / "fresh", 12, first=700)]
    again = detector.calibrate(fresh, false_alarm_rate=0.3)
    assert all(f.limit is not None for c in again.model.calibrators.values() for f in c.further)
    assert "0.3 of good parts rejected by the rules" in str(again.promise)


def test_two_thresholds_take_more_images_and_not_more_units(tmp_path: Path) -> None:
    """Five of twenty units are held out: enough for one threshold at 0.2, and their ten images for two."""
    records = write_images(tmp_path / "good", 40)
    records = [replace(record, unit=f"part {i // 2}") for i, record in enumerate(records)]
    for decide in ("rules", "both"):
        model = fit_tiny(tmp_path, records, rules=["count > 3"], decide=decide, held_out=0.25)
        assert {c.kind for c in model.calibrators.values()} == {"split"}
