"""Recordings on disk: one or more leads, as they were written.

Supported are WFDB (`.hea` with its `.dat`, also of several segments; package wfdb), CSV (a column for each lead, with
names where there is a header; a column `time` in seconds, or `time (ms)`, gives the rate), numpy (`.npy`, (N,), (N, K)
or (K, N)), and tables that hold a window in each row (UCR: `.txt` with the class first, or a CSV with columns t0, t1,
...). WFDB states its rate; for the others it has to be given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.identity import values_id
from blemish.data.tables import cells, decoded, numbers, numeric
from blemish.errors import DataError
from blemish.files import read_file, walk
from blemish.outputs import without_maps

Values = NDArray[np.float32] | NDArray[np.float64]
Stamp = tuple[tuple[str, int, int], ...]

SUFFIXES = frozenset({".hea", ".csv", ".txt", ".npy"})
MOST_LEADS = 32  # a table without header that is wider holds a window in each row
KEPT = 8  # recordings that stay read
EXTRA = "pip install 'blemish[ecg]'"
ROUNDED = 1e-3  # share of a lead's deviation by which float32 may round its values; else they stay float64
DIGITS = 1e-6  # share by which the digits of times may move a rate off whole Hz
EVEN = 0.5  # share of the usual step by which steps of times may differ: they are written with few digits
FEWEST_EVEN = 20  # values that rise evenly are no lead
_TIME = re.compile(r"(?:elapsed[ _]?)?time(?:stamp)?[ _]*[\[(]?(s|secs?|seconds?|ms|msecs?|milliseconds?)?[\])]?")
_TIMES = re.compile(r"(?:elapsed[ _]?)?(time|date)")  # of a column that is no lead either, and is not understood


@dataclass(frozen=True, eq=False)
class Recording:
    """`values` (K, N) in the file's own unit, NaN where nothing was recorded; `rate` in Hz where the file states one.
    They are float32, or float64 where that would round them.

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
    """Sorted recordings of a folder, with `deep` of its sub-folders and of those that it links to. A segment of a WFDB
    record that lies beside it is a part of that record."""
    if not folder.is_dir():
        return []
    found = without_maps(path for path in walk(folder, deep=deep).files if is_recording(path))
    headers = [path for path in found if path.suffix.lower() == ".hea"]
    parts = {path.with_name(f"{name}.hea") for path in headers for name in segment_names(path)}
    return [path for path in found if path not in parts]


def missing_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """Sorted headers of WFDB records that a list RECORDS in the folder names, and that are not there."""
    found = []
    for path in (file for file in walk(folder, deep=deep).files if file.name == "RECORDS"):
        names = [name.strip() for name in _text(path).splitlines()]
        found += [path.parent / f"{name}.hea" for name in names if name and not name.endswith("/")]
    return sorted({path for path in found if not path.is_file()})


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
    """Names, times and sizes of a recording's files: a cached recording is dropped when they change."""
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
        if header.sig_len and header.fs:
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
    """A WFDB header names its signal files, or segments with headers of their own; any other recording is one file."""
    if path.suffix.lower() != ".hea":
        return [path]
    if parts := segments(path):
        headers = dict.fromkeys(path.parent / f"{part.name}.hea" for part in parts if part.name != MISSING)
        return [path, *dict.fromkeys(file for header in headers for file in [header, *_signal_files(header)])]
    return [path, *_signal_files(path)]


def _signal_files(header: Path) -> list[Path]:
    names = dict.fromkeys(line.split()[0] for line in _header_lines(header)[1:])
    return [header.parent / name for name in names if name != MISSING]


MISSING = "~"  # the name of a segment, or of a signal's file, in which nothing was recorded


class Segment(NamedTuple):
    """A part of a WFDB record: `name` of its header without suffix, and its samples; 0 where it lists leads alone."""

    name: str
    samples: int


def segments(path: Path) -> list[Segment]:
    """Of a WFDB record of several segments; none where it has its own signals. DataError where they are malformed."""
    lines = _header_lines(path)
    count = re.fullmatch(r"[^/\s]+/(\d+)", lines[0].split()[0]) if lines else None
    if count is None:
        return []
    found = [line.split() for line in lines[1:]]
    if len(found) != int(count[1]) or any(len(words) < 2 or not words[1].isdigit() for words in found):
        raise DataError(f"states {count[1]} segments and names others", path=path, hint="copy the record again")
    return [Segment(words[0], int(words[1])) for words in found]


def segment_names(path: Path) -> list[str]:
    """Of a WFDB record; none where its header cannot be read, which reading the record reports."""
    try:
        return [part.name for part in segments(path)]
    except DataError:
        return []


def _header_lines(path: Path) -> list[str]:
    return [line for line in _text(path).splitlines() if line.strip() and not line.startswith("#")]


def _text(path: Path) -> str:
    try:
        return decoded(read_file(path))
    except DataError as error:
        raise error.at(path) from None


def _wfdb() -> Any:
    try:
        import wfdb
    except ImportError:
        raise DataError("WFDB files need the package wfdb", hint=EXTRA) from None
    return wfdb


def _read_wfdb(path: Path) -> Recording:
    if parts := segments(path):
        return _joined(path, parts)
    record = _record(path)
    if record.p_signal is None or record.p_signal.size == 0:
        raise DataError("holds no signal", path=path, hint="copy the record again")
    names = tuple(str(name) for name in record.sig_name)
    return Recording(kept(record.p_signal.T), float(record.fs), names)


def _record(path: Path) -> Any:
    return _understood(path, lambda name: _wfdb().rdrecord(name))


