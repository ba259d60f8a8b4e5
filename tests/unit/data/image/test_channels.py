"""Channels of one file: the same values whatever the file is."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from blemish.data.image.channels import extent, read_channels
from blemish.data.image.decode import decode_image
from blemish.errors import DataError
from tests.lit import pages

RNG = np.random.default_rng(0)
FOUR = RNG.integers(0, 256, (5, 7, 4)).astype(np.uint8)
DEEP = RNG.integers(0, 4000, (5, 7, 4)).astype(np.uint16)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    out = BytesIO()
    np.save(out, array)
    return out.getvalue()


def tiff(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    out = BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def colour_and_grey() -> bytes:
    out = BytesIO()
    pair = Image.fromarray(FOUR[..., :3].copy()), Image.fromarray(FOUR[..., 3].copy())
    pair[0].save(out, format="TIFF", save_all=True, append_images=pair[1:])
    return out.getvalue()


FILES: dict[str, Callable[[], tuple[bytes, np.ndarray[Any, Any]]]] = {
    "npy": lambda: (npy(FOUR), FOUR),
    "npy of 16 bits": lambda: (npy(DEEP), DEEP),
    "npy of real values": lambda: (npy(DEEP.astype(np.float32)), DEEP.astype(np.float32)),
    "pages": lambda: (pages(FOUR), FOUR),
    "pages of 16 bits": lambda: (pages(DEEP), DEEP),
    "pages with LZW": lambda: (pages(FOUR, compression="tiff_lzw"), FOUR),
    "a page in colour, and a grey one": lambda: (colour_and_grey(), FOUR),
    "samples": lambda: (tiff(FOUR, photometric="minisblack", planarconfig="contig"), FOUR),
    "samples of 16 bits": lambda: (
        tiff(DEEP, photometric="rgb", extrasamples=["unspecified"], compression="zlib", predictor=True),
        DEEP,
    ),
    "planes": lambda: (
        tiff(np.moveaxis(FOUR, 2, 0), photometric="minisblack", planarconfig="separate"),
        FOUR,
    ),
    "the other order of bytes": lambda: (
        tiff(FOUR, photometric="minisblack", planarconfig="contig", byteorder=">"),
        FOUR,
    ),
    "BigTIFF": lambda: (tiff(np.moveaxis(FOUR, 2, 0), photometric="minisblack", bigtiff=True), FOUR),
}


@pytest.mark.parametrize("name", FILES)
def test_channels_are_the_values_that_were_written(name: str, tmp_path: Path) -> None:
    data, expected = FILES[name]()
    found, count = read_channels(data, name)
    assert count == 4
    assert all(np.array_equal(one, expected[..., k]) and one.dtype == expected.dtype for k, one in enumerate(found))
    last, first = read_channels(data, name, (3, 0))[0]
    assert np.array_equal(last, expected[..., 3])
    assert np.array_equal(first, expected[..., 0])
    (tmp_path / "file").write_bytes(data)
    assert extent(tmp_path / "file") == (7, 5, 4, expected.dtype != np.uint8)


def test_colours_are_channels_and_grey_is_one() -> None:
    encoded = cv2.imencode(".png", np.ascontiguousarray(FOUR[..., 2::-1]))[1].tobytes()
    found, count = read_channels(encoded, "colour.png")
    assert count == 3
    assert all(np.array_equal(one, FOUR[..., k]) for k, one in enumerate(found))
    grey = cv2.imencode(".png", DEEP[..., 0])[1].tobytes()
    (only,), count = read_channels(grey, "grey.png")
    assert count == 1
    assert np.array_equal(only, DEEP[..., 0])


def test_what_is_wrong_with_a_file_is_said() -> None:
    with pytest.raises(DataError, match="has 4 channels, numbered from 0, and no channel 4"):
        read_channels(npy(FOUR), "a.npy", (4,))
    with pytest.raises(DataError, match="shape \\(3,\\)"):
        read_channels(npy(np.zeros(3)), "a.npy")
    with pytest.raises(DataError, match="type complex128"):
        read_channels(npy(np.zeros((3, 4), complex)), "a.npy")
    with pytest.raises(DataError, match="damaged"):
        read_channels(npy(FOUR)[:-5], "a.npy")
    with pytest.raises(DataError, match="NaN"):
        read_channels(npy(np.full((3, 4), np.nan)), "a.npy")
    with pytest.raises(DataError, match="too large"):
        read_channels(npy(FOUR), "a.npy", max_pixels=34)
    out = BytesIO()
    Image.fromarray(FOUR[..., 0].copy()).save(
        out, format="TIFF", save_all=True, append_images=[Image.fromarray(FOUR[1:, :, 0].copy())]
    )
    with pytest.raises(DataError, match=r"several sizes \(7 x 4, 7 x 5\)"):
        read_channels(out.getvalue(), "a.tif")


def test_objects_in_an_array_are_never_loaded() -> None:
    out = BytesIO()
    np.save(out, np.array([[object()]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="type object"):
        read_channels(out.getvalue(), "a.npy")


def test_a_damaged_page_is_an_error() -> None:
    data = tiff(FOUR, photometric="minisblack", planarconfig="contig", compression="zlib")
    place = data.index(b"x\x9c")
    with pytest.raises(DataError, match="cannot be read"):
        read_channels(data[: place + 2] + bytes(20) + data[place + 22 :], "a.tif")


def test_a_file_of_pages_without_lightings_names_the_option() -> None:
    with pytest.raises(DataError) as error:
        decode_image(pages(FOUR), "a.tif")
    assert "--lighting" in str(error.value.hint)
