"""ECG5000: single heartbeats of one patient, 140 samples each, from the UCR archive: `ECG5000_TRAIN.txt` with the class
first, or `beats.csv` with columns split, class, t0 to t139.

Class 1 is normal. 90 normal beats, drawn with `seed`, are tested with all others; the rest is learned from. Beats are
cut and aligned already, and every one is of one patient: suitable for trying things out, not for comparing methods.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blemish.data.layouts._common import Query, default_split_only
from blemish.data.signal.preprocess import spans
from blemish.data.signal.recordings import extent
from blemish.data.tables import cells, decoded
from blemish.errors import DataError
from blemish.files import read_file
from blemish.types import Record

PRIORITY = 33
MODALITY = "signal"
TESTED = 90  # normal beats
CLASSES = {"1": "normal", "2": "R-on-T", "3": "ventricular", "4": "supraventricular", "5": "unclassified"}


def detect(root: Path) -> bool:
    return root.is_dir() and _file(root) is not None


def index(root: Path, query: Query) -> list[Record]:
    """DataError where a class is none of 1 to 5. A beat is a window, whatever is asked for."""
    default_split_only(query.split, "ecg5000")
    path = _file(root)
    if path is None:
        return []
    found = spans(extent(path), 1.0, None)
    classes = _classes(path)
    for row, name in enumerate(classes):
        if name not in CLASSES:
            raise DataError(f"row {row + 1}: class '{name}' is none of {', '.join(CLASSES)}", path=path)
    good = [row for row, name in enumerate(classes) if name == "1"]
    tested = {good[i] for i in np.random.RandomState(query.seed).permutation(len(good))[:TESTED]}
    return [
        Record(
            f"{path.name}#{row:04}",
            path,
            "train" if name == "1" and row not in tested else "test",
            int(name != "1"),
            defect=None if name == "1" else CLASSES[name],
            span=span,
        )
        for row, (name, span) in enumerate(zip(classes, found, strict=True))
    ]


def _file(root: Path) -> Path | None:
    if (root / "ECG5000_TRAIN.txt").is_file():
        return root / "ECG5000_TRAIN.txt"
    path = root / "beats.csv"
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            return path if file.readline().startswith("split,class,t0,") else None
    return None


def _classes(path: Path) -> list[str]:
    rows = cells(decoded(read_file(path)))
    if path.suffix == ".csv":
        return [row[1].strip() for row in rows[1:]]
    return [str(int(float(row[0]))) for row in rows]
