"""What the layouts of recordings share: cutting into windows, and reporting what is left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from blemish.data.modality import Cut
from blemish.data.signal.movement import lacking
from blemish.data.signal.preprocess import spans
from blemish.data.signal.recordings import extent, missing_in, read_recording
from blemish.errors import DataError
from blemish.types import Record, Split

NAMED = 5  # maximum number of names of what is left out; of more, their number


class LeftOut:
    """What a layout leaves out, and why: reported in one warning."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: dict[str, list[str]] = {}
        missing = missing_in(root, deep=True) if root.is_dir() else []
        self.note("records that RECORDS names and that are not there", (p.stem for p in missing))

    def note(self, why: str, names: Iterable[str]) -> None:
        """Note that `names` are left out, with the reason `why`."""
        if names := list(names):
            self.found.setdefault(why, []).extend(names)

    def warn(self) -> None:
        """Warn, where there is anything."""
        parts = []
        for why, names in self.found.items():
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            parts.append(f"{len(names)} {why} ({', '.join(names[:NAMED])}{more})")
        if parts:
            warnings.warn(f"{self.root}: left out are {'; '.join(parts)}", stacklevel=4)


def windows_in(
    path: Path,
    name: str,
    cut: Cut | None,
    split: Split = "train",
    unit: str | None = None,
    left: LeftOut | None = None,
) -> list[Record]:
    """Windows of a recording side by side, all of them good: `name` with the number of the window is their id.

    Windows of one recording are of one unit: its name, where no other is given. DataError naming the file. With `left`,
    a recording shorter than a window, and windows in which nothing was recorded or a lead does not move, are noted
    there and left out.
    """
    cut = cut or Cut()
    try:
        size = extent(path)
        if left is not None and _shorter(size.samples, size.rate or cut.rate, cut.window, size.piece):
            left.note(f"recordings shorter than a window of {cut.window:g} s", [name])
            return []
        found = spans(size, cut.window, cut.rate)
        bad = unusable(path, cut) if left is not None else lambda _: None
    except DataError as error:
        raise error.at(path) from None
    records = []
    for k, span in enumerate(found):
        why = bad(span)
        if why is None:
            records.append(Record(f"{name}#{k:04}", path, split, unit=unit or name, span=span))
        elif left is not None:
            left.note(f"windows in which {why}", [f"{name}#{k:04}"])
    return records


def unusable(path: Path, cut: Cut) -> Callable[[tuple[int, int]], str | None]:
    """Why a window of a recording, by its span, cannot be learned from; None where it can. DataError as reading it."""
    recording = read_recording(path)
    rate = recording.rate or cut.rate
    if rate is None:  # only tables of single windows are cut without one
        return lambda _: None
    window = cut.window if recording.piece is None else recording.piece / rate
    lacks = lacking(recording, rate, window)

    def why(span: tuple[int, int]) -> str | None:
        hit = next((lack for lack in lacks if lack.spoils(span[0] / rate, span[1] / rate)), None)
        return None if hit is None else hit._replace(lead="a lead" if hit.lead else "").why

    return why


def _shorter(samples: int, rate: float | None, window: float, piece: int | None) -> bool:
    return piece is None and rate is not None and samples < window * rate
