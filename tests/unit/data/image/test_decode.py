"""Every kind of file and value becomes the array it should, or an error that names it."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, features

from blemish.data.image import decode
from blemish.data.image.decode import as_image, decode_image, over_black, read_image, read_mask, take_encoded
from blemish.data.image.preprocess import image_size_of
from blemish.errors import DataError
from blemish.system import Free

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


def frames(form: str, count: int, **options: Any) -> bytes:
    """Pictures that differ, so that no encoder drops one."""
    each = [Image.fromarray(np.full((20, 24, 3), 10 + 60 * i, np.uint8)) for i in range(count)]
    return encoded(each[0], form, save_all=True, append_images=each[1:], **options)


ANIMATED = [
    ("TIFF", "3 pages"), ("PNG", "3 frames"), ("GIF", "3 frames"), ("WEBP", "3 frames"),
    pytest.param("AVIF", "3 frames", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow lacks AVIF")),
]  # fmt: skip


@pytest.mark.parametrize(("form", "what"), ANIMATED)
def test_several_pages_or_frames_are_an_error(form: str, what: str, tmp_path: Path) -> None:
    data = frames(form, 3)
    with pytest.raises(DataError, match=f"many: holds {what}") as caught:
        decode_image(data, "many")
    assert "split" in str(caught.value.hint)
    path = tmp_path / "many.bin"
    path.write_bytes(data)
    with pytest.raises(DataError, match=what):  # masks are read in the same way
        read_mask(path, (20, 24))
    with pytest.raises(DataError, match=what):
        image_size_of(path)
    with pytest.raises(DataError, match="3 frames"):
        as_image(Image.open(io.BytesIO(data)))
    assert decode_image(frames(form, 1), "one").shape == (20, 24, 3)


def test_the_first_picture_of_a_multi_picture_jpeg_is_the_picture() -> None:
    data = frames("MPO", 3)
    assert decode_image(data, "x").shape == (20, 24, 3)
    assert abs(int(decode_image(data, "x").mean()) - 10) < 3


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float64", "int16"])
@pytest.mark.parametrize("first", [True, False])
def test_previews_of_a_tiff_are_not_the_picture(kind: str, first: bool, options: dict[str, Any]) -> None:
    tifffile = pytest.importorskip("tifffile")
    picture = RNG.integers(0, 120, (24, 34, 3)).astype(kind)
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options) as out:
        for page in ("preview", "picture") if first else ("picture", "preview"):
            small = page == "preview"
            out.write(picture[::4, ::4] if small else picture, photometric="rgb", subfiletype=int(small))
    same(file.getvalue(), picture if kind in ("uint8", "uint16") else picture.astype(np.float32))


def test_a_tiff_of_previews_alone_and_one_with_lower_resolutions_inside() -> None:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as out:
        for _ in range(2):
            out.write(RGB, photometric="rgb", subfiletype=1)
    with pytest.raises(DataError, match="2 previews"):
        decode_image(file.getvalue(), "x")
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as out:
        out.write(RGB, photometric="rgb", subifds=1)
        out.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    same(file.getvalue(), RGB)


def with_next_page(tiff: bytes, place: int) -> bytes:
    """A TIFF of one page that says where another one lies."""
    at = int.from_bytes(tiff[4:8], "little")
    after = at + 2 + 12 * int.from_bytes(tiff[at : at + 2], "little")
    return tiff[:after] + place.to_bytes(4, "little") + tiff[after + 4 :]


def test_a_tiff_whose_list_of_pages_goes_in_circles_ends() -> None:
    data = encoded(GREY, "TIFF")
    with pytest.raises(DataError, match="leads back"):
        decode_image(with_next_page(data, int.from_bytes(data[4:8], "little")), "x")


def pgm(image: np.ndarray, most: int) -> bytes:
    colour = image.ndim == 3
    head = f"P{6 if colour else 5}\n# a comment\n{image.shape[1]} {image.shape[0]}\n{most}\n".encode()
    return head + image.astype("u1" if most < 256 else ">u2").tobytes()


def test_netpbm_keeps_every_bit() -> None:
    same(pgm(GREY, 255), GREY)
    same(pgm(RGB, 255), RGB)
    same(pgm(DEEP, 65535), DEEP)
    same(pgm(DEEP_RGB, 65535), DEEP_RGB)
    same(pgm(DEEP >> 4, 4095), DEEP >> 4)  # a 12-bit camera's values, as a TIFF would have them
    same(pgm(DEEP_RGB >> 6, 1023), DEEP_RGB >> 6)
    same(pgm(np.array([[0, 50, 100]], np.uint8), 100), np.array([[0, 128, 255]], np.uint8))
    same(b"P2 2 1 4095 7\n4095 ", np.array([[7, 4095]], np.uint16))
    same(b"P3\n1 1\n255\n1 2 3\n", np.array([[[1, 2, 3]]], np.uint8))
    same(b"P1\n3 2\n101\n0 1 0\n", np.array([[0, 255, 0], [255, 0, 255]], np.uint8))
    same(b"P4\n9 1\n\x80\x80", np.array([[0] + [255] * 7 + [0]], np.uint8))
    values = np.array([[0.5, -2.0, 3.0], [4.0, 5.0, 6.5]], np.float32)
    same(b"Pf\n3 2\n-1.0\n" + values[::-1].tobytes(), values)
    same(b"PF\n1 2\n1.0\n" + values[::-1].astype(">f4").tobytes(), values[:, None])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P5\n9 9\n255\n" + bytes(80), "81 bytes"),
        (b"P5\n1 1\n100\n\xff", "100 is the largest"),
        (b"P5\n1 1\n70000\n\0\0", "65535"),
        (b"P2\n2 2\n9\n1 2 3", "3 are there"),
        (b"P2\n2 1\n9\n1 x", "invalid"),
        (pgm(GREY, 255) * 2, "several pictures"),
        (b"P2\n1 1\n9\n1 P2\n1 1\n9\n1", "several pictures"),
        (b"P6\n30000 30000\n255\n", "too large"),
    ],
)
def test_bad_netpbm(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_image(data, "x.pgm")


def twelve_bits(data: bytes) -> bytes:
    """A JPEG 2000 of 16 bits said to have 12: the numbers inside it are then offset by 2**11, not by 2**15."""
    out, at = bytearray(data), data.index(b"\xff\x4f\xff\x51")
    out[at + 42] = out[data.index(b"ihdr") + 14] = 11
    return bytes(out)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow lacks JPEG 2000")
def test_jpeg_2000_keeps_every_bit() -> None:
    big = RNG.integers(0, 256, (80, 90, 3), dtype=np.uint8)
    deep = RNG.integers(0, 65536, (80, 90), dtype=np.uint16)
    same(encoded(big, "JPEG2000"), big)
    same(encoded(big[..., 0], "JPEG2000", no_jp2=True), big[..., 0])
    same(encoded(deep, "JPEG2000"), deep)
    camera = deep >> 4
    shifted = (camera.astype(int) - 2**11 + 2**15).astype(np.uint16)
    same(twelve_bits(encoded(shifted, "JPEG2000")), camera)  # Pillow would multiply by 16
    deep_rgb = RNG.integers(0, 65536, (80, 90, 3), dtype=np.uint16)
    done, data = cv2.imencode(".jp2", deep_rgb[..., ::-1].copy(), [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert done
    same(data.tobytes(), deep_rgb)  # Pillow would keep 8 bits


def test_gif_of_one_frame() -> None:
    same(encoded(GREY, "GIF"), np.dstack([GREY] * 3))  # a palette, as any GIF has
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    same(encoded(image, "GIF"), np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8))
    transparent = np.array([[[10, 20, 30], [0, 0, 0], [70, 80, 90]]], np.uint8)
    same(encoded(image, "GIF", transparency=1), transparent)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        ("a.png", b"\0\0\0\x18ftypheix\0\0\0\0", "HEIC"),
        ("a.dcm", bytes(128) + b"DICM" + bytes(40), "DICOM"),
        ("a", bytes(128) + b"DICM" + bytes(40), "DICOM"),
        ("a.psd", b"8BPS\0\1", "Photoshop"),
        ("a.svg", b"<?xml version='1.0'?>\n<svg width='3'/>", "SVG"),
        ("a.pdf", b"%PDF-1.7\n", "PDF"),
        ("a.nef", b"II*\0\x08\0\0\0", "camera RAW"),
        ("a.svs", b"II*\0\x08\0\0\0", "slide scanner"),
        ("a.tga", bytes(60), "TGA"),
        ("a.nii.gz", b"\x1f\x8b" + bytes(30), "volume"),
    ],
)
def test_pictures_of_other_kinds_are_named(name: str, content: bytes, what: str) -> None:
    with pytest.raises(DataError, match=f"{what}.* is not read") as caught:
        decode_image(content, name)
    assert caught.value.hint


def test_content_decides_over_a_name() -> None:
    assert decode_image(encoded(RGB, "JPEG"), "phone.heic").shape == RGB.shape
    same(encoded(RGB, "PNG"), RGB)
    assert decode_image(encoded(RGB, "PNG"), "part.txt").shape == RGB.shape


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


reads_uint32 = pytest.mark.skipif(
    cv2.__version__ < "5", reason="OpenCV 4 refuses whole numbers of 32 bits without sign"
)


@pytest.mark.parametrize(
    "kind",
    ["float16", "float32", "float64", "int16", "int8", "int32", pytest.param("uint32", marks=reads_uint32)],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"tile": (16, 16)}, {"compression": "zlib"}, {"bigtiff": True}],
    ids=lambda options: next(iter(options), "plain"),
)  # fmt: skip
def test_other_tiff_depths_become_float32_with_their_values(kind: str, channels: int, options: dict[str, Any]) -> None:
    values = (RNG.random((24, 34, channels)) * 120 - (0 if kind[0] == "u" else 60)).astype(kind).squeeze()
    data = by_tifffile(values, photometric="rgb" if channels == 3 else "minisblack", **options)
    same(data, values.astype(np.float32))


def test_signs_survive_a_predictor_and_the_whole_range() -> None:
    values = np.array([[-32768, -1, 0, 1, 32767]] * 3, np.int16)
    same(by_tifffile(values), values.astype(np.float32))
    same(by_tifffile(values, compression="zlib", predictor=True), values.astype(np.float32))


@pytest.mark.parametrize("kind", ["uint64", "int64", "complex64"])
def test_tiff_depths_that_float32_does_not_hold_are_said(kind: str) -> None:
    with pytest.raises(DataError, match="64 bits that are complex or whole numbers"):
        decode_image(by_tifffile(GREY.astype(kind)), "x.tif")


@reads_uint32
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
    same(encoded(Image.fromarray(np.ascontiguousarray(image[..., [0, 3]])), "PNG"), expected[..., 0])
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


def tiff_broken(compression: str) -> bytes:
    """A TIFF whose pixels are damaged and whose tags are sound."""
    image = Image.fromarray(RNG.integers(0, 256, (90, 120), dtype=np.uint8))
    data = bytearray(encoded(image.convert("1") if compression == "group4" else image, "TIFF", compression=compression))
    (offset,) = Image.open(io.BytesIO(data)).tag_v2[273]  # type: ignore[attr-defined]
    data[offset + 40 : offset + 140] = bytes(byte ^ 0x5A for byte in data[offset + 40 : offset + 140])
    return bytes(data)


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
        "half.gif": encoded(GREY, "GIF")[:-60],
        "half.ppm": pgm(RGB, 255)[:-9],
        "half.jp2": encoded(np.dstack([DEEP >> 8] * 3).astype(np.uint8).repeat(8, 0), "JPEG2000")[:200],
        "lzw.tif": encoded(RGB, "TIFF", compression="tiff_lzw")[:300] + bytes(9000),
        "deflate.tif": tiff_broken("tiff_adobe_deflate"),
        "fax.tif": tiff_broken("group4"),
        "next.tif": with_next_page(tiff, 0x7FFFFFFF),
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
    assert capfd.readouterr() == ("", "")  # the decoders' libraries like to talk


def test_an_older_opencv_is_silenced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 4.13 the functions are in cv2 itself; what was set before is set again."""
    levels = [3]
    monkeypatch.delattr(cv2.utils, "logging", raising=False)
    monkeypatch.setattr(cv2, "getLogLevel", lambda: levels[-1], raising=False)
    monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "a.bmp")
    assert read_image(tmp_path / "a.bmp")[0, 0].tolist() == [9, 8, 7]
    assert levels == [3, 0, 3]


