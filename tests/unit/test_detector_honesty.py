"""Places where a tool could say more than it knows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from blemish import CalibrationError, ConfigError, DataError, Detector
from blemish.data import layouts
from blemish.data.identity import VERSION, pixels_id
from blemish.data.image.decode import read_image
from blemish.data.image.modality import Images
from blemish.evaluation.report.page import judge
from blemish.inspection.calibrate import unit_id
from tests.fakes import SIZE, FakeBackbone, good_image, write_images, write_mvtec

pytestmark = pytest.mark.slow


def detector(**options: object) -> Detector:
    return Detector("padim", backbone=FakeBackbone(), image_size=56, **options)


def test_copies_of_one_file_promise_nothing(tmp_path: Path) -> None:
    for record in write_images(tmp_path / "good", 4):
        for copy in range(25):
            shutil.copy(record.path, record.path.with_name(f"{record.path.stem}_{copy}.png"))
        record.path.unlink()
    with pytest.warns(UserWarning, match=r"96 of 100 images are copies|without a threshold") as caught:
        made = detector().fit(tmp_path / "good")
    assert len(caught) == 2
    assert made.promise is None
    assert made.model.meta.data.learned_from == 4


def test_a_copy_is_counted_once_when_calibrating(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 100)
    made = detector().fit(tmp_path / "good")
    fresh = write_images(tmp_path / "fresh", 10, first=400)
    for copy in range(20):
        shutil.copy(fresh[0].path, fresh[0].path.with_name(f"copy_{copy}.png"))
    with pytest.warns(UserWarning, match="20 of 30 images are copies"):
        made.calibrate(tmp_path / "fresh", false_alarm_rate=0.1)
    assert made.model.calibrators["f32"].n == 10


def saved_again(folder: Path, into: Path, suffix: str = ".bmp") -> Path:
    """The same pictures in files of other bytes."""
    pictures = sorted(folder.iterdir())
    into.mkdir()
    for path in pictures:
        Image.open(path).save(into / f"again_{path.stem}{suffix}")
    return into


def test_pictures_saved_again_are_copies_in_learning(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 3)
    saved_again(tmp_path / "good", tmp_path / "good" / "bmp")
    with pytest.warns(UserWarning, match=r"3 of 6 images are copies|without a threshold"):
        made = detector().fit(tmp_path / "good")
    assert made.model.meta.data.learned_from == 3


def test_pictures_saved_again_promise_nothing_anew(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 30)
    made = detector(calibration="none").fit(tmp_path / "good")
    again = saved_again(tmp_path / "good", tmp_path / "bmp")
    with pytest.warns(UserWarning, match="30 of 30 images, or their units"), pytest.raises(CalibrationError):
        made.calibrate(again)
    leaky = [replace(r, split="test") for r in layouts.index(again)]
    with pytest.warns(UserWarning, match="30 of 30 test images were learned or calibrated from"):
        assert made.evaluate(leaky).setting.seen_before == 30


def test_one_picture_under_many_time_stamps_counts_once(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 100)
    made = detector().fit(tmp_path / "good")
    (tmp_path / "one").mkdir()
    for i in range(25):
        note = PngImagePlugin.PngInfo()
        note.add_text("time", str(i))
        Image.fromarray(good_image(777)).save(tmp_path / "one" / f"{i}.png", pnginfo=note)
    with pytest.warns(UserWarning, match="24 of 25 images are copies"), pytest.raises(CalibrationError):
        made.calibrate(tmp_path / "one")


def test_a_model_that_knows_its_images_by_their_bytes_still_does(tmp_path: Path) -> None:
    """As models of earlier versions have it: ids without a version, in what was learned and calibrated from."""
    write_images(tmp_path / "good", 100)
    made = detector().fit(tmp_path / "good")
    by_bytes = {Images.content(r): Images.file_content(r) for r in layouts.index(tmp_path / "good")}
    data = made.model.meta.data
    older = replace(
        made.model,
        meta=replace(
            made.model.meta, data=replace(data, content_ids=tuple(sorted(by_bytes[i] for i in data.content_ids)))
        ),
        calibrators={
            name: replace(c, ids=tuple(sorted(by_bytes[i] for i in c.ids)))
            for name, c in made.model.calibrators.items()
        },
    )
    Detector.from_model(older).save(tmp_path / "older")
    loaded = Detector.load(tmp_path / "older")
    everything = [replace(r, split="test") for r in layouts.index(tmp_path / "good")]
    with pytest.warns(UserWarning, match="100 of 100 test images"):
        assert loaded.evaluate(everything).setting.seen_before == 100
    count = data.learned_from
    with pytest.warns(UserWarning, match=f"{count} of 100 images, or their units"):
        loaded.calibrate(tmp_path / "good")
    assert all(name.startswith(VERSION) for name in loaded.model.calibrators["f32"].ids)
    with pytest.warns(UserWarning, match="100 of 100 test images"):  # ids of both kinds in one model
        assert loaded.evaluate(everything).setting.seen_before == 100


def test_new_images_of_a_known_unit_are_left_out_and_the_counting_stays(tmp_path: Path) -> None:
    write_images(tmp_path, 90)
    table = tmp_path / "learn.csv"
    table.write_text("\n".join(["path,unit", *(f"{i:03d}.png,u{i // 2}" for i in range(60))]))
    made = detector(promise_per="unit", false_alarm_rate=0.2).fit(table)
    assert made.model.calibrators["f32"].per_unit
    known = set(made.model.meta.data.units)
    learned = next(r.unit for r in layouts.index(table) if unit_id(r) in known)
    fresh = [f"{i:03d}.png,new{i // 2}" for i in range(60, 80)]
    again = [f"{i:03d}.png,{learned}" for i in range(80, 90)]  # bytes never seen, of a thing that was
    (tmp_path / "more.csv").write_text("\n".join(["path,unit", *fresh, *again]))
    with pytest.warns(UserWarning, match="10 of 30 images"):
        made.calibrate(tmp_path / "more.csv", false_alarm_rate=0.2)
    calibrator = made.model.calibrators["f32"]
    assert (calibrator.n, calibrator.per_unit) == (20, True)
    with pytest.warns(UserWarning, match="10 of 30 images"):
        made.calibrate(tmp_path / "more.csv", false_alarm_rate=0.2, promise_per="image")
    for good in (None, tmp_path / "more.csv"):
        with pytest.raises(ConfigError, match="no promise per 'units'"):
            made.calibrate(good, promise_per="units")
    assert made.promise is not None
    assert made.promise.startswith("about")


@pytest.mark.slow
def test_known_images_in_a_test_set_are_told(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "thing")
    made = detector().fit(root)
    assert made.evaluate(root).setting.seen_before == 0
    leaky = [replace(r, split="test") for r in layouts.index(root)]
    with pytest.warns(UserWarning, match="24 of 32 test images were learned or calibrated from"):
        evaluation = made.evaluate(leaky)
    status, sentence = judge(evaluation.overall, made.inspector().calibrator, evaluation.setting.seen_before)
    assert status == "warn"
    assert "24 of the test images" in sentence


def test_held_out_images_do_not_shape_the_input(tmp_path: Path) -> None:
    """Sixteen-bit images: the white level comes from what is learned from alone."""
    (tmp_path / "good").mkdir()
    for i in range(100):
        array = good_image(i)[:, :, 0].astype(np.uint16) * 8
        Image.fromarray(array).save(tmp_path / "good" / f"{i:03d}.png")
    plain = detector().fit(tmp_path / "good")
    assert plain.model.meta.preprocess["white_uint16"] == 2047
    held = set(plain.model.calibrators["f32"].ids)
    name = next(p for p in sorted((tmp_path / "good").iterdir()) if pixels_id(read_image(p)) in held)
    bright = good_image(0)[:, :, 0].astype(np.uint16) * 8
    bright[5, 5] = 4000
    Image.fromarray(bright).save(name)
    assert detector().fit(tmp_path / "good").model.meta.preprocess["white_uint16"] == 2047
    Image.fromarray(np.full(SIZE, 60000, np.uint16)).save(name)
    with pytest.warns(
        UserWarning, match=f"1 of 20 held-out good parts are refused .*{name.name}: .*where 2047 is white"
    ):
        calibrator = detector().fit(tmp_path / "good").model.calibrators["f32"]
    assert calibrator.n == 19


def test_one_broken_test_image_is_listed_and_left_out(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "thing")
    made = detector().fit(root)
    broken = root / "test" / "good" / "1001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    evaluation = made.evaluate(root)
    assert [image.id for image in evaluation.unread] == ["test/good/1001.png"]
    assert evaluation.overall.good == 3
    evaluation.save_json(tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["unread"][0]["error"]


def test_real_values_of_another_scale_are_refused(tmp_path: Path) -> None:
    made = detector(calibration="none").fit(write_images(tmp_path / "good", 4))
    image = good_image(50)
    unit = made.inspect(image.astype(np.float32) / 255)
    assert unit.score == pytest.approx(made.inspect(image).score, rel=1e-3)
    with pytest.raises(DataError, match="where 1 is white"):
        made.inspect(image.astype(np.float32))


def test_a_link_to_a_model_stays_a_link(tmp_path: Path) -> None:
    made = detector(calibration="none").fit(write_images(tmp_path / "good", 4))
    made.save(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    made.save(tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert Detector.load(tmp_path / "current").inspect(good_image(1)).score >= 0


def test_the_map_is_flat_outside_the_region_of_interest(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[:, : SIZE[1] // 2] = 255
    Image.fromarray(mask).save(tmp_path / "left.png")
    made = detector(calibration="none", roi=tmp_path / "left.png").fit(write_images(tmp_path / "good", 6))
    image = good_image(80)
    image[10:20, 20:30] = 255  # inside, near the border: its light must not cross
    anomaly_map = made.inspect(image).anomaly_map
    assert anomaly_map[:, SIZE[1] // 2 + 4 :].max() == pytest.approx(anomaly_map.min())
    assert anomaly_map[:, : SIZE[1] // 2].max() > anomaly_map.min()
