"""A folder without a layout: which of its files are good ones, by the names of its folders and by lists beside them.

A defective sample learned as good is never found afterwards, so anything doubtful is refused.
"""

from __future__ import annotations

import csv
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from blemish.data.layouts._folders import folders_in
from blemish.data.layouts._names import Meaning, counted, fold, meaning_of, opposed
from blemish.data.listing import is_image
from blemish.errors import DataError
from blemish.files import is_hidden, walk

HINT = "give the folder of good {what} itself, or write a manifest"
LISTS = frozenset({".csv", ".tsv", ".txt", ".jsonl"})
MOST_BYTES = 32 * 2**20  # of a list that is read
MOST_ROWS = 100_000
SHORTEST = 3  # minimum length of a name without suffix by which a list may name a file: 1 and 2 may number anything
GOOD_LABELS = frozenset({"0", "0.0", "false", "none", "nan", "n/a", "-", ""})
"""Beside the words for good: what stands in a column of defects where there is none."""
COLUMNS = re.compile(
    r"(is)?(class|classes|label|labels|target|y|status|state|result|verdict|quality|defect|defects|defective|defecttype"
    r"|anomaly|anomalies|anomalous|category|type|fault|error|groundtruth|gt)(name|id)?"
)


def good_files(paths: Sequence[Path], root: Path, what: str, is_sample: Callable[[Path], bool]) -> Sequence[Path]:
    """The files below `root`, which are learned from; a warning counts what lies in hidden folders and those of
    systems, which is not among them. DataError where a folder or a list says, or does not rule out, that some are not
    good.
    """
    left = {folder: sum(map(is_sample, folder.rglob("*"))) for folder in walk(root).hidden if folder.is_dir()}
    if hidden := sorted(folder.relative_to(root).as_posix() for folder, count in left.items() if count):
        count = sum(left.values())
        warnings.warn(
            f"{root}: {count} {what} in hidden or system folders are left out: {counted(hidden)}", stacklevel=4
        )
    check_folders(paths, root, what)
    check_lists(paths, root, what)
    return paths


def check_folders(paths: Iterable[Path], root: Path, what: str) -> None:
    """DataError where the name of a folder below `root` says that its files are not good, or where some of the folders
    side by side are called good and others are not."""
    hint = HINT.format(what=what)
    beside: dict[tuple[str, ...], dict[str, int]] = {(): {}}  # files by folder within each folder, "" for its own
    for path in paths:
        parts = path.relative_to(root).parts[:-1]
        for depth, name in enumerate((*parts, "")):
            inside = beside.setdefault(parts[:depth], {})
            inside[name] = inside.get(name, 0) + 1
    for above, inside in sorted(beside.items()):
        folders = sorted(name for name in inside if name)
        where = "/".join(above)
        if bad := [name for name in folders if meaning_of(name).bad]:
            names = counted(["/".join((*above, name)) for name in bad])
            message = f"has a folder that does not sound like good {what}: {names}"
            raise DataError(message, path=root, hint=hint)
        if opposed(folders):
            message = f"folders {counted(folders)}: which of them holds good {what} is not said"
            raise DataError(message, path=root / where, hint=hint)
        good = [name for name in folders if meaning_of(name).good]
        if not good or any(meaning_of(name).good for name in above):
            continue
        if unclear := [name for name in folders if name not in good]:
            message = (
                f"folder {counted(unclear)} lies beside {counted(good)}, and its name does not say that it is good"
            )
            raise DataError(message, path=root / where, hint=hint)
        if inside.get(""):
            message = f"{inside['']} {what} lie beside the folder {counted(good)}, and nothing says that they are good"
            raise DataError(message, path=root / where, hint=hint)


def check_lists(paths: Sequence[Path], root: Path, what: str) -> None:
    """DataError where a list (CSV, TSV, text, JSONL) beside the files or their folders says that some are not good."""
    listed = _Files(paths, root)
    folders = {root, root.parent} | {root / parent for p in paths for parent in p.relative_to(root).parents}
    for folder in sorted(folders):
        for file in sorted(folder.iterdir()) if os.access(folder, os.R_OK | os.X_OK) else []:
            if file.suffix.lower() in LISTS and file not in listed.paths and not is_hidden(file.name):
                _check_list(file, listed, what)


