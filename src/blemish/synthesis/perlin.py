"""Gradient noise. Perlin, Improving noise, SIGGRAPH 2002; gradients are drawn anew instead of read from a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError

Noise = NDArray[np.float32]


def perlin(shape: Sequence[int], cells: float | Sequence[float], generator: np.random.Generator) -> Noise:
    """Noise of one, two or three axes, float32 in [-1, 1].

    shape   samples per axis
    cells   lattice cells per axis, or one number for all; need be neither whole nor a divisor of the shape

    Sample i of an axis of n lies at i * cells / n lattice units; the noise is 0 where all of them are whole, and its
    first and second derivatives are continuous everywhere. ConfigError on other numbers of axes or empty ones.
    """
    axes = len(shape)
    cells = [float(cells)] * axes if isinstance(cells, int | float) else [float(c) for c in cells]
    if not 1 <= axes <= 3 or len(cells) != axes or min(shape) < 1 or not 0 < min(cells) <= max(cells) < math.inf:
        raise ConfigError(f"no noise of shape {tuple(shape)} with {cells} cells", hint="one to three axes, cells > 0")
    positions = [np.arange(n) * c / n for n, c in zip(shape, cells, strict=True)]
    corners = [np.floor(p).astype(np.intp) for p in positions]
    gradients = generator.standard_normal((axes, *(int(c[-1]) + 2 for c in corners)))
    gradients /= np.sqrt((gradients**2).sum(0))
    # Noise is linear in each axis' weights: an axis is interpolated on its own, the last one first while all others are
    # still as short as the lattice. Term k is what component k of the gradients adds.
    terms = list(gradients.astype(np.float32))
    for axis in reversed(range(axes)):
        after = (positions[axis] - corners[axis]).reshape(-1, *[1] * (axes - 1 - axis))
        weight = after**3 * (after * (6 * after - 15) + 10)
        plain = (1 - weight).astype(np.float32), weight.astype(np.float32)
        sloped = ((1 - weight) * after).astype(np.float32), (weight * (after - 1)).astype(np.float32)
        for k, term in enumerate(terms):
            left, right = sloped if k == axis else plain
            terms[k] = np.take(term, corners[axis], axis) * left
            terms[k] += np.take(term, corners[axis] + 1, axis) * right
    noise = sum(terms[1:], terms[0])
    noise *= 2 / math.sqrt(axes)  # the farthest that the middle of a cell can get from 0 is sqrt(axes) / 2
    return np.asarray(np.clip(noise, -1, 1, out=noise), np.float32)


def fractal(
    shape: Sequence[int],
    cells: float | Sequence[float],
    generator: np.random.Generator,
    octaves: int = 1,
    persistence: float = 0.5,
    lacunarity: float = 2.0,
) -> Noise:
    """A weighted mean of `octaves` noises, float32 in [-1, 1].

    Each octave has `lacunarity` times the cells and `persistence` times the weight of the one before it.
    """
    if octaves < 1 or persistence <= 0 or lacunarity <= 0:
        raise ConfigError(f"no noise of {octaves} octaves, persistence {persistence:g}, lacunarity {lacunarity:g}")
    base = np.broadcast_to(np.asarray(cells, float), (len(shape),))
    total = perlin(shape, list(base), generator)
    for k in range(1, octaves):
        total += np.float32(persistence**k) * perlin(shape, list(base * lacunarity**k), generator)
    total /= np.float32(sum(persistence**k for k in range(octaves)))
    return total
