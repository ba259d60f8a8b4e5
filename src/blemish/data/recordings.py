"""Recordings on disk: one or more leads, as they were written.

Read are WFDB (`.hea` with its `.dat`; package wfdb), CSV (a column for each lead, with names where there is a header; a
column `time` in seconds gives the rate), numpy (`.npy`, (N,), (N, K) or (K, N)), and tables that hold a window in each
row (UCR: `.txt` with the class first, or a CSV with columns t0, t1, ...). WFDB states its rate; for the others it has
to be given.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.decode import read_file
from blemish.data.identity import values_id
from blemish.errors import DataError
from blemish.files import walk
from blemish.outputs import without_maps

Values = NDArray[np.float32]
Stamp = tuple[tuple[str, int, int], ...]

SUFFIXES = frozenset({".hea", ".csv", ".txt", ".npy"})
MOST_LEADS = 32  # a table without header that is wider holds a window in each row
KEPT = 8  # recordings that stay read
EXTRA = "pip install 'blemish[ecg]'"


@dataclass(frozen=True, eq=False)
class Recording:
    """`values` (K, N) in the file's own unit, NaN where nothing was recorded; `rate` in Hz where the file states one.

    `piece`: samples of the pieces that it consists of, where those do not follow each other (a table of windows).
    """

    values: Values
    rate: float | None
    leads: tuple[str | None, ...]
    piece: int | None = None


def is_recording(path: Path) -> bool:
    """By its name; `.txt` only where it is a table of windows by its name (UCR: NAME_TRAIN, NAME_TEST)."""
    if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
        return False
    return path.suffix.lower() != ".txt" or re.search(r"_(TRAIN|TEST)$", path.stem) is not None


def recordings_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """Sorted recordings of a folder, with `deep` of its sub-folders and of those that it links to."""
    if not folder.is_dir():
        return []
    return without_maps(path for path in walk(folder, deep=deep).files if is_recording(path))


def read_recording(path: str | Path) -> Recording:
    """DataError, naming the file, on anything that cannot be read right."""
    path = Path(path)
    return read_stamped(path, stamp(path))


@lru_cache(KEPT)
def read_stamped(path: Path, key: Stamp) -> Recording:  # noqa: ARG001  (what is kept is found by it)
    """A recording whose files are as `key` says (see `stamp`); read again only where they changed."""
    suffix = path.suffix.lower()
    readers = {".hea": _read_wfdb, ".npy": _read_numpy, ".csv": _read_table, ".txt": _read_ucr}
    if suffix not in readers:
        raise DataError("is no recording", path=path, hint=f"{', '.join(sorted(readers))} are read")
    return readers[suffix](path)


def stamp(path: Path) -> Stamp:
    """Names, times and sizes of a recording's files: what is kept of it is forgotten when they change."""
    found = []
    for file in _files(path):
        try:
            stat = file.stat()
        except OSError as error:
            message = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise DataError(message, path=file, hint="check the path") from None
        found.append((str(file), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def digest(path: Path) -> str:
    """SHA-256 of the bytes of a recording's files, as hex digits."""
    return _digest(path, stamp(path))


@lru_cache(1024)
def _digest(path: Path, key: Stamp) -> str:  # noqa: ARG001  (what is kept is found by it)
    found = hashlib.sha256()
    for file in _files(path):
        found.update(read_file(file))
    return found.hexdigest()


def values_digest(path: Path) -> str:
    """Names a recording by what it holds, whatever kind of file it is in: values, rate and leads."""
    return _values_digest(path, stamp(path))


@lru_cache(1024)
def _values_digest(path: Path, key: Stamp) -> str:
    recording = read_stamped(path, key)
    return values_id(recording.values, f"{recording.rate} {recording.leads} {recording.piece}")


class Extent(NamedTuple):
    """Samples of a recording, its rate where it states one, and the samples of its pieces where it has such."""

    samples: int
    rate: float | None
    piece: int | None


def extent(path: str | Path) -> Extent:
    """What a recording is cut by, from its header where it has one. DataError as `read_recording`."""
    path = Path(path)
    if path.suffix.lower() == ".hea":
        header = _understood(path, lambda name: _wfdb().rdheader(name))
        if header.sig_len:
            return Extent(int(header.sig_len), float(header.fs), None)
    recording = read_recording(path)
    return Extent(recording.values.shape[1], recording.rate, recording.piece)


def read_beats(path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(samples, symbols) of a WFDB annotation file; DataError where it cannot be read."""
    return _beats(path, stamp(path))


@lru_cache(64)
def _beats(path: Path, key: Stamp) -> tuple[NDArray[np.int64], tuple[str, ...]]:  # noqa: ARG001
    notes = _understood(path, lambda name: _wfdb().rdann(name, path.suffix.removeprefix(".")))
    return np.asarray(notes.sample, np.int64), tuple(notes.symbol)


def _files(path: Path) -> list[Path]:
    """A WFDB header names its signal files; any other recording is one file."""
    if path.suffix.lower() != ".hea":
        return [path]
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.startswith("#")]
    names = dict.fromkeys(line.split()[0] for line in lines[1:])
    return [path, *(path.parent / name for name in names)]


def _text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is no text", path=path, hint="copy it again") from None


def _wfdb() -> Any:
    try:
        import wfdb
    except ImportError:
        raise DataError("WFDB files need the package wfdb", hint=EXTRA) from None
    return wfdb


def _read_wfdb(path: Path) -> Recording:
    record = _understood(path, lambda name: _wfdb().rdrecord(name))
    values = record.p_signal
    if values is None or values.size == 0:
        raise DataError("holds no signal", path=path, hint="copy the record again")
    names = tuple(str(name) for name in record.sig_name)
    return Recording(np.ascontiguousarray(values.T, np.float32), float(record.fs), names)


def _understood(path: Path, read: Callable[[str], Any]) -> Any:
    """What `read` makes of the path without its suffix; DataError for whatever wfdb raises on a damaged file."""
    try:
        return read(str(path.with_suffix("")))
    except DataError:
        raise
    except Exception as error:  # its errors have no common base
        raise DataError(f"cannot be read as WFDB ({error})", path=path, hint="copy the record again") from None


def _read_numpy(path: Path) -> Recording:
    try:
        values = np.load(BytesIO(read_file(path)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"is no numpy array ({error})", path=path, hint="save it with numpy.save") from None
    if not isinstance(values, np.ndarray) or values.ndim not in (1, 2) or values.dtype.kind not in "iuf":
        raise DataError("is no array (N,), (N, K) or (K, N) of numbers", path=path, hint="save one recording in a file")
    values = np.atleast_2d(values)
    values = values if values.shape[0] <= values.shape[1] else values.T
    return _of_values(values, None, (None,) * len(values), path)


def _read_table(path: Path) -> Recording:
    rows = [row for row in csv.reader(StringIO(_text(path), newline="")) if row]
    header = rows[0] if rows and not _numeric(rows[0]) else None
    body = rows[1:] if header else rows
    if header and "t0" in header:
        return _pieces([row[header.index("t0") :] for row in body], path)
    if header is None and body and len(body[0]) > MOST_LEADS:
        return _pieces([row[1:] for row in body], path)
    values = _numbers(body, path).T
    names: list[str | None] = [name.strip() for name in header] if header else [None] * len(values)
    rate = None
    if "time" in names:
        k = names.index("time")
        steps = np.diff(values[k].astype(np.float64))
        if len(steps) == 0 or not (steps > 0).all() or np.ptp(steps) > 0.5 * np.median(steps):
            raise DataError("its times do not rise evenly", path=path, hint="one row for each sample, in seconds")
        rate = round(1 / float(steps.mean()), 6)
        values = np.delete(values, k, axis=0)
        names.pop(k)
    return _of_values(values, rate, tuple(names), path)


def _read_ucr(path: Path) -> Recording:
    rows = [line.replace(",", " ").split() for line in _text(path).splitlines() if line.strip()]
    return _pieces([row[1:] for row in rows], path)


def _pieces(rows: list[list[str]], path: Path) -> Recording:
    values = _numbers(rows, path)
    return Recording(values.reshape(1, -1), None, (None,), values.shape[1])


def _numbers(rows: list[list[str]], path: Path) -> Values:
    """(rows, columns); an empty cell is a gap."""
    try:
        values = np.array([[float(cell) if cell.strip() else math.nan for cell in row] for row in rows], np.float32)
    except ValueError as error:
        raise DataError(f"is no table of numbers ({error})", path=path, hint="a column for each lead") from None
    if values.ndim != 2 or values.size == 0:
        raise DataError("holds no numbers", path=path, hint="a column for each lead")
    return values


def _numeric(row: list[str]) -> bool:
    try:
        [float(cell) for cell in row if cell.strip()]
    except ValueError:
        return False
    return True


def _of_values(values: NDArray[Any], rate: float | None, leads: tuple[str | None, ...], path: Path) -> Recording:
    if values.size == 0:
        raise DataError("holds no lead", path=path, hint="a column for each lead")
    if len(values) > MOST_LEADS:
        raise DataError(f"has {len(values)} leads", path=path, hint=f"at most {MOST_LEADS}")
    return Recording(np.ascontiguousarray(values, np.float32), rate, leads)
