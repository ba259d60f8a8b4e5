"""A folder of good images, flat or nested: all of them are training records.

A whole data set taken for a folder of good images would be learned with its defects: `_plain` refuses rather than
guess.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import Query, default_split_only, relative
from blemish.data.layouts._plain import good_files
from blemish.data.listing import images_in, is_image
from blemish.types import Record

PRIORITY = 100


def detect(root: Path) -> bool:
    return bool(images_in(root, deep=True))


def index(root: Path, query: Query) -> list[Record]:
    """DataError where a folder's name, or a list beside the images, says that some are not good ones or leaves it open;
    a warning counts those in hidden folders, which are left out."""
    default_split_only(query.split, "folder")
    return [
        Record(relative(path, root), path) for path in good_files(images_in(root, deep=True), root, "images", is_image)
    ]
