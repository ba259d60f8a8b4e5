"""A folder of good recordings, flat or nested: WFDB, CSV or numpy files, cut into windows, all of them to learn from.

unit = recording: its windows never stand on both sides of a split.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import default_split_only, relative
from blemish.data.layouts._plain import good_files
from blemish.data.layouts._recordings import Cut, windows_in
from blemish.data.recordings import is_recording, recordings_in
from blemish.types import Record

PRIORITY = 110


def detect(root: Path) -> bool:
    return is_recording(root) if root.is_file() else bool(recordings_in(root, deep=True))


def index(root: Path, *, split: str | None = None, cut: Cut | None = None) -> list[Record]:
    """DataError where a folder's name says that its recordings are not good ones, or leaves it open."""
    default_split_only(split, "recordings")
    if root.is_file():
        return windows_in(root, root.name, cut)
    records = []
    for path in good_files(recordings_in(root, deep=True), root, "recordings", is_recording):
        records += windows_in(path, relative(path, root), cut)
    return records
