"""A manifest: CSV with a header line, or JSONL, one sample a line; or a folder with manifest.csv or manifest.jsonl.

Columns (keys): path, split, label, mask, defect, group, unit, view, in any case and with spaces around them. Only path
is needed. One that is not known is an error where it sounds like one of these that is missing, and else a warning says
that it is ignored. Paths start at the manifest's folder. label: 0 or good, 1 or anomalous; without it 1 where a mask or
a defect is given. split: train, test or held; without it train for good and test for anomalous samples. Several masks:
a list in JSONL, `;` between them in CSV. group names a folder: the models of several categories lie side by side.
Where a sample has a file for each lighting, each may have a column of its name; then path is not needed.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, cast, get_args

from blemish.data.layouts._common import Query, default_split_only, plain_name, relative
from blemish.data.layouts._names import counted, fold, meaning_of
from blemish.errors import ConfigError, DataError
from blemish.types import LightingFile, Record, Split

PRIORITY = 10
MODALITY = None  # whatever its rows name
NAMES = ("manifest.csv", "manifest.jsonl")
KNOWN = ("path", "split", "label", "mask", "defect", "group", "unit", "view")
MEANT = {  # other names that people give to them, without spaces and signs
    "path": "file files filename filenames filepath image images img imagepath imagefile imagename picture photo "
    "recording cloud",
    "split": "set subset partition phase usage fold",
    "label": "labels class classes classname classid classlabel target targets y status state result verdict quality "
    "nok ng isdefect isdefective isanomaly isanomalous anomalous defective groundtruthlabel gtlabel",
    "mask": "masks maskpath maskfile gt groundtruth segmentation annotation annotations",
    "defect": "defects defecttype defectclass defectname anomaly anomalytype fault faulttype failure",
    "group": "groups category categories product producttype object objecttype",
    "unit": "units patient patientid partid specimen specimenid",
    "view": "views",
}
REVERSED = frozenset("good ok isgood isok normal isnormal pass passed".split())  # 1 is good in these
LABELS = {"0": 0, "good": 0, "normal": 0, "1": 1, "anomalous": 1, "anomaly": 1}


def detect(root: Path) -> bool:
    return _file(root) is not None


def index(root: Path, query: Query) -> list[Record]:
    """DataError naming file and line on a bad row, a missing file or a sample listed twice."""
    default_split_only(query.split, "manifest")
    path = _file(root)
    if path is None:
        raise DataError("is no manifest", path=root, hint=f"give a .csv or .jsonl file, or a folder with {NAMES[0]}")
    records: dict[str, Record] = {}
    groups: dict[str, str] = {}
    lightings = _lightings(query)
    rows = list(_renamed(path, list(_rows(path, lightings)), lightings))
    labels = {LABELS.get((_text(row, "label") or "").lower()) for _, row in rows}
    for line, row in rows:
        try:
            if {0, 1} <= labels and all(_text(row, name) is None for name in ("label", "defect", "mask")):
                raise ValueError("has no label, and others are good or anomalous by theirs")
            record = _record(path.parent, row, lightings)
            if record.id in records:
                raise ValueError(f"'{record.id}' is listed twice")
            if (group := record.group) is not None:  # one folder, where a file system ignores case
                before = groups.setdefault(unicodedata.normalize("NFC", group).casefold(), group)
                if before != group:
                    raise ValueError(f"group '{group}' was '{before}' before")
        except ValueError as error:
            raise DataError(f"line {line}: {error}", path=path, hint="correct the line, or remove it") from None
        records[record.id] = record
    return list(records.values())


def _file(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() in (".csv", ".jsonl") else None
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def _lightings(query: Query) -> tuple[str, ...]:
    """The lightings that may have a column each."""
    texts = () if query.cut is None else query.cut.lightings
    if clash := sorted({_plain(text) for text in texts} & {*KNOWN}):
        raise ConfigError(f"lighting '{clash[0]}' (--lighting) has the name of a column of manifests")
    return tuple(text for text in texts if "=" not in text)


def _rows(path: Path, lightings: Sequence[str]) -> Iterator[tuple[int, list[tuple[str, Any]]]]:
    """Names and values of each row, with the number of the line it ends on."""
    line = 1
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            reader = csv.reader(StringIO(text, newline=""), strict=True, skipinitialspace=True)
            head: list[str] = []
            for row in reader:
                line = reader.line_num
                if head and len(row) > len(head):
                    raise ValueError("more values than columns")
                if head and row:
                    yield line, list(zip(head, [*row, *[None] * (len(head) - len(row))], strict=True))
                elif row:
                    head = row
                    _check_header(head, lightings)
            if not head:
                raise ValueError("no column 'path' in the header")
            return
        for line, one in enumerate(text.splitlines(), 1):
            if one.strip():
                value = json.loads(one, object_pairs_hook=_Pairs)
                if not isinstance(value, _Pairs):
                    raise ValueError("not a JSON object")
                yield line, value
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"line {line}: {error}", path=path, hint="a manifest is UTF-8 CSV or JSONL") from None


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as pairs, so that a repeated key is noticed."""


