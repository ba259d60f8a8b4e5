"""PLY by `plyfile`: all properties of the vertices, and faces; faces of more corners become fans, strips triangles."""

from __future__ import annotations

from io import BytesIO
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError
from blemish.types import Cloud

_XYZ, _NORMAL = ("x", "y", "z"), ("nx", "ny", "nz")
_FACES = ("vertex_indices", "vertex_index")


def read(data: bytes, _: str) -> Cloud:
    """See `read_cloud`."""
    head = data[:4096]
    if b"format ascii" in head:
        return _cloud(_parsed(BytesIO(data), head))
    with TemporaryFile() as stream:  # a file is mapped and read in one go, bytes would be read value by value
        stream.write(data)
        return _cloud(_parsed(stream, head))


def _parsed(stream: IO[bytes], head: bytes) -> Any:
    from plyfile import PlyData

    try:  # triangles have a length that is known, so they can be mapped too
        stream.seek(0)
        return PlyData.read(stream, known_list_len={"face": {name: 3 for name in _FACES if name.encode() in head}})
    except Exception:
        stream.seek(0)
        return PlyData.read(stream)


def _cloud(file: Any) -> Cloud:
    if "vertex" not in file:
        raise DataError("has no element 'vertex'", hint="is it a PLY of points?")
    rows = file["vertex"].data
    names = list(rows.dtype.names or ())
    if not set(_XYZ) <= set(names):
        raise DataError("its vertices have no x, y, z", hint="is it a PLY of points?")
    points = _columns(rows, _XYZ)
    normals = _columns(rows, _NORMAL) if set(_NORMAL) <= set(names) else None
    used = {*_XYZ, *(_NORMAL if normals is not None else ())}
    fields = {n: np.array(rows[n]) for n in names if n not in used and rows[n].dtype.kind in "iuf"}
    return Cloud(points, normals, _faces(file, len(points)), *_grid(file.comments, len(points)), fields)


def _columns(rows: Any, names: tuple[str, ...]) -> NDArray[Any]:
    out = np.stack([rows[name] for name in names], 1)
    return out if out.dtype.kind == "f" else out.astype(np.float64)


def _grid(comments: list[str], count: int) -> tuple[Any, Any]:
    """Rows and columns, and the camera, as `written` notes them; PLY itself knows neither."""
    for words in (comment.split() for comment in comments):
        if words[:1] == ["organised"] and len(words) == 6:
            shape = int(words[1]), int(words[2])
            if shape[0] * shape[1] == count:
                return shape, tuple(map(float, words[3:]))
    return None, None


def _faces(file: Any, count: int) -> NDArray[np.int64] | None:
    """(F, 3), or None where there are none."""
    found: list[NDArray[np.int64]] = []
    for element in file.elements:
        name = next((n for n in _FACES if n in (element.data.dtype.names or ())), None)
        if name is None or not len(element.data):
            continue
        lists: Any = element.data[name]
        if element.name == "tristrips":
            found += [strips(np.asarray(one, np.int64)) for one in lists]
        elif lists.ndim == 2:
            found.append(np.asarray(lists, np.int64))
        else:
            found += [fans(lists)]
    faces = np.concatenate(found) if found else np.empty((0, 3), np.int64)
    if faces.size and not 0 <= faces.min() <= faces.max() < count:
        raise DataError("a face names a vertex that is not there", hint="save it again")
    return faces if len(faces) else None


def fans(lists: Any) -> NDArray[np.int64]:
    """Triangles of faces with any number of corners, each a fan about its first."""
    sizes = np.array([len(one) for one in lists])
    flat = np.concatenate([np.asarray(one, np.int64) for one in lists])
    start = np.cumsum(sizes) - sizes
    out = [
        np.stack([flat[s], flat[s + k], flat[s + k + 1]], 1)
        for k in range(1, int(sizes.max(initial=0)) - 1)
        for s in [start[sizes > k + 1]]
    ]
    return np.concatenate(out) if out else np.empty((0, 3), np.int64)


def strips(strip: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles of strips that -1 ends: each corner with the two before it, every second one turned round."""
    ends = np.flatnonzero(strip < 0)
    first = np.zeros(len(strip), np.int64)  # where the strip of each corner begins
    first[ends[ends + 1 < len(strip)] + 1] = ends[ends + 1 < len(strip)] + 1
    first = np.maximum.accumulate(first)
    at = np.arange(len(strip))
    at = at[(strip >= 0) & (at - first >= 2)]
    a, b, c = strip[at - 2], strip[at - 1], strip[at]
    odd = (at - first[at]) % 2 == 1
    faces = np.stack([np.where(odd, b, a), np.where(odd, a, b), c], 1)
    return np.asarray(faces[(a != b) & (b != c) & (a != c)])


def written(cloud: Cloud, _: str) -> bytes:
    """A binary PLY of everything that the cloud holds but its grid."""
    from plyfile import PlyData, PlyElement

    columns = dict(zip(_XYZ, cloud.points.T, strict=True))
    if cloud.normals is not None:
        columns |= dict(zip(_NORMAL, cloud.normals.T, strict=True))
    columns |= cloud.fields
    types = [(name, _type(values.dtype)) for name, values in columns.items()]
    rows = np.empty(len(cloud.points), types)
    for name, values in columns.items():
        rows[name] = values
    elements = [PlyElement.describe(rows, "vertex")]
    if cloud.faces is not None:
        faces = np.empty(len(cloud.faces), [("vertex_indices", "i4", (3,))])
        faces["vertex_indices"] = cloud.faces
        elements.append(PlyElement.describe(faces, "face"))
    comments = []
    if cloud.shape is not None:
        camera = " ".join(f"{v:.17g}" for v in cloud.viewpoint or (0.0, 0.0, 0.0))
        comments = [f"organised {cloud.shape[0]} {cloud.shape[1]} {camera}"]
    out = BytesIO()
    PlyData(elements, byte_order="<", comments=comments).write(out)
    return out.getvalue()


def _type(kind: np.dtype[Any]) -> str:
    """PLY knows integers to 32 bits."""
    if kind.kind in "iu" and kind.itemsize > 4:
        return "f8"
    return "u1" if kind.kind == "b" else kind.str[1:]
