"""Pictures of clouds, drawn with numpy: no window, no graphics card; and one page that turns them in a browser."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError
from blemish.types import Cloud

Picture = NDArray[np.uint8]
Axes = NDArray[np.float64]

PLAIN = np.array([206, 209, 214], np.float64)  # RGB of a surface that was left alone
BULGE, SINK = np.array([222, 62, 54], np.float64), np.array([30, 104, 214], np.float64)
MOST = 150_000  # points that are drawn: more show nothing more
FINE = 2  # the picture is drawn so many times larger, and made small at the end


class View(NamedTuple):
    """Where one looks from: right, up and toward the viewer; what is in the middle, and how much around it is seen."""

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


def tinted(displacement: NDArray[Any], most: float) -> NDArray[np.float64]:
    """RGB (N, 3) of displacements (N,): grey where there is none, red out and blue in, full at `most`."""
    share = np.clip(np.abs(displacement) / max(most, 1e-30), 0, 1)[:, None]
    strong = np.where((displacement > 0)[:, None], BULGE, SINK)
    return PLAIN + (strong - PLAIN) * np.where(share > 0, 0.25 + 0.75 * share, 0)


def draw(points: Axes, colours: NDArray[np.float64] | None, view: View, side: int = 320) -> Picture:
    """RGB (side, side, 3): the points (N, 3) as a lit surface on white, in their colours (N, 3).

    Painted from back to front with discs that just close; light and shade come from the depths that are seen.
    """
    size = side * FINE
    scale = size / 2 / view.reach
    seen = (points - view.middle) @ view.axes.T
    place = np.rint(seen[:, :2] * (scale, -scale) + size / 2).astype(np.int64)
    inside = ((place > -20) & (place < size + 20)).all(1)
    order = np.flatnonzero(inside)
    order = order[np.argsort(seen[order, 2], kind="stable")]
    radius = _disc(place[order], size)
    depth = np.full((size, size), np.nan, np.float32)
    paint = np.full((size, size, 3), 255, np.float32)
    shown = np.broadcast_to(PLAIN, (len(points), 3)) if colours is None else colours
    span = np.arange(-radius, radius + 1)
    y, x = np.meshgrid(span, span)
    steps = np.stack([x, y], 2)[(x**2 + y**2) <= radius**2 + 1]
    # a block at a time, so that a near point is never painted over by the rim of a far one
    for block in np.array_split(order, max(1, len(order) // 2000)):
        to = (place[block][:, None] + steps).reshape(-1, 2)
        fits = ((to >= 0) & (to < size)).all(1)
        who = np.repeat(block, len(steps))[fits]
        column, row = to[fits].T
        depth[row, column] = seen[who, 2]
        paint[row, column] = shown[who]
    lit = _lit(depth, scale, radius)
    picture = np.where(np.isnan(depth)[..., None], 255, paint * lit[..., None])
    small = cv2.resize(np.clip(picture, 0, 255).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small.round(), np.uint8)


def _disc(place: NDArray[np.int64], size: int) -> int:
    """Pixels: as wide as the points lie apart where they lie densest, so that the surface closes."""
    if not len(place):
        return 1
    cell = max(size // 40, 1)
    counts = np.bincount((place // cell + 2) @ np.array([1, 100]), minlength=1)
    typical = float(np.median(counts[counts > 0]))
    return int(np.clip(round(1.3 * cell / max(typical, 1) ** 0.5), 1, 9))


def _lit(depth: NDArray[np.float32], scale: float, radius: int) -> NDArray[np.float32]:
    """Brightness (size, size) of a surface with these depths, lamp at the upper left."""
    there = ~np.isnan(depth)
    flat = np.where(there, depth, np.nanmin(depth) if there.any() else 0).astype(np.float32) * scale
    sigma = 0.9 * radius
    weight = cv2.GaussianBlur(there.astype(np.float32), (0, 0), sigma)
    smooth = cv2.GaussianBlur(np.where(there, flat, 0).astype(np.float32), (0, 0), sigma) / np.maximum(weight, 1e-3)
    smooth = np.where(np.abs(smooth - flat) < 6 * radius, smooth, flat)  # not over the edge of what lies in front
    dy, dx = np.gradient(smooth)
    steep = np.sqrt(dx**2 + dy**2 + 1)
    lamp = np.array([-0.45, -0.55, 0.70])
    light = (-dx * lamp[0] - dy * lamp[1] + lamp[2]) / steep
    return np.asarray(0.28 + 0.92 * np.clip(light, 0, 1) ** 0.9, np.float32)


class Exhibit(NamedTuple):
    """One cloud on the page."""

    title: str
    before: Axes  # (N, 3)
    after: Axes  # (N, 3)
    displacement: NDArray[Any]  # (N,)


def write_page(exhibits: Sequence[Exhibit]) -> bytes:
    """A page that holds all it needs: turn, zoom, before and after, the defect in colour. Scripts from nowhere else."""
    if not exhibits:
        raise DataError("there is no cloud to show")
    data = json.dumps([_packed(e) for e in exhibits], separators=(",", ":")).replace("</", "<\\/")
    page = files("blemish").joinpath("cloud_view.html").read_text(encoding="utf-8")
    return page.replace("/*CLOUDS*/[]", data).encode()


def _packed(exhibit: Exhibit) -> dict[str, Any]:
    """Points as 16-bit steps of the box around them, displacement as 8-bit steps."""
    both = np.concatenate([exhibit.before, exhibit.after])
    low, side = both.min(0), max(float(np.ptp(both, axis=0).max()), 1e-30)
    most = max(float(np.abs(exhibit.displacement).max(initial=0)), 1e-30)

    def text(values: NDArray[Any], kind: str) -> str:
        return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()

    steps = [np.rint((p - low) / side * 65535) for p in (exhibit.before, exhibit.after)]
    levels = np.rint(exhibit.displacement / most * 127)
    levels = np.where((levels == 0) & (exhibit.displacement != 0), np.sign(exhibit.displacement), levels)
    return {
        "title": exhibit.title,
        "points": len(exhibit.before),
        "moved": int((exhibit.displacement != 0).sum()),
        "depth": most if exhibit.displacement.any() else 0,
        "before": text(steps[0], "<u2"),
        "after": text(steps[1], "<u2"),
        "levels": text(levels, "i1"),
    }


def some_of(cloud: Cloud, displacement: NDArray[Any], most: int = MOST) -> NDArray[np.int64]:
    """Rows of points that are drawn: all that moved, and so many of the others that it is `most` in all."""
    rows = np.flatnonzero(cloud.valid)
    if len(rows) <= most:
        return rows
    moved = rows[displacement[rows] != 0]
    generator = np.random.default_rng(0)
    # as dense inside as outside, but never fewer than a third of all
    share = min(1.0, max(most / len(rows), most / 3 / max(len(moved), 1)))
    moved = moved[generator.random(len(moved)) < share]
    others = rows[displacement[rows] == 0]
    others = others[generator.random(len(others)) < (most - len(moved)) / max(len(others), 1)]
    return np.sort(np.concatenate([moved, others]))
