"""Point clouds with their anomaly maps in colour, on the one scale of a model."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.cloud.preprocess import Part
from blemish.data.cloud.render import PLAIN, View, draw, shape_of, view_of
from blemish.data.drawing import BOX, TRUTH, Picture, Scale, colours
from blemish.ops.geometry import nearest, tree_of
from blemish.types import Region

DRAWN = 40_000  # maximum number of points of a picture
NEAR = 12  # neighbours that a point is lit by
LEAN = 0.5  # of the viewer, tilted from straight above the place toward where the part bulges


def heat(
    part: Part,
    anomaly_map: NDArray[np.float32],
    scale: Scale | None,
    regions: Sequence[Region] = (),
    *,
    side: int = 320,
    behind: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> Picture:
    """RGB (side, side, 3): a cloud, seen from where its map is highest (or from `behind`), from the camera where there
    was one.

    `anomaly_map` has the shape of the file: nothing is tinted at the scale's low end, or without a scale. `mask`, in
    the same shape, is painted green; rings stand around regions that face the viewer.
    """
    rows = part.rows
    values = anomaly_map.reshape(-1)[rows]
    marked = np.zeros(len(rows), np.bool_) if mask is None else mask.reshape(-1)[rows]
    if len(part.points) > len(rows):  # places on the faces of a mesh look as their nearest vertex
        like = nearest(tree_of(part.points[: len(rows)]), part.points[len(rows) :], 1)[:, 0]
        values, marked = np.concatenate([values, values[like]]), np.concatenate([marked, marked[like]])
    view = _view(part, int(values.argmax()), behind)
    drawn_rows = np.sort(np.random.default_rng(0).permutation(len(values))[:DRAWN])
    paint = np.tile(PLAIN, (len(values), 1))
    if scale is not None:
        share = np.clip((values - scale.low) / (scale.high - scale.low), 0, 1)
        alpha = np.sqrt(share)[:, None]
        paint = paint * (1 - alpha) + colours(share) * alpha
    paint[marked] = TRUTH
    shown, out = part.points[drawn_rows], part.outside[drawn_rows]
    length = np.sqrt((out**2).sum(1, keepdims=True))
    known = part.cloud.viewpoint is None and bool((length > 0).all())
    near = nearest(tree_of(shown), shown, NEAR)
    picture = draw(shape_of(shown, None, near, out / length if known else None), paint[drawn_rows], view, side)
    for region in regions:
        _ring(picture, part, view, region)
    return picture


def _view(part: Part, peak: int, behind: bool) -> View:
    points, middle = part.points, part.points.mean(0)
    if part.cloud.viewpoint is not None:
        toward = np.asarray(part.cloud.viewpoint, float) - middle
    else:
        toward = _unit(part.outside[peak]) + LEAN * _unit(points[peak] - middle)
    if not np.linalg.norm(toward) > 1e-6:
        toward = np.array([0.0, 0.0, 1.0])
    return view_of(points, -toward if behind else toward)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _ring(picture: Picture, part: Part, view: View, region: Region) -> None:
    assert region.box is not None
    low, high = np.array(region.box[:3]), np.array(region.box[3:])
    centre = (low + high) / 2
    nearest_row = int(((part.points - centre) ** 2).sum(1).argmin())
    out = part.outside[nearest_row]
    if not out.any():
        out = part.points[nearest_row] - part.points.mean(0)
    if out @ view.axes[2] < 0:
        return
    scale = len(picture) / 2 / view.reach
    x, y = ((centre - view.middle) @ view.axes[:2].T * (scale, -scale) + len(picture) / 2).round().astype(int)
    radius = max(round(float(np.linalg.norm(high - low)) / 2 * scale) + 3, 5)
    cv2.circle(picture, (int(x), int(y)), radius, BOX, max(1, len(picture) // 200), cv2.LINE_AA)
