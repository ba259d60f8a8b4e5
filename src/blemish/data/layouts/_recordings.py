"""What the layouts of recordings share: how they are cut into windows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from blemish.data.recordings import extent
from blemish.data.signals import WINDOW, spans
from blemish.errors import DataError
from blemish.types import Record, Split


class Cut(NamedTuple):
    """Length of a window in seconds, and the rate of files that state none."""

    window: float = WINDOW
    rate: float | None = None


def windows_in(path: Path, name: str, cut: Cut | None, split: Split = "train", unit: str | None = None) -> list[Record]:
    """Windows of a recording side by side, all of them good: `name` with the number of the window is their id.

    Windows of one recording are of one unit: its name, where no other is given. DataError naming the file.
    """
    cut = cut or Cut()
    try:
        found = spans(extent(path), cut.window, cut.rate)
    except DataError as error:
        raise error if error.path else DataError(str(error), path=path, hint=error.hint) from None
    return [Record(f"{name}#{k:04}", path, split, unit=unit or name, span=span) for k, span in enumerate(found)]