def _joined(path: Path, parts: list[Segment]) -> Recording:
    """The segments one after the other; NaN where one lacks a lead, or is missing."""
    leads: dict[str, str] = {}  # unit by name
    read: list[tuple[int, Any]] = []
    rate, at = float(_understood(path, lambda name: _wfdb().rdheader(name)).fs), 0
    for name, samples in parts:
        if name != MISSING:
            header = path.parent / f"{name}.hea"
            record = _record(header) if samples else _understood(header, lambda name: _wfdb().rdheader(name))
            if float(record.fs) != rate or int(record.sig_len or 0) != samples:
                message = f"its segment {name} has {record.sig_len} samples at {record.fs:g} Hz"
                raise DataError(f"{message}, not {samples} at {rate:g}", path=path, hint="copy the record again")
            if len(set(record.sig_name or ())) < len(record.sig_name or ()):
                raise DataError(f"its segment {name} has two leads of one name", path=path, hint="rename one")
            for lead, unit in zip(record.sig_name or (), record.units or (), strict=True):
                if samples and leads.setdefault(lead, unit) != unit:
                    message = f"lead {lead} is in {leads[lead]} and, in segment {name}, in {unit}"
                    raise DataError(message, path=path, hint="save its segments in one unit")
            if samples:
                read.append((at, record))
        at += samples
    if not read:
        raise DataError("holds no signal", path=path, hint="copy the record again")
    values = np.full((len(leads), at), np.nan)
    for start, record in read:
        for lead, column in zip(record.sig_name, record.p_signal.T, strict=True):
            values[list(leads).index(lead), start : start + len(column)] = column
    return Recording(kept(values), rate, tuple(leads))


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
    try:
        rows = cells(_text(path))
        header = [name.strip() for name in rows[0]] if rows and not numeric(rows[0]) else None
        body = rows[1:] if header else rows
        if header and "t0" in header:
            return _pieces([row[header.index("t0") :] for row in body], 2)
        if header is None and body and len(body[0]) > MOST_LEADS:
            return _pieces([row[1:] for row in body], 1)
        values = numbers(body, 2 if header else 1).T
        if header and len(header) != len(values):
            raise DataError(f"names {len(header)} columns and holds {len(values)}", hint="a name for each column")
        names: list[str | None] = list(header) if header else [None] * len(values)
        rate = None
        if (clock := _clock(header or [])) is not None:
            k, unit = clock
            rate = _rate_of(values[k] * unit)
            values = np.delete(values, k, axis=0)
            names.pop(k)
    except DataError as error:
        raise error.at(path) from None
    return _of_values(values, rate, tuple(names), path)


def _clock(header: list[str]) -> tuple[int, float] | None:
    """Which column holds times, and its unit in seconds; None where none does. DataError where that is not clear."""
    found: list[tuple[int, float]] = []
    for k, name in enumerate(header):
        match = _TIME.fullmatch(name.casefold())
        if match:
            found.append((k, 1e-3 if (match[1] or "s").startswith("m") else 1.0))
        elif _TIMES.match(name.casefold()):
            raise DataError(f"column '{name}' is not understood", hint="times in seconds: time; else: time (ms)")
    if len(found) > 1:
        raise DataError(f"has {len(found)} columns of times", hint="leave one")
    return found[0] if found else None


def _rate_of(times: NDArray[np.float64]) -> float:
    """In Hz, of times in seconds; DataError where they do not rise evenly."""
    if not _even(times):
        raise DataError("its times do not rise evenly", hint="one row for each sample, in seconds")
    rate = (len(times) - 1) / float(times[-1] - times[0])
    return float(round(rate)) if abs(rate - round(rate)) <= DIGITS * rate else round(rate, 6)


def _even(values: NDArray[Any]) -> bool:
    """Whether values rise by one step, within the precision of their digits."""
    steps = np.diff(values.astype(np.float64))
    return len(steps) > 0 and bool((steps > 0).all()) and float(np.ptp(steps)) <= EVEN * float(np.median(steps))


def _read_ucr(path: Path) -> Recording:
    try:
        return _pieces([row[1:] for row in cells(_text(path))], 1)
    except DataError as error:
        raise error.at(path) from None


def _pieces(rows: list[list[str]], first: int) -> Recording:
    values = numbers(rows, first)
    return Recording(kept(values.reshape(1, -1)), None, (None,), values.shape[1])


def kept(values: NDArray[Any]) -> Values:
    """Values (K, N) as float32, or as float64 where that would round a lead by a visible part of its deviation."""
    values = np.ascontiguousarray(values, np.float64)
    finite = np.where(np.isfinite(values), values, np.nan)
    recorded = np.isfinite(finite).any(axis=1)
    largest, deviation = np.nanmax(np.abs(finite[recorded]), axis=1), np.nanstd(finite[recorded], axis=1)
    if (largest * np.finfo(np.float32).eps <= ROUNDED * deviation).all():
        return values.astype(np.float32)
    return values


def _of_values(values: NDArray[Any], rate: float | None, leads: tuple[str | None, ...], path: Path) -> Recording:
    if values.size == 0:
        raise DataError("holds no lead", path=path, hint="a column for each lead")
    if len(values) > MOST_LEADS:
        raise DataError(f"has {len(values)} leads", path=path, hint=f"at most {MOST_LEADS}")
    for k, lead in enumerate(values):
        if len(lead) >= FEWEST_EVEN and _even(lead):
            name = f"'{leads[k]}'" if leads[k] else k + 1
            message = f"column {name} rises evenly: it is a time or a number, and no lead"
            raise DataError(message, path=path, hint="call it time in a CSV, or leave it out")
    return Recording(kept(values), rate, leads)
