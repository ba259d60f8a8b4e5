"""A region of interest: what lies outside is never judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish import DataError, Detector
from blemish.data.geometry import Preprocess, pack_roi
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
