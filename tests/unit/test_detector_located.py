"""Models of parts that lie anywhere: verdicts, alarms, promise, maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blemish import Detector
from blemish.errors import CalibrationError, ConfigError, DataError
from blemish.evaluation.report.plots import histogram
from blemish.inspection.modelfile import load
from blemish.types import ALARM
from tests.parts import ARROW, at_any_angle, picture, spotted, write

ASKED: dict[str, Any] = {"image_size": 128, "false_alarm_rate": 0.1, "cache": False}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("located") / "good"
    write(folder, [at_any_angle(ARROW, seed)[0] for seed in range(40)])
    return folder


@pytest.fixture(scope="module")
def detector(good: Path) -> Detector:
    return Detector("padim", locate="on", calibration="split", held_out=0.4, **ASKED).fit(good)


def test_a_spot_is_found_where_it_is_and_nothing_where_the_part_is_not(detector: Detector) -> None:
    verdicts = [detector.inspect(at_any_angle(ARROW, seed)[0]).verdict for seed in range(520, 530)]
    assert verdicts.count("good") >= 6
    image, x, y, angle = at_any_angle(ARROW, 500)
    result = detector.inspect(spotted(500))
    assert result.verdict == "anomalous"
    assert result.pose is not None
    peak = np.unravel_index(int(result.anomaly_map.argmax()), result.anomaly_map.shape)
    spot = np.array([x, y]) + 5 * np.array([np.cos(angle), np.sin(angle)])
    assert np.hypot(peak[1] - spot[0], peak[0] - spot[1]) < 16
    assert result.anomaly_map.shape == image.shape[:2]
    line = result.to_json()
    assert set(line["pose"]) == {"x", "y", "angle", "match"}
    assert "alarm" not in line


def test_no_part_is_an_alarm(detector: Detector, tmp_path: Path) -> None:
    empty = picture([], 1)
    result = detector.inspect(empty)
    assert result.verdict == "anomalous"
    assert result.score == ALARM
    assert result.alarm is not None
    assert result.alarm.startswith("no part found")
    assert result.p_value is not None
    assert result.p_value <= 0.1
    line = result.to_json()
    assert line["pred_score"] is None
    assert line["pred_label"] == "anomalous"
    both = list(detector.inspect_many([empty, at_any_angle(ARROW, 501)[0], empty]))
    assert [one.alarm is None for one in both] == [False, True, False]
    assert all(one.seconds > 0 for one in both)


def test_a_saved_model_says_the_same(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "part.blemish")
    again = Detector.load(tmp_path / "part.blemish")
    for image in (spotted(510), picture([], 2)):
        one, two = detector.inspect(image), again.inspect(image)
        assert one.score == two.score
        assert np.array_equal(one.anomaly_map, two.anomaly_map)
    assert load(tmp_path / "part.blemish").meta.preprocess["locate"]["narrowed"] < 0.3


def test_an_evaluation_counts_alarms_and_its_report_names_them(detector: Detector, tmp_path: Path) -> None:
    root = tmp_path / "arrow"
    write(root / "train" / "good", [at_any_angle(ARROW, seed)[0] for seed in range(4)])
    write(root / "test" / "good", [at_any_angle(ARROW, seed)[0] for seed in range(600, 610)])
    write(root / "test" / "spot", [spotted(seed) for seed in range(700, 710)])
    write(root / "test" / "empty", [picture([], seed) for seed in range(3)])
    found = detector.evaluate(root)
    alarms = [sample for sample in found.samples if sample.alarm]
    assert len(alarms) == 3
    assert all(sample.verdict == "anomalous" for sample in alarms)
    assert found.overall.image is not None
    assert found.overall.image.auroc.value > 0.8
    found.save_json(tmp_path / "metrics.json")
    plot = histogram([1.0, 2.0, 3.0], [4.0, ALARM], 3.5)
    assert "last bar: and above" in plot
    assert "e+3" not in plot
    assert "last bar" not in histogram([1.0, 2.0, 3.0], [4.0], 3.5)
    histogram([ALARM], [ALARM], None)


def test_good_pictures_without_a_part_count_as_rejected(detector: Detector, tmp_path: Path) -> None:
    images = [at_any_angle(ARROW, seed)[0] for seed in range(800, 825)]
    few, many = (write(tmp_path / str(n), [*images, *(picture([], s) for s in range(n))]) for n in (1, 6))
    with pytest.warns(UserWarning, match="1 of 26 held-out good parts no part is found"):
        detector.calibrate([r.path for r in few], false_alarm_rate=0.1)
    model = detector.model
    assert model.calibrators["f32"].threshold < ALARM
    with pytest.warns(UserWarning, match="6 of 31"), pytest.raises(CalibrationError, match="no part"):
        detector.calibrate([r.path for r in many], false_alarm_rate=0.1)


def test_each_part_of_a_picture_is_inspected_where_that_is_asked_for(good: Path, tmp_path: Path) -> None:
    several = Detector("padim", locate="several", **ASKED).fit(good)
    file = tmp_path / "tray.png"
    tray = np.hstack([at_any_angle(ARROW, 900)[0], spotted(901), at_any_angle(ARROW, 902)[0]])
    cv2.imwrite(str(file), tray[..., ::-1])
    results = list(several.inspect_many(file))
    assert [one.image_path for one in results] == [str(file)] * 3
    assert [one.verdict for one in results] == ["good", "anomalous", "good"]
    places = [one.pose.x for one in results if one.pose]
    assert places == sorted(places)
    assert len(places) == 3
    cv2.imwrite(str(file), picture([], 3))
    (alone,) = several.inspect_many(file)
    assert alone.alarm is not None


def test_auto_locates_only_where_it_makes_good_parts_more_alike(good: Path, tmp_path: Path) -> None:
    assert Detector("padim", locate="auto", **ASKED).fit(good).model.meta.preprocess["locate"]["narrowed"] < 0.3
    fixed = write(tmp_path / "fixed", [picture([(ARROW, 120, 120, 0.4)], seed) for seed in range(30)])
    paths = [r.path for r in fixed]
    assert "locate" not in Detector("padim", locate="auto", **ASKED).fit(paths).model.meta.preprocess
    rng = np.random.default_rng(0)
    textures = write(tmp_path / "full", [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(30)])
    with pytest.warns(UserWarning, match="parts are not located"):
        plain = Detector("padim", locate="auto", **ASKED).fit([r.path for r in textures])
    assert "locate" not in plain.model.meta.preprocess
    with pytest.raises(DataError, match=r"\.png"):
        Detector("padim", locate="on", **ASKED).fit([r.path for r in textures])


def test_what_does_not_go_with_locating_is_refused_before_any_work(good: Path, tmp_path: Path) -> None:
    mask = tmp_path / "roi.png"
    cv2.imwrite(str(mask), np.full((240, 240), 255, np.uint8))
    with pytest.raises(ConfigError, match="region of interest"):
        Detector("padim", locate="on", roi=str(mask), **ASKED)
    with pytest.raises(ConfigError, match="locates no parts"):
        Detector("padim", locate="on", multi_class=True, **ASKED).fit(good)
