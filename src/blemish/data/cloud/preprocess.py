"""A cloud as a model sees it: valid points only, with places on the faces of a mesh, in the model's scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError, DataError, OutOfRange
from blemish.ops.geometry import Points, apart, face_normals, sampled, spacing, tree_of
from blemish.types import Cloud

LEAST = 100  # minimum number of points of a cloud: fewer show no surface
OFF = 5.0  # times that a part may be larger or smaller than the typical one; more is another unit
SPARSE = 3.0  # times that points may lie farther apart than in what was learned from
PATCH = 0.03  # of the typical part's diagonal: between the patches by which a surface is measured,
PATCHES = 3.0  # at least this many spacings of its points, so that a coarser scan shows as many
MEASURED = 20_000  # maximum number of points that a surface is measured by; of more a random sample
LESS, MORE = 0.8, 1.5  # of the least and the most surface that was learned from: what a part has to show
FILLER = 0.01  # share of all rows that lie in one place, and
FILLERS = 10  # at least this many, are no points: a sensor writes such a value where it saw nothing


class Part(NamedTuple):
    """A cloud that can be inspected."""

    cloud: Cloud  # as it was read
    rows: NDArray[np.int64]  # (R,) of the cloud that are points
    points: Points  # (M, 3) those points; behind them, of a mesh, places on its faces
    outside: Points  # (M, 3) out of the material; zero where it is not known

    @property
    def diagonal(self) -> float:
        """Of the bounding box, in the cloud's unit."""
        return float(np.linalg.norm(np.ptp(self.points, axis=0)))

    @property
    def spacing(self) -> float:
        """Median distance between neighbours, in the cloud's unit."""
        return spacing(tree_of(self.points), self.points, np.random.default_rng(0))


