"""3D-PNAS: a defect of a scanned surface is Perlin noise, laid on it from a plane and pushed along its normals.

Paper    Cheng and Du, 3D-PNAS: 3D industrial surface anomaly synthesis with Perlin noise, arXiv 2504.12856 (2025).
Plane    The points' two main directions span a plane; each point gets a place (u, v) on it (`_on_plane`).
Field    Fractal Perlin noise on a grid over the plane, scaled to [0, 1], read at every point (`_field`).
Support  What lies above a threshold, inside a window, on one side of the part may move (`_support`).
Move     P' = P + sign * strength * diagonal * weight * normal (`_moves`); points that move farther than the sensor's
noise
         are labelled, and no others are moved.
Differs  Plane, grid, noise and its scaling are the paper's. How the field becomes a displacement is not public: the
         soft threshold, the window, the guard against the far side, the label's threshold and the sign are ours.
         `mode=global`, without threshold and window, is closest to the paper's formula. Scale and strength are
         relative to the part, so that the same options fit every part in any unit.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.config import nearest as nearest_name
from blemish.data.synthesis.perlin import Fractal
from blemish.data.synthesis.scan import LINKS, Scan
from blemish.errors import ConfigError
from blemish.ops import geometry
from blemish.ops.geometry import Indices, Points
from blemish.types import Cloud

Values = NDArray[np.float64]

FINEST = 4096  # nodes of the grid along an axis, at most


@dataclass(frozen=True)
class SurfaceDefect:
    """Options of one defect. ConfigError for values that make none."""

    scale: float = 4.0  # cells of the noise across the part's longer side: few large blobs, or many small ones
    strength: float = 0.01  # how far the most moved point goes, as a share of the diagonal of the box around the part
    octaves: int = 3  # layers of ever finer noise
    persistence: float = 0.5  # weight of an octave against the one before it
    lacunarity: float = 2.0  # cells of an octave against the one before it
    tau: float = 0.6  # of the noise in [0, 1]: what lies below does not move
    radius: float = 0.15  # of the window that holds the defect, as a share of the part's longer side; 0 = no window
    sign: Literal["bulge", "sink", "random"] = "random"  # along the normals, against them, or each blob at random
    mode: Literal["islands", "global"] = "islands"  # global: the whole field moves the whole part, both ways
    plane: Literal["pca", "local", "cylinder"] = "pca"  # what the noise is laid on: see `_on_plane`
    guard: bool = True  # only the side of the part that the window's centre faces, else both that the plane folds
    clamp: bool = True  # less where points would move through each other: in hollows, and through walls
    stretch: float = 1.0  # noise this many times longer than wide, in any direction: scratches
    at: tuple[float, float, float] | None = None  # the window's centre, in the cloud's unit; at random if not given
    scale_units: Literal["relative", "raw"] = "relative"  # raw: cells per unit of the file, as the paper multiplies
    sample: Literal["grid", "points"] = "grid"  # points: the noise itself at each point, without a grid between
    resolution: int = 256  # nodes of the grid along its longer side; more where the finest octave needs them
    noise: float = (
        0.0  # the sensor's noise, in the cloud's unit: smaller moves get no label; 0 = a quarter of the points' spacing
    )
    neighbours: int = 30  # points that a normal is estimated from

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"option '{name}': {value:g} is not in {low:g} to {high:g}")
        if not all(math.isfinite(v) for v in self.at or ()):
            raise ConfigError(f"option 'at': {self.at} is no place", hint="three finite numbers")


_RANGES = (
    ("scale", 1e-6, 1e6), ("strength", 0, 1), ("octaves", 1, 12), ("persistence", 0.01, 2), ("lacunarity", 1, 8),
    ("tau", 0, 0.99), ("radius", 0, 1), ("stretch", 1, 64), ("resolution", 8, FINEST), ("noise", 0, math.inf),
    ("neighbours", 6, 200),
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "dent": {"scale": 2.0, "octaves": 1, "strength": 0.015, "sign": "sink"},
    "bump": {"scale": 3.0, "octaves": 2, "strength": 0.015, "sign": "bulge"},
    "rough": {"scale": 12.0, "octaves": 5, "persistence": 0.7, "strength": 0.006, "tau": 0.2, "sign": "bulge"},
    "warp": {"scale": 1.5, "octaves": 1, "mode": "global", "strength": 0.01},
    "scratch": {"scale": 20.0, "octaves": 1, "stretch": 8.0, "tau": 0.7, "strength": 0.006, "sign": "sink"},
}
"""Options by name, all of them relative to the part."""


def options_of(preset: str, given: dict[str, Any], generator: np.random.Generator) -> SurfaceDefect:
    """The options of a preset with those that were `given` on top.

    `random` draws scale (2 to 16, log-uniform), octaves (1 to 5), strength (0.003 to 0.03, log-uniform), tau (0.6 to
    0.85), radius (0.05 to 0.25) and the sign. ConfigError for an unknown preset.
    """
    low, high = np.log([2, 0.003]), np.log([16, 0.03])
    scale, strength = np.exp(generator.uniform(low, high)).tolist()
    values: dict[str, Any] = {
        "scale": scale,
        "strength": strength,
        "octaves": int(generator.integers(1, 6)),
        "tau": float(generator.uniform(0.6, 0.85)),
        "radius": float(generator.uniform(0.05, 0.25)),
    }
    if preset not in (*PRESETS, "random"):
        raise ConfigError(f"no preset '{preset}'", hint=nearest_name(preset, [*PRESETS, "random"]))
    return SurfaceDefect(**{**PRESETS.get(preset, values), **given})


class Made(NamedTuple):
    """A cloud with its defect. Arrays have a row for each row of the cloud, points or not."""

    cloud: Cloud  # `label`, `displacement` and `component` are among its fields
    labels: NDArray[np.uint8]  # (N,) 1 where it moved
    displacement: NDArray[np.float32]  # (N,) along the normal, in the cloud's unit; 0 where it did not move
    component: NDArray[np.int32]  # (N,) 1, 2, ... the blobs, 0 elsewhere
    record: dict[str, Any]  # what was done, as JSON has it


def damage(cloud: Cloud, options: SurfaceDefect, generator: np.random.Generator) -> Made:
    """Put one defect on a cloud.

    Rows outside the labels keep their bits: points, normals, fields, and rows that are no points. Where the cloud has
    normals, those of moved points are computed again. The same options, cloud and generator give the same bits; the
    place depends on neither scale, octaves nor strength. DataError for a cloud of fewer than 100 points or without
    extent.
    """
    of_place, of_field, of_sign, of_rest = generator.spawn(4)
    part = Scan(cloud, options.neighbours, of_rest)
    plane = _on_plane(part, options, of_place)
    n = _field(plane, options, of_field)
    rows, weight = _support(part, plane, n, options, of_place)
    move, normals = _moves(part, rows, weight, options, of_sign)

    limit = options.noise or part.spacing / 4
    before = cloud.points[part.rows[rows]]
    after = (before.astype(np.float64) + move[:, None] * normals).astype(before.dtype)
    far = np.sqrt(((after.astype(np.float64) - before) ** 2).sum(1))
    rows, after, offset = (x[far > limit] for x in (rows, after, np.copysign(far, move)))

    at = part.rows[rows]
    points, labels = cloud.points.copy(), np.zeros(len(cloud.points), np.uint8)
    displacement, component = np.zeros(len(points), np.float32), np.zeros(len(points), np.int32)
    points[at], labels[at], displacement[at] = after, 1, offset
    component[at] = geometry.components(part.near(rows, LINKS), np.ones(len(rows), bool), rows)
    fields = {**cloud.fields, "label": labels, "displacement": displacement, "component": component}
    made = replace(cloud, points=points, normals=part.normals_after(rows, points), fields=fields)
    record = {
        "options": asdict(options),
        "centre": None if plane.centre is None else cloud.points[part.rows[plane.centre]].tolist(),
        "points": len(part.rows),
        "moved": len(rows),
        "share": len(rows) / len(part.rows),
        "components": int(component.max(initial=0)),
        "depth": float(np.abs(displacement).max(initial=0)),
        "roughness": part.slope(rows, displacement),
        "diagonal": part.diagonal,
        "spacing": part.spacing,
        "limit": limit,
        "normals": part.source,
    }
    return Made(made, labels, displacement, component, record)


class _Plane(NamedTuple):
    """The part on a plane."""

    uv: Points  # (M, 2), in the cloud's unit; a stretched noise is long along the first
    facing: Points  # (3,) or (M, 3), across the plane
    centre: int | None  # of the window; None without one


def _on_plane(part: Scan, options: SurfaceDefect, generator: np.random.Generator) -> _Plane:
    """Where each point lies on the plane.

    pca       the plane of the two main directions, as in the paper; front and back fall on one another
    local     the tangent plane at the window's centre
    cylinder  unrolled about the main direction, with the seam opposite to the window's centre
    """
    candidates, angle = generator.permutation(len(part.rows))[:64], generator.uniform(0, 2 * math.pi)
    windowed = options.mode == "islands" and options.radius > 0
    if options.at is not None:
        candidates = geometry.nearest(part.tree, np.asarray(options.at, float)[None] - part.mean, 1)[0]
    centre, points = int(candidates[0]), part.points
    if options.plane == "local":
        facing = part.normals(candidates[:1])[0]
        first = part.axes[:, int(abs(part.axes[:, 0] @ facing) > 0.9)]
        first = first - (first @ facing) * facing
        first /= np.linalg.norm(first)
        uv = (points - points[centre]) @ np.stack([first, np.cross(facing, first)], 1)
    elif options.plane == "cylinder":
        x, y, z = (points @ part.axes[:, i] for i in (1, 2, 0))
        turn = np.arctan2(y[centre], x[centre])
        round_ = np.angle(np.exp(1j * (np.arctan2(y, x) - turn)))
        uv = np.stack([round_ * np.hypot(x, y).mean(), z], 1)
        facing = np.stack([x, y], 1) @ part.axes[:, 1:].T
        facing /= np.maximum(np.sqrt((facing**2).sum(1, keepdims=True)), np.finfo(float).tiny)
    else:
        facing, uv = part.axes[:, 2], points @ part.axes[:, :2]
        if windowed and options.guard:  # not where the plane is seen edge-on
            steep = np.abs(part.normals(candidates) @ facing)
            centre = int(candidates[(steep > 0.5).argmax() if (steep > 0.5).any() else steep.argmax()])
    if options.stretch > 1:
        uv = uv @ np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return _Plane(uv, facing, centre if windowed else None)


def _field(plane: _Plane, options: SurfaceDefect, generator: np.random.Generator) -> Values:
    """The noise at each point, (M,), in [0, 1] over the grid.

    With a window it is drawn on twice the area, and laid so that its highest place falls on the window's centre.
    """
    low, sides = plane.uv.min(0), np.maximum(np.ptp(plane.uv, axis=0), 1e-9 * np.ptp(plane.uv))
    fold = 1 if plane.centre is None else 2
    unit = sides.max() if options.scale_units == "relative" else 1.0
    cells = fold * options.scale * sides / unit / (options.stretch, 1)
    finest = options.scale * (sides.max() / unit) * options.lacunarity ** (options.octaves - 1)
    wanted = max(options.resolution, math.ceil(4 * finest))
    if fold * (wanted if options.sample == "grid" else finest) > FINEST:
        raise ConfigError(
            f"noise of {finest:.0f} cells across the part is finer than a grid of {FINEST // fold} nodes shows",
            hint="a smaller scale, fewer octaves, or, up to four times as fine, sample=points",
        )
    noise = Fractal.drawn(cells.tolist(), generator, options.octaves, options.persistence, options.lacunarity)
    nodes = np.maximum(np.ceil(fold * min(wanted, FINEST // fold) * sides / sides.max()), 8).astype(int)
    grid = noise.on_grid(nodes.tolist()).astype(np.float64)
    bottom, span = grid.min(), max(float(np.ptp(grid)), 1e-12)
    q = (plane.uv - low) / sides / fold
    if plane.centre is not None:
        first = np.rint(q[plane.centre] * (nodes - 1)).astype(int)
        room = grid[first[0] : first[0] + nodes[0] // 2, first[1] : first[1] + nodes[1] // 2]
        peak = (np.array(np.unravel_index(room.argmax(), room.shape)) + first) / (nodes - 1)
        q = np.clip(q + peak - q[plane.centre], 0, 1)
    at = noise.at(q) if options.sample == "points" else _between(grid, q * (nodes - 1))
    n: Values = np.clip((at - bottom) / span, 0, 1)
    return n


def _between(grid: Values, places: Points) -> Values:
    """Bilinear: the grid's values at places (M, 2), counted in nodes."""
    i, j = np.minimum(places.astype(int), np.array(grid.shape) - 2).T
    y, x = places[:, 0] - i, places[:, 1] - j
    left: Values = (1 - y) * grid[i, j] + y * grid[i + 1, j]
    right = (1 - y) * grid[i, j + 1] + y * grid[i + 1, j + 1]
    out: Values = (1 - x) * left + x * right
    return out


