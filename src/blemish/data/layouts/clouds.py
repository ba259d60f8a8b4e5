"""A folder of good point clouds or meshes, flat or nested: all of them are training records."""

from __future__ import annotations

from pathlib import Path

from blemish.data.cloud import clouds_in, is_cloud
from blemish.data.layouts._common import Query, default_split_only, relative
from blemish.data.layouts._plain import good_files
from blemish.types import Record

PRIORITY = 120
KIND = "cloud"


def detect(root: Path) -> bool:
    return is_cloud(root) if root.is_file() else bool(clouds_in(root))


def index(root: Path, query: Query) -> list[Record]:
    """DataError where a folder's name, or a list beside the clouds, says that some are not good, or leaves it open."""
    default_split_only(query.split, "clouds")
    if root.is_file():
        return [Record(root.name, root)]
    return [Record(relative(path, root), path) for path in good_files(clouds_in(root), root, "clouds", is_cloud)]
