"""Every kind of file and value becomes the array it should, or an error that names it."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from blemish.data.decode import as_image, decode_image, over_black, read_image, read_mask
from blemish.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
RGB = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 17), dtype=np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (12, 17, 3), dtype=np.uint16)


def encoded(image: Any, form: str, **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def by_opencv(image: np.ndarray, suffix: str) -> bytes:
    channels = image[..., [2, 1, 0, 3][: image.shape[2]]] if image.ndim == 3 else image
    done, data = cv2.imencode(suffix, np.ascontiguousarray(channels))
    assert done
    return data.tobytes()


def by_tifffile(image: np.ndarray, **options: Any) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def same(data: bytes, expected: np.ndarray) -> None:
    array = decode_image(data, "x")
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)
    assert array.flags.c_contiguous
    assert array.flags.writeable


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("form", "options"), LOSSLESS)
def test_colour_is_kept_bit_for_bit(form: str, options: dict[str, Any]) -> None:
    same(encoded(RGB, form, **options), RGB)


@pytest.mark.parametrize(("form", "options"), LOSSLESS[:-1])
def test_grey_is_kept_bit_for_bit(form: str, options: dict[str, Any]) -> None:
    same(encoded(GREY, form, **options), GREY)


def test_jpeg_is_what_pillow_makes_of_it() -> None:
    for image in (GREY, RGB):
        data = encoded(image, "JPEG", quality=90)
        same(data, np.array(Image.open(io.BytesIO(data))))


def test_top_down_bmp_agrees_with_pillow() -> None:
    data = bytearray(encoded(RGB, "BMP"))
    data[22:26] = struct.pack("<i", -12)
    same(bytes(data), RGB[::-1])


def test_webp_lossy_and_animated_give_the_first_frame() -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    same(data, np.full((8, 8, 3), 10, np.uint8))


def test_multi_page_tiff_and_apng_give_the_first_frame() -> None:
    pages = [Image.fromarray(np.full((8, 9), value, np.uint8)) for value in (10, 200)]
    for form in ("TIFF", "PNG"):
        same(encoded(pages[0], form, save_all=True, append_images=pages[1:]), np.full((8, 9), 10, np.uint8))


def test_16_bit_grey_and_colour_keep_every_bit() -> None:
    same(encoded(DEEP, "PNG"), DEEP)
    same(encoded(DEEP, "TIFF"), DEEP)
    same(by_opencv(DEEP_RGB, ".png"), DEEP_RGB)
    same(by_tifffile(DEEP_RGB, photometric="rgb"), DEEP_RGB)
    same(by_tifffile(DEEP_RGB, photometric="rgb", byteorder=">", tile=(16, 16)), DEEP_RGB)
    same(by_tifffile(DEEP, byteorder=">"), DEEP)
    same(by_tifffile(DEEP, bigtiff=True), DEEP)


def test_16_bit_alpha_is_laid_over_black() -> None:
    rgba = np.dstack([DEEP_RGB, DEEP])
    expected = np.rint(DEEP_RGB.astype(float) * DEEP[..., None] / 65535)
    for data in (by_opencv(rgba, ".png"), by_tifffile(rgba, photometric="rgb", extrasamples=["unassalpha"])):
        array = decode_image(data, "x")
        assert array.dtype == np.uint16
        assert np.abs(array - expected).max() <= 1


def test_16_bit_png_with_a_colour_key_and_with_a_lying_chunk() -> None:
    data = by_opencv(DEEP_RGB, ".png")
    same(data[:33] + chunk(b"tRNS", b"\0" * 6) + data[33:], DEEP_RGB)
    lying = data[:33] + struct.pack(">I", 0xF0000000) + data[37:]  # OpenCV alone would allocate that much
    with pytest.raises(DataError, match="past the end"):
        decode_image(lying, "x")


def test_white_is_zero_is_turned() -> None:
    same(by_tifffile(DEEP, photometric="miniswhite"), 65535 - DEEP)
    same(by_tifffile(GREY, photometric="miniswhite"), 255 - GREY)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "int8", "int32", "uint32"])
def test_other_tiff_depths_become_float32_with_their_values(kind: str) -> None:
    values = (RNG.random((12, 17)) * 120 - (0 if kind[0] == "u" else 60)).astype(kind)
    same(by_tifffile(values), values.astype(np.float32))


def test_large_uint32_does_not_wrap() -> None:
    values = np.full((4, 5), 3_000_000_000, np.uint32)
    same(by_tifffile(values), values.astype(np.float32))


def test_float_colour_tiff() -> None:
    values = RNG.random((12, 17, 3)).astype(np.float32)
    same(by_tifffile(values, photometric="rgb"), values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_tiff_is_refused(bad: float, tmp_path: Path) -> None:
    values = np.zeros((4, 5), np.float32)
    values[1, 2] = bad
    (tmp_path / "f.tif").write_bytes(by_tifffile(values))
    with pytest.raises(DataError, match=r"f\.tif.*NaN or infinite") as caught:
        read_image(tmp_path / "f.tif")
    assert caught.value.hint


@pytest.mark.parametrize("channels", [2, 4, 5, 6])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_other_channel_counts_are_refused_rather_than_misread(channels: int, kind: str, planar: str) -> None:
    values = RNG.integers(0, 200, (12, 17, channels)).astype(kind)
    values = values if planar == "contig" else np.moveaxis(values, -1, 0)
    data = by_tifffile(values, photometric="minisblack", planarconfig=planar)
    with pytest.raises(DataError, match="many.tif"):
        decode_image(data, "many.tif")


def test_planar_tiff_is_right_or_refused() -> None:
    same(by_tifffile(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"), RGB)
    data = by_tifffile(np.moveaxis(DEEP_RGB, -1, 0), photometric="rgb", planarconfig="separate")
    with pytest.raises(DataError, match="separate planes"):  # OpenCV would mix them up without a word
        decode_image(data, "planes.tif")


def test_alpha_is_laid_over_black() -> None:
    image = np.zeros((1, 3, 4), np.uint8)
    image[0, :, :3] = 200, 100, 50
    image[0, :, 3] = 0, 128, 255
    expected = np.array([[[0, 0, 0], [100, 50, 25], [200, 100, 50]]], np.uint8)
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        same(encoded(image, form, **options), expected)
    same(encoded(Image.fromarray(image[..., [0, 3]], "LA"), "PNG"), expected[..., 0])
    np.testing.assert_allclose(over_black(image / np.float32(255)) * 255, expected, atol=0.5)


def test_transparent_colour_key() -> None:
    image = np.array([[[9, 9, 9], [1, 2, 3]]], np.uint8)
    same(encoded(image, "PNG", transparency=(9, 9, 9)), np.array([[[0, 0, 0], [1, 2, 3]]], np.uint8))
    same(encoded(image[..., 0], "PNG", transparency=9), np.array([[0, 1]], np.uint8))


def test_palette_becomes_rgb() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    colours = np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8)
    for form in ("PNG", "BMP", "TIFF"):
        same(encoded(image, form), colours)
    colours[0, 1] = 0
    same(encoded(image, "PNG", transparency=1), colours)
    same(encoded(image, "PNG", transparency=bytes([255, 0, 255])), colours)


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    same(encoded(image, "TIFF"), red)
    array = decode_image(encoded(image, "JPEG", quality=100), "x")
    assert np.abs(array.astype(int) - red).max() < 5


def test_one_bit_becomes_0_and_255() -> None:
    bits = GREY > 99
    for form in ("PNG", "BMP", "TIFF"):
        same(encoded(Image.fromarray(bits), form), bits.astype(np.uint8) * 255)


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_applied(value: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turned = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright),
    }[value]
    exif = Image.Exif()
    exif[0x0112] = value
    for form, options in (("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})):
        same(encoded(upright, form, exif=exif, **options), turned)
    same(encoded(upright, "WEBP", exif=exif, lossless=True), np.dstack([turned] * 3))
    assert decode_image(encoded(upright, "JPEG", exif=exif), "x").shape == turned.shape
    deep = upright.astype(np.uint16) * 257
    colour = by_tifffile(np.dstack([deep] * 3), photometric="rgb", extratags=[(274, "H", 1, value, True)])
    same(colour, np.dstack([turned.astype(np.uint16) * 257] * 3))
    double = by_tifffile(upright.astype(np.float64), extratags=[(274, "H", 1, value, True)])
    same(double, turned.astype(np.float32))
    image = Image.open(io.BytesIO(encoded(upright, "PNG", exif=exif)))
    np.testing.assert_array_equal(as_image(image), turned)


def bad_files(folder: Path) -> dict[str, Path]:
    png, jpeg, bmp = encoded(RGB, "PNG"), encoded(RGB, "JPEG"), encoded(RGB, "BMP")
    tiff, deep = encoded(RGB, "TIFF"), by_opencv(DEEP_RGB, ".png")
    contents = {
        "empty.png": b"",
        "text.png": b"no image at all\n",
        "half.png": png[: len(png) // 2],
        "half.jpg": jpeg[: len(jpeg) - 200],
        "half.bmp": bmp[: len(bmp) - 9],
        "half.tif": tiff[:300],
        "deep_half.tif": by_tifffile(GREY.astype(np.float64))[:-100],
        "deep_half.png": deep[: len(deep) // 2],
        "header.png": png[:20],
        "header.tif": b"II*\x00\x08\x00\x00\x00",
        "tags.tif": b"MM\x00*\x00\x00\x00\x08\x00\x01\xff",
        "other.gif": encoded(GREY, "GIF"),
        "flipped.png": png[:60] + bytes(byte ^ 255 for byte in png[60:90]) + png[90:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    return {name: folder / name for name in [*contents, "folder.png", "absent.png"]}


def test_every_bad_file_is_named_with_a_hint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert name in str(caught.value)
        assert caught.value.hint
        assert caught.value.path == path
    assert capfd.readouterr() == ("", "")  # OpenCV's decoders like to talk


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(encoded(GREY, "PNG"))

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"locked\.png.*permission"):
        read_image(path)


def bomb(width: int, height: int) -> bytes:
    """A grey PNG that claims a size, made without holding it decoded."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (10_001, 10_000)])
