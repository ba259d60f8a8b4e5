"""MVTec 3D-AD: train/good/{rgb,xyz}, validation/good (held), test/<defect>/{rgb,xyz,gt}.

Bergmann et al., The MVTec 3D-AD dataset for unsupervised 3D anomaly detection and localization, VISAPP 2022.
A record's path is the colour image; `xyz_path` finds the points that belong to it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from blemish.data.layouts._common import Query, default_split_only, masks_for, records_of
from blemish.data.layouts._folders import categories, child, defect_of, folders_in, good_folders, good_records
from blemish.data.listing import images_in
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 40
MODALITY = "image"


def xyz_path(record: Record) -> Path:
    """The TIFF (H, W, 3 float) of coordinates beside a record's colour image; DataError where there is none."""
    folder = record.path.parent.parent / "xyz"
    for suffix in (".tiff", ".tif"):
        if (path := folder / (record.path.stem + suffix)).is_file():
            return path
    raise DataError(f"has no points in {folder}", path=record.path, hint="is the data set complete?")


def is_category(folder: Path) -> bool:
    return any(_pictures(good) for good in good_folders(child(folder, "train")))


def _pictures(folder: Path) -> list[Path]:
    return images_in(folder / "rgb")


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, query: Query) -> list[Record]:
    default_split_only(query.split, "mvtec3d")
    records: list[Record] = []
    for category in categories(root, is_category):
        of = partial(_records, root, category)
        records += good_records(category, _pictures, of)
        for folder in filter(_pictures, folders_in(child(category, "test"))):
            masks = masks_for(folder / "rgb", folder / "gt")
            records += of(folder, "test", defect=defect_of(folder), masks=masks)
    return records


def _records(root: Path, category: Path, folder: Path, split: Split, **more: Any) -> list[Record]:
    return records_of(root, category, folder / "rgb", split, view="rgb", **more)
