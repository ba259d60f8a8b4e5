"""Input sizes, 8-bit conversion, resizing, and the way back."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish.data.image.decode import decode_image
from blemish.data.image.preprocess import (
    AREA_TOLERANCE,
    ImageSize,
    Preprocess,
    image_size_of,
    median_aspect,
    parse_image_size,
    resolve,
    to_source,
)
from blemish.errors import ConfigError, DataError

RNG = np.random.default_rng(0)


def test_image_sizes_are_read_and_written() -> None:
    assert parse_image_size("256") == ImageSize(256, 256, keep_aspect=True) == parse_image_size(256)
    assert parse_image_size("320x128") == ImageSize(320, 128)
    assert parse_image_size(" 256sq ") == ImageSize(256, 256)
    for text in ("256", "320x128", "256sq"):
        assert str(parse_image_size(text)) == text


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "256x", "x256", "256 x 128", "25.6", "256SQ", "0x3", "1e3", "٣", "999999"]
)
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="image size") as caught:
        parse_image_size(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "aspect", "stride", "expected"),
    [
        ("256", 1.0, 32, (256, 256)),
        ("256", 1.02, 32, (256, 256)),
        ("256", 1130 / 460, 32, (160, 384)),
        ("256", 460 / 1130, 32, (384, 160)),
        ("320x128", 5.0, 32, (128, 320)),
        ("250x130", 5.0, 32, (128, 256)),
        ("240sq", 2.0, 32, (256, 256)),  # a half goes up
        ("5sq", 2.0, 32, (32, 32)),
        ("256", 1.0, 14, (252, 252)),
    ],
)
def test_resolve_examples(text: str, aspect: float, stride: int, expected: tuple[int, int]) -> None:
    assert resolve(parse_image_size(text), aspect, stride) == expected


def test_resolve_keeps_budget_and_aspect_as_well_as_the_stride_allows() -> None:
    for _ in range(2000):
        side, stride = int(RNG.integers(64, 1025)), int(RNG.choice([1, 4, 8, 14, 16, 32]))
        aspect = float(np.exp(RNG.uniform(-1.5, 1.5)))
        height, width = resolve(ImageSize(side, side, True), aspect, stride)
        assert height % stride == width % stride == 0
        assert min(height, width) >= stride
        ideal = math.sqrt(side * side / aspect), math.sqrt(side * side * aspect)
        assert max(abs(height - ideal[0]), abs(width - ideal[1])) <= stride
        if min(ideal) > 8 * stride:
            assert abs(height * width / side**2 - 1) <= AREA_TOLERANCE
        turned = resolve(ImageSize(side, side, True), 1 / aspect, stride)
        assert turned[0] * turned[1] == pytest.approx(height * width, rel=1e-9)


@pytest.mark.parametrize(("aspect", "stride"), [(0.0, 32), (-1.0, 32), (math.nan, 32), (math.inf, 32), (1.0, 0)])
def test_resolve_refuses(aspect: float, stride: int) -> None:
    with pytest.raises(ConfigError):
        resolve(parse_image_size("256"), aspect, stride)


def test_median_aspect_is_symmetric() -> None:
    assert median_aspect([(100, 100), (200, 100), (100, 200)]) == 1
    sizes = [(int(w), int(h)) for w, h in RNG.integers(10, 500, (8, 2))]
    assert median_aspect([(h, w) for w, h in sizes]) == pytest.approx(1 / median_aspect(sizes))
    with pytest.raises(DataError):
        median_aspect([])


def test_image_size_from_the_header_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(RNG.integers(0, 255, (40, 90), dtype=np.uint8))
    for form, cut in (("PNG", 300), ("JPEG", 500), ("TIFF", None), ("WEBP", None), ("BMP", None)):
        file = io.BytesIO()
        image.save(file, form, **({} if form == "BMP" else {"exif": exif}))
        data = file.getvalue()
        (tmp_path / "a").write_bytes(data[:cut])
        size = image_size_of(tmp_path / "a")
        assert size == ((90, 40) if form == "BMP" else (40, 90))
        assert size == decode_image(data, "a").shape[1::-1]
    (tmp_path / "b").write_bytes(b"text")
    for name in ("b", "absent", "."):
        with pytest.raises(DataError):
            image_size_of(tmp_path / name)


def test_16_bit_and_float_become_8_bit_by_their_white_level() -> None:
    deep = np.array([[0, 1, 2048, 4095, 4100]], np.uint16)
    to_8 = Preprocess((1, 5), white_uint16=4095)
    np.testing.assert_array_equal(to_8(deep)[0, :, 0], [0, 0, 128, 255, 255])
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(every.astype(float) * 255 / 65535)
    np.testing.assert_array_equal(Preprocess((256, 256))(every)[..., 1], expected)
    real = np.array([[-0.01, 0, 0.5, 1, 1.01]], np.float32)
    np.testing.assert_array_equal(Preprocess((1, 5))(real)[0, :, 0], [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(Preprocess((1, 5), white_float=2)(real)[0, :, 2], [0, 0, 64, 128, 129])
    np.testing.assert_array_equal(
        Preprocess((1, 5), white_float=2, black_float=-2)(real)[0, :, 2], [127, 128, 159, 191, 192]
    )
    with pytest.raises(DataError, match="255 where 1 is white"):  # another scale, not an over-exposed image
        Preprocess((1, 5))(real * 255 / 1.01)


def test_the_size_that_is_there_is_kept_bit_for_bit() -> None:
    image = RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Preprocess((9, 11))(image), image)


@pytest.mark.parametrize("size", [(4, 4), (30, 40), (4, 40), (30, 5), (10, 5), (30, 12), (1, 1)])
@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 3), (10, 12, 1)])
def test_resizing_keeps_a_constant_and_the_channels(size: tuple[int, int], shape: tuple[int, ...]) -> None:
    out = Preprocess(size)(np.full(shape, 77, np.uint8))
    assert out.shape == (*size, 3)
    assert out.dtype == np.uint8
    assert (out == 77).all()


def test_grey_is_three_equal_channels_and_colour_stays_rgb() -> None:
    grey = RNG.integers(0, 256, (20, 20), dtype=np.uint8)
    out = Preprocess((7, 31))(grey)
    np.testing.assert_array_equal(out[..., 0], out[..., 1])
    np.testing.assert_array_equal(out, Preprocess((7, 31))(np.dstack([grey] * 3)))
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 9
    assert Preprocess((8, 2))(red)[0, 0].tolist() == [9, 0, 0]


def test_shrinking_takes_the_mean_of_areas_along_each_axis() -> None:
    image = RNG.integers(0, 256, (8, 6), dtype=np.uint8)
    blocks = image.reshape(2, 4, 2, 3).mean((1, 3))
    assert np.abs(Preprocess((2, 2))(image)[..., 0] - blocks).max() <= 0.5
    stripes = np.tile(RNG.integers(0, 256, 64, dtype=np.uint8), (5, 1))  # one axis shrinks, the other grows
    means = stripes[0].reshape(16, 4).mean(1)
    assert np.abs(Preprocess((20, 16))(stripes)[..., 0] - means).max() <= 0.5
    assert np.abs(Preprocess((16, 20))(stripes.T)[..., 0] - means[:, None]).max() <= 0.5


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4))]
)
def test_preprocess_refuses_other_shapes(image: np.ndarray) -> None:
    with pytest.raises(DataError) as caught:
        Preprocess((4, 4))(image)
    assert caught.value.hint


def test_preprocess_refuses_other_types() -> None:
    with pytest.raises(DataError, match="int64"):
        Preprocess((4, 4))(np.zeros((4, 4), np.int64))


def test_preprocess_goes_through_json() -> None:
    chain = Preprocess((224, 320), white_uint16=4095.0, white_float=2.5)
    assert Preprocess.from_json(json.loads(json.dumps(chain.to_json()))) == chain
    good = chain.to_json()
    for change in (
        {"size": [1]},
        {"size": [0, 4]},
        {"size": [1.5, 4]},
        {"size": None},
        {"white_float": 0},
        {"more": 1},
    ):
        with pytest.raises(ConfigError):
            Preprocess.from_json({**good, **change})
    with pytest.raises(ConfigError):
        Preprocess.from_json({"size": [4, 4]})


def test_a_plan_of_an_earlier_version_is_read_and_its_features_are_found_again() -> None:
    before = {"size": [48, 64], "white_uint16": 4095.0, "white_float": 1.0, "roi": None}
    plan = Preprocess.from_json(before)
    assert plan == Preprocess((48, 64), 4095.0)
    assert plan.rendering() == before
    assert Preprocess((48, 64), 4095.0, darkest=90.0).rendering() == before  # names no pixel
    assert Preprocess((48, 64), black_float=-1.0).rendering() != Preprocess((48, 64)).rendering()


def test_maps_go_back_to_the_source() -> None:
    values = RNG.normal(0, 100, (8, 10)).astype(np.float32)
    np.testing.assert_array_equal(to_source(values, (8, 10)), values)
    back = to_source(values, (40, 30))
    assert back.shape == (40, 30)
    assert back.dtype == np.float32
    assert values.min() <= back.min()
    assert back.max() <= values.max()
    np.testing.assert_allclose(to_source(values * 3, (40, 30)), back * 3, rtol=1e-4, atol=1e-2)
    peak = np.zeros((8, 8), np.float32)
    peak[2, 5] = 1
    y, x = np.unravel_index(to_source(peak, (80, 160)).argmax(), (80, 160))
    assert 20 <= y < 30
    assert 100 <= x < 120
