"""Kaputt, parcels and products of a warehouse: query-{train,validation,test}.parquet list the images with their labels.

Höfer et al., Kaputt: a large-scale dataset for visual defect detection, ICCV 2025 (kaputt-dataset.com; columns and
folders as its README describes them). The lists lie beside the images or in `datasets/`, as Parquet or as CSV with the
same columns; paths in them start at the root, or at the folder of their archive (`query-image/`, `query-crop/`).

One item is one unit, its material the category. Validation images and defective training images are held, and so are
those of a list without a column `defect`, which have no labels. split="crop" takes the cut-out items in place of the
whole trays, "major" and "crop-major" hold what has a minor defect alone. `query_mask` shows where the *item* is, not
its defect: it is not read, and there are no pixel metrics. Nor is `reference-*` read, whose images are not all good.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from blemish.data.layouts._common import Query, default_split_only, fair, plain_name, relative
from blemish.data.tables import decoded
from blemish.errors import DataError
from blemish.files import read_file
from blemish.types import UNLABELLED, Record, Split

PRIORITY = 25
MODALITY = "image"
SIDES: dict[str, Split] = {"train": "train", "validation": "held", "test": "test"}
SPLITS = ("crop", "crop-major", "major")
COLUMNS = ("item_identifier", "item_material")
_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")


def detect(root: Path) -> bool:
    return bool(_lists(root))


def index(root: Path, query: Query) -> list[Record]:
    """DataError naming list and row where a value is missing or not understood, or an image is not there."""
    default_split_only(query.split, "kaputt", SPLITS)
    wanted = (query.split or "").split("-")
    column = "query_crop" if "crop" in wanted else "query_image"
    records = []
    for path, split in _lists(root).items():
        for number, row in enumerate(_rows(path), 1):
            try:
                records.append(_record(root, row, column, split, major="major" in wanted))
            except ValueError as error:
                raise DataError(f"row {number}: {error}", path=path, hint="is the data set complete?") from None
    return records


def _lists(root: Path) -> dict[Path, Split]:
    """The lists that are there, and the side of their images."""
    found: dict[Path, Split] = {}
    for name, split in SIDES.items():
        files = [folder / f"query-{name}{end}" for folder in (root, root / "datasets") for end in (".csv", ".parquet")]
        found |= {path: split for path in [path for path in files if path.is_file()][:1]}
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    """DataError where a list cannot be read or lacks a column."""
    if path.suffix == ".csv":
        try:
            rows: list[dict[str, Any]] = list(csv.DictReader(StringIO(decoded(read_file(path)), newline="")))
        except DataError as error:
            raise error.at(path) from None
    else:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            message, hint = "Parquet files need the package pyarrow", "pip install pyarrow, or write a CSV beside it"
            raise DataError(message, path=path, hint=hint) from None
        try:
            rows = parquet.read_table(path).to_pylist()
        except (ArrowException, OSError) as error:
            raise DataError(f"is no readable Parquet ({error})", path=path, hint="copy the data set again") from None
    if rows and (lost := [name for name in COLUMNS if name not in rows[0]]):
        raise DataError(f"has no column '{lost[0]}'", path=path, hint="is it a list of this data set?")
    return rows


def _record(root: Path, row: Mapping[str, Any], column: str, split: Split, *, major: bool) -> Record:
    """ValueError saying what is wrong with the row."""
    text = _text(row, column)
    image = next((base / text for base in (root, root / column.replace("_", "-")) if (base / text).is_file()), None)
    if image is None:
        raise ValueError(f"no such file: {text}")
    label, defect = 1, UNLABELLED
    if "defect" not in row:
        split = "held"
    elif not _flag(row, "defect"):
        label, defect = 0, ""
    else:
        severe = bool(row.get("major_defect")) and _flag(row, "major_defect")
        defect = f"{'major' if severe else 'minor'}: {row.get('defect_types') or 'of no type'}"
        split = "held" if major and not severe else fair(split, label)
    return Record(
        relative(image, root),
        image,
        split,
        label,
        defect=defect or None,
        group=plain_name(str(row["item_material"] or "").strip() or "unknown", "material"),
        unit=_text(row, "item_identifier"),
    )


def _text(row: Mapping[str, Any], name: str) -> str:
    value = str(row.get(name) or "").strip()
    if not value:
        raise ValueError(f"no {name}")
    return value


def _flag(row: Mapping[str, Any], name: str) -> bool:
    value = str(row.get(name)).strip().casefold()
    if value not in (*_TRUE, *_FALSE):
        raise ValueError(f"{name} is {row.get(name)!r}, neither true nor false")
    return value in _TRUE
