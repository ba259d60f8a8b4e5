"""A region of interest: what lies outside is never judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish import DataError, Detector
from blemish.data.image.modality import Images, Located
from blemish.data.image.preprocess import Preprocess
from blemish.data.image.roi import pack_roi
from tests.fakes import SIZE, FakeBackbone, defective_image, good_image, write_images


def test_outside_becomes_grey_and_survives_json() -> None:
    mask = np.zeros((96, 128), bool)
    mask[:, 64:] = True
    preprocess = Preprocess(SIZE, roi=pack_roi(mask, SIZE))
    for image in (good_image(0), good_image(0)[:, :, 0]):
        out = Preprocess.from_json(preprocess.to_json())(image)
        assert out.shape == (*SIZE, 3)
        assert (out[:, :32] == 127).all()
        np.testing.assert_array_equal(out[:, 32:], Preprocess(SIZE)(image)[:, 32:])


def test_an_empty_region_is_refused() -> None:
    with pytest.raises(DataError, match="region of interest"):
        pack_roi(np.zeros((5, 5), bool), SIZE)


@pytest.mark.slow
def test_a_defect_outside_changes_nothing(tmp_path: Path, backbone: FakeBackbone) -> None:
    good = write_images(tmp_path / "good", 24)
    clean = good_image(900)
    spotted = clean.copy()
    spotted[defective_image(900)[1]] = 255
    left = np.zeros(SIZE, np.uint8)
    left[:, : SIZE[1] // 2] = 255  # the spot lies in the right half
    Image.fromarray(left).save(tmp_path / "left.png")
    free = Detector("padim", backbone=backbone, image_size=56).fit(good)
    blind = Detector("padim", backbone=backbone, image_size=56, roi=tmp_path / "left.png").fit(good)
    assert free.inspect(spotted).score > 2 * free.inspect(clean).score
    assert blind.inspect(spotted).score == pytest.approx(blind.inspect(clean).score, rel=0.2)


def roi(path: Path, mask: np.ndarray, **options: object) -> Path:
    Image.fromarray(mask).save(path, **options)
    return path


def fitted(folder: Path, mask: Path) -> Detector:
    made = Detector("padim", backbone=FakeBackbone(), image_size=56, roi=mask, calibration="none")
    return made.fit(write_images(folder / "good", 4))


def left(size: tuple[int, int], value: int = 255, other: int = 0) -> np.ndarray:
    mask = np.full(size, other, np.uint8)
    mask[:, : size[1] // 4] = value
    return mask


def test_the_inspected_share_is_said(tmp_path: Path) -> None:
    made = fitted(tmp_path, roi(tmp_path / "left.png", left(SIZE)))
    assert made.model.meta.inspected == pytest.approx(0.25, abs=0.02)
    made.save(tmp_path / "model")
    assert Detector.load(tmp_path / "model").model.describe()["inspected"] == made.model.meta.inspected
    plain = Detector("padim", backbone=FakeBackbone(), image_size=56, calibration="none")
    assert plain.fit(tmp_path / "good").model.meta.inspected is None


def test_a_region_of_labels_that_covers_everything_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"labels\.png: the region of interest covers everything"):
        made = fitted(tmp_path, roi(tmp_path / "labels.png", left(SIZE, 2, 1)))
    assert made.model.meta.inspected == 1


def test_a_region_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"upright\.png: the region of interest is .*, and 000\.png") as caught:
        fitted(tmp_path, roi(tmp_path / "upright.png", left(SIZE).T.copy()))
    assert caught.value.hint
    nearly = left((SIZE[0], round(SIZE[1] * 1.1)))
    with pytest.raises(DataError, match="region of interest"):
        fitted(tmp_path, roi(tmp_path / "wider.png", nearly))


def test_a_region_drawn_on_a_smaller_picture_or_turned_by_exif_fits(tmp_path: Path) -> None:
    small = roi(tmp_path / "small.png", left((SIZE[0] // 5, round(SIZE[1] / 5))))
    share = fitted(tmp_path, small).model.meta.inspected
    turned = Image.Exif()
    turned[0x0112] = 6
    lying = roi(tmp_path / "turned.png", np.ascontiguousarray(np.rot90(left(SIZE))), exif=turned)
    assert fitted(tmp_path, lying).model.meta.inspected == pytest.approx(share, abs=0.05)


def test_one_picture_of_another_shape_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 4)
    Image.fromarray(good_image(9, (SIZE[1], SIZE[0]))).save(tmp_path / "good" / "z.png")
    mask = roi(tmp_path / "r.png", left(SIZE))
    made = Detector("padim", backbone=FakeBackbone(), image_size=56, roi=mask, calibration="none")
    with pytest.raises(DataError, match=r"and z\.png"):
        made.fit(tmp_path / "good")


def test_nothing_is_found_outside() -> None:
    mask = np.zeros(SIZE, bool)
    mask[:, : SIZE[1] // 2] = True
    images = Images(Preprocess(SIZE, roi=pack_roi(mask, SIZE)))
    found = np.full(SIZE, 1.0, np.float32)
    found[:, SIZE[1] // 2 :] = 9.0  # a map does not end at the region: what lies beside it is seen in part
    back = images.back(found, Located(good_image(0)))
    assert back.shape == SIZE
    assert back.max() == 1.0
    assert images.regions(back, 5.0, Located(good_image(0))) == ()
