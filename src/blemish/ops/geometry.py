"""What a surface looks like around a point: spacing, normals, curvature, what hangs together, points on a mesh.

Everything is relative to the points themselves: no unit, no axis and no origin is preferred. Trees are SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError

Points = NDArray[np.float64]
Indices = NDArray[np.int64]

COARSE = 10_000  # points whose normals are oriented from neighbour to neighbour; all others follow the nearest of them
ALIKE = 1e-4  # of the square of a matrix' trace: products of its eigenvalues' distances that count as none
BLOCK = 5_000  # points at once, where each has its neighbours beside it: what fits a processor's cache


def in_blocks(count: int, work: Callable[[slice], None]) -> None:
    """`work` on each block of `count` rows, on all processors: NumPy and LAPACK leave the interpreter free."""
    blocks = [slice(at, at + BLOCK) for at in range(0, count, BLOCK)]
    if len(blocks) == 1:
        work(blocks[0])
        return
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, blocks))


def tree_of(points: Points) -> Any:
    """A k-d tree of points (N, 3)."""
    from scipy.spatial import cKDTree

    return cKDTree(points, balanced_tree=False, compact_nodes=False)


def nearest(tree: Any, points: Points, k: int) -> Indices:
    """(M, k) rows of the tree's points, the nearest first."""
    found: Indices = tree.query(points, k=min(k, tree.n), workers=-1)[1]
    return found.reshape(len(points), -1)


def spacing(tree: Any, points: Points, generator: np.random.Generator) -> float:
    """Median distance from a point to the next one that lies elsewhere, over at most 10,000 points."""
    some = points[generator.permutation(len(points))[:10_000]]
    away = tree.query(some, k=min(4, tree.n), workers=-1)[0]
    away = np.where(away > 0, away, np.inf).min(1)
    return float(np.median(away[np.isfinite(away)])) if np.isfinite(away).any() else 0.0


def fitted_normals(points: Points, neighbours: Indices, there: NDArray[np.bool_] | None = None) -> Points:
    """Unit normals (M, 3) of planes through the neighbours (M, k): where they spread least. Their sign is arbitrary.

    `there` (M, k) says which of the neighbours count; all of them where it is not given.
    """
    out = np.empty((len(neighbours), 3))

    def fit(block: slice) -> None:
        around = points[neighbours[block]]
        if there is None:
            around = around - around.mean(1, keepdims=True)
        else:
            some = there[block, :, None]
            around = (around - around.mean(1, keepdims=True, where=some)) * some
        out[block] = least_spread(around.transpose(0, 2, 1) @ around)

    in_blocks(len(out), fit)
    return out


