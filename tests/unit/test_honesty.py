"""Places where a tool could say more than it knows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish import DataError, Detector
from blemish.data import layouts
from blemish.report import judge
from blemish.runtime.scores import unit_id
from tests.fakes import SIZE, FakeBackbone, good_image, write_images, write_mvtec


def detector(**options: object) -> Detector:
    return Detector("padim", backbone=FakeBackbone(), image_size=56, **options)


def test_copies_of_one_file_promise_nothing(tmp_path: Path) -> None:
    for record in write_images(tmp_path / "good", 4):
        for copy in range(25):
            shutil.copy(record.path, record.path.with_name(f"{record.path.stem}_{copy}.png"))
        record.path.unlink()
    with pytest.warns(UserWarning, match=r"96 of 100 images are copies|without a threshold") as said:
        made = detector().fit(tmp_path / "good")
    assert len(said) == 2
    assert made.promise is None
    assert made.model.meta["data"]["learned_from"] == 4


def test_a_copy_is_counted_once_when_calibrating(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 100)
    made = detector().fit(tmp_path / "good")
    fresh = write_images(tmp_path / "fresh", 10, first=400)
    for copy in range(20):
        shutil.copy(fresh[0].path, fresh[0].path.with_name(f"copy_{copy}.png"))
    made.calibrate(tmp_path / "fresh", false_alarm_rate=0.1)
    assert made.model.calibrators["f32"].n == 10


def test_new_images_of_a_known_unit_are_left_out_and_the_counting_stays(tmp_path: Path) -> None:
    write_images(tmp_path, 90)
    table = tmp_path / "learn.csv"
    table.write_text("\n".join(["path,unit", *(f"{i:03d}.png,u{i // 2}" for i in range(60))]))
    made = detector(promise_per="unit", false_alarm_rate=0.2).fit(table)
    assert made.model.calibrators["f32"].per_unit
    known = set(made.model.meta["data"]["units"])
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
    assert made.promise is not None
    assert made.promise.startswith("about")


def test_known_images_in_a_test_set_are_told(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "thing")
    made = detector().fit(root)
    assert made.evaluate(root).setting["seen_before"] == 0
    leaky = [replace(r, split="test") for r in layouts.index(root)]
    with pytest.warns(UserWarning, match="24 of 32 test images were learned or calibrated from"):
        evaluation = made.evaluate(leaky)
    status, sentence = judge(evaluation.overall, made.inspector().calibrator, evaluation.setting["seen_before"])
    assert status == "warn"
    assert "24 of the test images" in sentence


def test_held_out_images_do_not_shape_the_input(tmp_path: Path) -> None:
    """Sixteen-bit images: the white level comes from what is learned from alone."""
    (tmp_path / "good").mkdir()
    for i in range(100):
        array = good_image(i)[:, :, 0].astype(np.uint16) * 8
        Image.fromarray(array).save(tmp_path / "good" / f"{i:03d}.png")
    plain = detector().fit(tmp_path / "good")
    assert plain.model.meta["preprocess"]["white_uint16"] == 2047
    held = set(plain.model.calibrators["f32"].ids)
    from blemish.data.decode import content_id

    name = next(p for p in sorted((tmp_path / "good").iterdir()) if content_id(p.read_bytes()) in held)
    bright = good_image(0)[:, :, 0].astype(np.uint16) * 8
    bright[5, 5] = 4000
    Image.fromarray(bright).save(name)
    assert detector().fit(tmp_path / "good").model.meta["preprocess"]["white_uint16"] == 2047
    Image.fromarray(np.full(SIZE, 60000, np.uint16)).save(name)
    with pytest.raises(DataError, match=f"{name.name}: .*where 2047 is white"):
        detector().fit(tmp_path / "good")


def test_one_broken_test_image_is_listed_and_left_out(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "thing")
    made = detector().fit(root)
    broken = root / "test" / "good" / "1001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    evaluation = made.evaluate(root)
    assert [image["id"] for image in evaluation.unread] == ["test/good/1001.png"]
    assert evaluation.overall["good"] == 3
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
