"""A manifest: CSV with a header line, or JSONL, one sample a line; or a folder with manifest.csv or manifest.jsonl.

Columns (keys): path, split, label, mask, defect, group, unit, view. Only path is needed; others are ignored. Paths
start at the manifest's folder. label: 0 or good, 1 or anomalous; without it 1 where a mask or a defect is given. split:
train, test or held; without it train for good and test for anomalous samples. Several masks: a list in JSONL, `;`
between them in CSV.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, cast, get_args

from blemish.data.layouts._common import default_split_only, relative
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 10
NAMES = ("manifest.csv", "manifest.jsonl")
LABELS = {"0": 0, "good": 0, "normal": 0, "1": 1, "anomalous": 1, "anomaly": 1}


def detect(root: Path) -> bool:
    return _file(root) is not None


def index(root: Path, *, split: str | None = None) -> list[Record]:
    """DataError naming file and line on a bad row, a missing file or a sample listed twice."""
    default_split_only(split, "manifest")
    path = _file(root)
    if path is None:
        raise DataError("is no manifest", path=root, hint=f"give a .csv or .jsonl file, or a folder with {NAMES[0]}")
    records: dict[str, Record] = {}
    for line, row in _rows(path):
        try:
            record = _record(path.parent, row)
            if record.id in records:
                raise ValueError(f"'{record.id}' is listed twice")
        except ValueError as error:
            raise DataError(f"line {line}: {error}", path=path, hint="mend the line, or remove it") from None
        records[record.id] = record
    return list(records.values())


def _file(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() in (".csv", ".jsonl") else None
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with the number of the line they end on."""
    line = 1
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(StringIO(text, newline=""), strict=True)
            if "path" not in (reader.fieldnames or ()):
                raise ValueError("no column 'path' in the header")
            for row in reader:
                line = reader.line_num
                if None in row:
                    raise ValueError("more values than columns")
                yield line, row
            return
        for line, one in enumerate(text.splitlines(), 1):
            if one.strip():
                value = json.loads(one)
                if not isinstance(value, dict):
                    raise ValueError("not a JSON object")
                yield line, value
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"line {line}: {error}", path=path, hint="a manifest is UTF-8 CSV or JSONL") from None


def _record(base: Path, row: Mapping[str, Any]) -> Record:
    """ValueError saying what is wrong with the row."""
    image = _found(base, _text(row, "path") or "")
    masks = row.get("mask") or ()
    masks = [str(one).strip() for one in (masks.split(";") if isinstance(masks, str) else masks)]
    paths = tuple(_found(base, one) for one in masks if one)
    defect, given = _text(row, "defect"), _text(row, "label")
    if given is None:
        label = int(bool(paths) or defect not in (None, "good"))
    elif given.lower() in LABELS:
        label = LABELS[given.lower()]
    else:
        raise ValueError(f"label '{given}' is none of {', '.join(LABELS)}")
    split = _text(row, "split") or ("test" if label else "train")
    if split not in get_args(Split):
        raise ValueError(f"split '{split}' is none of {', '.join(get_args(Split))}")
    if label and split == "train":
        raise ValueError("an anomalous sample in the training split")
    return Record(
        relative(image, base),
        image,
        cast(Split, split),
        label,
        mask=(paths[0] if len(paths) == 1 else paths or None) if label else None,
        defect=(defect or "anomalous") if label else None,
        group=_text(row, "group"),
        unit=_text(row, "unit"),
        view=_text(row, "view"),
    )


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return None if value is None or str(value).strip() == "" else str(value).strip()


def _found(base: Path, text: str) -> Path:
    if not text:
        raise ValueError("no path")
    path = base / text
    if not path.is_file():
        raise ValueError(f"no such file: {text}")
    return path
