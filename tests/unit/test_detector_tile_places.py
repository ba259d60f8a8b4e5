"""Tiles that know their places, tiles in a region of interest, and tiles of a located part."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish import Detector
from blemish.data.image.modality import Images
from blemish.data.image.preprocess import Preprocess
from blemish.data.image.tiles import Tiling
from blemish.errors import ConfigError, DataError, EngineError, ResourceError
from blemish.inspection.bundle import check_exportable
from blemish.inspection.on_ray import _model_digest
from blemish.learning import footprint, placing
from blemish.types import ALARM, Record
from tests.fakes import FakeBackbone
from tests.parts import ARROW, at_any_angle, picture, spotted, write

ASKED: dict[str, Any] = {
    "image_size": 64,
    "tiles": "64:0",
    "calibration": "split",
    "held_out": 0.4,
    "false_alarm_rate": 0.1,
    "cache": False,
}
SHAPE = (128, 256)  # eight tiles


def board(seed: int, *, shifted: int = 0, line: bool = False) -> NDArray[np.uint8]:
    """Lines on the left half of every picture; with `line` a tile on the right, which is bare, shows what the first one
    shows."""
    rng = np.random.default_rng(seed)
    image = np.full(SHAPE, 90, np.uint8)
    for x in (20, 50, 90, 112):
        cv2.line(image, (x + shifted, 0), (x + shifted, SHAPE[0]), 220, 5)
    if line:
        image[64:, 192:] = image[64:, :64]
    return np.clip(image + rng.normal(0, 4, SHAPE), 0, 255).astype(np.uint8)


def files(folder: Path, images: Sequence[NDArray[np.uint8]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:02}.png"), image)
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files(tmp_path_factory.mktemp("boards"), [board(seed) for seed in range(30)])


@pytest.fixture(scope="module")
def detector(good: Path) -> Detector:
    return Detector("padim", **ASKED).fit(good)


def test_what_is_usual_elsewhere_is_found_only_where_tiles_know_their_places(detector: Detector, good: Path) -> None:
    assert detector.model.meta.preprocess["tiles"] == [64, 0, *SHAPE]
    assert len(detector.model.heads) == 8
    result = detector.inspect(board(100, line=True))
    assert result.verdict == "anomalous"
    peak = np.unravel_index(int(result.anomaly_map.argmax()), SHAPE)
    assert 180 < peak[1] < 240
    assert peak[0] >= 60
    verdicts = [detector.inspect(board(seed)).verdict for seed in range(110, 120)]
    assert verdicts.count("good") >= 6
    plain = Detector("padim", tile_places="off", **ASKED).fit(good)
    assert not plain.model.heads

    def margin(of: Detector) -> float:
        bad = [of.inspect(board(seed, line=True)).score for seed in range(130, 136)]
        fine = [of.inspect(board(seed)).score for seed in range(130, 136)]
        return float((np.mean(bad) - np.mean(fine)) / np.std(fine))

    assert margin(detector) > 2 * margin(plain)


def test_heads_are_on_one_scale(detector: Detector) -> None:
    """No place is the most anomalous one of most good pictures."""
    peaks = [np.unravel_index(int(detector.inspect(board(seed)).anomaly_map.argmax()), SHAPE) for seed in range(40, 64)]
    tiles = [int(y) // 64 * 4 + int(x) // 64 for y, x in peaks]
    assert max(np.bincount(tiles)) <= 12


def test_a_saved_model_says_the_same_in_any_batch_and_process(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "m")
    again = Detector.load(tmp_path / "m")
    image = board(300, line=True)
    one, two = detector.inspect(image), again.inspect(image)
    assert one.score == two.score
    assert np.array_equal(one.anomaly_map, two.anomaly_map)
    assert [r.score for r in again.inspector(batch=3).inspect_many([image] * 4)] == [one.score] * 4
    moved = pickle.loads(pickle.dumps(again.inspector()))
    assert moved.inspect(image).score == one.score
    assert again.model.calibrators["f32"].n == 12
    assert again.model.meta.data.learned_from == 18


def test_pictures_of_another_size_are_refused(detector: Detector, good: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="their places in 256 x 128"):
        detector.inspect(np.hstack([board(1), board(2)]))
    mixed = [*sorted(good.iterdir()), *files(tmp_path / "other", [cv2.resize(board(1), (300, 128))]).iterdir()]
    with pytest.raises(DataError, match=r"00\.png: is not 256 x 128 pixels large"):
        Detector("padim", tile_places="on", **{**ASKED, "calibration": "none"}).fit(mixed)
    assert not Detector("padim", **{**ASKED, "calibration": "none"}).fit(mixed).model.heads


def test_auto_asks_for_pictures_that_lie_alike(good: Path, tmp_path: Path) -> None:
    plan = Preprocess((64, 64), tiles=Tiling(64, 0))

    def left(folder: Path) -> float:
        return placing.spread_left(plan, [Record(id=p.name, path=p) for p in sorted(folder.iterdir())])

    shifts = np.random.default_rng(0).integers(0, 130, 16)
    moved = files(tmp_path / "moved", [board(seed, shifted=int(shifts[seed])) for seed in range(16)])
    rng = np.random.default_rng(1)
    shade = np.linspace(60, 120, SHAPE[1])  # the light alone is no place
    texture = files(tmp_path / "texture", [np.uint8(shade + rng.normal(0, 20, SHAPE)) for _ in range(16)])
    flat = files(tmp_path / "flat", [np.full(SHAPE, 90 + seed, np.uint8) for seed in range(12)])
    assert left(good) < 0.1
    assert min(left(moved), left(texture), left(flat)) > 0.9
    assert not Detector("padim", **{**ASKED, "calibration": "none"}).fit(moved).model.heads
    few = sorted(good.iterdir())[: placing.FEWEST - 1]
    assert not Detector("padim", **{**ASKED, "calibration": "none"}).fit(few).model.heads


def test_there_are_limits(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**ASKED, "calibration": "none"}
    monkeypatch.setattr(placing, "MOST", 7)
    with pytest.raises(ConfigError, match="8 tiles of a picture have a head each, and a model has at most 7"):
        Detector("padim", tile_places="on", **asked).fit(good)
    assert not Detector("padim", **asked).fit(good).model.heads
    monkeypatch.setattr(placing, "MOST", 8)
    monkeypatch.setattr(placing, "LARGEST", 1000)
    assert not Detector("padim", **asked).fit(good).model.heads


def test_memory_counts_every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from blemish.methods.padim import Config
    from blemish.system import Free
    from blemish.types import FeatureSpec

    spec = FeatureSpec((1,), (64,), ((16, 16),))
    one = footprint.of_a_head(("drawn", "mean", "whiten"), Config(), spec)
    monkeypatch.setattr(footprint, "free_memory", lambda: Free(40 * one, "of memory"))
    asked = (("drawn", "mean", "whiten"), Config(), spec, (64, 64), 20, 16)
    footprint.check(*asked, heads=8)
    with pytest.raises(ResourceError, match="needs at least"):
        footprint.check(*asked, heads=30)


def test_folds_and_trained_methods(good: Path) -> None:
    few = sorted(good.iterdir())[:14]
    model = Detector("patchcore", **{**ASKED, "tiles": "128:0", "calibration": "folds"}).fit(few).model
    assert len(model.heads) == 2
    assert model.calibrators["f32"].kind == "cross"
    assert model.calibrators["f32"].n == 14
    pytest.importorskip("torch")
    options = {"steps": 2, "until": "steps", "embedding": 8, "widths": (8,), "calibration": "none"}
    asked = {**ASKED, **options, "tiles": "128:0"}
    assert not Detector("rd", backbone=FakeBackbone(), **asked).fit(few).model.heads  # as many times as long
    trained = Detector("rd", backbone=FakeBackbone(), tile_places="on", **asked).fit(few)
    assert {phase.category for phase in trained.model.meta.training} == {"tile 0", "tile 1"}
    assert trained.inspect(board(5)).anomaly_map.shape[1] == 256


def test_what_a_model_of_many_heads_cannot_do_is_said(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="one for each tile"):
        detector.inspector("reference")
    with pytest.raises(EngineError, match="each category or tile"):
        detector.inspector("onnxruntime")
    with pytest.raises(ConfigError, match="8 graphs, one for each tile"):
        check_exportable(detector.model)
    with pytest.raises(ConfigError, match="know their places is not adapted"):
        detector.adapt(files(tmp_path / "fresh", [board(seed) for seed in range(200, 230)]))
    digest = _model_digest(detector.model)
    detector.model.heads["0000"], kept = b"other", detector.model.heads["0000"]
    assert _model_digest(detector.model) != digest
    detector.model.heads["0000"] = kept


def test_tiles_outside_of_the_region_of_interest_are_not_inspected(good: Path, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :150] = 255
    cv2.imwrite(str(tmp_path / "roi.png"), mask)
    for places, heads in (("on", 6), ("off", 0)):
        found = Detector("padim", roi=str(tmp_path / "roi.png"), tile_places=places, **ASKED).fit(good)
        assert len(found.model.heads) == heads
        assert found.model.meta.inspected == pytest.approx(150 / 256, abs=0.01)
        whole, marked = board(60), board(60, line=True)
        assert found.inspect(marked).score == found.inspect(whole).score  # the line lies at x = 210
        cv2.circle(marked, (70, 40), 9, 10, -1)
        result = found.inspect(marked)
        assert result.verdict == "anomalous"
        assert result.anomaly_map.shape == SHAPE
        assert (result.anomaly_map[:, 152:] == result.anomaly_map.min()).all()
        peak = np.unravel_index(int(result.anomaly_map.argmax()), SHAPE)
        assert np.hypot(peak[0] - 40, peak[1] - 70) < 24


def test_named_areas_have_thresholds_of_their_own_in_tiles(good: Path, tmp_path: Path) -> None:
    left, right = ([[x, 0], [x + 128, 0], [x + 128, 128], [x, 128]] for x in (0, 128))
    regions = [{"name": "left", "polygon": left}, {"name": "right", "polygon": right}]
    (tmp_path / "areas.json").write_text(json.dumps({"regions": regions}))
    asked = {**ASKED, "roi": str(tmp_path / "areas.json"), "rules": ("length > 3mm",), "scale": "0.1mm"}
    found = Detector("padim", **{**asked, "decide": "both", "false_alarm_rate": 0.3}).fit(good)
    result = found.inspect(board(70, line=True))
    above = {area.name: area.score - area.threshold for area in result.areas}
    assert above["right"] > 0
    assert above["right"] > above["left"] + 1
    assert result.regions[0].area == "right"
    assert result.regions[0].length_mm is not None
    assert result.rules[0].fired


def test_a_located_part_is_inspected_in_tiles_of_source_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    write(folder, [at_any_angle(ARROW, seed)[0] for seed in range(40)])
    asked = {**ASKED, "tiles": "40:0", "locate": "on"}
    found = Detector("padim", **asked).fit(folder)
    plan = Images.from_json(found.model.meta.preprocess).preprocess
    assert plan.tiles is not None
    assert plan.locate is not None
    assert plan.tiles.shape == plan.locate.pixels
    assert len(found.model.heads) == len(plan.tiles.places(plan.locate.pixels)) > 3
    image, x, y, angle = at_any_angle(ARROW, 500)
    result = found.inspect(spotted(500))
    assert result.verdict == "anomalous"
    assert result.pose is not None
    assert result.anomaly_map.shape == image.shape[:2]
    peak = np.unravel_index(int(result.anomaly_map.argmax()), result.anomaly_map.shape)
    spot = np.array([x, y]) + 5 * np.array([np.cos(angle), np.sin(angle)])
    assert np.hypot(peak[1] - spot[0], peak[0] - spot[1]) < 12
    assert [found.inspect(at_any_angle(ARROW, s)[0]).verdict for s in range(520, 530)].count("good") >= 6
    alarm = found.inspect(picture([], 1))
    assert alarm.score == ALARM
    with pytest.raises(DataError, match="the located part has"):
        Detector("padim", **{**asked, "tiles": "200"}).fit(folder)


@pytest.mark.parametrize("method", ["padim", "patchcore", "rd"])
def test_time_and_memory_of_a_large_input_are_said_before_learning(method: str, good: Path) -> None:
    if method == "rd":
        pytest.importorskip("torch")
    options = {"steps": 1, "until": "steps", "embedding": 8, "widths": (8,)} if method == "rd" else {}
    asked = {"image_size": "1024x512", "calibration": "none", "cache": False, **options}
    steps = "; training steps" if method == "rd" else ""
    message = rf"at 1024x512 the network takes .* s an image, about \d+ s for 3 images{steps}.* at least .*B of memory"
    with pytest.warns(UserWarning, match=message):
        Detector(method, backbone=FakeBackbone(), **asked).fit(sorted(good.iterdir())[:3])
