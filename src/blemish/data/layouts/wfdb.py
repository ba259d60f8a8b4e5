"""A folder of WFDB recordings with beat annotations (.hea, .dat, .atr): windows with labels from the beats.

A window whose beats are all normal (N) is good. Which others are anomalous is the task:

ectopic     (the default) one with a beat outside N, L, R, e and j; its mask is -0.25 to +0.35 s around each of those
morphology  one with beats of bundle branch block (L, R) or of a pacemaker (/, f) and no others but N; without a mask,
            since that is the whole of it

All other windows are held, on neither side and never taken for good: those with fewer than four beats, and those whose
beats another task is about.

The MIT-BIH Arrhythmia Database (Moody and Mark 2001) has its published halves, DS1 and DS2 (de Chazal et al. 2004),
without the four paced recordings: the default split learns from good windows of DS1 and tests on DS2. With
split="patient-calibrated" good windows among the first ten minutes of each DS2 recording are learned from too, and the
rest of it is tested; unit = the part of the recording, since the patient is meant to be known. Recordings 201 (DS1) and
202 (DS2) are of one person, as those halves have it. With split="morphology" that task is asked: the paced recordings
are tested too, none of them is learned from, and no person is on both sides: 201 is tested. `fold` is one of several
splits that together test each recording once.

Of any other folder half of the recordings, drawn with `seed`, are learned from and half are tested.

Windows in which nothing was recorded or a lead does not move are not learned from: they are held. Tested ones stay, and
count as not read. A warning says what is left out: recordings without annotations, paced ones, ones shorter than a
window, and missing records that a list RECORDS names.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np

from blemish.data.layouts._common import Query, check_disjoint, default_split_only, relative
from blemish.data.modality import Cut
from blemish.data.signal.beats import altered, beats_in, ectopic
from blemish.data.signal.recordings import extent, recordings_in
from blemish.data.signal.windows import LeftOut, unusable, windows_in
from blemish.errors import ConfigError, DataError
from blemish.types import Record, Split

Task = Literal["ectopic", "morphology"]

PRIORITY = 32
MODALITY = "signal"
FEWEST = 4  # beats in a window
CALIBRATION = 600  # seconds of each tested recording, of the split "patient-calibrated"
DS1 = frozenset("101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230".split())
DS2 = frozenset("100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234".split())
PACED = frozenset("102 104 107 217".split())
MITBIH = DS1 | DS2 | PACED
PERSONS = {"202": "201"}  # MIT-BIH: further recordings of a person, and the first


def detect(root: Path) -> bool:
    return root.is_dir() and any(path.with_suffix(".atr").is_file() for path in root.glob("*.hea"))


def index(root: Path, query: Query) -> list[Record]:
    """DataError where a recording or its annotations cannot be read."""
    paths, left = _recordings(root)
    known = set(paths) <= MITBIH
    default_split_only(query.split, "wfdb", ["inter-patient", "patient-calibrated", "morphology"] if known else [])
    if query.split == "morphology":
        persons = _persons(paths)
        tested = {persons[name] for name in set(paths) & DS2}
        learned = {name for name in set(paths) & DS1 if persons[name] not in tested}
        return _sided(root, paths, left, "morphology", learned, query.cut)
    if known:
        learned = set(paths) & DS1
    else:
        names = sorted(paths)
        learned = {names[i] for i in np.random.default_rng(query.seed).permutation(len(names))[: (len(names) + 1) // 2]}
    calibrated = CALIBRATION if query.split == "patient-calibrated" else 0
    return _sided(root, paths, left, "ectopic", learned, query.cut, calibrated, persons=False)


def fold(root: Path, task: Task, number: int, count: int, *, seed: int = 0, cut: Cut | None = None) -> list[Record]:
    """As `index`, of split `number` of `count`: each tests some of the recordings, all of them together each recording
    once, and learns from the others. `seed` draws which person is in which; no person is on both sides."""
    paths, left = _recordings(root)
    persons = _persons(paths)
    each = sorted(set(persons.values()))
    if not 2 <= count <= len(each) or not 0 <= number < count:
        raise ConfigError(f"there is no fold {number} of {count}", hint=f"2 to {len(each)} folds, the first is 0")
    tested = {each[i] for i in np.random.default_rng(seed).permutation(len(each))[number::count]}
    learned = {name for name in paths if persons[name] not in tested}
    records = sorted(_sided(root, paths, left, task, learned, cut), key=lambda record: record.id)
    check_disjoint(records)
    return records


def _persons(paths: Collection[str]) -> dict[str, str]:
    """By recording, who it is of: named by the first recording."""
    known = set(paths) <= MITBIH
    return {name: PERSONS.get(name, name) if known else name for name in paths}


def _recordings(root: Path) -> tuple[dict[str, Path], LeftOut]:
    """Headers of the annotated recordings by name; what lies beside them is noted."""
    headers = [path for path in recordings_in(root) if path.suffix == ".hea"]
    paths = {path.stem: path for path in headers if path.with_suffix(".atr").is_file()}
    left = LeftOut(root)
    left.note("recordings without annotations (.atr)", (path.stem for path in headers if path.stem not in paths))
    left.note("recordings of other kinds", (p.name for p in recordings_in(root, deep=True) if p not in headers))
    return paths, left


def _sided(
    root: Path,
    paths: dict[str, Path],
    left: LeftOut,
    task: Task,
    learned: Collection[str],
    cut: Cut | None,
    calibrated: float = 0,
    *,
    persons: bool = True,
) -> list[Record]:
    """Windows of all recordings; `persons`: recordings of one person are one unit."""
    paced = PACED & set(paths) if set(paths) <= MITBIH else frozenset()
    units = _persons(paths) if persons else {name: name for name in paths}
    if task == "ectopic":
        left.note("paced recordings", sorted(paced))
    records = []
    for name, path in paths.items():
        if name in paced and task == "ectopic":
            continue
        learns = name in learned
        early, id_ = 0 if learns else calibrated, relative(path, root)
        try:
            records += _windows(path, id_, units[name], cut, task, learns, early, name in paced, left)
        except DataError as error:
            raise error.at(path) from None
    left.warn()
    return records


def _windows(
    path: Path,
    id_: str,
    unit: str,
    cut: Cut | None,
    task: Task,
    learned: bool,
    calibrated: float,
    tested_only: bool,
    left: LeftOut,
) -> list[Record]:
    """All windows of one recording; the good ones of its first `calibrated` seconds are learned from."""
    notes = path.with_suffix(".atr")
    rate = extent(path).rate
    assert rate is not None  # WFDB states it
    if extent(path).samples < (cut or Cut()).window * rate:
        left.note(f"recordings shorter than a window of {(cut or Cut()).window:g} s", [path.stem])
        return []
    windows = windows_in(path, id_, cut)
    bad = unusable(path, cut or Cut()) if learned or calibrated else lambda _: None
    out = []
    for window in windows:
        assert window.span is not None
        first, last = window.span
        early = last <= round(calibrated * rate)
        try:
            _, symbols = beats_in(notes, first, last)
        except DataError as error:
            raise error.at(notes) from None
        kind, unclear = labelled(symbols, task)
        side: Split = "train" if learned or early else "test"
        if side == "train" and not unclear and not kind and (why := bad(window.span)) is not None:
            unclear = why
            left.note(f"windows in which {why}", [window.id])
        if unclear or (side == "train" and (kind or tested_only)):
            side = "held"
        out.append(
            Record(
                window.id,
                path,
                side,
                int(bool(kind or unclear)),
                mask=notes if kind and task == "ectopic" else None,
                defect=kind or unclear,
                unit=f"{unit}, calibrating" if early else unit,
                span=window.span,
            )
        )
    return out


def labelled(symbols: list[str], task: Task) -> tuple[str | None, str | None]:
    """What is anomalous in a window of these beats, and why it is on neither side; both None where it is good."""
    kind = ectopic(symbols) if task == "ectopic" else altered(symbols)
    if len(symbols) < FEWEST:
        return kind, "few beats"
    return kind, "other beats" if not kind and set(symbols) != {"N"} else None
