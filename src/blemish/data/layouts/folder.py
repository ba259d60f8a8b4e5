"""A folder of good images, flat or nested: all of them are training records."""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import default_split_only, images_in, relative
from blemish.errors import DataError
from blemish.types import Record

PRIORITY = 100

# A whole data set taken for a folder of good images would be learned with its defects: refuse rather than guess.
NOT_GOOD = frozenset(
    "test ground_truth mask masks bad ng ko defect defects defective anomaly anomalies anomalous".split()
)


def detect(root: Path) -> bool:
    return bool(images_in(root, deep=True))


def index(root: Path, *, split: str | None = None) -> list[Record]:
    """DataError where a sub-folder's name says that its images are not good ones."""
    default_split_only(split, "folder")
    records = []
    for path in images_in(root, deep=True):
        for part in path.relative_to(root).parts[:-1]:
            if part.lower() in NOT_GOOD:
                hint = "give the folder of good images itself, or write a manifest"
                raise DataError(f"has a folder '{part}' that does not sound like good images", path=root, hint=hint)
        records.append(Record(relative(path, root), path))
    return records