@dataclass(frozen=True)
class CloudPlan:
    """How a cloud becomes the input of a method: divided by the typical part's diagonal, so that no unit is left.

    `mesh_points` are taken from the faces of a mesh, evenly and always the same ones: vertices lie close where a part
    is bent, and nowhere else.

    `surface` is how much of itself a good part shows, the least and the most, in patches (see `shown`): of half a part
    every point has good neighbours, and only this reveals it. None where it was not learned.
    """

    diagonal: float  # of the typical part's bounding box, in the files' unit
    spacing: float  # of its points, in the same
    mesh_points: int = 20_000
    surface: tuple[int, int] | None = None  # patches, least and most, of good parts

    def __post_init__(self) -> None:
        if not (0 < self.diagonal < math.inf and 0 < self.spacing < math.inf and self.mesh_points >= LEAST):
            raise ConfigError(f"diagonal {self.diagonal:g} and spacing {self.spacing:g} have to be positive")
        if self.surface is not None and not (len(self.surface) == 2 and 0 < self.surface[0] <= self.surface[1]):
            raise ConfigError(f"surface {self.surface} is no range")

    @property
    def size(self) -> tuple[int, ...]:
        """The shape of a map is its cloud's own."""
        return ()

    @classmethod
    def of(cls, parts: Iterable[Part], more: Iterable[Part] = ()) -> CloudPlan:
        """The typical part and the typical distance between its points, and how much good parts show of themselves, of
        these and `more` parts."""
        typical = list(parts)
        plan = cls(median(part.diagonal for part in typical), median(part.spacing for part in typical))
        shown = [plan.shown(part) for one in (typical, more) for part in one]
        return replace(plan, surface=(min(shown), max(shown)))

    @property
    def patch(self) -> float:
        """Distance between the patches by which a surface is measured, in the files' unit."""
        return max(PATCH * self.diagonal, PATCHES * self.spacing)

    def shown(self, part: Part) -> int:
        """How much surface a part shows: how many patches of one size it takes to cover it, however it lies."""
        sampled_rows = np.random.default_rng(0).permutation(len(part.points))[:MEASURED]
        return int(apart(part.points[sampled_rows], self.patch).sum())

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name, and the size."""
        surface = None if self.surface is None else list(self.surface)
        return {**asdict(self), "surface": surface, "size": list(self.size)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CloudPlan:
        """The inverse of `to_json`; ConfigError on a missing, unknown or ill-typed value."""
        try:
            surface = None if values.get("surface") is None else tuple(int(v) for v in values["surface"])
            return cls(**{**{k: v for k, v in values.items() if k != "size"}, "surface": surface})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"preprocess {dict(values)} is not understood ({error})") from None

    def __call__(self, part: Part) -> NDArray[np.float32]:
        """(M, 6) float32: points about their mean, the typical part 1 across, and what points out of the material.

        OutOfRange for a part of a very different size, one whose points lie too far apart, and one that shows much
        less or more of itself than good ones.
        """
        diagonal, between = part.diagonal, part.spacing
        if not self.diagonal / OFF <= diagonal <= self.diagonal * OFF:
            message = f"is {diagonal:.4g} across, and the parts of this model are {self.diagonal:.4g}"
            raise OutOfRange(message, hint="is it in another unit?")
        if between > SPARSE * self.spacing:
            message = f"its points lie {between:.3g} apart, and those that were learned from {self.spacing:.3g}"
            raise OutOfRange(message, hint="learn from scans of this kind, or scan it as finely as those")
        if self.surface is not None:
            self._check_surface(self.shown(part), min(1.0, self.patch / between / PATCHES), *self.surface)
        points = (part.points - part.points.mean(0)) / self.diagonal
        return np.concatenate([points, part.outside], 1).astype(np.float32)

    def _check_surface(self, shown: int, dense: float, least: int, most: int) -> None:
        """`dense` is below 1 where a scan is so coarse that it has no point in each patch, and therefore shows less."""
        if shown < LESS * dense * least:
            message = f"shows {shown / least:.0%} of the surface that good parts show at least"
            raise OutOfRange(message, hint="is a piece of it missing, or was only one side scanned?")
        if shown > MORE * most:
            message = f"shows {shown / most:.0%} of the surface that good parts show at most"
            raise OutOfRange(message, hint="is something else in the scan?")


def part_of(cloud: Cloud, mesh_points: int = CloudPlan.mesh_points) -> Part:
    """The points that are inspected. DataError where they show no surface.

    The outward direction is that of the file's normals, else of the faces, else toward the camera, else unknown. Rows
    that are no points are left out.
    """
    valid = cloud.valid if cloud.faces is not None else _without_fillers(cloud.points, cloud.valid)
    rows = np.flatnonzero(valid)
    points = cloud.points[rows].astype(np.float64)
    outside = np.zeros_like(points)
    if cloud.normals is not None:
        given = cloud.normals[rows].astype(np.float64)
        outside = np.where(np.isfinite(given).all(1, keepdims=True), given, 0)
    elif cloud.faces is None and cloud.viewpoint is not None:
        outside = np.asarray(cloud.viewpoint, float) - points
    if cloud.faces is not None and len(cloud.faces):
        whole = cloud.points.astype(np.float64)
        faces = cloud.faces[cloud.valid[cloud.faces].all(1)]
        more, normals = sampled(whole, faces, mesh_points, np.random.default_rng(0))
        if cloud.normals is None:
            outside = face_normals(np.where(cloud.valid[:, None], whole, 0), faces)[rows]
        points, outside = np.concatenate([points, more]), np.concatenate([outside, normals])
    if len(points) < LEAST:
        raise DataError(f"holds {len(points)} points", hint=f"a surface needs {LEAST} of them")
    part = Part(cloud, rows, points, outside)
    if not (0 < part.diagonal < math.inf and part.spacing > 0):
        raise DataError("all of its points lie in one place", hint="is it the right file?")
    return part


def _without_fillers(points: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) rows that are points: without those that repeat one place too often, where others remain."""
    limit = max(FILLERS, math.ceil(FILLER * int(valid.sum())))
    rows = np.flatnonzero(valid)
    for axis in range(3):  # few rows are left to compare whole
        _, which, count = np.unique(points[rows, axis], return_inverse=True, return_counts=True)
        rows = rows[count[which] >= limit]
    if not rows.size:
        return valid
    _, which, count = np.unique(points[rows], axis=0, return_inverse=True, return_counts=True)
    fillers = rows[count[which.reshape(-1)] >= limit]
    if len(fillers) == int(valid.sum()):
        return valid
    out = valid.copy()
    out[fillers] = False
    return out
