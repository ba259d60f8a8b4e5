"""Perlin noise: what its mathematics promises, in one to three axes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blemish.data.synthesis.perlin import Fractal, fractal, perlin
from blemish.errors import ConfigError

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
            offset = at - node
            t = 1 - np.abs(offset)
            weight = np.prod(6 * t**5 - 15 * t**4 + 10 * t**3)
            total += weight * float(gradients[(slice(None), *node)] @ offset)
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


def fractal_field(seed: int, cells: float, octaves: int = 1, side: int = 256) -> np.ndarray:
    return Fractal.drawn((cells, cells), rng(seed), octaves).on_grid((side, side)).astype(np.float64)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_what_is_drawn_once_is_the_same_on_any_grid_and_at_points(axes: int) -> None:
    noise = Fractal.drawn((3.2, 7.7, 1.4)[:axes], rng(3), octaves=3, persistence=0.6, lacunarity=1.9)
    shape = (9, 17, 5)[:axes]
    places = np.stack(np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij"), -1)
    coarse = noise.on_grid(shape)
    assert noise.at(places.reshape(-1, axes)) == pytest.approx(coarse.reshape(-1), abs=1e-6)
    fine = noise.on_grid([2 * n - 1 for n in shape])
    assert fine[(slice(None, None, 2),) * axes] == pytest.approx(coarse, abs=1e-6)
    assert 0.1 < coarse.std() < 1


def test_drawn_noise_has_its_zeros_where_its_lattice_is() -> None:
    noise = Fractal.drawn((6, 6), rng(5))
    corners = (np.stack(np.meshgrid(np.arange(1, 6), np.arange(1, 6)), -1).reshape(-1, 2) - noise.offsets[0]) / 6
    assert np.abs(noise.at(corners)).max() < 1e-6
    assert np.abs(noise.at(corners + 0.5 / 6)).max() > 0.2


def test_drawn_noise_leans_to_no_side_and_other_seeds_are_other_noise() -> None:
    field = fractal_field(0, 60.0, octaves=3, side=600)
    assert abs(field.mean()) < 0.02
    assert np.array_equal(field, fractal_field(0, 60.0, octaves=3, side=600))
    assert abs(np.corrcoef(field.ravel(), fractal_field(1, 60.0, octaves=3, side=600).ravel())[0, 1]) < 0.1


def power_at(field: np.ndarray, cycles: float) -> float:
    """Share of the field's energy within a third of an octave of so many cycles across."""
    energy = np.abs(np.fft.fft2(field - field.mean())) ** 2
    along = np.fft.fftfreq(len(field), 1 / len(field))
    radius = np.hypot(along[:, None], along)
    return float(energy[np.abs(np.log2(np.maximum(radius, 1e-9) / cycles)) < 1 / 3].sum() / field.size**2)


def test_each_octave_adds_energy_at_its_own_frequency() -> None:
    def mean(octaves: int, cycles: float) -> float:
        weight = sum(0.5**k for k in range(octaves))  # undo the mean over octaves
        return float(np.mean([power_at(weight * fractal_field(s, 6, octaves), cycles) for s in range(6)]))

    for octave in (1, 2, 3):
        cycles = 6 * 2**octave
        assert mean(octave + 1, cycles) > 2 * mean(octave, cycles)
        assert mean(octave + 1, 6) == pytest.approx(mean(octave, 6), rel=0.5)


def test_twice_the_scale_is_twice_the_frequency() -> None:
    def peak(cells: float) -> float:
        tried = np.geomspace(2, 64, 26)
        return float(
            tried[np.argmax([np.mean([power_at(fractal_field(s, cells), c) for s in range(6)]) for c in tried])]
        )

    assert peak(20) / peak(10) == pytest.approx(2, rel=0.35)


@pytest.mark.parametrize("bad", [{"octaves": 0}, {"persistence": 0}, {"lacunarity": -1}])
def test_noise_that_cannot_be_drawn_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="no noise"):
        Fractal.drawn((4, 4), rng(), **bad)
