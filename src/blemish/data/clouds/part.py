"""A cloud as a model sees it: its points without what is none, with places on the faces of a mesh, in the model's scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError, DataError
from blemish.ops.geometry import Points, face_normals, sampled, spacing, tree_of
from blemish.types import Cloud

LEAST = 100  # points of a cloud: fewer show no surface
OFF = 5.0  # times that a part may be larger or smaller than the typical one; more is another unit
SPARSE = 3.0  # times that points may lie farther apart than in what was learned from


class Part(NamedTuple):
    """A cloud that can be looked at."""

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
    """

    diagonal: float  # of the typical part's bounding box, in the files' unit
    spacing: float  # of its points, in the same
    mesh_points: int = 20_000

    def __post_init__(self) -> None:
        if not (0 < self.diagonal < math.inf and 0 < self.spacing < math.inf and self.mesh_points >= LEAST):
            raise ConfigError(f"diagonal {self.diagonal:g} and spacing {self.spacing:g} have to be positive")

    @property
    def size(self) -> tuple[int, ...]:
        """The shape of a map is its cloud's own."""
        return ()

    @classmethod
    def of(cls, parts: Iterable[Part]) -> CloudPlan:
        """The typical part, and the typical distance between its points."""
        found = [(part.diagonal, part.spacing) for part in parts]
        return cls(median(d for d, _ in found), median(s for _, s in found))

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name, and the size."""
        return {**asdict(self), "size": list(self.size)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CloudPlan:
        """The inverse of `to_json`; ConfigError on a missing, unknown or ill-typed value."""
        try:
            return cls(**{k: v for k, v in values.items() if k != "size"})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"preprocess {dict(values)} is not understood ({error})") from None

    def __call__(self, part: Part) -> NDArray[np.float32]:
        """(M, 6) float32: points about their mean, the typical part 1 across, and what points out of the material.

        DataError for a part of another size altogether, or one whose points lie too far apart.
        """
        diagonal, apart = part.diagonal, part.spacing
        if not self.diagonal / OFF <= diagonal <= self.diagonal * OFF:
            message = f"is {diagonal:.4g} across, and the parts of this model are {self.diagonal:.4g}"
            raise DataError(message, hint="is it in another unit?")
        if apart > SPARSE * self.spacing:
            message = f"its points lie {apart:.3g} apart, and those that were learned from {self.spacing:.3g}"
            raise DataError(message, hint="learn from scans of this kind, or scan it as finely as those")
        points = (part.points - part.points.mean(0)) / self.diagonal
        return np.concatenate([points, part.outside], 1).astype(np.float32)


def part_of(cloud: Cloud, mesh_points: int = CloudPlan.mesh_points) -> Part:
    """The points that are looked at. DataError where they show no surface.

    Outside is what the file's normals say, else the faces, else where the camera stood, else not known. Rows that are
    no points are left out.
    """
    rows = np.flatnonzero(cloud.valid)
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
