"""Ranges of values: learned from good images; what lies outside is an error, never a picture of one grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from blemish.data.image.decode import read_image
from blemish.data.image.levels import Levels, learn, measure
from blemish.data.image.preprocess import Preprocess
from blemish.errors import DataError
from blemish.learning.sources.image import plan_geometry
from blemish.types import Record

SIZE = (48, 64)


def part(seed: int) -> NDArray[np.float64]:
    """(H, W) in [0.1, 0.9]: stripes with noise."""
    wave = 0.5 + 0.3 * np.sin(np.arange(SIZE[0]) / 3)[:, None]
    return (wave + np.random.default_rng(seed).normal(0, 0.02, SIZE)).clip(0.1, 0.9)


FORMS: dict[str, Any] = {
    "8 bits": lambda a: (255 * a).astype(np.uint8),
    "10 bits": lambda a: (1023 * a).astype(np.uint16),
    "12 bits": lambda a: (4095 * a).astype(np.uint16),
    "12 bits shifted": lambda a: (4095 * a).astype(np.uint16) << 4,
    "16 bits": lambda a: (65535 * a).astype(np.uint16),
    "thermal": lambda a: (30000 + 900 * a).astype(np.uint16),
    "signed": lambda a: (1000 * a - 1000).astype(np.int16),
    "0 to 1": lambda a: a.astype(np.float32),
    "0 to 255": lambda a: (255 * a).astype(np.float32),
    "-1 to 0": lambda a: (a - 1).astype(np.float32),
    "-1 to 1": lambda a: (2 * a - 1).astype(np.float32),
    "0 to 0.001": lambda a: (1e-3 * a).astype(np.float32),
    "heights": lambda a: (250 + a).astype(np.float32),
    "0 to 1e6": lambda a: (1e6 * a).astype(np.float32),
}


def write(folder: Path, form: str, seeds: range) -> list[Record]:
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for seed in seeds:
        path = folder / f"{seed}.tif"
        tifffile.imwrite(path, FORMS[form](part(seed)))
        records.append(Record(path.name, path))
    return records


@pytest.mark.parametrize("form", FORMS)
def test_every_range_keeps_its_contrast_and_no_good_image_is_cut(tmp_path: Path, form: str) -> None:
    records = write(tmp_path, form, range(6))
    plan = plan_geometry(records, "64x48", 16)
    unseen = write(tmp_path, form, range(10, 16))
    grey = np.stack([plan(read_image(r.path))[..., 0] for r in unseen]).astype(float)
    assert np.ptp(grey) > 90  # of 255: the least is 10 bits in a range of 10 bits, .1 to .9 of them, less noise
    assert ((grey == 0) | (grey == 255)).mean() < 0.01
    expected = np.stack([part(seed) for seed in range(10, 16)])
    assert np.corrcoef(grey.ravel(), expected.ravel())[0, 1] > 0.995


OUTSIDE = [
    ("12 bits", "12 bits shifted"), ("12 bits shifted", "12 bits"), ("12 bits", "16 bits"), ("16 bits", "10 bits"),
    ("8 bits", "12 bits"), ("8 bits", "-1 to 0"), ("8 bits", "-1 to 1"), ("8 bits", "0 to 0.001"),
    ("8 bits", "0 to 255"), ("8 bits", "signed"), ("0 to 1", "-1 to 0"), ("0 to 1", "-1 to 1"), ("0 to 1", "0 to 255"),
    ("0 to 1", "0 to 0.001"), ("0 to 255", "0 to 1"), ("-1 to 0", "0 to 1"), ("heights", "0 to 1"),
    ("0 to 1", "heights"), ("0 to 0.001", "0 to 1"), ("signed", "0 to 1"), ("thermal", "12 bits"),
    ("12 bits", "thermal"),
]  # fmt: skip


@pytest.mark.parametrize(("learned", "given"), OUTSIDE)
def test_an_image_of_another_range_is_an_error_that_says_so(tmp_path: Path, learned: str, given: str) -> None:
    plan = plan_geometry(write(tmp_path / "good", learned, range(6)), "64x48", 16)
    with pytest.raises(DataError, match=r"where .* is white|lie outside of|of 255 bright") as caught:
        plan(read_image(write(tmp_path / "new", given, range(20, 21))[0].path))
    assert caught.value.hint


@pytest.mark.parametrize("form", ["8 bits", "12 bits", "0 to 1"])
def test_no_light_is_an_error_and_a_dark_or_bright_defect_is_none(tmp_path: Path, form: str) -> None:
    plan = plan_geometry(write(tmp_path / "good", form, range(6)), "64x48", 16)
    with pytest.raises(DataError, match="of 255 bright"):
        plan(FORMS[form](np.zeros(SIZE)))
    for value in (0.0, 1.0):
        image = part(30)
        image[10:20, 10:20] = value
        plan(FORMS[form](image))


def test_twice_as_bright_is_refused_and_a_little_brighter_is_cut() -> None:
    plan = Preprocess(SIZE)
    image = part(0).astype(np.float32)
    assert plan(image * 1.05).max() > plan(image).max()
    with pytest.raises(DataError, match="lie outside of 0 to 1"):
        plan(image * 2)


def test_a_set_of_8_and_16_bits_keeps_both(tmp_path: Path) -> None:
    records = [*write(tmp_path / "a", "8 bits", range(10)), *write(tmp_path / "b", "12 bits", range(10, 12))]
    plan = plan_geometry(records, "64x48", 16)
    means = [plan(read_image(r.path)).mean() for r in records]
    assert max(means) - min(means) < 5


def test_a_set_whose_kinds_do_not_fit_together_is_refused(tmp_path: Path) -> None:
    dark = [Record(str(i), tmp_path / f"{i}.png") for i in range(3)]
    for i, record in enumerate(dark):
        values = (4095 * part(i)).astype(np.uint16)
        values[0, 0] = 65535
        Image.fromarray(values).save(record.path)
    with pytest.raises(DataError, match="10 of 8-bit values .* 3 of 16-bit values"):
        plan_geometry([*write(tmp_path / "a", "8 bits", range(10)), *dark], "64x48", 16)


@pytest.mark.parametrize("mark", [-9999.0, 1e9])
def test_marks_for_missing_values_are_named(mark: float) -> None:
    images = [part(i).astype(np.float32) for i in range(4)]
    images[2][5, 5] = mark
    with pytest.raises(DataError, match="98 % of the values") as caught:
        learn([measure(image) for image in images])
    assert "-9999" in str(caught.value.hint)


def test_images_of_one_value_teach_nothing() -> None:
    with pytest.raises(DataError, match="show nothing"):
        learn([measure(np.full(SIZE, 90, np.uint8))] * 3)


def test_conventions_hold_for_what_was_not_learned_from() -> None:
    levels = learn([measure((255 * part(0)).astype(np.uint8))])
    assert (levels.uint16, levels.real) == ((0, 65535), (0, 1))
    assert levels.darkest > 200
    assert learn([]) == Levels()


@pytest.mark.parametrize(
    ("top", "white"), [(200, 255), (256, 511), (1023, 1023), (4000, 4095), (16383, 16383), (40000, 65535)]
)
def test_cameras_of_any_bits(top: int, white: int) -> None:
    values = np.linspace(0, top, 48 * 64).reshape(SIZE).astype(np.uint16)
    assert learn([measure(values)]).uint16 == (0, white)
