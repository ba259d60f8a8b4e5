"""Point clouds: files or arrays become points; maps come back by the file's rows, or its grid, regions in its unit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish.data.cloud import picture as cloud_heat
from blemish.data.cloud.formats import is_cloud, read_cloud
from blemish.data.cloud.preprocess import CloudPlan, Part, part_of
from blemish.data.drawing import Picture, Scale, side_by_side
from blemish.data.identity import values_id
from blemish.data.image.decode import read_mask
from blemish.data.modality import Modality
from blemish.data.regions import find_regions
from blemish.errors import DataError
from blemish.files import as_path, content_id, read_file
from blemish.ops.geometry import components, nearest, tree_of
from blemish.types import Cloud, Record, Region

LINKS = 8  # neighbours by which points are connected
MOST = 50  # regions of one cloud


class Clouds(Modality[Part]):
    """`Raw` is a cloud with the points of it that are inspected."""

    name = "cloud"
    samples = "point clouds"
    map_unit = (
        "points of the file, marked or not, in regions of neighbours, pooled over the set; rows without a point are 0"
    )
    legend = "The part as it was scanned, beside it what the model found unusual, from the side where that is highest."
    part = "part"
    found = "Rings are areas"
    marked = "Green is the defect as it is marked."
    hint = "ply, pcd, stl, obj, xyz, npy and tiff are read"
    extra = ("box", "points")
    preprocess: CloudPlan

    @classmethod
    def from_json(cls, preprocess: Mapping[str, Any]) -> Self:
        return cls(CloudPlan.from_json(preprocess))

    @property
    def takes(self) -> str:
        return f"points of parts {self.preprocess.diagonal:.4g} across"

    @staticmethod
    def content(record: Record) -> str:
        return _content(read_cloud(record.path))

    @staticmethod
    def file_content(record: Record) -> str:
        return content_id(read_file(record.path))

    @staticmethod
    def source(record: Record) -> Path:
        return record.path

    @staticmethod
    def mask(record: Record, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Labels of an array `.npy`, of a cloud that has a field `label`, or of a picture for an organised one."""
        if record.mask is None:
            return None
        if not isinstance(record.mask, Path):
            raise DataError("has several masks, and a cloud has one", path=record.path)
        if record.mask.suffix.lower() == ".npy":
            try:
                labels = np.load(record.mask, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise DataError(f"holds no labels ({error})", path=record.mask) from None
        elif len(shape) == 2 and record.mask.suffix.lower() == ".png":
            return read_mask(record.mask, (shape[0], shape[1]))
        else:
            fields = read_cloud(record.mask).fields
            if "label" not in fields:
                raise DataError("has no field 'label'", path=record.mask, hint="labels lie in a .npy, or a field")
            labels = fields["label"]
        if labels.size != np.prod(shape):
            raise DataError(f"labels {labels.shape} points, and the cloud has {shape}", path=record.mask)
        return np.asarray(labels.reshape(shape) > 0)

    @staticmethod
    def places(record: Record, mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]] | None:
        """The connected parts of a mask: points by their nearest marked neighbours, of a grid its pixels."""
        if mask.ndim == 2 or not mask.any():
            return None
        cloud = read_cloud(record.path)
        part = _blobs(cloud.points[cloud.valid].astype(np.float64), np.flatnonzero(mask[cloud.valid]))
        rows = np.flatnonzero(cloud.valid)[np.flatnonzero(mask[cloud.valid])]
        found = []
        for one in range(1, int(part.max(initial=0)) + 1):
            found.append(np.zeros(len(mask), np.bool_))
            found[-1][rows[part == one]] = True
        return found

    @staticmethod
    def is_sample(path: Path) -> bool:
        return is_cloud(path)

    def read(self, source: Any) -> Part:
        if isinstance(source, str | os.PathLike):
            return part_at(as_path(source), self.preprocess.mesh_points)
        return part_of(source if isinstance(source, Cloud) else _cloud_of(source), self.preprocess.mesh_points)

    def load(self, record: Record) -> tuple[str, Part]:
        part = self.read(record.path)
        return _content(part.cloud), part

    def prepare(self, raw: Part) -> NDArray[np.float32]:
        return self.preprocess(raw)

    def stack(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """(B, N, 6), shorter clouds filled up with rows of NaN, which are no points."""
        longest = max(map(len, prepared))
        out = np.full((len(prepared), longest, 6), np.nan, np.float32)
        for row, points in zip(out, prepared, strict=True):
            row[: len(points)] = points
        return out

    def noise(self, generator: np.random.Generator) -> NDArray[np.float32]:
        return np.concatenate([generator.normal(0, 0.3, (1000, 3)), np.zeros((1000, 3))], 1).astype(np.float32)

    def back(self, anomaly_map: NDArray[np.float32], raw: Part) -> NDArray[np.float32]:
        out = np.zeros(len(raw.cloud.points), np.float32)
        out[raw.rows] = anomaly_map[: len(raw.rows)]
        return out if raw.cloud.shape is None else out.reshape(raw.cloud.shape)

    def regions(self, anomaly_map: NDArray[np.float32], threshold: float, raw: Part) -> tuple[Region, ...]:
        points = raw.cloud.points
        if raw.cloud.shape is not None:
            grid = points.reshape(*raw.cloud.shape, 3)
            suspect = raw.cloud.valid.reshape(raw.cloud.shape) & (anomaly_map > threshold)
            found = []
            for r in find_regions(anomaly_map, threshold, MOST):
                x0, y0, x1, y1 = r.bbox
                inside = grid[y0:y1, x0:x1][suspect[y0:y1, x0:x1]]
                found.append(replace(r, box=_box(inside), points=len(inside)))
            return tuple(found)
        above = np.flatnonzero(anomaly_map[raw.rows] > threshold)
        if not above.size:
            return ()
        part, rows = _blobs(points[raw.rows].astype(np.float64), above), raw.rows[above]
        found = []
        for one in range(1, int(part.max()) + 1):
            region_rows = rows[part == one]
            values = anomaly_map[region_rows]
            bbox = (int(region_rows.min()), 0, int(region_rows.max()) + 1, 1)
            peak, mean = float(values.max()), float(values.mean())
            count = len(region_rows)
            found.append(Region(bbox, count, peak, mean, box=_box(points[region_rows]), points=count))
        return tuple(sorted(found, key=lambda r: -r.peak)[:MOST])

    def named(self, source: Any, raw: Part) -> dict[str, Any]:
        return {"image_path": str(as_path(source)) if isinstance(source, str | os.PathLike) else None}

    def picture(
        self, raw: Part, anomaly_map: NDArray[np.float32], *, scale: Scale, regions: Sequence[Region] = ()
    ) -> Picture:
        """From the side where the map is highest, and from behind."""
        sides = (cloud_heat.heat(raw, anomaly_map, scale, regions, side=480, behind=b) for b in (False, True))
        return side_by_side(*sides)

    def thumbnail(
        self,
        raw: Part,
        anomaly_map: NDArray[np.float32],
        *,
        scale: Scale,
        regions: Sequence[Region] = (),
        mask: NDArray[np.bool_] | None = None,
    ) -> Picture:
        plain = cloud_heat.heat(raw, anomaly_map, None, side=256, mask=mask)
        return side_by_side(plain, cloud_heat.heat(raw, anomaly_map, scale, regions, side=256))


def _content(cloud: Cloud) -> str:
    """From the points and the faces alone: normals, colours and other fields do not count."""
    faces = np.zeros((0, 3), np.int64) if cloud.faces is None else np.asarray(cloud.faces, np.int64)
    return values_id(np.asarray(cloud.points[cloud.valid], np.float64), faces)


def part_at(path: str | Path, mesh_points: int = CloudPlan.mesh_points) -> Part:
    """The cloud in a file; DataError, naming it, where it cannot be inspected."""
    try:
        return part_of(read_cloud(path), mesh_points)
    except DataError as error:
        raise error.at(path) from None


def _cloud_of(source: Any) -> Cloud:
    """An array (N, 3) or, organised, (H, W, 3). Otherwise DataError."""
    values = np.asarray(source)
    if values.dtype.kind not in "iuf" or values.ndim not in (2, 3) or values.shape[-1] != 3 or not values.size:
        raise DataError(f"an array {values.dtype} {values.shape} is no cloud", hint="(N, 3) or (H, W, 3)")
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if values.ndim == 2:
        return Cloud(values)
    return Cloud(values.reshape(-1, 3), shape=(values.shape[0], values.shape[1]), viewpoint=(0.0, 0.0, 0.0))


def _blobs(points: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number of the connected part of each chosen row: (K,) 1, 2, ..."""
    near = nearest(tree_of(points), points[chosen], LINKS)
    return components(near, np.ones(len(chosen), np.bool_), chosen)


def _box(points: NDArray[Any]) -> tuple[float, ...]:
    """x0, y0, z0, x1, y1, z1 with the digits that the points have: coordinates may be far from their origin."""
    digits = 7 if points.dtype == np.float32 else 12
    return tuple(float(f"{v:.{digits}g}") for v in (*points.min(0).tolist(), *points.max(0).tolist()))


MODALITY = Clouds
