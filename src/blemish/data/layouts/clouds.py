"""A folder of good point clouds or meshes, flat or nested: all of them are training records."""

from __future__ import annotations

from pathlib import Path

from blemish.data.clouds import clouds_in, is_cloud
from blemish.data.layouts._common import default_split_only, relative
from blemish.data.layouts.folder import NOT_GOOD
from blemish.errors import DataError
from blemish.types import Record

PRIORITY = 120
KIND = "cloud"


def detect(root: Path) -> bool:
    return is_cloud(root) if root.is_file() else bool(clouds_in(root))


def index(root: Path, *, split: str | None = None) -> list[Record]:
    """DataError where a sub-folder's name says that its clouds are not good ones."""
    default_split_only(split, "clouds")
    if root.is_file():
        return [Record(root.name, root)]
    records = []
    for path in clouds_in(root):
        for part in path.relative_to(root).parts[:-1]:
            if part.lower() in NOT_GOOD:
                hint = "give the folder of good clouds itself"
                raise DataError(f"has a folder '{part}' that does not sound like good clouds", path=root, hint=hint)
        records.append(Record(relative(path, root), path))
    return records
