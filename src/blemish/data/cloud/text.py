"""Numbers in columns, and NumPy arrays.

Columns are separated by blanks, tabs, commas or semicolons; numbers have decimal points, or decimal commas where
something else separates the columns. A first line that starts with # or // and has as many words as
there are columns names them; without names the first three are x, y, z, the next three normals where they have length
1, and the rest is kept under the name of its place. `.npy` holds (N, 3), an organised (H, W, 3), or a structured array.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.tables import COMMAS, POINTS, decoded, plain
from blemish.errors import DataError
from blemish.types import Cloud

_XYZ, _NORMAL = ("x", "y", "z"), ("nx", "ny", "nz")
_COMMENTS = ("#", "//")
_KINDS = {"label": np.uint8, "component": np.int32, "displacement": np.float32}


def read(data: bytes, suffix: str) -> Cloud:
    """See `read_cloud`."""
    if suffix == ".npy":
        return _array(np.load(BytesIO(data), allow_pickle=False))
    lines = [line.strip() for line in decoded(data, numbers_alone=True).splitlines()]
    head = lines[0] if lines and lines[0].startswith(_COMMENTS) else ""
    words = re.sub(r"[,;]", " ", head.lstrip("#/ ")).lower().split()
    body = [re.split("#|//", line)[0] for line in lines if line and not line.startswith(_COMMENTS)]
    values = np.loadtxt(plain(body), ndmin=2)
    if values.shape[1] < 3 or not len(values):
        raise DataError(f"has {values.shape[1]} columns of numbers, not x y z", hint="one point a line")
    if set(_XYZ) <= set(words) and values.shape[1] == 2 * len(words):
        message = f"names {len(words)} columns and holds {values.shape[1]}: {COMMAS}"
        raise DataError(message, hint=POINTS)
    names = words if len(words) == values.shape[1] and set(_XYZ) <= set(words) else None
    if names is None:
        return _columns(values)
    columns = {name: values[:, i].astype(_KINDS.get(name, np.float64)) for i, name in enumerate(names)}
    return _named(columns)


def _named(columns: dict[str, NDArray[Any]]) -> Cloud:
    normals = np.stack([columns.pop(n) for n in _NORMAL], 1) if set(_NORMAL) <= set(columns) else None
    points = np.stack([columns.pop(n) for n in _XYZ], 1)
    return Cloud(points, normals, fields=columns)


def _columns(values: NDArray[Any]) -> Cloud:
    """(N, 3 or more) without names."""
    normals, first_field = None, 3
    if values.shape[1] >= 6 and np.abs((values[:, 3:6] ** 2).sum(1) - 1).max() < 1e-3:
        normals, first_field = values[:, 3:6].copy(), 6
    fields = {f"column_{i + 1}": values[:, i].copy() for i in range(first_field, values.shape[1])}
    return Cloud(values[:, :3].copy(), normals, fields=fields)


def _array(values: NDArray[Any]) -> Cloud:
    if values.dtype.names is not None and set(_XYZ) <= set(values.dtype.names) and values.ndim == 1:
        return _named({name: np.array(values[name]) for name in values.dtype.names})
    if values.dtype.kind not in "iuf" or values.ndim not in (2, 3) or values.shape[-1] < 3:
        message = f"holds {values.dtype} {values.shape}, not numbers (N, 3) or (H, W, 3)"
        raise DataError(message, hint="x, y, z are the last axis")
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if values.ndim == 2:
        return _columns(values)
    if values.shape[2] != 3:
        raise DataError(f"an organised array holds (H, W, 3), not {values.shape}", hint="x, y, z alone")
    shape = values.shape[0], values.shape[1]
    return Cloud(np.ascontiguousarray(values).reshape(-1, 3), shape=shape, viewpoint=(0.0, 0.0, 0.0))


def written(cloud: Cloud, suffix: str) -> bytes:
    """A text with named columns that reads back to the same bits; of `.npy` the points alone, (N, 3) or (H, W, 3)."""
    out = BytesIO()
    if suffix == ".npy":
        np.save(out, cloud.points if cloud.shape is None else cloud.points.reshape(*cloud.shape, 3))
        return out.getvalue()
    columns = dict(zip(_XYZ, cloud.points.T, strict=True))
    if cloud.normals is not None:
        columns |= dict(zip(_NORMAL, cloud.normals.T, strict=True))
    columns |= cloud.fields
    form = ["%.17g" if v.dtype.kind == "f" else "%d" for v in columns.values()]
    line = " ".join(form) + "\n"
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return ("# " + " ".join(columns) + "\n" + "".join(line % row for row in rows)).encode()