def test_a_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"bomb\.png: image is too large") as caught:
            decode_image(bomb(width, height), "bomb.png")
        assert "max_pixels" in str(caught.value.hint)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_limit_is_the_callers_and_counts_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(GREY, "PNG"))
    assert read_image(path, max_pixels=GREY.size).shape == GREY.shape
    with pytest.raises(DataError, match="more than 203 pixels"):
        read_image(path, max_pixels=GREY.size - 1)
    with pytest.raises(DataError, match="bytes"):
        read_image(path, max_pixels=1)
    with pytest.raises(DataError, match="more than 50 pixels"):
        decode_image(by_tifffile(GREY.astype(np.float64)), "x", max_pixels=50)


def test_no_warning_of_pillows_gets_out_of_threads_either() -> None:
    large = bomb(9_600, 9_600)  # between Pillow's warning and its error
    tiff = bytearray(encoded(RGB, "TIFF"))
    errors: list[BaseException] = []

    def work() -> None:
        for data in (large, bytes(tiff[:200]), encoded(RGB, "PNG")):
            try:
                decode_image(data, "x")
            except DataError:
                pass
            except BaseException as error:
                errors.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
    assert not errors


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_as_image_keeps_canonical_arrays(kind: type, shape: tuple[int, ...]) -> None:
    values = RNG.integers(0, 200, shape).astype(kind)
    np.testing.assert_array_equal(as_image(values), values)
    assert as_image(values).dtype == kind