def least_spread(matrices: NDArray[np.float64]) -> Points:
    """Unit eigenvectors (M, 3) of the smallest eigenvalues of symmetric matrices (M, 3, 3); their sign is arbitrary.

    In closed form (Smith, Eigenvalues of a symmetric 3 x 3 matrix, Comm. ACM 1961); where the two smallest are all but
    the same, by LAPACK, which takes several times as long.
    """
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = matrices.transpose(1, 2, 0)
    middle = (xx + yy + zz) / 3
    a, b, c = xx - middle, yy - middle, zz - middle
    size = np.sqrt((a * a + b * b + c * c + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
    det = a * (b * c - yz * yz) - xy * (xy * c - yz * xz) + xz * (xy * yz - b * xz)
    cube = 2 * size**3
    cosine = np.divide(det, cube, out=np.zeros_like(det), where=cube > 0).clip(-1, 1)
    lowest = middle + 2 * size * np.cos(np.arccos(cosine) / 3 + 2 * np.pi / 3)
    a, b, c = xx - lowest, yy - lowest, zz - lowest
    rows = np.stack([a, xy, xz], 1), np.stack([xy, b, yz], 1), np.stack([xz, yz, c], 1)
    found = np.stack([np.cross(rows[i], rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))], 1)
    length = np.sqrt((found**2).sum(2))
    best = length.argmax(1)[:, None]
    longest = np.take_along_axis(length, best, 1)
    alike = longest[:, 0] <= ALIKE * (3 * middle) ** 2
    out = np.take_along_axis(found, best[:, :, None], 1)[:, 0] / np.where(longest > 0, longest, 1)
    out[alike] = np.linalg.eigh(matrices[alike])[1][:, :, 0]
    return out


def face_normals(points: Points, faces: Indices) -> Points:
    """Unit normals (N, 3) of a mesh's vertices, each face counting by its area; of a closed mesh they point outward.

    Zeros where a vertex has no face.
    """
    a, b, c = (points[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    total = np.stack(
        [sum(np.bincount(faces[:, i], cross[:, d], len(points)) for i in range(3)) for d in range(3)], 1
    )  # fmt: skip
    length = np.sqrt((total**2).sum(1, keepdims=True))
    total = np.divide(total, length, out=np.zeros_like(total), where=length > 0)
    volume = float((cross * (a - points.mean(0))).sum())  # six times of it
    return np.asarray(-total if volume < 0 else total)


def toward(normals: Points, points: Points, viewpoint: Any) -> Points:
    """The normals (N, 3), turned to the side from which a camera at `viewpoint` looks."""
    away = ((np.asarray(viewpoint, float) - points) * normals).sum(1) < 0
    return np.where(away[:, None], -normals, normals)


class Orientation:
    """Which side of an unorganised cloud is outside: told from point to point, from the one that lies farthest out.

    Hoppe et al., Surface reconstruction from unorganized points, SIGGRAPH 1992: along the minimum spanning tree of the
    neighbours, whose weights are small where planes are parallel. Done for some of the points; others follow them.
    """

    def __init__(self, tree: Any, points: Points, generator: np.random.Generator, k: int) -> None:
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

        some = points[np.sort(generator.permutation(len(points))[:COARSE])]
        normals = fitted_normals(points, nearest(tree, some, k))
        self.tree = tree_of(some)
        near = nearest(self.tree, some, 10)
        rows, columns = np.repeat(np.arange(len(some)), near.shape[1]), near.reshape(-1)
        weight = 1.001 - np.abs((normals[rows] * normals[columns]).sum(1))
        spanning = minimum_spanning_tree(csr_matrix((weight, (rows, columns)), (len(some), len(some))))
        count, part = connected_components(spanning, directed=False)
        for one in range(count):
            own = np.flatnonzero(part == one)
            out = ((some[own] - points.mean(0)) * normals[own]).sum(1)
            root = own[np.abs(out).argmax()]
            if out[np.abs(out).argmax()] < 0:
                normals[root] *= -1
            order, before = breadth_first_order(spanning, root, directed=False)
            for child in order[1:]:
                if normals[child] @ normals[before[child]] < 0:
                    normals[child] *= -1
        self.normals = normals

    def __call__(self, normals: Points, points: Points) -> Points:
        """The normals (N, 3) with the sign of the nearest point that knows it."""
        like = self.normals[nearest(self.tree, points, 1)[:, 0]]
        return np.where(((like * normals).sum(1) < 0)[:, None], -normals, normals)


def principal_curvatures(points: Points, at: Points, normals: Points, neighbours: Indices) -> NDArray[np.float64]:
    """(M, 2) smaller and larger curvature, 1 / unit; positive where the surface bends toward the normal.

    Of the quadric that fits the neighbours (M, k) best, h = (a x^2 + 2 b x y + c y^2) / 2 + d x + e y.
    """
    out = np.empty((len(at), 2))

    def fit(part: slice) -> None:
        n = normals[part]
        side = np.eye(3)[np.abs(n).argmin(1)]
        t = np.cross(n, side)
        t /= np.sqrt((t**2).sum(1, keepdims=True))
        s = np.cross(n, t)
        around = points[neighbours[part]] - at[part][:, None]
        x, y, h = (np.einsum("nki,ni->nk", around, axis) for axis in (t, s, n))
        size = np.sqrt((x**2 + y**2).mean(1, keepdims=True)) + np.finfo(float).tiny
        x, y, h = x / size, y / size, h / size
        terms = np.stack([x * x / 2, x * y, y * y / 2, x, y], 2)
        across = terms.transpose(0, 2, 1)
        normal, right = across @ terms + 1e-6 * np.eye(5), across @ h[:, :, None]
        a, b, c = np.linalg.solve(normal, right)[:, :3, 0].T / size[:, 0]
        mean, spread = (a + c) / 2, np.hypot((a - c) / 2, b)
        out[part] = np.stack([mean - spread, mean + spread], 1)

    in_blocks(len(out), fit)
    return out


def components(neighbours: Indices, chosen: NDArray[np.bool_], rows: Indices) -> NDArray[np.int32]:
    """Which chosen points hang together by their neighbours: (M,) 1, 2, ... in order of first rows, 0 elsewhere.

    neighbours (M, k) rows of the whole cloud, chosen (M,), rows (M,) the rows of these M points, ascending.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    own = np.flatnonzero(chosen)
    out = np.zeros(len(chosen), np.int32)
    if not own.size:
        return out
    place = np.full(max(int(neighbours.max()), int(rows.max())) + 1, -1, np.int32)
    place[rows[own]] = np.arange(len(own))
    to = place[neighbours[own]]
    start = np.broadcast_to(np.arange(len(own))[:, None], to.shape)[to >= 0]
    graph = csr_matrix((np.ones(len(start), np.int8), (start, to[to >= 0])), (len(own), len(own)))
    part = connected_components(graph, directed=False)[1]
    first = np.unique(part, return_index=True)[1]
    out[own] = np.argsort(np.argsort(first))[part] + 1
    return out


def sampled(points: Points, faces: Indices, count: int, generator: np.random.Generator) -> tuple[Points, Points]:
    """`count` points spread evenly over a mesh, and the exact normals of their faces: (count, 3) each.

    Three times as many are drawn by area; one that lies too near to an earlier one goes (a Poisson disc), and the rest
    is filled up with the first of those. DataError for a mesh without area.
    """
    a, b, c = (points[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    double = np.sqrt((cross**2).sum(1))
    total = double.sum()
    if not np.isfinite(total) or total <= 0:
        raise DataError("the mesh has no area to take points from", hint="is it empty, or flat to a line?")
    drawn = 3 * count
    face = np.searchsorted(np.cumsum(double), generator.random(drawn) * total).clip(max=len(faces) - 1)
    u, v = np.sqrt(generator.random(drawn)), generator.random(drawn)
    found = (1 - u)[:, None] * a[face] + (u * (1 - v))[:, None] * b[face] + (u * v)[:, None] * c[face]
    kept = apart(found, 0.6 * np.sqrt(total / 2 / count))
    order = np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)])[:count]
    outward = face_normals(points, faces)
    normals = cross[face[order]] / double[face[order]][:, None]
    # a closed mesh whose faces are wound the other way: as its vertices' normals say
    flip = (normals * outward[faces[face[order], 0]]).sum(1) < 0
    return found[order], -normals if flip.mean() > 0.5 else normals


def apart(points: Points, radius: float) -> NDArray[np.bool_]:
    """(N,) points with no earlier kept point within `radius`: a Poisson disc that depends on order, and on no axis."""
    pairs = tree_of(points).query_pairs(radius, output_type="ndarray").astype(np.int64)
    pairs.sort(1)
    kept = np.ones(len(points), bool)
    open_ = np.ones(len(pairs), bool)
    undecided = np.zeros(len(points), bool)
    undecided[pairs[:, 1]] = True
    while open_.any():
        first, second = pairs[open_].T
        # a point is settled when none of its earlier neighbours waits any more
        sure = ~undecided[first] & kept[first]
        kept[second[sure]] = False
        undecided[second[sure]] = False
        alive = kept[first] & kept[second]
        open_[np.flatnonzero(open_)[~alive]] = False
        waiting = np.zeros(len(points), bool)
        waiting[pairs[open_][:, 1]] = True
        undecided &= waiting
    return kept
