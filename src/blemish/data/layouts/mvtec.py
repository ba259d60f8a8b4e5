"""MVTec AD: train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png, for one or many categories.

Bergmann et al., MVTec AD: a comprehensive real-world dataset for unsupervised anomaly detection, CVPR 2019.
Many others are laid out like it. Beyond the original, each category may hold `box_masks/` (filled boxes, used where
there is no ground_truth), `groups.json` ({image file name: unit}) and `split_<name>.json` ({"train": [image file
names], "test_good": [...]} over the good images of both folders; asked for with split="<name>"). Sets of synthetic
defects have no `train/`: they serve for testing only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from blemish.data.layouts._common import Query, default_split_only, masks_for, read_json, records_of, warn_unmatched
from blemish.data.layouts._folders import (
    categories,
    child,
    defect_of,
    folders_in,
    good_folders,
    good_records,
    warn_unused,
)
from blemish.data.listing import images_in
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 80
MODALITY = "image"


def is_category(folder: Path) -> bool:
    """With good training images, or, for testing only, with good test images and ground truth."""
    test, train = (any(map(images_in, good_folders(child(folder, split)))) for split in ("test", "train"))
    return train or (test and child(folder, "ground_truth").is_dir())


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, query: Query) -> list[Record]:
    records = []
    for category in categories(root, is_category):
        found = category_records(root, category)
        if query.split is None:
            groups = category / "groups.json"
            units = read_json(groups) if groups.is_file() else {}
            found = [replace(r, unit=str(units[r.path.name])) if r.path.name in units else r for r in found]
        else:
            default_split_only(
                query.split, "mvtec", {p.stem.removeprefix("split_") for p in category.glob("split_*.json")}
            )
            found = resplit(found, category / f"split_{query.split}.json")
        records += found
    return records


def category_records(root: Path, category: Path) -> list[Record]:
    """One category by its folders; `validation/good`, where there is one, is held.

    good may be called OK, normal or the like, and each name may be written in capitals.
    """
    truth = child(category, "ground_truth", "box_masks")
    records = good_records(category, images_in, partial(records_of, root, category))
    tested = [folder for folder in folders_in(child(category, "test")) if images_in(folder)]
    for folder in tested:
        masks = masks_for(folder, child(truth, folder.name))
        records += records_of(root, category, folder, "test", defect=defect_of(folder), masks=masks)
    warn_unmatched(truth, tested)
    warn_unused(child(category, "test"), tested, images_in)
    return records


def resplit(records: list[Record], file: Path) -> list[Record]:
    """The good records split again by the names in `file`, those it does not list held; anomalous ones stay in test.

    Without units: such a list ignores them, and the split exists to show the effect of that.
    """
    lists = read_json(file)
    side: dict[str, Split] = {name: "test" for name in lists.get("test_good", [])}
    for name in lists.get("train", []):
        if side.setdefault(name, "train") != "train":
            raise DataError(f"has '{name}' in train and in test_good", path=file, hint="correct the split")
    good = Counter(r.path.name for r in records if not r.label)
    if missing := sorted(set(side) - set(good)):
        message = f"names {len(missing)} images that are not there, first '{missing[0]}'"
        raise DataError(message, path=file, hint="is the data set complete?")
    if twice := sorted({name for name in side if good[name] > 1}):
        raise DataError(f"names '{twice[0]}', which is in two folders", path=file, hint="give the images unique names")
    return [r if r.label else replace(r, split=side.get(r.path.name, "held")) for r in records]
