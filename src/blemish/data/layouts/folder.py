"""A folder of good samples, flat or nested: all of them are training records.

A whole data set taken for a folder of good images would be learned with its defects: `_plain` refuses rather than
guess.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blemish.data.image.modality import Images
from blemish.data.layouts._common import Query, default_split_only, relative
from blemish.data.layouts._plain import good_files
from blemish.data.modality import Cut, Modality
from blemish.types import Record

PRIORITY = 100
MODALITY = "image"


def detect(root: Path, kind: type[Modality[Any]] = Images, cut: Cut | None = None) -> bool:
    return bool(kind.files(root, cut)) if root.is_dir() else kind.is_sample(root)


def index(root: Path, query: Query) -> list[Record]:
    """DataError where a folder's name, or a list beside the samples, says that some are not good ones or does not
    rule it out; a warning counts those in hidden folders, which are left out."""
    default_split_only(query.split, "folder")
    kind = query.modality or Images
    if root.is_file():
        return kind.records(root, root.name, query.cut)
    files = good_files(kind.files(root, query.cut), root, kind.samples, kind.is_sample)
    return [record for path in files for record in kind.records(path, relative(path, root), query.cut)]
