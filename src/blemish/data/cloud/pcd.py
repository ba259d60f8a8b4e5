"""PCD by `pypcd4`: any fields, text, binary and compressed; WIDTH x HEIGHT stay, and the place of the camera."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np

from blemish.errors import DataError
from blemish.types import Cloud

_XYZ, _NORMAL = ("x", "y", "z"), ("normal_x", "normal_y", "normal_z")
_LETTERS = {"f": "F", "u": "U", "i": "I"}


def read(data: bytes, _: str) -> Cloud:
    """See `read_cloud`."""
    from pypcd4 import PointCloud

    file = PointCloud.from_fileobj(BytesIO(data))
    rows, meta = file.pc_data, file.metadata
    names = list(rows.dtype.names or ())
    if not set(_XYZ) <= set(names):
        raise DataError(f"has no fields x, y, z, but {', '.join(names) or 'none'}", hint="is it a cloud of points?")
    if len(rows) != meta.points:
        raise DataError(f"promises {meta.points} points and holds {len(rows)}", hint="copy it again")
    points = np.stack([rows[n] for n in _XYZ], 1)
    normals = np.stack([rows[n] for n in _NORMAL], 1) if set(_NORMAL) <= set(names) else None
    used = {*_XYZ, *(_NORMAL if normals is not None else ())}
    fields = {n: np.array(rows[n]) for n in names if n not in used and not n.startswith("#")}  # those are padding
    shape = (meta.height, meta.width) if meta.height > 1 and meta.height * meta.width == len(rows) else None
    camera = tuple(meta.viewpoint)[:3] if shape is not None else None
    return Cloud(points.astype(points.dtype.newbyteorder("=")), normals, None, shape, camera, fields)


def written(cloud: Cloud, _: str) -> bytes:
    """A binary PCD of everything that the cloud holds but its faces."""
    from pypcd4 import Encoding, MetaData, PointCloud

    columns: dict[str, Any] = dict(zip(_XYZ, cloud.points.T, strict=True))
    if cloud.normals is not None:
        columns |= dict(zip(_NORMAL, cloud.normals.T, strict=True))
    columns |= cloud.fields
    rows = np.empty(len(cloud.points), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    height, width = cloud.shape or (1, len(rows))
    meta = MetaData(
        fields=tuple(columns),
        size=tuple(v.dtype.itemsize for v in columns.values()),
        type=tuple(_LETTERS[v.dtype.kind] for v in columns.values()),
        count=(1,) * len(columns),
        points=len(rows),
        width=width,
        height=height,
        viewpoint=(*(cloud.viewpoint or (0.0, 0.0, 0.0)), 1.0, 0.0, 0.0, 0.0),
    )
    out = BytesIO()
    PointCloud(meta, rows).save(out, Encoding.BINARY)
    return out.getvalue()
