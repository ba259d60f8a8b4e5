"""A folder of good recordings, flat or nested: WFDB, CSV or numpy files, cut into windows, all of them to learn from.

unit = recording: its windows never stand on both sides of a split. Left out, with a warning, are recordings shorter
than a window, windows in which nothing was recorded or a lead does not move, and missing records that a list RECORDS
names.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import Query, default_split_only, relative
from blemish.data.layouts._plain import good_files
from blemish.data.signal.recordings import is_recording, recordings_in
from blemish.data.signal.windows import LeftOut, windows_in
from blemish.errors import DataError
from blemish.types import Record

PRIORITY = 110
MODALITY = "signal"


def detect(root: Path) -> bool:
    return is_recording(root) if root.is_file() else bool(recordings_in(root, deep=True))


def index(root: Path, query: Query) -> list[Record]:
    """DataError where a folder's name says that its recordings are not good ones, or is ambiguous."""
    default_split_only(query.split, "recordings")
    if root.is_file():
        return _warned(windows_in(root, root.name, query.cut, left=(left := LeftOut(root))), left)
    records, left = [], LeftOut(root)
    for path in good_files(recordings_in(root, deep=True), root, "recordings", is_recording):
        records += windows_in(path, relative(path, root), query.cut, left=left)
        if path.with_suffix(".atr").is_file():
            left.note("files of beats (.atr): they are read where they lie in the folder itself", [path.stem])
    return _warned(records, left)


def _warned(records: list[Record], left: LeftOut) -> list[Record]:
    """The records, and a warning for what is left out; DataError where that is everything."""
    if not records and left.found:
        why, names = next(iter(left.found.items()))
        raise DataError(
            f"holds no window to learn from, but {len(names)} {why}",
            path=left.root,
            hint="another window (--window)",
        )
    left.warn()
    return records
