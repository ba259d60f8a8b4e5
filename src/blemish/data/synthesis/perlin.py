"""Gradient noise. Perlin, Improving noise, SIGGRAPH 2002; gradients are drawn at random instead of read from a
table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

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
    return _on_grid(_gradients([int(p[-1]) + 2 for p in positions], generator), positions)


def _gradients(lattice: Sequence[int], generator: np.random.Generator) -> Noise:
    """One unit vector for each corner of the lattice, of any direction: (axes, *lattice)."""
    gradients = generator.standard_normal((len(lattice), *lattice))
    gradients /= np.sqrt((gradients**2).sum(0))
    return gradients.astype(np.float32)


def _on_grid(gradients: Noise, positions: Sequence[NDArray[Any]]) -> Noise:
    """The noise at the crossings of `positions`, one array of lattice units for each axis."""
    axes = len(positions)
    corners = [np.floor(p).astype(np.intp) for p in positions]
    # Noise is linear in each axis' weights: an axis is interpolated on its own, the last one first while all others are
    # still as short as the lattice. Term k is what component k of the gradients adds.
    terms = list(gradients)
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


@dataclass(frozen=True, eq=False)
class Fractal:
    """Fractal noise that is drawn once and read wherever it is wanted: on grids of any fineness, or at points.

    It covers the unit square (interval, cube); an octave's lattice is moved by a random part of its cell, so that the
    zeros of the octaves do not meet. The same mean of octaves as `fractal`, in [-1, 1].
    """

    cells: tuple[float, ...]  # of the first octave along each axis
    persistence: float
    lacunarity: float
    gradients: tuple[Noise, ...]  # of each octave
    offsets: tuple[NDArray[np.float64], ...]  # of each octave, in cells

    @classmethod
    def drawn(
        cls,
        cells: Sequence[float],
        generator: np.random.Generator,
        octaves: int = 1,
        persistence: float = 0.5,
        lacunarity: float = 2.0,
    ) -> Fractal:
        """ConfigError as `fractal`."""
        if octaves < 1 or persistence <= 0 or lacunarity <= 0 or not 0 < min(cells) <= max(cells) < math.inf:
            raise ConfigError(f"no noise of {cells} cells, {octaves} octaves, {persistence:g} and {lacunarity:g}")
        gradients, offsets = [], []
        for k in range(octaves):
            offset = generator.random(len(cells))
            lattice = [int(o + c * lacunarity**k) + 2 for o, c in zip(offset, cells, strict=True)]
            gradients.append(_gradients(lattice, generator))
            offsets.append(offset)
        return cls(tuple(cells), persistence, lacunarity, tuple(gradients), tuple(offsets))

    def on_grid(self, shape: Sequence[int]) -> Noise:
        """At the nodes of a regular grid over the unit square, its borders included: float32 `shape`."""
        total = np.zeros(tuple(shape), np.float32)
        for k, (gradients, offset) in enumerate(zip(self.gradients, self.offsets, strict=True)):
            cells = [c * self.lacunarity**k for c in self.cells]
            positions = [o + c * np.linspace(0, 1, n) for o, c, n in zip(offset, cells, shape, strict=True)]
            total += np.float32(self.persistence**k) * _on_grid(gradients, positions)
        return total / np.float32(self._weight)

    def at(self, points: NDArray[Any]) -> Noise:
        """At points (N, axes) of the unit square: float32 (N,)."""
        total = np.zeros(len(points), np.float64)
        for k, (gradients, offset) in enumerate(zip(self.gradients, self.offsets, strict=True)):
            positions = offset + np.asarray(self.cells) * self.lacunarity**k * np.clip(points, 0, 1)
            total += self.persistence**k * _at(gradients, positions)
        return (total / self._weight).astype(np.float32)

    @property
    def _weight(self) -> float:
        return sum(self.persistence**k for k in range(len(self.gradients)))


def _at(gradients: Noise, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The noise at positions (N, axes) in lattice units."""
    axes = positions.shape[1]
    corners = np.floor(positions).astype(np.intp)
    after = positions - corners
    weights = after**3 * (after * (6 * after - 15) + 10)
    total = np.zeros(len(positions))
    for step in product((0, 1), repeat=axes):
        share = np.where(np.array(step) == 1, weights, 1 - weights).prod(1)
        slope = gradients[(slice(None), *(corners + step).T)]
        total += share * np.einsum("ni,in->n", after - step, slope)
    return np.clip(total * (2 / math.sqrt(axes)), -1, 1)
