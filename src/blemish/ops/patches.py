"""From a pyramid of feature maps to one descriptor per patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError
from blemish.ops.arrays import joined
from blemish.ops.drawing import Drawn
from blemish.ops.smoothing import interpolation
from blemish.types import FeatureSpec


def grid_of(spec: FeatureSpec, level: int) -> tuple[int, int]:
    """The (h, w) grid of one level of the pyramid; ConfigError where there is no such level."""
    if not -len(spec.grids) <= level < len(spec.grids):
        raise ConfigError(f"level {level} of a pyramid of {len(spec.grids)}", hint="0 is the finest, -1 the coarsest")
    h, w = spec.grids[level]
    return h, w


def mean_around(x: Any, side: int) -> Any:
    """(B, C, h, w): the mean over `side` x `side` places; at the border over those that are there."""
    half = side // 2
    if half == 0:
        return x
    if isinstance(x, Drawn):
        shape = [side, side]
        return x.graph.node("AveragePool", [x], 4, kernel_shape=shape, pads=[half] * 4, count_include_pad=0)
    h, w = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    lines: NDArray[Any] = sum((padded[:, :, i : i + h] for i in range(1, side)), padded[:, :, :h])
    sums: NDArray[Any] = sum((lines[:, :, :, i : i + w] for i in range(1, side)), lines[:, :, :, :w])
    return sums / (_counted(h, half)[:, None] * _counted(w, half))


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


def patch_descriptors(levels: Sequence[Any], spec: FeatureSpec, grid: tuple[int, int], neighbourhood: int = 3) -> Any:
    """Locally aware patch features, all levels on one grid.

    Each level (B, C_l, *grid_l) of `spec` is averaged over `neighbourhood` x `neighbourhood` positions (PatchCore Eq.
    2, with the mean as the aggregation; the border averages over what is there), brought to `grid` and concatenated.

    Returns (B, h*w, sum of channels).
    """
    found = [
        to_grid(mean_around(x, neighbourhood), (place[0], place[1]), grid)
        for x, place in zip(levels, spec.grids, strict=True)
    ]
    return joined(found, 1).reshape(-1, sum(spec.channels), math.prod(grid)).transpose(0, 2, 1)
