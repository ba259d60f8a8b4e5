"""MVTec LOCO: test/{good,logical_anomalies,structural_anomalies}, one mask file per defect, saturation areas.

Bergmann et al., Beyond dents and scratches: logical constraints in unsupervised anomaly detection, IJCV 2022.
ground_truth/<kind>/<stem>/000.png, 001.png, ...: the grey value of a mask names the defect in defects_config.json.
validation/good is held.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

from blemish.data.layouts._common import Query, default_split_only, records_of
from blemish.data.layouts._folders import (
    categories,
    child,
    defect_of,
    folders_in,
    good_folders,
    good_records,
    warn_unused,
)
from blemish.data.layouts._names import counted
from blemish.data.listing import images_in
from blemish.types import Record

PRIORITY = 50
MODALITY = "image"
KINDS = ("logical_anomalies", "structural_anomalies")
SATURATION = "defects_config.json"


def is_category(folder: Path) -> bool:
    known = (folder / SATURATION).is_file() or any(child(child(folder, "test"), k).is_dir() for k in KINDS)
    return known and bool(good_folders(child(folder, "train")))


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, query: Query) -> list[Record]:
    default_split_only(query.split, "loco")
    return [record for category in categories(root, is_category) for record in category_records(root, category)]


def category_records(root: Path, category: Path) -> list[Record]:
    """One category by its folders."""
    records = good_records(category, images_in, partial(records_of, root, category))
    test = child(category, "test")
    warn_unused(test, folders_in(test), images_in)
    for folder in filter(images_in, folders_in(test)):
        truth = child(child(category, "ground_truth"), folder.name)
        masks = {one.name: tuple(images_in(one)) for one in folders_in(truth) if images_in(one)}
        unmatched = sorted(set(masks) - {path.stem for path in images_in(folder)})
        if unmatched:
            names = counted(unmatched)
            warnings.warn(f"{truth}: masks of {len(unmatched)} images that are not there: {names}", stacklevel=4)
        saturation = category / SATURATION if (category / SATURATION).is_file() else None
        found = records_of(root, category, folder, "test", defect=defect_of(folder), masks=masks)
        records += [replace(record, saturation=saturation) for record in found]
    return records
