"""MVTec 3D-AD: train/good/{rgb,xyz}, validation/good (held), test/<defect>/{rgb,xyz,gt}.

Bergmann et al., The MVTec 3D-AD dataset for unsupervised 3D anomaly detection and localization, VISAPP 2022.
A record's path is the colour image; `xyz_path` finds the points that belong to it.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import categories, default_split_only, folders_in, images_in, masks_in, records_of
from blemish.errors import DataError
from blemish.types import Record

PRIORITY = 40


def xyz_path(record: Record) -> Path:
    """The TIFF (H, W, 3 float) of coordinates beside a record's colour image; DataError where there is none."""
    folder = record.path.parent.parent / "xyz"
    for suffix in (".tiff", ".tif"):
        if (path := folder / (record.path.stem + suffix)).is_file():
            return path
    raise DataError(f"has no points in {folder}", path=record.path, hint="is the data set complete?")


def is_category(folder: Path) -> bool:
    return bool(images_in(folder / "train" / "good" / "rgb"))


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, *, split: str | None = None) -> list[Record]:
    default_split_only(split, "mvtec3d")
    records = []
    for category in categories(root, is_category):
        records += records_of(root, category, category / "train" / "good" / "rgb", "train", view="rgb")
        records += records_of(root, category, category / "validation" / "good" / "rgb", "held", view="rgb")
        for folder in folders_in(category / "test"):
            defect = None if folder.name == "good" else folder.name
            masks = masks_in(folder / "gt")
            records += records_of(root, category, folder / "rgb", "test", defect=defect, masks=masks, view="rgb")
    return records