class _Files:
    """The files that are learned from, as lists name them."""

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.paths, self.root = set(paths), root
        self._full = {os.path.abspath(path) for path in paths}
        self._alone = {fold(path.name) for path in paths}
        self._alone |= {fold(path.stem) for path in paths if len(path.stem) >= SHORTEST}
        self._below = {(fold(path.parent.name), fold(path.name)) for path in map(Path.absolute, paths)}

    def named(self, cell: str, file: Path) -> bool:
        """Whether a value in the list `file` names one of them: as a path from the list, else by its last folder and
        name, else by its name. A name alone, above `root`, must not be that of a file beside `root` too."""
        parts = [part for part in re.split(r"[\\/]", _value(cell)) if part not in ("", ".")]
        if not parts:
            return False
        exact = os.path.abspath(file.parent.joinpath(*parts))
        if os.path.isfile(exact):
            return exact in self._full
        if len(parts) > 1:
            return (fold(parts[-2]), fold(parts[-1])) in self._below
        if fold(parts[0]) not in self._alone:
            return False
        return file.parent != self.root.parent or not any(
            (one / parts[0]).is_file() for one in folders_in(file.parent) if one.name != self.root.name
        )


def _check_list(file: Path, listed: _Files, what: str) -> None:
    bad: dict[str, int] = {}
    unclear: dict[str, int] = {}
    for label in _labels(file, listed):
        meaning = _label(label)
        if meaning.bad:
            bad[label] = bad.get(label, 0) + 1
        elif not meaning.good:
            unclear[label] = unclear.get(label, 0) + 1
    hint = "write a manifest, or move the list away where it says something else"
    if bad:
        count, labels = sum(bad.values()), counted(sorted(bad))
        raise DataError(f"says {labels} of {count} {what} that would be learned as good", path=file, hint=hint)
    if unclear:
        message = (
            f"{file}: lists {what} that are learned as good, with labels that are not read: {counted(sorted(unclear))}"
        )
        warnings.warn(message, stacklevel=6)


def _label(text: str) -> Meaning:
    """What a label says; 1 is anomalous and 0 is good, as everywhere."""
    if fold(text) in GOOD_LABELS:
        return Meaning(good=True)
    return Meaning(bad=True) if fold(text) in ("1", "1.0", "true") else meaning_of(text)


def _labels(file: Path, listed: _Files) -> Iterator[str]:
    """The labels that a list gives for the files; empty where it is no such list."""
    columns: list[int] | None = None
    for row in _rows(file):
        if columns is None:
            columns = [i for i, cell in enumerate(row) if COLUMNS.fullmatch(_plain(cell))]
            if columns:
                continue
            if len(row) != 2 or not any(is_image(Path(_value(cell))) or listed.named(cell, file) for cell in row):
                return  # neither a header with labels, nor the name of a file with its label
        names = [i for i, cell in enumerate(row) if i not in columns and listed.named(cell, file)]
        if names:
            which = columns or [i for i in range(len(row)) if i not in names]
            yield from (_value(row[i]) for i in which if i < len(row))


def _rows(file: Path) -> Iterator[list[str]]:
    """Rows of a list as text; none where it is none, or too large for one."""
    try:
        if file.stat().st_size > MOST_BYTES:
            return
        with file.open("rb") as raw:
            coding = "utf-16" if raw.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with file.open(encoding=coding, errors="replace", newline="") as opened:
            first = opened.readline()
            opened.seek(0)
            marks = [mark for mark in (";", "\t", ",", "|") if mark in first]
            rows: Iterator[list[str]]
            if file.suffix.lower() == ".jsonl":
                rows = _objects(opened)
            elif marks:
                rows = csv.reader(opened, delimiter=max(marks, key=first.count), skipinitialspace=True)
            else:
                rows = (line.split() for line in opened)
            yield from (row for row in islice(rows, MOST_ROWS) if row)
    except (OSError, csv.Error):
        return  # not a list of these files


def _objects(lines: Iterable[str]) -> Iterator[list[str]]:
    """JSON objects as rows, with the names of the first one before them."""
    keys: list[str] = []
    for line in lines:
        try:
            value = json.loads(line) if line.strip() else None
        except ValueError:
            return
        if not isinstance(value, dict):
            continue
        if not keys:
            keys = list(value)
            yield keys
        yield [str(value.get(key, "")) for key in keys]


def _value(cell: str) -> str:
    return cell.strip().strip("\"'")


def _plain(cell: str) -> str:
    return re.sub(r"[\W_]+", "", fold(cell))
