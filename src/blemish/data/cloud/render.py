"""Pictures of clouds, drawn with numpy: no window, no graphics card; and one page that turns them in a browser."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.ops import geometry

Picture = NDArray[np.uint8]
Axes = NDArray[np.float64]

PLAIN = np.array([206, 209, 214], np.float64)  # RGB of a surface that was left alone
BULGE, SINK = np.array([222, 62, 54], np.float64), np.array([30, 104, 214], np.float64)
FINE = 2  # the picture is drawn this many times larger, and reduced at the end


class View(NamedTuple):
    """The viewpoint: right, up and toward the viewer; the centre of the picture, and how much around it is seen."""

    axes: Axes  # (3, 3), in rows
    middle: Axes  # (3,)
    reach: float  # from the middle to the picture's nearer border, in the cloud's unit


def view_of(points: Axes, toward: Axes, middle: Axes | None = None, reach: float | None = None) -> View:
    """A view with the viewer along `toward` (3,); the longest side of the points lies across.

    Everything is seen where `middle` (3,) and `reach` are not given.
    """
    front = toward / np.linalg.norm(toward)
    _, main = np.linalg.eigh(np.cov((points - points.mean(0)).T))
    across = main[:, 2] - (main[:, 2] @ front) * front
    if np.linalg.norm(across) < 0.2:
        across = main[:, 1] - (main[:, 1] @ front) * front
    across /= np.linalg.norm(across)
    if across[np.abs(across).argmax()] < 0:
        across = -across
    axes = np.stack([across, np.cross(front, across), front])
    flat = points @ axes[:2].T
    centre = (flat.min(0) + flat.max(0)) / 2
    if middle is None:
        middle = centre @ axes[:2] + (points.mean(0) @ front) * front
    return View(axes, middle, float(np.ptp(flat, axis=0).max()) / 2 * 1.06 if reach is None else reach)


class Shape(NamedTuple):
    """What is drawn."""

    points: Axes  # (N, 3)
    normals: Axes  # (N, 3); of either sign where not `outward`: what is seen looks at the viewer
    spacing: float  # how wide a disc on each point has to be for the surface to close
    faces: NDArray[np.int64] | None = None  # (F, 3): then these are drawn
    outward: bool = False  # the normals are known to point outward: surfaces that face away are not drawn


def shape_of(
    points: Axes, faces: NDArray[np.int64] | None, near: NDArray[np.int64] | None, normals: NDArray[Any] | None = None
) -> Shape:
    """The points with the normals that are known, or of faces, or of neighbours (N, k); the distance to the sixth is
    their spacing."""
    if faces is not None:
        return Shape(points, geometry.face_normals(points, faces), 0, faces)
    assert near is not None
    sampled_rows = np.linspace(0, len(points) - 1, min(len(points), 5000)).astype(int)
    sixth = near[sampled_rows, min(6, near.shape[1] - 1)]
    spacing = np.median(np.linalg.norm(points[sixth] - points[sampled_rows], axis=1))
    if normals is not None:
        return Shape(points, normals, float(spacing), outward=True)
    return Shape(points, geometry.fitted_normals(points, near), float(spacing))


def draw(shape: Shape, colours: NDArray[np.float64] | None, view: View, side: int = 320) -> Picture:
    """RGB (side, side, 3): the shape as a lit surface on white, its points in their colours (N, 3).

    Painted from back to front: faces, or discs that just close.
    """
    size = side * FINE
    scale = size / 2 / view.reach
    seen = (shape.points - view.middle) @ view.axes.T
    place = seen[:, :2] * (scale, -scale) + size / 2
    facing = shape.normals @ view.axes.T
    plain = np.broadcast_to(PLAIN, (len(seen), 3)) if colours is None else colours
    shown = np.clip(plain * lit(np.where(facing[:, 2:] < 0, -facing, facing))[:, None], 0, 255)
    paint = np.full((size, size, 3), 255, np.uint8)
    if shape.faces is not None:
        _faces(paint, seen, place, shown, shape.faces)
    else:
        front = facing[:, 2] > 0 if shape.outward else np.ones(len(seen), bool)
        _discs(paint, seen[front], place[front], shown[front], int(np.clip(round(shape.spacing * scale), 1, 40)))
    return np.asarray(cv2.resize(paint, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def lit(normals: Axes) -> NDArray[np.float64]:
    """Brightness (N,) of surfaces with these normals (N, 3: right, up, toward the viewer), lamp at the upper left."""
    lamp = np.array([-0.5, 0.55, 0.67])
    return np.asarray(0.3 + 0.85 * np.clip(normals @ lamp, 0, 1))


def _faces(paint: Picture, seen: Axes, place: Axes, shown: Axes, faces: NDArray[np.int64]) -> None:
    corners = place[faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    inside = ((corners.max(1) > 0) & (corners.min(1) < len(paint))).all(1)
    rows = np.flatnonzero(inside & (np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) > 1e-3))
    rows = rows[np.argsort(seen[faces[rows], 2].mean(1), kind="stable")]
    fixed = np.rint(corners[rows] * 16).astype(np.int32)
    tones = shown[faces[rows]].mean(1).tolist()
    for corner, tone in zip(fixed, tones, strict=True):
        cv2.fillConvexPoly(paint, corner, tone, cv2.LINE_8, 4)


def _discs(paint: Picture, seen: Axes, place: Axes, shown: Axes, radius: int) -> None:
    size, at = len(paint), np.rint(place).astype(np.int64)
    order = np.flatnonzero(((at > -radius) & (at < size + radius)).all(1))
    order = order[np.argsort(seen[order, 2], kind="stable")]
    for centre, tone in zip(at[order].tolist(), shown[order].tolist(), strict=True):
        cv2.circle(paint, centre, radius, tone, -1, cv2.LINE_8)
