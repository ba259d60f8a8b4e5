"""From a pyramid of feature maps to one descriptor per patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError
from blemish.ops.arrays import at_least, joined, sqrt, total
from blemish.ops.drawing import Drawn
from blemish.ops.smoothing import interpolation
from blemish.types import FeatureSpec

Border = Literal["zeros", "inside"]
Length = Literal["root", "raw", "unit"]
TINY = 1e-12  # least squared length that is divided by


def grid_of(spec: FeatureSpec, level: int) -> tuple[int, int]:
    """The (h, w) grid of one level of the pyramid; ConfigError where there is no such level."""
    if not -len(spec.grids) <= level < len(spec.grids):
        raise ConfigError(f"level {level} of a pyramid of {len(spec.grids)}", hint="0 is the finest, -1 the coarsest")
    h, w = spec.grids[level]
    return h, w


def mean_around(x: Any, side: int, border: Border = "zeros") -> Any:
    """(B, C, h, w): the mean over `side` x `side` places; at the border over those that are there (`inside`), or with
    `zeros` around the map, as in the reference implementations of PatchCore and PaDiM.

    With zeros a descriptor at the border is shorter, and so are its distances. That suits places whose features vary
    more, since the network saw its own padding there.
    """
    half = side // 2
    if half == 0:
        return x
    if isinstance(x, Drawn):
        shape, counted = [side, side], int(border == "zeros")
        return x.graph.node("AveragePool", [x], 4, kernel_shape=shape, pads=[half] * 4, count_include_pad=counted)
    h, w = x.shape[2:]
    wide = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    lines: NDArray[Any] = sum((wide[:, :, i : i + h] for i in range(1, side)), wide[:, :, :h])
    sums: NDArray[Any] = sum((lines[:, :, :, i : i + w] for i in range(1, side)), lines[:, :, :, :w])
    return (
        sums / np.float32(side * side) if border == "zeros" else sums / (_counted(h, half)[:, None] * _counted(w, half))
    )


def _counted(n: int, half: int) -> NDArray[np.float32]:
    """How many of n places lie within `half` of each."""
    at = np.arange(n)
    return (np.minimum(at + half, n - 1) - np.maximum(at - half, 0) + 1).astype(np.float32)


def to_grid(x: Any, place: tuple[int, int], grid: tuple[int, int]) -> Any:
    """(B, C, *place) -> (B, C, *grid): block means where the grid divides, bilinear elsewhere.

    A block mean loses no pixel; plain bilinear sampling to half the size would skip none either, but to a quarter
    it reads 4 of 16.
    """
    if place == grid:
        return x
    if place[0] % grid[0] or place[1] % grid[1]:
        up, across = (interpolation(n, m).astype(np.float32) for n, m in zip(place, grid, strict=True))
        return up @ x @ np.ascontiguousarray(across.T)
    block = (place[0] // grid[0], place[1] // grid[1])
    if isinstance(x, Drawn):
        return x.graph.node("AveragePool", [x], 4, kernel_shape=block, strides=block)
    return x.reshape(*x.shape[:2], grid[0], block[0], grid[1], block[1]).mean((3, 5))


def shortened(x: Any, length: Length) -> Any:
    """(..., C): each vector in its direction, with the square root of its length (`root`), or length 1.

    Along the last axis: an engine adds up channels in another order where they come from a convolution, and the last
    bits of the sum would depend on what stands before.
    """
    if length == "raw":
        return x
    squared = at_least(total(x * x, -1, keepdims=True), TINY)
    return x / (sqrt(sqrt(squared)) if length == "root" else sqrt(squared))


def patch_descriptors(
    levels: Sequence[Any],
    spec: FeatureSpec,
    grid: tuple[int, int],
    windows: Sequence[int] = (3,),
    length: Length = "raw",
    border: Border = "zeros",
) -> Any:
    """Locally aware patch features, all levels on one grid.

    Each level (B, C_l, *grid_l) of `spec` is averaged over each window of n x n positions (PatchCore Eq. 2, with the
    mean as the aggregation), brought to `grid`, and concatenated.

    Lengths: of raw features those places decide that the network answers strongly, edges above all, and a change on a
    plain surface is small beside them; of vectors of length 1 noise on a plain surface counts as much as a structure.
    The square root lies between (power normalisation, Perronnin et al., ECCV 2010, taken of whole vectors).

    Returns (B, h*w, windows x sum of channels).
    """
    found = []
    for window in windows:
        for x, channels, place in zip(levels, spec.channels, spec.grids, strict=True):
            level = to_grid(mean_around(x, window, border), (place[0], place[1]), grid)
            patches = level.reshape(-1, channels, math.prod(grid)).transpose(0, 2, 1)
            found.append(shortened(patches, length))
    return joined(found, 2)


def check_windows(windows: Sequence[int]) -> None:
    """ConfigError unless there are windows, each of an odd side."""
    if not windows or any(window < 1 or window % 2 == 0 for window in windows):
        raise ConfigError(f"windows have to be odd and positive, not {tuple(windows)}", hint="1 is the place alone")
