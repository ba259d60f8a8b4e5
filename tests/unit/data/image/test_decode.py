"""Every format of an image file becomes the array it should: depth, colour, orientation, pages."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, features

from blemish.data.image.decode import as_image, decode_image, over_black, read_mask
from blemish.data.image.preprocess import image_size_of
from blemish.errors import DataError
from tests.encoded import DEEP, DEEP_RGB, GREY, RGB, RNG, by_opencv, by_tifffile, chunk, decodes_to, encoded, pgm

LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("form", "options"), LOSSLESS)
def test_colour_is_kept_bit_for_bit(form: str, options: dict[str, Any]) -> None:
    decodes_to(encoded(RGB, form, **options), RGB)


@pytest.mark.parametrize(("form", "options"), LOSSLESS[:-1])
def test_grey_is_kept_bit_for_bit(form: str, options: dict[str, Any]) -> None:
    decodes_to(encoded(GREY, form, **options), GREY)


def test_jpeg_is_what_pillow_makes_of_it() -> None:
    for image in (GREY, RGB):
        data = encoded(image, "JPEG", quality=90)
        decodes_to(data, np.array(Image.open(io.BytesIO(data))))


def test_top_down_bmp_agrees_with_pillow() -> None:
    data = bytearray(encoded(RGB, "BMP"))
    data[22:26] = struct.pack("<i", -12)
    decodes_to(bytes(data), RGB[::-1])


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
    decodes_to(file.getvalue(), picture if kind in ("uint8", "uint16") else picture.astype(np.float32))


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
    decodes_to(file.getvalue(), RGB)


def test_netpbm_keeps_every_bit() -> None:
    decodes_to(pgm(GREY, 255), GREY)
    decodes_to(pgm(RGB, 255), RGB)
    decodes_to(pgm(DEEP, 65535), DEEP)
    decodes_to(pgm(DEEP_RGB, 65535), DEEP_RGB)
    decodes_to(pgm(DEEP >> 4, 4095), DEEP >> 4)  # a 12-bit camera's values, as a TIFF would have them
    decodes_to(pgm(DEEP_RGB >> 6, 1023), DEEP_RGB >> 6)
    decodes_to(pgm(np.array([[0, 50, 100]], np.uint8), 100), np.array([[0, 128, 255]], np.uint8))
    decodes_to(b"P2 2 1 4095 7\n4095 ", np.array([[7, 4095]], np.uint16))
    decodes_to(b"P3\n1 1\n255\n1 2 3\n", np.array([[[1, 2, 3]]], np.uint8))
    decodes_to(b"P1\n3 2\n101\n0 1 0\n", np.array([[0, 255, 0], [255, 0, 255]], np.uint8))
    decodes_to(b"P4\n9 1\n\x80\x80", np.array([[0] + [255] * 7 + [0]], np.uint8))
    values = np.array([[0.5, -2.0, 3.0], [4.0, 5.0, 6.5]], np.float32)
    decodes_to(b"Pf\n3 2\n-1.0\n" + values[::-1].tobytes(), values)
    decodes_to(b"PF\n1 2\n1.0\n" + values[::-1].astype(">f4").tobytes(), values[:, None])


def twelve_bits(data: bytes) -> bytes:
    """A JPEG 2000 of 16 bits said to have 12: the numbers inside it are then offset by 2**11, not by 2**15."""
    out, at = bytearray(data), data.index(b"\xff\x4f\xff\x51")
    out[at + 42] = out[data.index(b"ihdr") + 14] = 11
    return bytes(out)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow lacks JPEG 2000")
def test_jpeg_2000_keeps_every_bit() -> None:
    big = RNG.integers(0, 256, (80, 90, 3), dtype=np.uint8)
    deep = RNG.integers(0, 65536, (80, 90), dtype=np.uint16)
    decodes_to(encoded(big, "JPEG2000"), big)
    decodes_to(encoded(big[..., 0], "JPEG2000", no_jp2=True), big[..., 0])
    decodes_to(encoded(deep, "JPEG2000"), deep)
    camera = deep >> 4
    shifted = (camera.astype(int) - 2**11 + 2**15).astype(np.uint16)
    decodes_to(twelve_bits(encoded(shifted, "JPEG2000")), camera)  # Pillow would multiply by 16
    deep_rgb = RNG.integers(0, 65536, (80, 90, 3), dtype=np.uint16)
    done, data = cv2.imencode(".jp2", deep_rgb[..., ::-1].copy(), [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert done
    decodes_to(data.tobytes(), deep_rgb)  # Pillow would keep 8 bits


def test_gif_of_one_frame() -> None:
    decodes_to(encoded(GREY, "GIF"), np.dstack([GREY] * 3))  # a palette, as any GIF has
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    decodes_to(encoded(image, "GIF"), np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8))
    transparent = np.array([[[10, 20, 30], [0, 0, 0], [70, 80, 90]]], np.uint8)
    decodes_to(encoded(image, "GIF", transparency=1), transparent)


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
    decodes_to(encoded(RGB, "PNG"), RGB)
    assert decode_image(encoded(RGB, "PNG"), "part.txt").shape == RGB.shape


def test_16_bit_grey_and_colour_keep_every_bit() -> None:
    decodes_to(encoded(DEEP, "PNG"), DEEP)
    decodes_to(encoded(DEEP, "TIFF"), DEEP)
    decodes_to(by_opencv(DEEP_RGB, ".png"), DEEP_RGB)
    decodes_to(by_tifffile(DEEP_RGB, photometric="rgb"), DEEP_RGB)
    decodes_to(by_tifffile(DEEP_RGB, photometric="rgb", byteorder=">", tile=(16, 16)), DEEP_RGB)
    decodes_to(by_tifffile(DEEP, byteorder=">"), DEEP)
    decodes_to(by_tifffile(DEEP, bigtiff=True), DEEP)


def test_16_bit_alpha_is_laid_over_black() -> None:
    rgba = np.dstack([DEEP_RGB, DEEP])
    expected = np.rint(DEEP_RGB.astype(float) * DEEP[..., None] / 65535)
    for data in (by_opencv(rgba, ".png"), by_tifffile(rgba, photometric="rgb", extrasamples=["unassalpha"])):
        array = decode_image(data, "x")
        assert array.dtype == np.uint16
        assert np.abs(array - expected).max() <= 1


def test_16_bit_png_with_a_colour_key_and_with_a_lying_chunk() -> None:
    data = by_opencv(DEEP_RGB, ".png")
    decodes_to(data[:33] + chunk(b"tRNS", b"\0" * 6) + data[33:], DEEP_RGB)
    lying = data[:33] + struct.pack(">I", 0xF0000000) + data[37:]  # OpenCV alone would allocate that much
    with pytest.raises(DataError, match="past the end"):
        decode_image(lying, "x")


def test_white_is_zero_is_turned() -> None:
    decodes_to(by_tifffile(DEEP, photometric="miniswhite"), 65535 - DEEP)
    decodes_to(by_tifffile(GREY, photometric="miniswhite"), 255 - GREY)


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
    decodes_to(data, values.astype(np.float32))


def test_signs_survive_a_predictor_and_the_whole_range() -> None:
    values = np.array([[-32768, -1, 0, 1, 32767]] * 3, np.int16)
    decodes_to(by_tifffile(values), values.astype(np.float32))
    decodes_to(by_tifffile(values, compression="zlib", predictor=True), values.astype(np.float32))


@pytest.mark.parametrize("kind", ["uint64", "int64", "complex64"])
def test_tiff_depths_that_float32_does_not_hold_are_said(kind: str) -> None:
    with pytest.raises(DataError, match="64 bits that are complex or whole numbers"):
        decode_image(by_tifffile(GREY.astype(kind)), "x.tif")


@reads_uint32
def test_large_uint32_does_not_wrap() -> None:
    values = np.full((4, 5), 3_000_000_000, np.uint32)
    decodes_to(by_tifffile(values), values.astype(np.float32))


def test_float_colour_tiff() -> None:
    values = RNG.random((12, 17, 3)).astype(np.float32)
    decodes_to(by_tifffile(values, photometric="rgb"), values)


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
    decodes_to(by_tifffile(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"), RGB)
    data = by_tifffile(np.moveaxis(DEEP_RGB, -1, 0), photometric="rgb", planarconfig="separate")
    with pytest.raises(DataError, match="separate planes"):  # OpenCV would mix them up without a word
        decode_image(data, "planes.tif")


def test_alpha_is_laid_over_black() -> None:
    image = np.zeros((1, 3, 4), np.uint8)
    image[0, :, :3] = 200, 100, 50
    image[0, :, 3] = 0, 128, 255
    expected = np.array([[[0, 0, 0], [100, 50, 25], [200, 100, 50]]], np.uint8)
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        decodes_to(encoded(image, form, **options), expected)
    decodes_to(encoded(Image.fromarray(np.ascontiguousarray(image[..., [0, 3]])), "PNG"), expected[..., 0])
    np.testing.assert_allclose(over_black(image / np.float32(255)) * 255, expected, atol=0.5)


def test_transparent_colour_key() -> None:
    image = np.array([[[9, 9, 9], [1, 2, 3]]], np.uint8)
    decodes_to(encoded(image, "PNG", transparency=(9, 9, 9)), np.array([[[0, 0, 0], [1, 2, 3]]], np.uint8))
    decodes_to(encoded(image[..., 0], "PNG", transparency=9), np.array([[0, 1]], np.uint8))


def test_palette_becomes_rgb() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    colours = np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8)
    for form in ("PNG", "BMP", "TIFF"):
        decodes_to(encoded(image, form), colours)
    colours[0, 1] = 0
    decodes_to(encoded(image, "PNG", transparency=1), colours)
    decodes_to(encoded(image, "PNG", transparency=bytes([255, 0, 255])), colours)


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    decodes_to(encoded(image, "TIFF"), red)
    array = decode_image(encoded(image, "JPEG", quality=100), "x")
    assert np.abs(array.astype(int) - red).max() < 5


def test_one_bit_becomes_0_and_255() -> None:
    bits = GREY > 99
    for form in ("PNG", "BMP", "TIFF"):
        decodes_to(encoded(Image.fromarray(bits), form), bits.astype(np.uint8) * 255)


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
        decodes_to(encoded(upright, form, exif=exif, **options), turned)
    decodes_to(encoded(upright, "WEBP", exif=exif, lossless=True), np.dstack([turned] * 3))
    assert decode_image(encoded(upright, "JPEG", exif=exif), "x").shape == turned.shape
    deep = upright.astype(np.uint16) * 257
    colour = by_tifffile(np.dstack([deep] * 3), photometric="rgb", extratags=[(274, "H", 1, value, True)])
    decodes_to(colour, np.dstack([turned.astype(np.uint16) * 257] * 3))
    double = by_tifffile(upright.astype(np.float64), extratags=[(274, "H", 1, value, True)])
    decodes_to(double, turned.astype(np.float32))
    image = Image.open(io.BytesIO(encoded(upright, "PNG", exif=exif)))
    np.testing.assert_array_equal(as_image(image), turned)


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
