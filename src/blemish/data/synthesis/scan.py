"""The valid points of a cloud, and what is known of their surface before anything is done to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError
from blemish.ops.geometry import (
    Indices,
    Orientation,
    Points,
    face_normals,
    fitted_normals,
    nearest,
    principal_curvatures,
    spacing,
    toward,
    tree_of,
)
from blemish.types import Cloud

LEAST = 100  # points of a cloud: fewer show no surface
LINKS = 8  # neighbours by which points are connected


class Scan:
    """The valid points of a cloud about their mean, and what their surface is like."""

    def __init__(self, cloud: Cloud, k: int, generator: np.random.Generator) -> None:
        self.cloud, self.k, self.rows = cloud, k, np.flatnonzero(cloud.valid)
        if len(self.rows) < LEAST:
            hint = f"a surface needs {LEAST} of them; of a mesh, points can be taken from its faces (points, --points)"
            raise DataError(f"holds {len(self.rows)} points", hint=hint)
        points = cloud.points[self.rows].astype(np.float64)
        self.mean = points.mean(0)
        self.points: Points = points - self.mean
        extent = float(np.linalg.norm(np.ptp(points, axis=0)))
        if not 0 < extent < math.inf:
            raise DataError("all of its points lie in one place", hint="is it the right file?")
        _, axes = np.linalg.eigh(self.points.T @ self.points)
        along = self.points @ axes[:, ::-1]
        # toward its longer tail, which turns with the part; where it has none, the largest component is positive
        tail = (along**3).mean(0) / extent**3
        largest = np.take_along_axis(axes[:, ::-1], np.abs(axes[:, ::-1]).argmax(0)[None], 0)[0]
        self.axes: Points = axes[:, ::-1] * np.where(np.abs(tail) > 1e-9, np.sign(tail), np.sign(largest))
        self.diagonal = float(np.linalg.norm(np.ptp(self.points @ self.axes, axis=0)))  # of the box along the axes
        self.tree = tree_of(self.points)
        self.spacing = spacing(self.tree, self.points, generator)
        self._rank = np.empty(len(points), np.int64)  # rank of points in the tree: near points have near ranks
        self._rank[self.tree.indices] = np.arange(len(points))
        self._near = np.empty((len(points), min(max(k, LINKS), len(points))), np.int32)
        self._looked = np.zeros(len(points), bool)
        self.source, known, self._outside = self._given(generator)
        self._normals: Points = np.empty_like(points) if known is None else known
        self._known = np.full(len(points), known is not None)

    def _given(self, generator: np.random.Generator) -> tuple[str, Points | None, Orientation | None]:
        """Normals of the file, else of the faces, else estimated: toward the camera, else outward."""
        for source, normals in (("given", self.cloud.normals), ("faces", self.of_faces(self.cloud.points))):
            if normals is not None:
                unscaled = normals[self.rows].astype(np.float64)
                length = np.sqrt((unscaled**2).sum(1, keepdims=True))
                if np.isfinite(length).all() and length.min() > 1e-6:
                    return source, unscaled / length, None
        if self.cloud.viewpoint is not None:
            return "camera", None, None
        return "estimated", None, Orientation(self.tree, self.points, generator, self.k)

    def of_faces(self, points: NDArray[Any]) -> Points | None:
        faces = self.cloud.faces
        return None if faces is None else face_normals(points.astype(np.float64), faces)

    def _by_place(self, rows: Indices) -> Indices:
        """The rows, once each, neighbours one after the other: their own neighbours lie in the processor's cache."""
        fresh = np.zeros(len(self._rank), bool)
        fresh[self._rank[rows]] = True
        ordered: Indices = self.tree.indices[fresh]
        return ordered

    def near(self, rows: Indices, k: int) -> Indices:
        """(M, k) neighbours of valid points, the point itself among them; looked up once for each point."""
        fresh = self._by_place(rows[~self._looked[rows]])
        if fresh.size:
            self._near[fresh] = nearest(self.tree, self.points[fresh], self._near.shape[1])
        self._looked[fresh] = True
        return self._near[rows, :k].astype(np.int64)

    def own_side(self, rows: Indices, near: Indices, normals: Points) -> Indices:
        """The neighbours (M, k) without those on the far side of a thin wall: the point itself stands for them."""
        if self.source in ("camera", "estimated"):  # of these same neighbours: they do not tell the sides apart
            return near
        same = np.einsum("nkd,nd->nk", self._normals[near], normals) > 0.3
        return np.where(same, near, rows[:, None])

    def normals(self, rows: Indices) -> Points:
        """(M, 3) unit normals of valid points; looked up once for each point."""
        fresh = self._by_place(rows[~self._known[rows]])
        if fresh.size:
            plain = fitted_normals(self.points, self.near(fresh, self.k))
            if self._outside is not None:
                self._normals[fresh] = self._outside(plain, self.points[fresh])
            else:
                self._normals[fresh] = toward(plain, self.points[fresh], np.asarray(self.cloud.viewpoint) - self.mean)
        self._known[fresh] = True
        return self._normals[rows]

    def bend(self, rows: Indices, normals: Points) -> NDArray[np.float64]:
        """(M, 2) smaller and larger curvature of the surface at the rows, 1 / unit, by their side's normals (M, 3)."""
        out, order = np.empty((len(rows), 2)), np.argsort(self._rank[rows])  # as in `_by_place`
        by_place, normals = rows[order], normals[order]
        near = self.own_side(by_place, self.near(by_place, self.k), normals)
        out[order] = principal_curvatures(self.points, self.points[by_place], normals, near)
        return out

    def room(self, rows: Indices, move: NDArray[np.float64], normals: Points) -> NDArray[np.float64]:
        """(M,) how far each point may go before it meets a wall that faces it: a sheet's far side, or across a gap."""
        hit, order = np.empty(len(rows), np.int64), np.argsort(self._rank[rows])  # as in `_by_place`
        hit[order] = nearest(self.tree, (self.points[rows] + move[:, None] * normals)[order], 1)[:, 0]
        distance = ((self.points[hit] - self.points[rows]) * normals).sum(1) * np.sign(move)
        faces = (self.normals(hit) * normals).sum(1) < -0.3
        return np.where(faces & (distance > 0), 0.8 * distance, np.inf)

    def normals_after(self, rows: Indices, points: NDArray[Any]) -> NDArray[Any] | None:
        """The cloud's normals, those of the moved `rows` computed again from all its `points`; None where it has
        none."""
        before = self.cloud.normals
        if before is None or not rows.size:
            return before
        of_faces = self.of_faces(points)
        if of_faces is not None:
            fresh = of_faces[self.rows[rows]]
        else:
            known = self.normals(rows)
            after = points[self.rows].astype(np.float64) - self.mean
            fresh = fitted_normals(after, self.own_side(rows, self.near(rows, self.k), known))
            fresh = np.where(((fresh * known).sum(1) < 0)[:, None], -fresh, fresh)
        out = before.copy()
        out[self.rows[rows]] = fresh
        return out

    def slope(self, rows: Indices, displacement: NDArray[Any]) -> float:
        """How much the displacement of moved neighbours differs, over their distance: root mean square; 0 without any.

        rows are those that moved, displacement that of every row of the cloud.
        """
        near = self.near(rows, LINKS)
        valid = displacement[self.rows].astype(np.float64)
        distance = np.sqrt(((self.points[near] - self.points[rows][:, None]) ** 2).sum(2))
        both = (valid[near] != 0) & (distance > 0)
        steps = (valid[near] - valid[rows][:, None])[both] / distance[both]
        return float(np.sqrt((steps**2).mean())) if steps.size else 0.0
