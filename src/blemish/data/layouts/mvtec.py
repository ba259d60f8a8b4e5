"""MVTec AD: train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png, for one or many categories.

Bergmann et al., MVTec AD: a comprehensive real-world dataset for unsupervised anomaly detection, CVPR 2019.
Many others are laid out like it. Beyond the original, each category may hold `box_masks/` (filled boxes, used where
there is no ground_truth), `groups.json` ({image file name: unit}) and `split_<name>.json` ({"train": [image file
names], "test_good": [...]} over the good images of both folders; asked for with split="<name>"). Made defects have no
`train/`: such a set can be tested with alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from blemish.data.layouts._common import (
    categories,
    default_split_only,
    folders_in,
    images_in,
    masks_in,
    read_json,
    records_of,
)
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 80


def is_category(folder: Path) -> bool:
    """With good training images, or, to be tested with alone, with good test images and ground truth."""
    tested = bool(images_in(folder / "test" / "good")) and (folder / "ground_truth").is_dir()
    return tested or bool(images_in(folder / "train" / "good"))


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, *, split: str | None = None) -> list[Record]:
    records = []
    for category in categories(root, is_category):
        found = category_records(root, category)
        if split is None:
            groups = category / "groups.json"
            units = read_json(groups) if groups.is_file() else {}
            found = [replace(r, unit=str(units[r.path.name])) if r.path.name in units else r for r in found]
        else:
            default_split_only(split, "mvtec", {p.stem.removeprefix("split_") for p in category.glob("split_*.json")})
            found = resplit(found, category / f"split_{split}.json")
        records += found
    return records


def category_records(root: Path, category: Path) -> list[Record]:
    """One category by its folders; `validation/good`, where there is one, is held."""
    truth = category / "ground_truth"
    truth = truth if truth.is_dir() else category / "box_masks"
    records = records_of(root, category, category / "train" / "good", "train")
    records += records_of(root, category, category / "validation" / "good", "held")
    for folder in folders_in(category / "test"):
        defect = None if folder.name == "good" else folder.name
        records += records_of(root, category, folder, "test", defect=defect, masks=masks_in(truth / folder.name))
    return records


def resplit(records: list[Record], file: Path) -> list[Record]:
    """The good records split anew by the names in `file`, those it does not list held; anomalous ones stay in test.

    Without units: such a list knows nothing of them, and showing what that costs is what it is here for.
    """
    lists = read_json(file)
    side: dict[str, Split] = {name: "test" for name in lists.get("test_good", [])}
    for name in lists.get("train", []):
        if side.setdefault(name, "train") != "train":
            raise DataError(f"has '{name}' in train and in test_good", path=file, hint="mend the split")
    good = Counter(r.path.name for r in records if not r.label)
    if missing := sorted(set(side) - set(good)):
        message = f"names {len(missing)} images that are not there, first '{missing[0]}'"
        raise DataError(message, path=file, hint="is the data set complete?")
    if twice := sorted({name for name in side if good[name] > 1}):
        raise DataError(f"names '{twice[0]}', which is in two folders", path=file, hint="give the images unique names")
    return [r if r.label else replace(r, split=side.get(r.path.name, "held")) for r in records]
