"""The facade, and the promises that are its own."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish import CalibrationError, ConfigError, Detector, EngineError, ModelFileError, NotFittedError
from blemish.runtime.engines import open_engine
from tests.fakes import FakeBackbone, defective_image, good_image, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("detector")
    write_images(root / "good", 100)
    write_images(root / "more", 30, first=500)
    return root


@pytest.fixture(scope="module")
def detector(folder: Path) -> Detector:
    return Detector("padim", backbone=FakeBackbone(), image_size=56).fit(folder / "good")


def test_words_for_people(detector: Detector) -> None:
    assert detector.promise == "at most 0.05 of good parts rejected, from 20 held-out good images"
    assert detector.inspect(defective_image(0)[0]).verdict == "anomalous"


def test_every_kind_of_input_gives_the_same_score(detector: Detector, tmp_path: Path) -> None:
    import torch

    image = good_image(700)
    Image.fromarray(image).save(tmp_path / "x.png")
    sources = [image, Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1), tmp_path / "x.png"]
    scores = {detector.inspect(source).score for source in [*sources, str(tmp_path / "x.png")]}
    assert len(scores) == 1


def test_maps_come_in_source_pixels(detector: Detector) -> None:
    image = np.asarray(Image.fromarray(good_image(1)).resize((200, 90)))
    assert detector.inspect(image).anomaly_map.shape == (90, 200)


def test_saved_and_loaded_gives_the_same_bits(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "m")
    loaded = Detector.load(tmp_path / "m")
    image = defective_image(3)[0]
    a, b = detector.inspect(image), loaded.inspect(image)
    assert a.score == b.score
    assert np.array_equal(a.anomaly_map, b.anomaly_map)
    assert a.regions == b.regions
    assert loaded.promise == detector.promise


def test_a_folder_in_the_way_is_not_overwritten(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(ModelFileError, match="no model folder"):
        detector.save(tmp_path)


def test_another_rate_from_the_held_out_images(folder: Path) -> None:
    detector = Detector("padim", backbone=FakeBackbone(), image_size=56).fit(folder / "good")
    score = detector.inspect(good_image(900)).score
    strict, loose = (detector.calibrate(false_alarm_rate=r).inspect(good_image(900)) for r in (0.05, 0.4))
    assert strict.score == loose.score == score
    assert strict.threshold > loose.threshold
    with pytest.raises(CalibrationError, match="20 good images"):
        detector.calibrate(false_alarm_rate=0.01)


def test_calibrating_leaves_out_what_was_learned_from(detector: Detector, folder: Path) -> None:
    mixed = [*sorted((folder / "good").iterdir()), *sorted((folder / "more").iterdir())]
    other = Detector.from_model(detector.model)
    with pytest.warns(UserWarning, match="80 of 130 images, or their units, were learned from"):
        other.calibrate(mixed, false_alarm_rate=0.1)
    assert other.model.calibrators["f32"].n == 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.calibrate(folder / "more", false_alarm_rate=0.1)
    assert other.model.calibrators["f32"].n == 30
    learned = sorted((folder / "good").iterdir())
    with pytest.warns(UserWarning, match="learned from"), pytest.raises(CalibrationError):
        Detector.from_model(detector.model).calibrate(learned[:1] * 30, false_alarm_rate=0.1)


def test_results_come_in_order_and_lazily(detector: Detector) -> None:
    asked = []

    def images() -> object:
        for i in range(50):
            asked.append(i)
            yield good_image(i)

    results = detector.inspect_many(images())
    first = next(results)
    assert len(asked) < 20
    assert first.score == detector.inspect(good_image(0)).score
    assert [r.score for r in results] == [detector.inspect(good_image(i)).score for i in range(1, 50)]


def test_errors_of_the_facade(detector: Detector, folder: Path) -> None:
    with pytest.raises(NotFittedError):
        Detector("padim", backbone=FakeBackbone()).inspect(good_image(0))
    with pytest.raises(ConfigError, match="unknown option 'rigde'") as caught:
        Detector("padim", rigde=1)
    assert "ridge" in caught.value.hint
    with pytest.raises(ConfigError, match="no method 'padm'"):
        Detector("padm")
    with pytest.raises(ConfigError, match="cannot be fitted again"):
        Detector.from_model(detector.model).fit(folder / "good")
    with pytest.raises(EngineError, match="needs the fitted method"):
        open_engine(detector.model.graph, "torch")
    reference = Detector.from_model(detector.model, backbone=FakeBackbone()).inspector("torch")
    assert reference.inspect(good_image(0)).score == pytest.approx(
        detector.inspector("onnxruntime").inspect(good_image(0)).score, rel=1e-4
    )
