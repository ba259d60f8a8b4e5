"""The facade, and the promises that are its own."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish import CalibrationError, ConfigError, DataError, Detector, EngineError, ModelFileError, NotFittedError
from blemish.inspection.engines import open_engine
from tests.fakes import FakeBackbone, defective_image, good_image, write_images

pytestmark = [pytest.mark.numeric, pytest.mark.slow]


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
    produced = []

    def images() -> object:
        for i in range(50):
            produced.append(i)
            yield good_image(i)

    results = detector.inspect_many(images())
    first = next(results)
    assert len(produced) < 20
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
        open_engine(detector.model.graph, "reference")
    reference = Detector.from_model(detector.model, backbone=FakeBackbone()).inspector("reference")
    assert reference.inspect(good_image(0)).score == pytest.approx(
        detector.inspector("onnxruntime").inspect(good_image(0)).score, rel=1e-4
    )


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_uploads_and_open_files(detector: Detector, tmp_path: Path) -> None:
    image = good_image(710)
    expected = detector.inspect(image).score
    (tmp_path / "x.png").write_bytes(png(image))
    with (tmp_path / "x.png").open("rb") as file:
        assert detector.inspect(file).score == expected
        assert file.read(4) == b"\x89PNG"  # open, and where it was
    with (tmp_path / "x.png").open(encoding="latin-1") as file, pytest.raises(DataError, match="opened as text"):
        detector.inspect(file)
    for one in (png(image), bytearray(png(image)), io.BytesIO(png(image))):
        assert detector.inspect(one).score == expected
        [result] = detector.inspect_many(one)  # one image, not a row of its bytes
        assert (result.score, result.image_path) == (expected, None)

    def opened() -> Iterator[Any]:
        for _ in range(12):
            with (tmp_path / "x.png").open("rb") as file:
                yield file  # closed as soon as the next one is asked for

    assert {result.score for result in detector.inspect_many(opened())} == {expected}


def test_an_array_that_the_caller_uses_again_is_inspected_as_it_was(detector: Detector) -> None:
    frame = np.empty_like(good_image(0))

    def camera() -> Iterator[np.ndarray]:
        for i in range(12):
            frame[:] = good_image(i)
            yield frame

    expected = [detector.inspect(good_image(i)).score for i in range(12)]
    assert [result.score for result in detector.inspect_many(camera())] == expected


def test_one_image_is_not_a_row_of_its_lines(detector: Detector) -> None:
    for image in (good_image(0), good_image(0)[..., 0]):
        with pytest.raises(DataError, match="is one image, not several"):
            detector.inspect_many(image)
    stack = np.stack([good_image(0), good_image(1)])
    assert [r.score for r in detector.inspect_many(stack)] == [detector.inspect(i).score for i in stack]
    for value in (None, 3, Image.fromarray(good_image(0))):
        with pytest.raises(DataError, match="is not a list of images"):
            detector.inspect_many(value)  # type: ignore[arg-type]


def test_a_path_is_one_path(detector: Detector, tmp_path: Path) -> None:
    records = write_images(tmp_path / "new", 3, first=800)
    path = records[0].path
    assert [r.image_path for r in detector.inspect_many(str(path))] == [str(path)]
    assert [r.image_path for r in detector.inspect_many(path)] == [str(path)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r.image_path for r in detector.inspect_many(tmp_path / "new")] == [str(r.path) for r in records]
    (tmp_path / "new" / "801x.heic").write_bytes(b"?")
    (tmp_path / "new" / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"1 other file was not inspected: 1 \.txt"):
        results = list(detector.inspect_many(tmp_path / "new", errors="yield"))
    assert [isinstance(r, DataError) for r in results] == [False, False, True, False]
    assert "HEIC is not read" in str(results[2])
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "gone.png"):
        with pytest.raises(DataError, match=wrong.name):
            list(detector.inspect_many(wrong))
    pandas = pytest.importorskip("pandas")
    for several in (pandas.Series([str(r.path) for r in records]), np.array([r.path for r in records], object)):
        assert len(list(detector.inspect_many(several))) == 3


def test_what_becomes_of_a_bad_one(detector: Detector, tmp_path: Path) -> None:
    good = [r.path for r in write_images(tmp_path, 5, first=850)]
    sources = [good[0], "gone.png", good[1], io.BytesIO(), good[2], b"no image"]
    results = list(detector.inspect_many(sources, errors="yield"))
    assert [isinstance(r, DataError) for r in results] == [False, True, False, True, False, True]
    got: list[Any] = []
    with pytest.raises(DataError, match=r"gone\.png"):
        got.extend(detector.inspect_many([good[0], "gone.png", good[1]]))
    for batch in (1, 3):
        line, got = detector.inspector(threads=2, batch=batch), []
        with pytest.raises(ZeroDivisionError):
            got.extend(line.inspect_many(path if i < 4 else 1 / 0 for i, path in enumerate(good)))  # type: ignore[misc]
        assert [r.image_path for r in got] == [str(path) for path in good[:4]]  # what came before is not lost
    with pytest.raises(ConfigError, match="'raise' or 'yield'"):
        detector.inspect_many(good, errors="ignore")  # type: ignore[arg-type]
    with pytest.warns(DeprecationWarning, match="errors='yield'"):
        old = list(line.inspect_many(["gone.png"], errors=True))
    assert isinstance(old[0], DataError)


def test_a_detector_is_pickled_and_copied_after_use(detector: Detector, tmp_path: Path) -> None:
    image = good_image(720)
    expected = detector.inspect(image).score
    for other in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert other.inspect(image).score == expected
        assert other.promise == detector.promise


@pytest.mark.parametrize("start_method", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods())))
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_pools_of_processes(detector: Detector, start_method: str) -> None:
    loaded = Detector.from_model(detector.model)  # its backbone is a test's own
    images = [good_image(i) for i in range(4)]
    expected = [loaded.inspect(image).score for image in images]
    with multiprocessing.get_context(start_method).Pool(2) as pool:
        assert [r.score for r in pool.map_async(loaded.inspect, images).get(120)] == expected


def test_the_engine_s_old_name_works_for_one_version(detector: Detector) -> None:
    line = Detector.from_model(detector.model, backbone=FakeBackbone())
    with pytest.warns(DeprecationWarning, match="is called 'reference' now"):
        old = line.inspector("torch")
    assert old.inspect(good_image(0)).score == line.inspector("reference").inspect(good_image(0)).score