def _check_header(head: Sequence[str], lightings: Sequence[str]) -> None:
    """ValueError where no column is the one that is needed, naming what may be meant."""
    if not {"path", *map(_plain, lightings)} & set(map(_plain, head)):
        found = [name for name in head if _nearest_column(name, ("path",))]
        mark = next((mark for mark in (";", "\t", "|") if len(head) == 1 and mark in head[0]), None)
        cause = f": '{found[0].strip()}' is none" if found else ""
        cause = f": commas separate columns, not {mark!r}" if mark else cause
        raise ValueError(f"no column 'path' in the header{cause}")


def _renamed(
    path: Path, rows: Iterable[tuple[int, list[tuple[str, Any]]]], lightings: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by the known names of their columns, and by the lightings'; the others are reported once for the whole
    file."""
    rows = list(rows)
    of = {_plain(name): name for name in lightings} | {name: name for name in KNOWN}
    names = dict.fromkeys(name for _, row in rows for name, _ in row)
    missing = [known for known in KNOWN if known not in map(_plain, names)]
    ignored = []
    for name in names:
        if _plain(name) in of:
            continue
        if "label" in missing and re.sub(r"[\W_]+", "", _plain(name)) in REVERSED:
            hint = "write a column 'label' with good or anomalous in it"
            raise DataError(f"column '{name.strip()}' is not known", path=path, hint=hint)
        if nearest := _nearest_column(name, missing):
            hint = f"did you mean '{nearest}'? Rename it, or remove it"
            raise DataError(f"column '{name.strip()}' is not known", path=path, hint=hint)
        ignored.append(name.strip() or "(without a name)")
    if ignored:
        warnings.warn(f"{path}: columns that are not known are ignored: {counted(ignored)}", stacklevel=4)
    for line, row in rows:
        values: dict[str, Any] = {}
        for name, value in row:
            if (known := of.get(_plain(name))) is None:
                continue
            if known in values:
                raise DataError(f"line {line}: column '{known}' is there twice", path=path, hint="remove one of them")
            values[known] = value
        yield line, values


def _plain(name: str) -> str:
    """A column's name without what a table program puts around it."""
    return fold(name.strip("\ufeff\u200b \t\r\n\"'`")).strip()


def _nearest_column(name: str, missing: Iterable[str]) -> str | None:
    """The known column, of those that are missing, that a name is another word for, or is misspelt from."""
    word = re.sub(r"[\W_]+", "", _plain(name))
    for known in missing:
        if word == known or word in MEANT[known].split():
            return known
    near = [known for known in missing if abs(len(known) - len(word)) < 2]
    return next(iter(difflib.get_close_matches(word, near, n=1, cutoff=0.7)), None)


def _record(base: Path, row: Mapping[str, Any], lightings: Sequence[str]) -> Record:
    """ValueError saying what is wrong with the row."""
    shown = _shown(base, row, lightings)
    image = shown[0].path if shown else _found(base, _text(row, "path") or "")
    masks = row.get("mask") or ()
    masks = [str(one).strip() for one in (masks.split(";") if isinstance(masks, str) else masks)]
    paths = tuple(_found(base, one) for one in masks if one)
    defect, given = _defect(row), _text(row, "label")
    if given is None:
        label = int(bool(paths) or defect is not None)
    elif given.lower() in LABELS:
        label = LABELS[given.lower()]
    else:
        raise ValueError(f"label '{given}' is none of {', '.join(LABELS)}")
    if given is not None and (defect is not None if not label else defect is None and _text(row, "defect")):
        raise ValueError(f"label '{given}', and defect '{_text(row, 'defect')}'")
    split = (_text(row, "split") or ("test" if label else "train")).lower()
    if split not in get_args(Split):
        raise ValueError(f"split '{split}' is none of {', '.join(get_args(Split))}")
    if label and split == "train":
        raise ValueError("an anomalous sample in the training split")
    group = _text(row, "group")
    return Record(
        relative(image, base),
        image,
        cast(Split, split),
        label,
        mask=(paths[0] if len(paths) == 1 else paths or None) if label else None,
        defect=(defect or "anomalous") if label else None,
        group=None if group is None else plain_name(group, "group"),
        unit=_text(row, "unit"),
        view=_text(row, "view"),
        lightings=shown,
    )


def _shown(base: Path, row: Mapping[str, Any], lightings: Sequence[str]) -> tuple[LightingFile, ...]:
    """The files of the lightings, where the row names them; none where it names a path instead."""
    if not any(_text(row, name) for name in lightings):
        return ()
    if missing := [name for name in lightings if not _text(row, name)]:
        raise ValueError(f"no file of lighting '{missing[0]}'")
    files = tuple(LightingFile(name, _found(base, str(_text(row, name)))) for name in lightings)
    if (path := _text(row, "path")) is not None and base / path != files[0].path:
        raise ValueError(f"path '{path}' is not the file of lighting '{lightings[0]}'")
    return files


def _defect(row: Mapping[str, Any]) -> str | None:
    """The type of defect; None where there is none, or the word for a good sample stands there."""
    defect = _text(row, "defect")
    if defect is None or meaning_of(defect).alone:
        return None
    if fold(defect) in ("0", "-", "none", "null", "nan", "n/a", "na", "no", "false"):
        raise ValueError(f"defect '{defect}' may mean none: leave it empty for a good sample")
    return defect


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return None if value is None or str(value).strip() == "" else str(value).strip()


def _found(base: Path, text: str) -> Path:
    if not text:
        raise ValueError("no path")
    path = base / text
    if not path.is_file():
        raise ValueError(f"no such file: {text}")
    return path
