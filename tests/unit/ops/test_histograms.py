"""Point feature histograms, held against a slow reading of their formulas, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.ops.histograms import BINS, Radii, fast_histograms, look, spread

Floats = NDArray[np.float64]


def sheet(count: int = 900, seed: int = 0) -> tuple[Floats, Floats]:
    """Points of a waved sheet about 1 across, and up."""
    generator = np.random.default_rng(seed)
    u, v = generator.uniform(0, 0.7, (2, count))
    points = np.stack([u, v, 0.05 * np.sin(12 * u) * np.cos(9 * v)], 1)
    return points, np.tile([0.0, 0.0, 1.0], (count, 1))


def turned(seed: int) -> Floats:
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return turn * np.sign(np.linalg.det(turn))


def slow_pair(p: Floats, n: Floats, q: Floats, m: Floats) -> tuple[float, float, float]:
    """Rusu's frame: the source is the point whose normal lies nearer to the line between both."""
    if math.acos(min(abs(n @ (q - p)) / math.dist(p, q), 1)) <= math.acos(min(abs(m @ (p - q)) / math.dist(p, q), 1)):
        source, u, target, other = p, n, q, m
    else:
        source, u, target, other = q, m, p, n
    line = (target - source) / math.dist(p, q)
    v = np.cross(line, u) / np.linalg.norm(np.cross(line, u))
    w = np.cross(u, v)
    return float(v @ other), float(u @ line), math.atan2(w @ other, u @ other)


def slow_histogram(points: Floats, normals: Floats, i: int, radius: float) -> tuple[Floats, list[int]]:
    neighbours = [j for j in range(len(points)) if j != i and math.dist(points[i], points[j]) <= radius]
    counts = np.zeros((3, BINS))
    for j in neighbours:
        angles = slow_pair(points[i], normals[i], points[j], normals[j])
        for kind, (value, low, high) in enumerate(zip(angles, (-1, -1, -math.pi), (1, 1, math.pi), strict=True)):
            counts[kind, min(int((value - low) / (high - low) * BINS), BINS - 1)] += 1
    return 100 * counts / max(len(neighbours), 1), neighbours


@pytest.mark.parametrize("fast", [True, False])
def test_histograms_are_those_of_the_formulas(fast: bool) -> None:
    generator = np.random.default_rng(1)
    points, normals = generator.normal(size=(60, 3)), generator.normal(size=(60, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    got = fast_histograms(points, normals, 0.9, fast=fast)
    single = [slow_histogram(points, normals, i, 0.9) for i in range(60)]
    assert min(len(neighbours) for _, neighbours in single) < 2
    assert max(len(neighbours) for _, neighbours in single) > 8
    for i, (histogram, neighbours) in enumerate(single):
        expected = histogram.copy()
        if fast and neighbours:
            weights = [1 / math.dist(points[i], points[j]) for j in neighbours]
            mixed = sum(w * single[j][0] for w, j in zip(weights, neighbours, strict=True))
            expected += mixed / sum(weights)
        np.testing.assert_allclose(got[i], expected.reshape(-1), rtol=1e-5, atol=1e-4)


def test_a_plane_and_a_point_alone() -> None:
    """On a plane all three angles are 0, the middle bin; a point without a neighbour has no histogram."""
    u, v = np.meshgrid(np.arange(5.0), np.arange(5.0))
    points = np.stack([u.ravel(), v.ravel(), 0 * u.ravel()], 1)
    points = np.concatenate([points, [[100.0, 0, 0]]])
    got = fast_histograms(points, np.tile([0.0, 0, 1], (26, 1)), 1.1, fast=False).reshape(26, 3, BINS)
    assert (got[:25, :, BINS // 2] == 100).all()
    assert not got[25].any()


def test_neither_motion_nor_unit_changes_what_is_seen() -> None:
    points, up = sheet()
    first = look(points, up, 0.03, Radii())
    turn = turned(3)
    for scale, shift in ((1.0, np.array([5.0, -3, 8])), (1000.0, np.zeros(3))):
        other = look(scale * (points @ turn.T) + shift, up @ turn.T, 0.03 * scale, Radii())
        assert len(other.points) == len(first.points)
        np.testing.assert_allclose(other.points, scale * (first.points @ turn.T) + shift, atol=1e-9 * scale)
        np.testing.assert_allclose(other.normals, first.normals @ turn.T, atol=1e-6)
        differs = np.abs(other.features - first.features).max(1) > 1e-2
        assert differs.mean() < 0.01  # of angles that lie on the edge of a bin


def test_a_mirrored_part_is_another_part() -> None:
    """The angles have a sense of rotation: what follows from it is lost where only distances are compared."""
    points, up = sheet()
    points[:, 2] += 0.3 * points[:, 0] * points[:, 1] + 0.2 * points[:, 0] ** 2
    flip = np.array([-1.0, 1, 1])
    first, other = look(points, up, 0.03, Radii()), look(points * flip, up, 0.03, Radii())
    assert (np.abs(other.features - first.features).max(1) > 1).mean() > 0.5


def test_thinned_points_lie_a_voxel_apart_and_cover_the_cloud() -> None:
    points, up = sheet(4000)
    seen = look(points, up, 0.03, Radii())
    spacing = np.sort(np.linalg.norm(seen.points[:, None] - seen.points, axis=2), 1)[:, 1]
    assert np.quantile(spacing, 0.05) > 0.02  # they were 0.03 apart before each moved to the mean of its own
    to = np.linalg.norm(points[:, None] - seen.points, axis=2).min(1)
    assert to.max() < 0.045
    assert np.linalg.norm(seen.normals, axis=1) == pytest.approx(1)
    assert (seen.normals[:, 2] > 0.5).all()  # toward what they were told is outside


def test_outside_is_found_where_it_is_not_told() -> None:
    generator = np.random.default_rng(0)
    ball = generator.normal(size=(2500, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    seen = look(ball, np.zeros_like(ball), 0.1, Radii())
    assert ((seen.normals * seen.points).sum(1) > 0.5).all()


def test_spread_is_a_mean_near_by() -> None:
    points = np.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]])
    values = np.array([1, 3, 100], np.float32)
    assert spread(values, points, points, 0) == pytest.approx(values)
    middle = spread(values, points, np.array([[0.5, 0, 0]]), 0.4)
    assert middle == pytest.approx([2.0], abs=1e-4)
    assert spread(values, points, np.array([[50.0, 0, 0]]), 0.1) == pytest.approx([100.0])
