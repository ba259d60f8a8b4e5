"""A folder of good recordings, flat or nested: WFDB, CSV or numpy files, cut into windows, all of them to learn from.

unit = recording: its windows never stand on both sides of a split.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import default_split_only, relative
from blemish.data.layouts._recordings import Cut, windows_in
from blemish.data.layouts.folder import NOT_GOOD
from blemish.data.recordings import is_recording, recordings_in
from blemish.errors import DataError
from blemish.types import Record

PRIORITY = 110


def detect(root: Path) -> bool:
    return is_recording(root) if root.is_file() else bool(recordings_in(root, deep=True))


def index(root: Path, *, split: str | None = None, cut: Cut | None = None) -> list[Record]:
    """DataError where a sub-folder's name says that its recordings are not good ones."""
    default_split_only(split, "recordings")
    if root.is_file():
        return windows_in(root, root.name, cut)
    records = []
    for path in recordings_in(root, deep=True):
        for part in path.relative_to(root).parts[:-1]:
            if part.lower() in NOT_GOOD:
                hint = "give the folder of good recordings itself"
                raise DataError(f"has a folder '{part}' that does not sound like good recordings", path=root, hint=hint)
        records += windows_in(path, relative(path, root), cut)
    return records
