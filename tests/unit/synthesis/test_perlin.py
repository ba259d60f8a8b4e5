"""Perlin noise: what its mathematics promises, in one to three axes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blemish.errors import ConfigError
from blemish.synthesis.perlin import fractal, perlin

CASES = [((96,), (6,)), ((48, 64), (4, 8)), ((12, 16, 20), (3, 4, 5))]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("shape", "cells"), CASES)
def test_it_is_nothing_at_the_corners_of_cells_and_something_between(
    shape: tuple[int, ...], cells: tuple[int, ...]
) -> None:
    noise = perlin(shape, cells, rng())
    assert (noise.dtype, noise.shape) == (np.float32, shape)
    corners = noise[tuple(slice(None, None, n // c) for n, c in zip(shape, cells, strict=True))]
    assert corners.shape == cells
    assert np.abs(corners).max() < 1e-6
    assert noise.std() > 0.1
    assert np.abs(noise).max() <= 1


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_middle_of_a_cell_is_the_mean_of_what_its_corners_say(axes: int) -> None:
    """A slow, plain version agrees with the fast one everywhere."""
    shape, cells = (13, 9, 7)[:axes], (2.5, 3.3, 1.7)[:axes]
    noise = perlin(shape, cells, rng(4))
    lattice = [math.floor((n - 1) * c / n) + 2 for n, c in zip(shape, cells, strict=True)]
    gradients = rng(4).standard_normal((axes, *lattice))
    gradients /= np.sqrt((gradients**2).sum(0))
    for index in np.ndindex(*shape):
        at = np.array([i * c / n for i, c, n in zip(index, cells, shape, strict=True)])
        total = 0.0
        for corner in np.ndindex(*[2] * axes):
            node = np.floor(at).astype(int) + corner
            away = at - node
            t = 1 - np.abs(away)
            weight = np.prod(6 * t**5 - 15 * t**4 + 10 * t**3)
            total += weight * float(gradients[(slice(None), *node)] @ away)
        assert noise[index] == pytest.approx(total * 2 / math.sqrt(axes), abs=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_it_is_continuous_with_its_slope(axes: int) -> None:
    """Ten times finer samples differ by a tenth, across the borders of cells too, and so do their differences."""
    shape = (4, 4, 400)[-axes:]
    for factor in (1, 10):
        fine = perlin((*shape[:-1], shape[-1] * factor), [1.3] * (axes - 1) + [5], rng(2))
        step = np.diff(fine, axis=-1)
        assert np.abs(step).max() < 0.1 / factor
        assert np.abs(np.diff(step, axis=-1)).max() < 0.01 / factor**2 + 1e-6


def test_more_cells_mean_finer_noise() -> None:
    def centre(cells: float) -> float:
        power = sum(np.abs(np.fft.rfft(perlin((512,), cells, rng(seed)))) ** 2 for seed in range(20))
        return float((power * np.arange(power.size)).sum() / power.sum())

    low, middle, high = centre(4), centre(16), centre(64)
    assert middle / low == pytest.approx(4, rel=0.2)
    assert high / middle == pytest.approx(4, rel=0.2)


def test_axes_have_cells_of_their_own_whole_or_not() -> None:
    noise = perlin((200, 200), (2.5, 37.3), rng())
    assert np.abs(np.diff(noise, axis=1)).mean() > 8 * np.abs(np.diff(noise, axis=0)).mean()
    assert perlin((5, 3), 0.3, rng()).shape == (5, 3)
    assert perlin((1, 1), 4, rng()) == 0


def test_its_values_fill_the_range_and_lean_to_no_side() -> None:
    noise = np.stack([perlin((64, 64), 5.3, rng(seed)) for seed in range(200)])
    assert abs(noise.mean()) < 0.01
    assert noise.max() > 0.85
    assert noise.min() < -0.85


def test_octaves_add_detail_and_stay_in_range() -> None:
    plain = fractal((128, 128), 4, rng(1))
    assert np.array_equal(plain, perlin((128, 128), 4, rng(1)))
    rough = fractal((128, 128), 4, rng(1), octaves=4, persistence=0.7)
    assert np.abs(np.diff(rough)).mean() > 1.3 * np.abs(np.diff(plain)).mean()
    assert np.abs(rough).max() <= 1


def test_the_same_state_gives_the_same_bits() -> None:
    assert perlin((50, 60), 7.1, rng(3)).tobytes() == perlin((50, 60), 7.1, rng(3)).tobytes()
    assert perlin((50, 60), 7.1, rng(3)).tobytes() != perlin((50, 60), 7.1, rng(4)).tobytes()


@pytest.mark.parametrize(
    ("shape", "cells"), [((), 4), ((2, 2, 2, 2), 4), ((4, 4), (2,)), ((0, 4), 4), ((4,), 0), ((4,), math.inf)]
)
def test_what_cannot_be_drawn_is_refused(shape: tuple[int, ...], cells: float) -> None:
    with pytest.raises(ConfigError, match="no noise"):
        perlin(shape, cells, rng())


def test_octaves_are_checked() -> None:
    with pytest.raises(ConfigError, match="octaves"):
        fractal((4, 4), 2, rng(), octaves=0)
