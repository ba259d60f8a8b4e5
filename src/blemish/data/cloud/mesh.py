"""STL and OBJ: triangles. An OBJ keeps its vertices; corners of an STL at one place become one vertex.

Of an OBJ its points and faces are read; textures, groups and the normals of corners are not kept. STL is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.cloud.ply import fans
from blemish.errors import DataError
from blemish.types import Cloud

_RECORD = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEAD = 80  # bytes of a binary STL that say nothing


def read(data: bytes, suffix: str) -> Cloud:
    """See `read_cloud`."""
    points, faces = _obj(data) if suffix == ".obj" else _stl(data)
    if not len(faces) and suffix == ".stl":
        raise DataError("is a mesh without faces", hint="is it empty, or of another kind?")
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(points):
        raise DataError("a face names a vertex that is not there", hint="save it again")
    return Cloud(points, faces=faces if len(faces) else None)


def _obj(data: bytes) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Vertices (N, 3) float64 and faces (F, 3)."""
    lines = [line.split() for line in data.decode("utf-8", "replace").replace("\\\n", " ").splitlines()]
    points = np.array([line[1:4] for line in lines if line[:1] == ["v"]], np.float64).reshape(-1, 3)
    count, faces = 0, []
    for line in lines:
        count += line[:1] == ["v"]
        if line[:1] == ["f"]:
            corners = [int(word.partition("/")[0]) for word in line[1:]]
            faces.append([c - 1 if c > 0 else count + c for c in corners])  # negative: counted back from here
    return points, fans(faces) if faces else np.empty((0, 3), np.int64)


def _stl(data: bytes) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Vertices (N, 3) float32 in order of their first corner, and faces (F, 3)."""
    count = int.from_bytes(data[_HEAD : _HEAD + 4], "little")
    if len(data) >= _HEAD + 4 and len(data) == _HEAD + 4 + count * _RECORD.itemsize:
        corners = np.frombuffer(data, _RECORD, count, _HEAD + 4)["corners"].reshape(-1, 3)
    elif data.lstrip()[:5].lower() == b"solid":
        lines = (line.split() for line in data.decode("utf-8", "replace").splitlines())
        corners = np.array([line[1:4] for line in lines if line[:1] == ["vertex"]], np.float32).reshape(-1, 3)
    else:
        raise DataError("is no STL of the length that it states", hint="copy it again")
    if len(corners) % 3:
        raise DataError("ends within a triangle", hint="copy it again")
    # by their bits, so that -0 and 0 stay apart, and what is written back is what was read
    keys = np.ascontiguousarray(corners).view([("", "<u4")] * 3).reshape(-1)
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return corners[first[order]].copy(), rank[place].reshape(-1, 3).astype(np.int64)


def written(cloud: Cloud, suffix: str) -> bytes:
    """A text OBJ whose numbers read back to the same bits, or a binary STL with the normals of its faces."""
    if suffix == ".obj":
        form = ".9g" if cloud.points.dtype == np.float32 else ".17g"
        text = [f"v {x:{form}} {y:{form}} {z:{form}}\n" for x, y, z in cloud.points.tolist()]
        faces = () if cloud.faces is None else (cloud.faces + 1).tolist()
        return "".join([*text, *(f"f {a} {b} {c}\n" for a, b, c in faces)]).encode()
    if cloud.faces is None:
        raise DataError("an STL holds faces, and this cloud has none", hint="write a .ply")
    rows = np.zeros(len(cloud.faces), _RECORD)
    rows["corners"] = cloud.points[cloud.faces]
    a, b, c = (cloud.points[cloud.faces[:, i]].astype(np.float64) for i in range(3))
    normal = np.cross(b - a, c - a)
    length = np.sqrt((normal**2).sum(1, keepdims=True))
    rows["normal"] = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    return b"\0" * _HEAD + len(rows).to_bytes(4, "little") + rows.tobytes()
