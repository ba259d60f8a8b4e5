"""Maps as TIFF of 16-bit floats, which neither OpenCV nor Pillow writes: one strip, one value a pixel, deflated."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SHORT, _LONG = 3, 4


def encode_float16(values: NDArray[np.float16]) -> bytes:
    """The file of an array (H, W): TIFF 6.0 with zlib's deflate (compression 8), little-endian."""
    height, width = values.shape
    data = zlib.compress(values.astype("<f2").tobytes(), 1)
    entries = (
        (256, _LONG, width),
        (257, _LONG, height),
        (258, _SHORT, 16),  # bits of a value
        (259, _SHORT, 8),  # deflate
        (262, _SHORT, 1),  # black is zero
        (273, _LONG, 8),  # where the strip begins
        (277, _SHORT, 1),  # values of a pixel
        (278, _LONG, height),  # rows of the strip
        (279, _LONG, len(data)),
        (339, _SHORT, 3),  # floats
    )
    padding = b"\0" * (len(data) % 2)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(padding))
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return head + data + padding + struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)
