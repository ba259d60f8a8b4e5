"""Samples of several lightings through the whole line: fit, certificate, promise, inspection, evaluation."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blemish import Detector, methods
from blemish.data import layouts
from blemish.data.modality import Cut
from blemish.errors import BlemishError, ConfigError, DataError, OutOfRange
from blemish.evaluation.power import power
from blemish.files import content_id
from blemish.inspection.modelfile import Model
from blemish.inspection.on_ray import inspect
from blemish.learning.options import FitOptions
from blemish.learning.sources.image import VIEWS
from tests.fakes import FakeBackbone
from tests.lit import ASKED, SIDES, SIZE, part, write
from tests.tiny import GRADIENT, HERE, shortened

TWINS = [name for name in HERE if (needs := methods.get(name).needs).twin and not needs.image]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lit") / "good"
    for seed in range(24):
        write(folder, f"{seed:02}", part(seed))
    return folder


@pytest.fixture(scope="module")
def fitted(good: Path) -> Detector:
    return Detector("padim", backbone=FakeBackbone(), **ASKED).fit(good)


def test_a_defect_of_either_lighting_is_found(fitted: Detector, tmp_path: Path) -> None:
    for seed, defect in ((100, None), (101, 0), (102, 1)):
        write(tmp_path, str(seed), part(seed, defect))
    results = list(fitted.inspect_many(tmp_path))
    assert [r.verdict for r in results] == ["good", "anomalous", "anomalous"]
    assert [Path(str(r.image_path)).name for r in results] == [f"{n}_left.png" for n in (100, 101, 102)]
    assert all(r.lightings == SIDES and r.to_json()["lightings"] == list(SIDES) for r in results)
    assert results[0].anomaly_map.shape == SIZE


def test_one_lighting_alone_misses_what_shows_in_the_other(good: Path) -> None:
    alone = Detector("padim", backbone=FakeBackbone(), **{**ASKED, "lightings": ("left",)})
    alone.fit(sorted(good.glob("*_left.png")))
    assert alone.inspect({"left": part(101, 0)[..., 0]}).verdict == "anomalous"
    assert alone.inspect({"left": part(102, 1)[..., 0]}).verdict == "good"
    assert alone.model.meta.backbone.identity == FakeBackbone().identity


def test_arrays_files_and_bytes_of_one_sample_have_one_score(fitted: Detector, tmp_path: Path) -> None:
    sample = part(102, 1)
    path = write(tmp_path, "102", sample)
    other = path.with_name("102_right.png")
    left, right = sample[..., 0], sample[..., 1]
    expected = fitted.inspect(path).score
    given: list[Any] = [
        {"right": right, "left": left},
        [left, right],
        sample,
        np.repeat(sample, 3, axis=2),
        {"left": path.read_bytes(), "right": BytesIO(other.read_bytes())},
        {"left": path, "right": str(other)},
    ]
    assert [fitted.inspect(one).score for one in given] == [expected] * len(given)
    many = fitted.inspect_many([{"left": left, "right": right}, path])
    assert [r.score for r in many] == [expected] * 2
    assert [r.score for r in fitted.inspect_many({"left": left, "right": right})] == [expected]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"left": part(1)[..., 0]}, "lighting 'right' is missing"),
        ({"left": part(1)[..., 0], "top": part(1)[..., 0]}, "no lighting 'top'"),
        ([part(1)[..., 0]], "1 pictures, and the model takes 2: left, right"),
        (np.zeros((*SIZE, 5), np.uint8), "an array of 5 channels"),
        (np.zeros(SIZE, np.uint8), "an array of 1 channels"),
        ({"left": part(1)[..., 0], "right": part(1)[:40, :, 0]}, "lighting 'right' is 64 x 40, and 'left' 64 x 48"),
        (b"\x89PNG\r\n", "one file, and the model takes one for each lighting: left, right"),
    ],
)
def test_what_is_no_sample_is_an_error_that_names_it(fitted: Detector, source: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        fitted.inspect(source)


def test_a_dark_lighting_is_out_of_range_and_named(fitted: Detector) -> None:
    sample = part(1)
    with pytest.raises(OutOfRange, match="lighting 'right'"):
        fitted.inspect([sample[..., 0], sample[..., 1] // 16])


def test_a_missing_lighting_ends_fit_and_is_named(good: Path, tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path / "good", f"{seed}", part(seed))
    (tmp_path / "good/2_right.png").unlink()
    with pytest.raises(DataError, match="its lighting 'right' is missing") as error:
        Detector("padim", **ASKED).fit(tmp_path / "good")
    assert str(tmp_path / "good/2_right.png") in str(error.value)
    write(tmp_path / "good", "2", part(2))
    (tmp_path / "good/3_left.png").unlink()
    with pytest.raises(DataError, match="its lighting 'left' is missing"):
        Detector("padim", **ASKED).fit(tmp_path / "good")


def test_a_picture_without_its_first_lighting_is_an_error_of_the_run(fitted: Detector, tmp_path: Path) -> None:
    write(tmp_path, "a", part(100))
    write(tmp_path, "b", part(100)).unlink()
    found = list(fitted.inspect_many(tmp_path, errors="yield"))
    assert [isinstance(each, DataError) for each in found] == [False, True]
    assert "lighting 'left' is missing" in str(found[1])


def test_lightings_of_several_sizes_are_refused_before_work(tmp_path: Path) -> None:
    for seed in range(8):
        write(tmp_path, f"{seed}", part(seed))
    cv2.imwrite(str(tmp_path / "1_right.png"), part(1)[:40, :, 1])
    with pytest.raises(DataError, match="lighting 'right' is 64 x 40, and 'left' 64 x 48"):
        Detector("padim", **ASKED).fit(tmp_path)


@pytest.mark.parametrize("method", [GRADIENT, *TWINS[:1]])
def test_methods_that_are_trained_learn_lightings(good: Path, method: str) -> None:
    pytest.importorskip("torch")
    brief = shortened(methods.get(method).brief, 4)
    calibration = "split" if method == GRADIENT else "none"  # after a few steps others see too little for a promise
    detector = Detector(method, backbone=FakeBackbone(), calibration=calibration, **ASKED, **brief).fit(good)
    engines = detector.model.parity["engines"]
    assert engines["openvino-f32"]["map"] < 1e-3
    assert (detector.promise is not None) == (method == GRADIENT)
    sample = part(102, 1)
    result, again = detector.inspect(sample), detector.inspector("reference").inspect(sample)
    assert result.score == pytest.approx(again.score, rel=1e-3)


def test_a_synthetic_defect_lies_at_one_place_in_all_lightings(fitted: Detector, good: Path) -> None:
    from blemish.learning.backbones.lit import LitBackbone
    from blemish.learning.sources.features import FeatureSource
    from blemish.learning.sources.image import ImageSamples, files
    from blemish.types import Needs

    preprocess = fitted.inspector().kind.preprocess
    records = layouts.index(good, cut=Cut(lightings=SIDES), kind="image")
    source = FeatureSource(LitBackbone(FakeBackbone(), 2), preprocess, None)
    samples = ImageSamples(source, files(records, preprocess), Needs(twin="texture"))
    item = samples.items[0]
    plain = item.image(item.data())
    found = [samples._damaged(item, "same", number) for number in range(6)]
    both = 0
    for damaged, mask in found:
        changed = damaged != plain
        left, right = changed[..., :3].any(2), changed[..., 3:].any(2)
        assert not (left | right)[~mask].any()
        both += bool((left & right).any())
    assert both == len(found)


def test_the_certificate_and_the_model_hold_after_saving(fitted: Detector, tmp_path: Path) -> None:
    assert fitted.model.parity["engines"]["openvino-f32"]["score"] < 1e-3
    fitted.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model")
    sample = part(102, 1)
    assert loaded.inspect(sample).score == fitted.inspect(sample).score
    assert pickle.loads(pickle.dumps(loaded)).inspect(sample).score == fitted.inspect(sample).score


def test_calibrate_adapt_and_evaluate_read_all_lightings(fitted: Detector, tmp_path: Path) -> None:
    model: Model = fitted.model
    for seed in range(200, 216):
        write(tmp_path / "set/train/good", f"{seed}", part(seed))
    for seed in range(300, 304):
        write(tmp_path / "set/test/good", f"{seed}", part(seed))
        write(tmp_path / "set/test/scratch", f"{seed}", part(seed + 10, 1))
        mask = np.zeros(SIZE, np.uint8)
        mask[20:30, 24:44] = 255
        (tmp_path / "set/ground_truth/scratch").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"set/ground_truth/scratch/{seed}_left_mask.png"), mask)
    detector = Detector.from_model(model, backbone=FakeBackbone())
    evaluation = detector.evaluate(tmp_path / "set")
    assert evaluation.overall.image.auroc.value == 1.0
    assert evaluation.overall.pixel is not None
    assert evaluation.overall.pixel.auroc.value > 0.9
    detector.calibrate(tmp_path / "set/train/good", false_alarm_rate=0.2)
    assert detector.promise is not None
    detector.adapt(tmp_path / "set/train/good")
    assert detector.inspect(part(102, 1)).verdict == "anomalous"


def test_a_manifest_has_a_column_for_each_lighting(tmp_path: Path) -> None:
    for seed in range(15):
        for k, name in enumerate("ab"):
            cv2.imwrite(str(tmp_path / f"{name}{seed}.png"), part(seed)[..., k])
    rows = "\n".join(f"a{seed}.png,b{seed}.png,good" for seed in range(12))
    (tmp_path / "manifest.csv").write_text(f"Left,right,label\n{rows}\n")
    records = layouts.index(tmp_path, cut=Cut(lightings=SIDES))
    assert [file.path.name for file in records[0].lightings] == ["a0.png", "b0.png"]
    detector = Detector("padim", backbone=FakeBackbone(), **ASKED).fit(tmp_path / "manifest.csv")
    assert detector.inspect(part(102, 1)).verdict == "anomalous"
    rows_of_test = "a12.png,b12.png,good,test\na13.png,b13.png,good,test\na14.png,b14.png,anomalous,test\n"
    (tmp_path / "tests.csv").write_text(f"left,right,label,split\n{rows_of_test}")
    found = detector.evaluate(tmp_path / "tests.csv").overall  # by their columns: no name says a lighting
    assert (found.good, found.anomalous) == (2, 1)
    (tmp_path / "manifest.csv").write_text(f"left,right,label\n{rows}\na1.png,,good\n")
    with pytest.raises(DataError, match="line 14: no file of lighting 'right'"):
        layouts.index(tmp_path, cut=Cut(lightings=SIDES))
    (tmp_path / "manifest.csv").write_text("path,left,right\nb1.png,a1.png,b1.png\n")
    with pytest.raises(DataError, match="is not the file of lighting 'left'"):
        layouts.index(tmp_path, cut=Cut(lightings=SIDES))


def test_copies_are_found_by_all_of_their_lightings(tmp_path: Path) -> None:
    for seed in range(6):
        write(tmp_path, f"{seed}", part(seed))
    write(tmp_path, "copy", part(3))
    sample = part(3)
    sample[0, 0, 1] ^= 1
    write(tmp_path, "alike", sample)  # the first lighting is a copy, the second is not
    with pytest.warns(UserWarning, match="1 of 8 images are copies"):
        Detector("padim", backbone=FakeBackbone(), calibration="none", **ASKED).fit(tmp_path)


@pytest.mark.parametrize("more", [{"tiles": "48"}, {"locate": "on"}, {"multi_class": True}])
def test_other_options_of_images_see_all_lightings(tmp_path: Path, more: dict[str, Any]) -> None:
    def wide(seed: int, defect: int | None = None) -> np.ndarray[Any, Any]:
        values = np.full((96, 128, 2), 40.0) + np.random.default_rng(seed).normal(0, 3, (96, 128, 2))
        left, top = np.random.default_rng(seed + 1).integers(8, 40, 2)
        values[top : top + 32, left : left + 64] += (120, 90)
        values[top : top + 16, left : left + 20] += 40
        if defect is not None:
            values[top + 18 : top + 28, left + 30 : left + 50, defect] = 10
        return np.clip(values, 0, 255).astype(np.uint8)

    for seed in range(24):
        group = f"{'ab'[seed % 2]}/" if more.get("multi_class") else ""
        write(tmp_path / "good" / group, f"{seed}", wide(seed))
    options = {**ASKED, "image_size": "64sq", **more}
    detector = Detector("padim", backbone=FakeBackbone(), **options).fit(tmp_path / "good")
    clean, scratched = (detector.inspect(wide(100, defect)) for defect in (None, 1))
    defective = wide(100, 1)[..., 1] != wide(100)[..., 1]
    assert scratched.anomaly_map[defective].mean() > clean.anomaly_map[defective].mean()
    assert scratched.anomaly_map.shape == (96, 128)
    assert (scratched.pose is not None) == ("locate" in more)


def test_a_region_of_interest_covers_all_lightings(good: Path, tmp_path: Path) -> None:
    roi = np.zeros(SIZE, np.uint8)
    roi[:, :32] = 255
    cv2.imwrite(str(tmp_path / "roi.png"), roi)
    detector = Detector("padim", backbone=FakeBackbone(), roi=str(tmp_path / "roi.png"), **ASKED).fit(good)
    outside = part(100)
    expected = detector.inspect(outside).score
    outside[20:30, 48:60, 1] = 10
    assert detector.inspect(outside).score == pytest.approx(expected)


def test_levels_are_learned_for_each_lighting(tmp_path: Path) -> None:
    def deep(seed: int, defect: int | None = None) -> list[np.ndarray[Any, Any]]:
        left, right = np.moveaxis(part(seed, defect), 2, 0)
        return [left.astype(np.uint16) * 16, right.astype(np.float32) / 2000 - 1]

    for seed in range(20):
        for side, values in zip(SIDES, deep(seed), strict=True):
            cv2.imwrite(str(tmp_path / f"{seed}_{side}.tiff"), values)
    detector = Detector("padim", backbone=FakeBackbone(), **ASKED).fit(tmp_path)
    left, right = detector.inspector().kind.preprocess.lightings.each
    assert left.levels.uint16 == (0.0, 4095.0)
    assert right.levels.real[0] < right.levels.real[1] < 0
    assert detector.inspect(deep(100)).verdict == "good"
    assert detector.inspect(deep(101, 1)).verdict == "anomalous"
    with pytest.raises(OutOfRange, match="lighting 'right'"):
        detector.inspect([deep(100)[0], deep(100)[1] + 5])


@pytest.mark.parametrize("method", [name for name in HERE if methods.get(name).needs.image])
def test_methods_of_the_picture_itself_are_refused_before_work(good: Path, method: str) -> None:
    with pytest.raises(ConfigError, match="learns the picture itself"):
        Detector(method, **ASKED).fit(good)


def test_other_modalities_have_no_lightings() -> None:
    signals = next(name for name in HERE if methods.get(name).needs.source == "signal")
    from blemish.learning.fit import fit

    with pytest.raises(ConfigError, match="a lighting is for images"):
        fit([], FitOptions(method=signals, lightings=SIDES))


def test_a_turned_part_is_turned_in_all_lightings() -> None:
    sample = np.random.default_rng(0).integers(0, 256, (40, 60, 9)).astype(np.uint8)
    for view in VIEWS.values():
        each = [view(np.ascontiguousarray(sample[..., at : at + 3])) for at in (0, 3, 6)]
        assert np.array_equal(view(sample), np.concatenate(each, axis=2))


def test_power_is_refused_and_says_why(fitted: Detector, good: Path) -> None:
    with pytest.raises(ConfigError, match="a sample of this model is 2"):
        power(fitted.inspector(), layouts.index(good, cut=Cut(lightings=SIDES), kind="image"), model={})


def test_a_file_for_each_lighting_has_no_url(fitted: Detector, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/new: a file for each lighting is read from a folder"):
        inspect(fitted.model, ["s3://bucket/new"], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_export_is_refused_and_says_why(fitted: Detector, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model uses 'lightings'"):
        fitted.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_one_picture_refuses_several(good: Path) -> None:
    plain = Detector("padim", backbone=FakeBackbone(), image_size="64x48", calibration="none", cache=False)
    plain.fit(sorted(good.glob("*_left.png")))
    with pytest.raises(BlemishError):
        plain.inspect({"left": part(1)[..., 0], "right": part(1)[..., 1]})
    with pytest.raises(DataError, match="5\\)"):
        plain.inspect(np.zeros((*SIZE, 5), np.uint8))


def test_content_is_named_by_all_files(good: Path) -> None:
    records = layouts.index(good, cut=Cut(lightings=SIDES), kind="image")
    from blemish.data.image.modality import Images

    assert Images.content(records[0]) != Images.content(records[1])
    assert Images.file_content(records[0]) != content_id(records[0].path.read_bytes())
