"""VisA: split_csv/1cls.csv lists the images of all objects; without it, <object>/Data/{Images,Masks} as unpacked.

Zou et al., SPot-the-Difference self-supervised pre-training for anomaly detection and segmentation, ECCV 2022.
split="<name>" takes split_csv/<name>.csv; anomalous training images in it (few-shot lists) are held. Without a list
every tenth normal image goes to test, in the order of names: the published share, not the published split.
"""

from __future__ import annotations

import csv
from pathlib import Path

from blemish.data.layouts._common import (
    Query,
    default_split_only,
    existing,
    fair,
    masks_for,
    plain_name,
    records_of,
    relative,
)
from blemish.data.layouts._folders import categories
from blemish.data.listing import images_in
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 20
MODALITY = "image"
SPLITS: dict[str, Split] = {"train": "train", "test": "test"}
LABELS = {"normal": 0, "anomaly": 1}


def is_object(folder: Path) -> bool:
    return (folder / "Data" / "Images" / "Normal").is_dir()


def detect(root: Path) -> bool:
    return (root / "split_csv" / "1cls.csv").is_file() or bool(categories(root, is_object))


def index(root: Path, query: Query) -> list[Record]:
    lists = {path.stem: path for path in sorted((root / "split_csv").glob("*.csv"))}
    default_split_only(query.split, "visa", lists)
    chosen = lists.get(query.split or "1cls")
    return _listed(root, chosen) if chosen else _unpacked(root)


def _listed(root: Path, path: Path) -> list[Record]:
    records = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                label, split = LABELS[row["label"]], SPLITS[row["split"]]
                image, mask = existing(root / row["image"], path), row["mask"]
                group = plain_name(row["object"], "object")
            except ValueError as error:
                hint = "categories name folders"
                raise DataError(f"line {reader.line_num}: {error}", path=path, hint=hint) from None
            except (KeyError, TypeError) as error:
                hint = "columns: object,split,label,image,mask"
                raise DataError(f"line {reader.line_num}: bad or missing {error}", path=path, hint=hint) from None
            records.append(
                Record(
                    relative(image, root),
                    image,
                    fair(split, label),
                    label,
                    mask=existing(root / mask, path) if mask and label else None,
                    defect="anomaly" if label else None,
                    group=group,
                )
            )
    return records


def _unpacked(root: Path) -> list[Record]:
    records = []
    for category in categories(root, is_object):
        images = category / "Data" / "Images"
        tenth = set(images_in(images / "Normal")[9::10])
        normal = records_of(root, category, images / "Normal", "train")
        test = records_of(root, category, images / "Normal", "test")
        records += [t if n.path in tenth else n for n, t in zip(normal, test, strict=True)]
        masks = masks_for(images / "Anomaly", category / "Data" / "Masks" / "Anomaly")
        records += records_of(root, category, images / "Anomaly", "test", defect="anomaly", masks=masks)
    return records
