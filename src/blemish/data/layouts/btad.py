"""BTAD: 01/{train/ok, test/ok, test/ko, ground_truth/ko}, images and masks png or bmp.

Mishra et al., VT-ADL: a vision transformer network for image anomaly detection and localization, ISIE 2021.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import Query, default_split_only, masks_for, records_of
from blemish.data.layouts._folders import categories, child, folders_in, warn_unused
from blemish.data.listing import images_in
from blemish.types import Record

PRIORITY = 60
MODALITY = "image"


def is_category(folder: Path) -> bool:
    """One with other folders of test images than these two is `mvtec`'s, which takes any."""
    tested = {one.name.casefold() for one in folders_in(child(folder, "test")) if images_in(one)}
    return bool(images_in(child(child(folder, "train"), "ok"))) and tested <= {"ok", "ko"}


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, query: Query) -> list[Record]:
    default_split_only(query.split, "btad")
    records = []
    for category in categories(root, is_category):
        train, test = child(category, "train"), child(category, "test")
        warn_unused(train, [child(train, "ok")], images_in)
        warn_unused(test, folders_in(test), images_in)
        records += records_of(root, category, child(train, "ok"), "train")
        records += records_of(root, category, child(test, "ok"), "test")
        masks = masks_for(child(test, "ko"), child(child(category, "ground_truth"), "ko"))
        records += records_of(root, category, child(test, "ko"), "test", defect="ko", masks=masks)
    return records
