"""What the surroundings of a point look like, in numbers that no motion of the part changes: FPFH. No torch.

Rusu, Blodow and Beetz, Fast point feature histograms (FPFH) for 3D registration, ICRA 2009. Lengths are relative to
the distance at which points are inspected (`voxel`), so that no unit is preferred. Trees are SciPy's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.ops.geometry import Indices, Orientation, Points, apart, fitted_normals, nearest, tree_of

Floats = NDArray[np.float32]

BINS = 11  # of each of the three angles
WIDTH = 3 * BINS
MOST = 50_000  # points of a cloud that are inspected; of more, so many at random
BLEND = 8  # points that a value is read from between them
_BLOCK = 200_000  # pairs at once


class Radii(NamedTuple):
    """How far is looked; radii in voxels."""

    normal_radius: float = 2.0
    normal_points: int = 30  # most neighbours
    radius: float = 8.0
    fast: bool = True  # FPFH; False leaves out what the neighbours see (SPFH)


class Looked(NamedTuple):
    """A cloud, thinned and described."""

    points: Points  # (M, 3)
    normals: Points  # (M, 3)
    features: Floats  # (M, 33)


def look(points: Points, outside: Points, voxel: float, radii: Radii) -> Looked:
    """Thin a cloud (N, 3) to points that lie `voxel` apart, and describe each.

    `outside` (N, 3) points out of the material, of any length; where it is zero, outside is told from the points.
    """
    some = np.sort(np.random.default_rng(0).permutation(len(points))[:MOST])
    points, normals = thinned(points[some], outside[some], voxel, radii)
    return Looked(points, normals, fast_histograms(points, normals, radii.radius * voxel, fast=radii.fast))


def thinned(points: Points, outside: Points, voxel: float, radii: Radii) -> tuple[Points, Points]:
    """Points (M, 3) and unit normals (M, 3) of a cloud: none nearer to an earlier one than `voxel`, each then moved to
    the mean of all that are nearest to it, as cells of a grid would have it; but no grid, which would have axes.
    """
    kept = points[apart(points, voxel)]
    owner = nearest(tree_of(kept), points, 1)[:, 0]
    count = np.bincount(owner, minlength=len(kept))[:, None]
    means = [
        np.stack([np.bincount(owner, values[:, i], len(kept)) for i in range(3)], 1) / count
        for values in (points, outside)
    ]
    kept, out = means
    near, away = within(kept, radii.normal_radius * voxel, radii.normal_points)
    seen = np.isfinite(away)
    seen[:, :3] = True  # a plane needs three, wherever they are
    normals = fitted_normals(kept, near, seen)
    told = (out * normals).sum(1)
    if not (told != 0).all():
        tree = tree_of(kept)
        guess = Orientation(tree, kept, np.random.default_rng(0), radii.normal_points)(normals, kept)
        told = np.where(told != 0, told, (guess * normals).sum(1))
    return kept, np.where((told < 0)[:, None], -normals, normals)


def within(points: Points, radius: float, most: int) -> tuple[Indices, NDArray[np.float64]]:
    """(M, k) the nearest points, each itself first, and how far away they are: infinitely where beyond the radius."""
    away, near = tree_of(points).query(points, k=min(most + 1, len(points)))
    return near, np.where(away > radius, np.inf, away)


def fast_histograms(points: Points, normals: Points, radius: float, *, fast: bool = True) -> NDArray[np.float32]:
    """(M, 33): a point's own histograms, and on top the mean of its neighbours', the near ones counting more.

    FPFH(p) = SPFH(p) + sum SPFH(p_k) / w_k, w_k the distance to neighbour k (Eq. 2); neighbours are all points within
    the radius. The weights are normalised, which makes the sum free of units; the paper divides by their number.
    """
    from scipy.sparse import csr_matrix

    pairs = tree_of(points).query_pairs(radius, output_type="ndarray")
    own = spfh(points, normals, pairs)
    if not fast:
        return own.astype(np.float32)
    away = _dot(line := points[pairs[:, 1]] - points[pairs[:, 0]], line) ** 0.5
    pairs, away = pairs[away > 0], away[away > 0]
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    weight = np.tile(1 / away, 2)
    weight /= np.bincount(rows, weight, len(points))[rows]
    mixed = csr_matrix((weight, (rows, columns)), (len(points), len(points))) @ own
    return np.asarray(own + mixed, np.float32)


def spfh(points: Points, normals: Points, pairs: NDArray[Any]) -> NDArray[np.float64]:
    """(M, 33): how often each angle between a point and a neighbour falls into each of 11 bins, in percent.

    pairs (P, 2), each pair once: it counts for both of its points. Zeros where a point has no neighbour.
    """
    counts = np.zeros(len(points) * WIDTH)
    for at in range(0, len(pairs), _BLOCK):
        first, second = pairs[at : at + _BLOCK].T
        angles, there = pair_angles(points, normals, first, second)
        both, (alpha, phi, theta) = np.concatenate([first[there], second[there]]) * WIDTH, angles[:, there]
        for kind, share in enumerate(((alpha + 1) / 2, (phi + 1) / 2, theta / (2 * np.pi) + 0.5)):
            bins = np.clip((share * BINS).astype(np.int64), 0, BINS - 1) + kind * BINS
            counts += np.bincount(both + np.tile(bins, 2), minlength=len(counts))
    histograms = counts.reshape(-1, 3, BINS)
    total = histograms.sum(2, keepdims=True)
    return np.asarray(100 * histograms / np.maximum(total, 1)).reshape(-1, WIDTH)


def pair_angles(
    points: Points, normals: Points, first: NDArray[Any], second: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The three angles (alpha, phi, theta) of each pair of points, (3, P), and where they are defined, (P,).

    The source of a pair is the point whose normal lies nearer to the line between them. With u its normal,
    v = line x u and w = u x v: alpha = v . n_target, phi = u . line, theta = atan2(w . n_target, u . n_target).
    """
    line, u, target = points[second] - points[first], normals[first], normals[second]
    length = np.sqrt(_dot(line, line))
    line /= np.maximum(length, np.finfo(float).tiny)[:, None]
    swap = (np.abs(_dot(u, line)) < np.abs(_dot(target, line)))[:, None]
    u, target, line = np.where(swap, target, u), np.where(swap, u, target), np.where(swap, -line, line)
    v = _cross(line, u)
    size = np.sqrt(_dot(v, v))
    v /= np.maximum(size, np.finfo(float).tiny)[:, None]
    w = _cross(u, v)
    theta = np.arctan2(_dot(w, target), _dot(u, target))
    return np.stack([_dot(v, target), _dot(u, line), theta]), (length > 0) & (size > 1e-9)


def _dot(a: Points, b: Points) -> NDArray[np.float64]:
    return np.asarray(np.einsum("ni,ni->n", a, b))


def _cross(a: Points, b: Points) -> Points:
    """As numpy's, but three times as fast."""
    (x, y, z), (p, q, r) = a.T, b.T
    return np.stack([y * r - z * q, z * p - x * r, x * q - y * p], 1)


def spread(values: NDArray[np.float32], points: Points, at: Points, sigma: float) -> Floats:
    """Values (M,) of points (M, 3), read at other places (N, 3): a mean of the nearest 8 under a Gaussian of `sigma`.

    `sigma` 0 takes the nearest one's.
    """
    if sigma <= 0:
        return np.asarray(values[nearest(tree_of(points), at, 1)[:, 0]], np.float32)
    away, near = tree_of(points).query(at, k=min(BLEND, len(points)))
    away, near = away.reshape(len(at), -1), near.reshape(len(at), -1)
    weight = np.exp((away[:, :1] ** 2 - away**2) / (2 * sigma**2))
    return np.asarray((weight * values[near]).sum(1) / weight.sum(1), np.float32)
