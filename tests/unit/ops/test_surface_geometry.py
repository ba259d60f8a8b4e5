"""Normals by the closed form against LAPACK's, curvature of known surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.ops.geometry import fitted_normals, least_spread, nearest, principal_curvatures, tree_of


def turned(values: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (M, 3, 3) with these eigenvalues (M, 3) about random axes, and the axis of the first one."""
    axes = np.linalg.qr(generator.standard_normal((len(values), 3, 3)))[0]
    return np.einsum("nij,nj,nkj->nik", axes, values, axes), axes[:, :, 0]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(
    ("values", "most"),
    [
        ((0.0, 1.0, 1.0), 1e-12),  # a plane, round
        ((0.0, 0.1, 1.0), 1e-12),
        ((0.9, 1.0, 1.1), 1e-12),
        ((1e-9, 2e-3, 1.0), 1e-10),
        ((1e-6, 2e-6, 1.0), 1e-7),  # nearly a line
    ],
)
def test_the_direction_of_least_spread(values: tuple[float, ...], most: float, scale: float) -> None:
    matrices, axis = turned(np.tile(values, (300, 1)) * scale, np.random.default_rng(0))
    found = least_spread(matrices)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-12
    assert (1 - np.abs((found * axis).sum(1))).max() < most


def test_where_several_directions_spread_least_one_of_them_is_taken() -> None:
    matrices = np.stack([np.zeros((3, 3)), np.eye(3), np.diag([1.0, 0.0, 0.0]), np.diag([2.0, 2.0, 3.0])])
    found = least_spread(matrices)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)
    assert abs(found[2, 0]) < 1e-12
    assert abs(found[3, 2]) < 1e-12


def test_normals_and_curvatures_of_a_sphere() -> None:
    points = np.random.default_rng(1).standard_normal((6000, 3))
    points *= 4 / np.linalg.norm(points, axis=1, keepdims=True)
    near = nearest(tree_of(points), points, 12)
    normals = fitted_normals(points, near)
    outward = points / 4
    assert np.median(np.abs((normals * outward).sum(1))) > 0.999
    bends = principal_curvatures(points, points, outward, near)
    assert np.median(bends, 0) == pytest.approx([-0.25, -0.25], abs=0.02)


def test_neighbours_that_do_not_count_change_nothing() -> None:
    generator = np.random.default_rng(2)
    points = generator.standard_normal((500, 3)) * (1, 1, 0.1)
    near = nearest(tree_of(points), points, 8)
    wide = np.concatenate([near, generator.integers(500, size=(500, 4))], 1)
    valid = np.tile(np.arange(12) < 8, (500, 1))
    dots = (fitted_normals(points, near) * fitted_normals(points, wide, valid)).sum(1)
    assert np.abs(dots).min() > 1 - 1e-9
