"""Images as bytes of files, for tests of reading them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from blemish.data.image.decode import decode_image

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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pgm(image: np.ndarray, most: int) -> bytes:
    colour = image.ndim == 3
    head = f"P{6 if colour else 5}\n# a comment\n{image.shape[1]} {image.shape[0]}\n{most}\n".encode()
    return head + image.astype("u1" if most < 256 else ">u2").tobytes()


def bomb(width: int, height: int) -> bytes:
    """A grey PNG that claims a size, made without holding it decoded."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def decodes_to(data: bytes, expected: np.ndarray) -> None:
    """Assert that a file gives this array, bit for bit, contiguous and writeable."""
    array = decode_image(data, "x")
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)
    assert array.flags.c_contiguous
    assert array.flags.writeable
