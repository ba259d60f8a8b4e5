"""Netpbm's pictures (PBM, PGM, PPM; text and binary) and PFM's real values, with every bit.

Pillow keeps 8 bits of 16-bit colour and rescales what has another maximum than 255 or 65535; a 12-bit camera's values
would then look like 16-bit ones to the model that has learned them as 12-bit ones.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])"
_NUMBER = _SPACE + rb"+(\d{1,9})"
_HEAD = re.compile(rb"P([1-6])" + _NUMBER + _NUMBER)
_MAXIMUM = re.compile(_NUMBER)
_REAL = re.compile(rb"P([Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s")
HEAD_BYTES = 4096  # a header with its comments


class Header(NamedTuple):
    """Kind (1 to 6, F, f), size, largest value (PFM: its scale), and where the pixels begin."""

    kind: str
    width: int
    height: int
    most: float
    start: int

    @property
    def channels(self) -> int:
        return 3 if self.kind in "36F" else 1


def header(data: bytes) -> Header:
    """ValueError where the file does not begin with one."""
    if real := _REAL.match(data):
        return Header(real[1].decode(), int(real[2]), int(real[3]), float(real[4]), real.end())
    head = _HEAD.match(data)
    if head is None:
        raise ValueError("no Netpbm header")
    kind, width, height, end, most = head[1].decode(), int(head[2]), int(head[3]), head.end(), 1
    if kind not in "14":
        maximum = _MAXIMUM.match(data, end)
        if maximum is None or not 0 < int(maximum[1]) < 65536:
            raise ValueError("the largest value is missing, or not between 1 and 65535")
        most, end = int(maximum[1]), maximum.end()
    if not data[end : end + 1].isspace():
        raise ValueError("the header does not end")
    return Header(kind, width, height, most, end + 1)


def decode(data: bytes, head: Header) -> NDArray[Any]:
    """(H, W) or (H, W, 3): uint8, where a smaller largest value is brought to 255; uint16 with the values as they are;
    float32. ValueError where it is damaged, EOFError where another picture follows the first.
    """
    shape = (head.height, head.width, head.channels)
    if head.kind in "123":
        values = _of_text(data[head.start :], int(np.prod(shape)), head.kind == "1")
    elif head.kind == "4":
        row = -(-head.width // 8)
        packed = np.frombuffer(_cut(data, head.start, row * head.height), np.uint8).reshape(head.height, row)
        values = np.unpackbits(packed, axis=1)[:, : head.width].ravel()
    else:
        kind = {"F": "f4", "f": "f4"}.get(head.kind, "u1" if head.most < 256 else "u2")
        order = "<" if head.kind in "Ff" and head.most < 0 else ">"
        size = int(np.prod(shape)) * int(kind[1])
        values = np.frombuffer(_cut(data, head.start, size), order + kind)
    image = values.reshape(shape)
    if head.kind in "Ff":
        return _squeezed(image[::-1].astype(np.float32))  # PFM's rows go up
    if head.kind in "14":
        return _squeezed(np.where(image > 0, np.uint8(0), np.uint8(255)))  # ink is 1
    if image.size and image.max() > head.most:
        raise ValueError(f"a value of {image.max()} where {head.most:g} is the largest")
    if head.most >= 256:
        return _squeezed(image.astype(np.uint16))
    scaled = image if head.most == 255 else np.rint(image.astype(np.float64) * 255 / head.most)
    return _squeezed(scaled.astype(np.uint8))


def _squeezed(image: NDArray[Any]) -> NDArray[Any]:
    return image[..., 0] if image.shape[2] == 1 else image


def _cut(data: bytes, start: int, size: int) -> bytes:
    if len(data) < start + size:
        raise ValueError(f"{size} bytes of pixels, and {len(data) - start} are there")
    if re.match(rb"\s*P[1-6Ff]\s", data[start + size : start + size + 64]):
        raise EOFError
    return data[start : start + size]


def _of_text(text: bytes, count: int, bits: bool) -> NDArray[Any]:
    words: list[Any] = [int(b) - 48 for b in b"".join(text.split())] if bits else text.split()
    if len(words) < count:
        raise ValueError(f"{count} values, and {len(words)} are there")
    if len(words) > count:
        raise EOFError
    values = np.array(words, np.int64)
    if values.size and (values.min() < 0 or (bits and values.max() > 1)):
        raise ValueError("a value that is none")
    return values
