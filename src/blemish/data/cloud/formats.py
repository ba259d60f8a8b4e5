"""Point clouds and meshes: a file becomes a `Cloud`, and a cloud a file. One module of this folder is one kind of file.

ply   PLY, text and binary, meshes and triangle strips; holds everything
pcd   PCD, text, binary and compressed, organised ones too; holds everything but faces
mesh  STL and OBJ; hold points and faces, OBJ normals too
grid  organised coordinates as TIFF (MVTec 3D-AD), and depth images with the camera's intrinsics; hold points alone
text  numbers in columns (.xyz, .txt) and NumPy arrays (.npy); columns with names hold everything

What a kind of file cannot hold, `write_cloud` does not write: `holds` tells. The extra `3d` brings the readers.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from blemish.config import nearest
from blemish.errors import DataError
from blemish.files import read_file, walk, write_whole
from blemish.outputs import without_maps
from blemish.types import Cloud

__all__ = ["HOLDS_FIELDS", "SUFFIXES", "clouds_in", "is_cloud", "read_cloud", "write_cloud"]

_KINDS = {
    ".ply": "ply", ".pcd": "pcd", ".stl": "mesh", ".obj": "mesh", ".tif": "grid", ".tiff": "grid", ".png": "grid",
    ".xyz": "text", ".txt": "text", ".npy": "text",
}  # fmt: skip
SUFFIXES = tuple(_KINDS)
HOLDS_FIELDS = frozenset({".ply", ".pcd", ".xyz", ".txt"})
"""Kinds of file that hold labels and all else that is known of each point."""
_ALONE = {".png", ".txt"}  # too common to be taken for a cloud unless requested
MOST_BYTES = 4 * 2**30


def read_cloud(
    path: str | Path, *, intrinsics: tuple[float, float, float, float] | None = None, depth_unit: float = 0.001
) -> Cloud:
    """The points of a file, in its own unit and its own precision.

    intrinsics  fx, fy, cx, cy in pixels, for depth images: (H, W) PNG or TIFF
    depth_unit  what one step of a depth image is in the unit that is wanted: 0.001 makes metres of millimetres

    DataError, naming the file, for a kind that is not known, a damaged file, and one that holds no point.
    """
    path = Path(path)
    if path.suffix.lower() not in _KINDS:
        known = [suffix.removeprefix(".") for suffix in SUFFIXES]
        hint = nearest(path.suffix.lower().removeprefix("."), known)
        raise DataError(f"'{path.suffix}' is no kind of point cloud that is read", path=path, hint=hint)
    data = read_file(path, max_bytes=MOST_BYTES)
    module = importlib.import_module(f"{__package__}.{_KINDS[path.suffix.lower()]}")
    options = {"intrinsics": intrinsics, "depth_unit": depth_unit} if module.__name__.endswith(".grid") else {}
    try:
        cloud: Cloud = module.read(data, path.suffix.lower(), **options)
    except DataError as error:
        raise DataError(str(error), path=path, hint=error.hint) from None
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the readers raise nearly anything on a malformed file
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"is damaged or cut short ({detail[:200]})", path=path, hint="save or copy it again") from None
    if not cloud.valid.any():
        raise DataError("holds no point", path=path, hint="is it the right file?")
    return cloud


def write_cloud(path: str | Path, cloud: Cloud) -> None:
    """Write a cloud, whole or not at all, as the kind of file that its suffix names.

    DataError where that kind cannot hold its points: a TIFF needs an organised cloud, an STL faces.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _KINDS or suffix == ".png":
        raise DataError(f"'{path.suffix}' is no kind of point cloud that is written", path=path, hint="use .ply")
    data: Any = importlib.import_module(f"{__package__}.{_KINDS[suffix]}").written(cloud, suffix)
    write_whole(path, data)


def is_cloud(path: Path, *, depth: bool = False) -> bool:
    """By its name; with `depth` PNG files too."""
    suffix = path.suffix.lower()
    return not path.name.startswith(".") and suffix in _KINDS and (suffix not in _ALONE or (depth and suffix == ".png"))


def clouds_in(folder: Path, *, depth: bool = False) -> list[Path]:
    """Sorted files of a folder, its sub-folders and those that it links to, that are clouds by their names.

    With `depth` PNG files too. Maps that an earlier run has drawn there are left out.
    """
    return without_maps(path for path in walk(folder).files if is_cloud(path, depth=depth))
