"""Pictures of high resolution in overlapping tiles: where they lie, and one map out of theirs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError, DataError

OVERLAP = 8  # a tile's side over its overlap, where none is given
MOST = 4096  # tiles of a picture


class Tiling(NamedTuple):
    """Square tiles in source pixels; `shape` is that of every picture, where each tile has a head of its own."""

    side: int
    overlap: int
    shape: tuple[int, int] | None = None

    def places(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """(y, x) of the upper left corner of each tile of a picture (H, W), row by row, evenly spread; neighbours
        overlap by no less than `overlap`. DataError where the picture is smaller than a tile, or of another size than
        the tiles have learned their places in, or there are too many.
        """
        if self.shape not in (None, shape):
            high, wide = self.shape or shape
            message = (
                f"the picture has {shape[1]} x {shape[0]} pixels, and its tiles know their places in {wide} x {high}"
            )
            raise DataError(message, hint="pictures of one size, or learn with --tile-places off")
        if min(shape) < self.side:
            message = f"the picture has {shape[1]} x {shape[0]} pixels, a tile {self.side} x {self.side}"
            raise DataError(message, hint="smaller tiles (--tiles), or none")
        rows, columns = (self._starts(length) for length in shape)
        if len(rows) * len(columns) > MOST:
            message = f"{len(rows) * len(columns)} tiles of {self.side} pixels in a picture of {shape[1]} x {shape[0]}"
            raise DataError(f"{message}; at most {MOST} are inspected", hint="larger tiles (--tiles)")
        return [(y, x) for y in rows for x in columns]

    def _starts(self, length: int) -> list[int]:
        count = max(1, math.ceil((length - self.overlap) / (self.side - self.overlap)))
        return [round(i * (length - self.side) / max(count - 1, 1)) for i in range(count)]

    def cut(self, picture: NDArray[Any], place: tuple[int, int]) -> NDArray[Any]:
        """A tile of a picture (H, W[, 3])."""
        y, x = place
        return picture[y : y + self.side, x : x + self.side]

    def to_json(self) -> list[int]:
        """[side, overlap], with [height, width] behind them where there is a shape."""
        return [self.side, self.overlap, *(self.shape or ())]

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Self:
        """The inverse; TypeError or ValueError where it is not understood."""
        side, overlap, *shape = map(int, values)
        if len(shape) not in (0, 2):
            raise ValueError("tiles have two numbers or four")
        return cls(side, overlap, (shape[0], shape[1]) if shape else None)


class Tiles(NamedTuple):
    """A picture, prepared: its tiles as the network takes them; none that lie outside of the region of interest."""

    images: NDArray[np.uint8]  # (K, h, w, 3)
    places: list[tuple[int, int]]
    shape: tuple[int, int]  # of the picture
    side: int
    numbers: list[int]  # of each among all tiles of the picture

    def joined(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps (K, h, w) of the tiles as one of the picture, in the resolution of the tiles. Where tiles overlap, each
        counts the more the further a place lies from its border, so that there is no seam. What lies in none of them
        has the lowest value."""
        if self.shape == (self.side, self.side):
            return cast(NDArray[np.float32], maps[0])
        high, wide = maps.shape[1:]
        scale_y, scale_x = high / self.side, wide / self.side
        size = max(round(self.shape[0] * scale_y), high), max(round(self.shape[1] * scale_x), wide)
        weight = np.outer(_ramp(high), _ramp(wide))
        total, weights = np.zeros(size, np.float32), np.zeros(size, np.float32)
        for one, (y, x) in zip(maps, self.places, strict=True):
            top = min(round(y * scale_y), size[0] - high)
            left = min(round(x * scale_x), size[1] - wide)
            window = slice(top, top + high), slice(left, left + wide)
            total[window] += one * weight
            weights[window] += weight
        joined = total / np.maximum(weights, np.float32(1e-6))
        return cast(NDArray[np.float32], np.where(weights > 0, joined, joined[weights > 0].min()))


def _ramp(length: int) -> NDArray[np.float32]:
    """From the border of a tile to its middle, and back."""
    at = np.arange(length, dtype=np.float32) + 0.5
    return cast(NDArray[np.float32], np.minimum(at, length - at))


def parse_tiles(text: str) -> Tiling:
    """`512` or `512:64`, side and overlap in source pixels; ConfigError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,4})(?::(\d{1,5}))?", text.strip(), re.ASCII)
    if match is None:
        raise ConfigError(f"tiles '{text}' are not understood", hint="512 (side in pixels) or 512:64 (and overlap)")
    side = int(match[1])
    overlap = side // OVERLAP if match[2] is None else int(match[2])
    if side < 32 or overlap > side // 2:
        raise ConfigError(f"tiles of {side} pixels that overlap by {overlap}", hint="at least 32, overlap at most half")
    return Tiling(side, overlap)
