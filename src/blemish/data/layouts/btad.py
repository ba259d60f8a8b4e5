"""BTAD: 01/{train/ok, test/ok, test/ko, ground_truth/ko}, images and masks png or bmp.

Mishra et al., VT-ADL: a vision transformer network for image anomaly detection and localization, ISIE 2021.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import categories, default_split_only, images_in, masks_in, records_of
from blemish.types import Record

PRIORITY = 60


def is_category(folder: Path) -> bool:
    return bool(images_in(folder / "train" / "ok"))


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, *, split: str | None = None) -> list[Record]:
    default_split_only(split, "btad")
    records = []
    for category in categories(root, is_category):
        records += records_of(root, category, category / "train" / "ok", "train")
        records += records_of(root, category, category / "test" / "ok", "test")
        masks = masks_in(category / "ground_truth" / "ko")
        records += records_of(root, category, category / "test" / "ko", "test", defect="ko", masks=masks)
    return records
