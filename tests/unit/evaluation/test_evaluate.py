"""From records to metrics, on tiny trees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score

from blemish import DataError, Detector
from blemish.cli.evaluate import show
from blemish.data import layouts
from blemish.data.image.decode import read_image
from blemish.evaluation.evaluate import evaluate
from blemish.evaluation.metrics import aupro, auroc
from blemish.evaluation.report.cases import Cases
from blemish.evaluation.report.page import write_report
from blemish.evaluation.report.tables import settings
from blemish.evaluation.summary import cut_at
from blemish.types import AnomalyResult
from tests.fakes import FakeBackbone, write_images, write_mvtec


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("set") / "thing")


@pytest.fixture(scope="module")
def detector(tree: Path) -> Detector:
    return Detector("padim", backbone=FakeBackbone(), image_size=56).fit(tree)


def test_metrics_are_those_of_the_raw_scores_and_maps(detector: Detector, tree: Path, tmp_path: Path) -> None:
    evaluation = detector.evaluate(tree)
    labels, scores = zip(*((s.label, s.score) for s in evaluation.samples), strict=True)
    assert evaluation.overall.image.auroc.value == pytest.approx(roc_auc_score(labels, scores))
    results = {r.image_path: r for r in detector.inspect_many(str(s.path) for s in evaluation.samples)}
    maps, masks = [], []
    for sample in evaluation.samples:
        maps.append(results[sample.path].anomaly_map)
        file = tree / "ground_truth" / "spot" / f"{Path(sample.path).stem}_mask.png"
        masks.append(np.asarray(Image.open(file)) > 0 if sample.label else np.zeros(maps[-1].shape, bool))
    pixel = evaluation.overall.pixel
    flat = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    assert pixel.auroc.value == pytest.approx(auroc(*flat), abs=1e-3)
    assert pixel.aupro_0_3.value == pytest.approx(aupro(maps, masks), abs=1e-3)
    assert pixel.spro_0_05 is None
    evaluation.save_json(tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["overall"]["good"] == 4


def test_rates_count_verdicts(detector: Detector, tree: Path) -> None:
    evaluation = detector.evaluate(tree)
    rejected = sum(s.verdict == "anomalous" for s in evaluation.samples if s.label == 0)
    missed = sum(s.verdict == "good" for s in evaluation.samples if s.label == 1)
    assert evaluation.overall.false_alarms.count == rejected
    assert evaluation.overall.false_alarms.promised == 0.05
    assert evaluation.overall.escapes.count == missed
    assert evaluation.by_defect["spot"].detected.count == 4 - missed


def test_a_defect_without_a_mask_is_not_taken_for_normal_pixels(detector: Detector, tree: Path) -> None:
    records = [replace(r, mask=None) if r.id.endswith("spot/000.png") else r for r in layouts.index(tree)]
    line = detector.inspector()
    with pytest.warns(UserWarning, match=r"come from 3 of 4 defective samples: 1 without a mask"):
        with_three = evaluate(line, records, model={}, source="x").overall
    assert with_three.pixel.images == 7
    assert with_three.anomalous == 4
    none = [replace(r, mask=None) for r in layouts.index(tree)]
    assert evaluate(line, none, model={}, source="x").overall.pixel is None


def change(tree: Path, to: Path, changed: dict[str, np.ndarray | bytes]) -> Path:
    """A copy of the tree with other masks."""
    shutil.copytree(tree, to)
    for name, mask in changed.items():
        path = to / "ground_truth" / "spot" / f"{name}_mask.png"
        if isinstance(mask, bytes):
            path.write_bytes(mask)
        else:
            Image.fromarray(mask).save(path)
    return to


def test_masks_that_are_empty_or_cover_everything_are_counted(detector: Detector, tree: Path, tmp_path: Path) -> None:
    size = read_image(tree / "ground_truth" / "spot" / "000_mask.png").shape
    whole = np.ones(size, np.uint8)  # labels 1 and 2, for one
    whole[3:5, 3:5] = 2
    root = change(tree, tmp_path / "thing", {"000": np.zeros(size, np.uint8), "001": whole})
    warning = "come from 4 of 4 defective samples: 1 with an empty mask, 1 with a mask that covers the whole part"
    with pytest.warns(UserWarning, match=warning):
        evaluation = detector.evaluate(root)
    counts = {"marked": 2, "missing": 0, "unusable": 0, "empty": 1, "whole": 1}
    assert evaluation.to_json()["setting"]["masks"] == counts
    page = settings(evaluation)
    assert "2 marked in a part, 1 marked as a whole, 1 with an empty mask" in page


def test_a_mask_that_cannot_be_used_ends_nothing(detector: Detector, tree: Path, tmp_path: Path) -> None:
    root = change(tree, tmp_path / "thing", {"000": np.zeros((9, 9), np.uint8), "001": b"no picture"})
    cases = Cases(None, detector.inspector().kind)
    with pytest.warns(UserWarning, match="come from 2 of 4 defective samples: 2 with a mask that cannot be used"):
        evaluation = evaluate(detector.inspector(), layouts.index(root), model={}, source="x", keep=cases.see)
    assert [image.id for image in evaluation.unusable_masks] == ["test/spot/000.png", "test/spot/001.png"]
    assert all("_mask.png" in image.error for image in evaluation.unusable_masks)
    assert evaluation.to_json()["unusable_masks"] == [{"id": i.id, "error": i.error} for i in evaluation.unusable_masks]
    assert not evaluation.unread
    whole = detector.evaluate(tree).overall
    assert evaluation.overall.image == whole.image
    assert (evaluation.overall.pixel.images, whole.pixel.images) == (6, 8)
    assert sorted(case.masked for case in cases.of("found")) == [False, False, True, True]
    write_report(tmp_path / "report.html", evaluation, cases=cases)
    assert "They leave out 2 of 4 defective parts" in (tmp_path / "report.html").read_text()


def test_a_test_set_without_good_images_says_so(detector: Detector, tree: Path) -> None:
    records = [r for r in layouts.index(tree) if r.label or r.split == "train"]
    with pytest.warns(UserWarning, match="no test image is a good one"):
        assert evaluate(detector.inspector(), records, model={}, source="x").overall.image is None


def test_loco_gets_spro_from_its_saturation_areas(detector: Detector, tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "thing")
    (root / "test" / "spot").rename(root / "test" / "logical_anomalies")
    truth = root / "ground_truth" / "logical_anomalies"
    truth.mkdir()
    for mask in sorted((root / "ground_truth" / "spot").iterdir()):
        folder = truth / mask.name.removesuffix("_mask.png")
        folder.mkdir()
        mask.rename(folder / "000.png")
    config = [{"defect_name": "spot", "pixel_value": 255, "saturation_threshold": 5, "relative_saturation": False}]
    (root / "defects_config.json").write_text(json.dumps(config))
    pixel = detector.evaluate(root, layout="loco").overall.pixel
    assert pixel.spro_0_05.value >= pixel.aupro_0_05.value
    assert pixel.spro_0_05.value > 0.9


def test_categories_are_measured_apart(detector: Detector, tmp_path: Path) -> None:
    write_mvtec(tmp_path / "a", test=3)
    write_mvtec(tmp_path / "b", test=2)
    evaluation = detector.evaluate(tmp_path)
    assert set(evaluation.by_category) == {"a", "b"}
    assert evaluation.by_category["a"].good == 3
    assert evaluation.overall.good == 5
    assert set(detector.evaluate(tmp_path, categories=["a"]).by_category) == set()


def test_segf1_is_that_of_maps_cut_at_the_models_own_threshold(detector: Detector, tree: Path, tmp_path: Path) -> None:
    evaluation = detector.evaluate(tree)
    calibrator = detector.inspector().calibrator
    assert calibrator is not None
    truth, above = [], []
    for sample in evaluation.samples:
        anomaly_map = detector.inspect(sample.path).anomaly_map
        file = tree / "ground_truth" / "spot" / f"{Path(sample.path).stem}_mask.png"
        mask = np.asarray(Image.open(file)) > 0 if sample.label else np.zeros(anomaly_map.shape, bool)
        truth.append(mask.ravel())
        above.append((anomaly_map > calibrator.map_threshold).ravel())
    segf1 = evaluation.overall.pixel.segf1
    assert segf1.value == pytest.approx(f1_score(np.concatenate(truth), np.concatenate(above)))
    assert 0 < segf1.value <= evaluation.overall.pixel.f1max.value + 1e-3
    assert segf1.threshold == evaluation.setting.map_threshold == calibrator.map_threshold
    assert evaluation.to_json()["overall"]["pixel"]["segf1"]["threshold"] == calibrator.map_threshold
    write_report(tmp_path / "report.html", evaluation, cases=Cases(calibrator, detector.inspector().kind))
    text = (tmp_path / "report.html").read_text()
    assert f"cut at the model&#x27;s own map threshold, {calibrator.map_threshold:.6g}" in text
    assert 'data-name="SegF1"' in text
    assert 'data-name="AUPRO@0.05"' in text


def test_a_model_without_threshold_has_no_segf1(detector: Detector, tree: Path, tmp_path: Path) -> None:
    line = detector.inspector()
    bare = copy(line)
    bare.calibrator = None
    evaluation = evaluate(bare, layouts.index(tree), model={}, source="x")
    assert evaluation.overall.pixel.segf1 is None
    assert evaluation.overall.pixel.aupro_0_05.value > 0
    assert "segf1" not in evaluation.to_json()["overall"]["pixel"]
    assert "map_threshold" not in evaluation.to_json()["setting"]
    write_report(tmp_path / "report.html", evaluation, cases=Cases(None, line.kind))
    assert "SegF1" not in (tmp_path / "report.html").read_text()


def test_the_table_says_at_which_threshold_maps_were_cut(
    detector: Detector, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(detector.evaluate(tree))
    out = capsys.readouterr().out
    assert "AUPRO@0.05" in out
    assert "SegF1" in out
    assert f"own map threshold, {detector.inspector().calibrator.map_threshold:.6g}" in out  # type: ignore[union-attr]


def test_categories_are_cut_at_their_own_thresholds(detector: Detector, tmp_path: Path) -> None:
    """As those of a multi-class model are, of which one may have none."""
    for name in ("a", "b"):
        write_mvtec(tmp_path / name, test=3)
    line, given = copy(detector.inspector()), {"a": 1.0, "b": 30.0, "c": None}

    def cut(sources: Any, **options: Any) -> Iterator[AnomalyResult]:
        for result in detector.inspector().inspect_many(sources, **options):
            yield replace(result, map_threshold=given[Path(result.image_path or "").parents[2].name])

    line.inspect_many = cut  # type: ignore[method-assign]
    evaluation = evaluate(line, layouts.index(tmp_path), model={}, source="x")
    assert evaluation.overall.pixel.segf1.threshold is None
    assert {name: each.pixel.segf1.threshold for name, each in evaluation.by_category.items()} == {"a": 1.0, "b": 30.0}
    assert "each category's own map threshold" in str(cut_at(evaluation))
    write_mvtec(tmp_path / "c", test=3)
    evaluation = evaluate(line, layouts.index(tmp_path), model={}, source="x")
    assert evaluation.overall.pixel.segf1 is evaluation.by_category["c"].pixel.segf1 is None
    assert evaluation.by_category["a"].pixel.segf1 is not None


def test_images_without_labels_are_not_measured(detector: Detector, tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "thing")
    (root / "test").rename(root / "test_public")
    (root / "ground_truth").rename(root / "test_public" / "ground_truth")
    (root / "test_public" / "spot").rename(root / "test_public" / "bad")
    (root / "test_public" / "ground_truth" / "spot").rename(root / "test_public" / "ground_truth" / "bad")
    write_images(root / "test_private", 2)
    whole = detector.evaluate(root)
    assert (whole.setting.good, whole.setting.anomalous) == (4, 4)
    assert whole.overall.pixel.regions == 4
    with pytest.raises(DataError, match="2 test images have no labels: nothing can be measured") as caught:
        detector.evaluate(root, split="test_private")
    assert caught.value.hint


def test_no_test_images_is_an_error(detector: Detector, tmp_path: Path) -> None:
    write_images(tmp_path / "good", 3)
    with pytest.raises(DataError, match="no test image"):
        detector.evaluate(tmp_path / "good")
