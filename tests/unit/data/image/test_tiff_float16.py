"""float16 TIFF: what other readers make of it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

from blemish.data.image.tiff_float16 import encode_float16


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (120, 7)])
def test_another_reader_gets_the_same_bits(shape: tuple[int, int]) -> None:
    tifffile = pytest.importorskip("tifffile", reason="reads it for comparison")
    values = np.random.default_rng(0).normal(0, 100, shape).astype(np.float16)
    values.flat[0] = -65504
    found = tifffile.imread(io.BytesIO(encode_float16(values)))
    assert (found.dtype, found.shape) == (np.float16, shape)
    np.testing.assert_array_equal(found, values)


def test_the_file_is_what_the_format_says() -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    data = encode_float16(values)
    mark, version, at = struct.unpack_from("<2sHI", data)
    assert (mark, version, at % 2) == (b"II", 42, 0)
    (count,) = struct.unpack_from("<H", data, at)
    tags = {tag: value for tag, _, _, value in struct.iter_unpack("<HHII", data[at + 2 : at + 2 + 12 * count])}
    assert list(tags) == sorted(tags)  # as readers may expect
    assert (tags[256], tags[257], tags[258], tags[339]) == (3, 2, 16, 3)
    strip = zlib.decompress(data[tags[273] : tags[273] + tags[279]])
    np.testing.assert_array_equal(np.frombuffer(strip, "<f2").reshape(2, 3), values)