_ALL_BAD = """
import random, sys
from pathlib import Path
from blemish.data.image.decode import decode_image
from blemish.errors import DataError
draw, bad = random.Random(0), 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    whole = path.read_bytes()
    for _ in range(25):
        data = bytearray(whole[: draw.randrange(30, len(whole) + 1)] if draw.random() < 0.3 else whole)
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(8, len(data))] ^= draw.randrange(1, 256)
        try:
            decode_image(bytes(data), path.name)
        except DataError:
            bad += 1
print(bad)
"""


def test_damaged_files_are_errors_and_no_library_writes_to_stderr(tmp_path: Path) -> None:
    big = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    fax = Image.fromarray(big[..., 0]).convert("1")
    for name, data in {
        "deep.png": by_opencv(big.astype(np.uint16) * 257, ".png"), "a.png": encoded(big, "PNG"),
        "fax.tif": encoded(fax, "TIFF", compression="group4"), "lzw.tif": encoded(big, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded(big, "TIFF", compression="tiff_adobe_deflate"), "a.gif": encoded(big[..., 0], "GIF"),
        "jpeg.tif": encoded(big, "TIFF", compression="jpeg"), "a.jpg": encoded(big, "JPEG"),
        "double.tif": by_tifffile(big[..., 0].astype(np.float64)), "a.webp": encoded(big, "WEBP"),
        "a.jp2": encoded(big, "JPEG2000"), "deep.jp2": encoded(big[..., 0].astype(np.uint16) * 200, "JPEG2000"),
        "deep.tif": by_tifffile(big.astype(np.uint16) * 257, photometric="rgb"), "a.bmp": encoded(big, "BMP"),
        "signed.tif": by_tifffile(big.astype(np.int16), photometric="rgb"), "a.ppm": pgm(big, 255),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", _ALL_BAD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 100


@pytest.mark.parametrize("interlaced", [False, True])
def test_deep_png_is_checked_before_it_is_decoded(interlaced: bool) -> None:
    data = by_opencv(DEEP_RGB, ".png")
    if not interlaced:
        same(data, DEEP_RGB)
    head = bytearray(data[16:29])
    head[12] = int(interlaced)
    rows = [b"\7" + bytes(17 * 6)] * 12
    for content, message in ((b"".join(rows), "filter|bytes of pixels"), (b"\0" * 50, "bytes of pixels")):
        body = chunk(b"IHDR", bytes(head)) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
        with pytest.raises(DataError, match=message):
            decode_image(data[:8] + body, "x")


class Upload:
    """A web framework's upload: a file inside, and nothing of `io`'s classes."""

    filename = "part.png"

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class AsyncUpload(Upload):
    async def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        return self.file.read(size)


def streams(data: bytes, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "s.png"
    path.write_bytes(data)
    spooled = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    spooled.write(data)  # stands at its end
    return {
        "bytes": data, "bytearray": bytearray(data), "memoryview": memoryview(data), "BytesIO": io.BytesIO(data),
        "file": path.open("rb"), "raw": path.open("rb", buffering=0), "spooled": spooled, "upload": Upload(data),
        "async": AsyncUpload(data),
    }  # fmt: skip


def test_encoded_files_are_taken_and_left_as_they_were(tmp_path: Path) -> None:
    for name, stream in streams(encoded(RGB, "PNG"), tmp_path).items():
        np.testing.assert_array_equal(as_image(stream), RGB, err_msg=name)
        if hasattr(stream, "seek"):
            at = stream.tell()
            np.testing.assert_array_equal(as_image(stream), RGB, err_msg=name)
            assert stream.tell() == at
            assert not stream.closed
            stream.close()
    later = io.BytesIO(b"header" + encoded(RGB, "PNG"))
    later.seek(6)
    np.testing.assert_array_equal(as_image(later), RGB)


def test_streams_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "t.png"
    path.write_bytes(encoded(RGB, "PNG"))
    closed = path.open("rb")
    closed.close()
    with path.open(encoding="latin-1") as text:
        wrong: list[tuple[Any, str]] = [
            (text, "t.png: is opened as text"),
            (io.StringIO("x"), "opened as text"),
            (closed, "t.png: cannot be read"),
            (io.BytesIO(), "file is empty"),
            (b"", "file is empty"),
            (b"no image", "not an image"),
            (io.BytesIO(b"no image"), "not an image"),
        ]
        for value, message in wrong:
            with pytest.raises(DataError, match=message) as caught:
                as_image(value)
            assert caught.value.hint
    with pytest.raises(DataError, match="too large"):
        take_encoded(io.BytesIO(bytes(100)), max_bytes=99)


def test_nothing_is_detached_that_is_no_tensor() -> None:
    with socket.socket() as connection:
        with pytest.raises(DataError, match="a socket is not an image"):
            as_image(connection)
        assert connection.fileno() >= 0  # its own `detach` would have taken it away


def test_a_buffer_of_pixels_is_an_array() -> None:
    np.testing.assert_array_equal(as_image(np.asarray(memoryview(RGB))), RGB)
    with pytest.raises(DataError):
        as_image(memoryview(RGB))


def test_names_of_files_may_be_any_path(tmp_path: Path) -> None:
    class Named(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "a.png")

    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    np.testing.assert_array_equal(read_image(Named()), RGB)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="is no regular file"):  # and nobody waits for who writes into it
        read_image(tmp_path / "pipe.png")


def test_a_file_larger_than_pillows_limit_is_read_where_the_caller_allows_it() -> None:
    data = bomb(20_000, 10_000)
    with pytest.raises(DataError, match="more than 100000000 pixels"):
        decode_image(data, "x")
    with pytest.raises(DataError, match="cut short|damaged"):  # it is let through, and found to have no pixels
        decode_image(data, "x", max_pixels=200_000_000)


def test_an_image_that_does_not_fit_into_memory_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "free_memory", lambda: Free(50_000_000, "of a test"))
    with pytest.raises(DataError, match=r"too large: 8000 x 8000 needs 122 MiB, and 48 MiB of a test is free"):
        decode_image(bomb(8_000, 8_000), "x")


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
    code = (
        "import sys, blemish.data.image.decode, blemish.data.image.preprocess; "
        "import blemish.data.layouts as l; l.names(); "
    )
    code += "print([m for m in ('torch', 'scipy', 'pandas', 'pyarrow', 'pydantic') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_noise_of_a_jpeg_is_no_mask(tmp_path: Path) -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[20:50, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=40)
    Image.fromarray(mask // 255).save(tmp_path / "m.png")  # labels of 1 are set
    assert (np.array(Image.open(tmp_path / "m.jpg")) > 0).sum() > 900
    for name in ("m.jpg", "m.png"):
        assert abs(int(read_mask(tmp_path / name, (80, 80)).sum()) - 900) < 40


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_can_be_no_name_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match="is no name of a file"):
        read_image(name)
