"""What is shown of defects on clouds: sheets of before and after, grids over parameters, a page that turns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.cloud.render import Axes, Picture, Shape, View, draw, shape_of, view_of
from blemish.data.synthesis.cloud_viewer import Exhibit, shown_rows, tinted, write_page
from blemish.data.synthesis.contact_sheet import contact_sheet
from blemish.data.synthesis.seeding import generator_for
from blemish.data.synthesis.surface3d import Made, damage, options_of
from blemish.ops import geometry
from blemish.types import Cloud

DRAWN, TURNED, POINTS = 80_000, 6, 40_000  # points of a picture; clouds on the page, and points of each there
FACES, NEAR = 400_000, 12  # a mesh of more faces is drawn by points; neighbours that a point is lit by
OCTAVES, STRENGTHS, SCALES = (1, 3, 5), (0.004, 0.01, 0.02), (2.0, 4.0, 8.0)  # of the grid
TILT = 0.6  # of the viewer, radians away from straight above the defect


class Look(NamedTuple):
    """What pictures need of one output."""

    name: str
    before: Cloud
    made: Made


class _Drawn(NamedTuple):
    before: Shape
    after: Shape
    moved: NDArray[np.float64]  # (N,) displacement


def sheet(looks: Sequence[Look], subtitle: str) -> Picture:
    """A row for each: the part with its defect in colour, and the place before, after and in colour."""
    rows = []
    for look in looks:
        drawn = _drawn(look, DRAWN)
        whole, close = _views(drawn)
        most = float(np.abs(drawn.moved).max(initial=0))
        colours = tinted(drawn.moved, most)
        pictures = [
            draw(drawn.after, colours, whole),
            draw(drawn.before, None, close),
            draw(drawn.after, None, close),
            draw(drawn.after, colours, close),
        ]
        record = look.made.record
        o = record["options"]
        caption = (
            f"{look.name}   {record['share']:.2%} of {record['points']:,} points, depth {record['depth']:.3g}   "
            f"scale {o['scale']:.3g}, strength {o['strength']:.3g}, octaves {o['octaves']}"
        )
        rows.append((caption, pictures))
    heads = ["part", "before", "after", "red: out, blue: in"]
    return contact_sheet("Synthetic surface defects", subtitle, heads, rows, across=2)


def parameter_grid(name: str, cloud: Cloud, preset: str, given: dict[str, Any], seed: int) -> Picture:
    """One place of one part, and what scale, strength and octaves make of it."""
    made: dict[tuple[int, float, float], Made] = {}
    for octaves in OCTAVES:
        for strength in STRENGTHS:
            for scale in SCALES:
                values = {"sign": "bulge", **given, "octaves": octaves, "strength": strength, "scale": scale}
                generator = generator_for(seed, name, 0)
                made[octaves, strength, scale] = damage(cloud, options_of(preset, values, generator), generator)
    widest = max(made.values(), key=lambda m: int(m.labels.sum()))
    view = _views(_drawn(Look(name, cloud, widest), DRAWN))[1]
    rows = []
    for strength in STRENGTHS:
        pictures, heads = [], []
        for octaves in OCTAVES:
            for scale in SCALES:
                drawn = _drawn(Look(name, cloud, made[octaves, strength, scale]), DRAWN)
                pictures.append(draw(drawn.after, None, view, 160))
                heads.append(f"octaves {octaves}, scale {scale:g}")
        shares = [made[o, strength, s].record["share"] for o in OCTAVES for s in SCALES]
        rows.append((f"strength {strength:g}   moved: {' '.join(f'{share:.1%}' for share in shares)}", pictures))
    return contact_sheet("Scale, strength, octaves", f"{name}, one place, one seed", heads, rows, side=160)


def page(looks: Sequence[Look]) -> bytes:
    """The first of them as a page that turns them."""
    exhibits = []
    for look in looks[:TURNED]:
        drawn = _drawn(look, POINTS, faces=False)
        axes = _views(drawn)[0].axes
        before, after = (
            shape._replace(points=shape.points @ axes.T, normals=shape.normals @ axes.T)
            for shape in (drawn.before, drawn.after)
        )
        exhibits.append(Exhibit(look.name, before, after, drawn.moved))
    return write_page(exhibits)


def _drawn(look: Look, most: int, *, faces: bool = True) -> _Drawn:
    """What is drawn before and after: faces, or points; those of a mesh lie spread over its faces."""
    before, made = look.before, look.made
    triangles = before.faces
    if triangles is not None and faces and len(triangles) <= FACES:
        first, second = (shape_of(c.points.astype(np.float64), triangles, None) for c in (before, made.cloud))
        return _Drawn(first, second, made.displacement.astype(np.float64))
    known: list[Any] = [None, None]
    if triangles is None:
        rows = shown_rows(before, made.displacement, most)
        points = [c.points[rows].astype(np.float64) for c in (before, made.cloud)]
        moved = made.displacement[rows].astype(np.float64)
        if before.normals is not None and made.cloud.normals is not None:
            known = [c.normals[rows].astype(np.float64) for c in (before, made.cloud) if c.normals is not None]
    else:
        points, moved = _spread(before, made, triangles, most)
    near = geometry.nearest(geometry.tree_of(points[0]), points[0], NEAR)
    first, second = (shape_of(p, None, near, n) for p, n in zip(points, known, strict=True))
    return _Drawn(first, second, moved)


def _spread(before: Cloud, made: Made, faces: NDArray[np.int64], most: int) -> tuple[list[Axes], NDArray[np.float64]]:
    """The same places of the faces, before and after, and how far they moved."""
    corners = before.points.astype(np.float64)[faces]
    area = np.sqrt((np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) ** 2).sum(1))
    generator = np.random.default_rng(0)
    face = np.searchsorted(np.cumsum(area), generator.random(most) * area.sum()).clip(max=len(area) - 1)
    u, v = np.sqrt(generator.random(most)), generator.random(most)
    shares = np.stack([1 - u, u * (1 - v), u * v], 1)
    points = [np.einsum("nk,nkd->nd", shares, c.points.astype(np.float64)[faces][face]) for c in (before, made.cloud)]
    return points, np.asarray(np.einsum("nk,nk->n", shares, made.displacement.astype(np.float64)[faces][face]))


def _views(drawn: _Drawn) -> tuple[View, View]:
    """The whole part with the defect in front, and the place of the defect, both seen at a slant."""
    points, moved = drawn.before.points, np.flatnonzero(drawn.moved)
    _, main = np.linalg.eigh(np.cov((points - points.mean(0)).T))
    if not moved.size:
        plain = view_of(points, _tilted(main[:, 0], main[:, 1]))
        return plain, plain
    steps = (drawn.after.points - points)[moved] * np.sign(drawn.moved[moved])[:, None]
    weight = np.abs(drawn.moved[moved])
    toward = steps.sum(0)
    if np.linalg.norm(toward) < 0.2 * weight.sum():  # all around, as a warp is
        toward = main[:, 0]
    straight = view_of(points, toward)
    slanted = _tilted(straight.axes[2], straight.axes[1])
    middle = (points[moved] * weight[:, None]).sum(0) / weight.sum()
    near = np.quantile(np.sqrt(((points[moved] - middle) ** 2).sum(1)), 0.98)
    whole = view_of(points, slanted)
    return whole, view_of(points, slanted, middle, min(max(1.5 * near, 0.08 * whole.reach), whole.reach))


def _tilted(front: Axes, up: Axes) -> Axes:
    return np.asarray(front * np.cos(TILT) - up * np.sin(TILT))