def _support(
    part: Scan, plane: _Plane, n: Values, options: SurfaceDefect, generator: np.random.Generator
) -> tuple[Indices, Values]:
    """Which points may move, and how far: (K,) rows and weights, the largest of them 1; in [-1, 1] where global."""
    if options.mode == "global":
        return np.arange(len(n)), 2 * n - 1
    weight = _smooth((n - options.tau) / (1 - options.tau))
    slim, angle = generator.uniform(0.6, 1), generator.uniform(0, math.pi)
    if plane.centre is not None:
        offset = (plane.uv - plane.uv[plane.centre]) / (options.radius * np.ptp(plane.uv, axis=0).max())
        if options.stretch > 1:
            offset = offset * (1, min(options.stretch, 4))
        else:
            turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            offset = offset @ turn * (1, 1 / slim)
        weight = weight * np.clip(1 - (offset**2).sum(1), 0, 1) ** 2
    rows = np.flatnonzero(weight > 0)
    if options.guard and rows.size:
        first = rows[weight[rows].argmax()] if plane.centre is None else plane.centre
        rows_and_centre = np.concatenate([rows, [first]])
        facing = plane.facing if plane.facing.ndim == 1 else plane.facing[rows_and_centre]
        steep = (part.normals(rows_and_centre) * facing).sum(1)
        weight[rows] *= _smooth(steep[:-1] * np.sign(steep[-1]) / 0.25)
        rows = rows[weight[rows] > 0]
    if plane.centre is not None and rows.size:  # not what lies behind it, in the same window
        pieces = geometry.components(part.near(rows, LINKS), np.ones(len(rows), bool), rows)
        middle = ((part.points[rows] - part.points[plane.centre]) ** 2).sum(1).argmin()
        rows = rows[pieces == pieces[middle]]
    return rows, weight[rows] / (weight[rows].max() if rows.size else 1)


def _smooth(x: Values) -> Values:
    """0 below 0, 1 above 1, without an edge between."""
    x = np.clip(x, 0, 1)
    out: Values = x * x * (3 - 2 * x)
    return out


def _moves(
    part: Scan, rows: Indices, weight: Values, options: SurfaceDefect, generator: np.random.Generator
) -> tuple[Values, Points]:
    """How far each of the rows goes along its normal, (K,), and the normals (K, 3)."""
    move, normals = options.strength * part.diagonal * weight, part.normals(rows)
    signs = generator.choice([-1.0, 1.0], len(rows) + 1)
    if options.sign != "random":
        move = move if options.sign == "bulge" else -move
    elif options.mode == "global":
        move = move * signs[0]
    else:
        move = move * signs[geometry.components(part.near(rows, LINKS), weight > 0, rows)]
    if options.clamp and rows.size and options.strength > 0:
        bend = part.bend(rows, normals)
        hollow = np.where(move > 0, bend[:, 1], -bend[:, 0])  # toward where it goes
        most = np.minimum(0.5 / np.maximum(hollow, 1e-9 / part.diagonal), part.room(rows, move, normals))
        move = np.clip(move, -most, most)
    return move, normals