def test_as_image_brings_others_into_shape() -> None:
    assert as_image(GREY[..., None]).shape == GREY.shape
    np.testing.assert_array_equal(as_image(GREY > 99), (GREY > 99).astype(np.uint8) * 255)
    for kind in (np.int64, np.int32, np.uint32, np.float64, np.float16):
        assert as_image(GREY.astype(kind)).dtype == np.float32
        np.testing.assert_array_equal(as_image(GREY.astype(kind)), GREY)
    big_endian = as_image(DEEP.astype(">u2"))
    assert big_endian.dtype == np.uint16
    assert big_endian.dtype.isnative
    np.testing.assert_array_equal(big_endian, DEEP)
    rgba = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    np.testing.assert_array_equal(as_image(rgba), RGB)
    assert as_image(RGB[::-1, ::-1]).flags.c_contiguous
    locked = RGB.copy()
    locked.flags.writeable = False
    assert as_image(locked).flags.writeable
    np.testing.assert_array_equal(as_image(Image.fromarray(RGB)), RGB)


class Tensor:
    """As much of a CPU tensor as the decoder may rely on."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def detach(self) -> Tensor:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


def test_as_image_moves_the_channels_of_tensors_only() -> None:
    for channels in (1, 3):
        planes = RNG.random((channels, 6, 7)).astype(np.float32)
        expected = planes[0] if channels == 1 else np.moveaxis(planes, 0, -1)
        np.testing.assert_array_equal(as_image(Tensor(planes)), expected)
    assert as_image(Tensor(np.ones((4, 6, 7), np.float32))).shape == (6, 7, 3)
    assert as_image(Tensor(np.ones((6, 7), np.float32))).shape == (6, 7)
    assert as_image(np.ones((3, 7, 3), np.uint8)).shape == (3, 7, 3)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 5), np.uint8),
        np.zeros(5),
        np.zeros((2, 3, 4, 5)),
        np.zeros((4, 5, 2)),
        np.zeros((4, 5, 7)),
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf, np.float32),
        np.full((2, 2), 1e300),
        np.zeros((2, 2), complex),
        np.array([["a"]]),
        "text",
        None,
        [[1, 2]],
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}",
)
def test_as_image_refuses(value: Any) -> None:
    with pytest.raises(DataError, match="the upload") as caught:
        as_image(value, "the upload")
    assert caught.value.hint


def test_as_image_refuses_a_pil_image_cut_short() -> None:
    data = encoded(RGB, "PNG")
    with pytest.raises(DataError, match="cut short"):
        as_image(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_masks(tmp_path: Path) -> None:
    one, two = np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8)
    one[0, 0], two[3, 4, 2] = 1, 7
    paths = (tmp_path / "a.png", tmp_path / "b.png")
    for path, mask in zip(paths, (one, two), strict=True):
        path.write_bytes(encoded(mask, "PNG"))
    assert read_mask(paths[0], (4, 5)).sum() == 1
    both = read_mask(paths, (4, 5))
    assert both.dtype == np.bool_
    assert both[0, 0]
    assert both[3, 4]
    assert both.sum() == 2
    with pytest.raises(DataError, match=r"a\.png: mask is 5 x 4, its image 5 x 6"):
        read_mask(paths[0], (6, 5))


def test_import_is_light() -> None:
    code = "import sys, blemish.data.decode, blemish.data.geometry, blemish.data.layouts as l; l.names(); "
    code += "print([m for m in ('torch', 'scipy', 'pandas', 'pyarrow', 'pydantic') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
