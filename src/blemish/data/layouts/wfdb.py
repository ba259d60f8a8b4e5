"""A folder of WFDB recordings with beat annotations (.hea, .dat, .atr): windows with labels from the beats.

A window whose beats are all normal (N) is good. One with a beat outside N, L, R, e and j is anomalous; its mask is
-0.25 to +0.35 s around each of those. Windows with fewer than four beats, and those with bundle branch or escape beats
alone, are held: on neither side, and never taken for good. unit = recording.

The MIT-BIH Arrhythmia Database (Moody and Mark 2001) has its published halves, DS1 and DS2 (de Chazal et al. 2004),
without the four paced recordings: the default split learns from good windows of DS1 and tests on DS2. With
split="patient-calibrated" good windows among the first ten minutes of each DS2 recording are learned from too, and the
rest of it is tested; unit = the part of the recording, since the patient is meant to be known. Recordings 201 (DS1) and
202 (DS2) are of one person, as those halves have it.

Of any other folder half of the recordings, drawn with `seed`, are learned from and half are tested.

Windows in which nothing was recorded or a lead does not move are not learned from: they are held. Tested ones stay, and
count as not read. A warning says what is left out: recordings without annotations, paced ones, ones shorter than a
window, and missing records that a list RECORDS names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blemish.data.layouts._common import Query, default_split_only, relative
from blemish.data.modality import Cut
from blemish.data.signal.beats import beats_in, ectopic
from blemish.data.signal.recordings import extent, recordings_in
from blemish.data.signal.windows import LeftOut, unusable, windows_in
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 32
MODALITY = "signal"
FEWEST = 4  # beats in a window
CALIBRATION = 600  # seconds of each tested recording, of the split "patient-calibrated"
DS1 = frozenset("101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230".split())
DS2 = frozenset("100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234".split())
PACED = frozenset("102 104 107 217".split())


def detect(root: Path) -> bool:
    return root.is_dir() and any(path.with_suffix(".atr").is_file() for path in root.glob("*.hea"))


def index(root: Path, query: Query) -> list[Record]:
    """DataError where a recording or its annotations cannot be read."""
    headers = [path for path in recordings_in(root) if path.suffix == ".hea"]
    paths = {path.stem: path for path in headers if path.with_suffix(".atr").is_file()}
    left = LeftOut(root)
    left.note("recordings without annotations (.atr)", (path.stem for path in headers if path.stem not in paths))
    left.note("recordings of other kinds", (p.name for p in recordings_in(root, deep=True) if p not in headers))
    known = set(paths) <= DS1 | DS2 | PACED
    default_split_only(query.split, "wfdb", ["inter-patient", "patient-calibrated"] if known else [])
    if known:
        learned = set(paths) & DS1
    else:
        names = sorted(paths)
        learned = {names[i] for i in np.random.default_rng(query.seed).permutation(len(names))[: (len(names) + 1) // 2]}
    records = []
    if known:
        left.note("paced recordings", (name for name in paths if name in PACED))
    for name, path in paths.items():
        if known and name in PACED:
            continue
        calibrated = CALIBRATION if query.split == "patient-calibrated" and name not in learned else 0
        try:
            records += _windows(path, relative(path, root), name, query.cut, name in learned, calibrated, left)
        except DataError as error:
            raise error.at(path) from None
    left.warn()
    return records


def _windows(
    path: Path, id_: str, unit: str, cut: Cut | None, learned: bool, calibrated: float, left: LeftOut
) -> list[Record]:
    """All windows of one recording; the good ones of its first `calibrated` seconds are learned from."""
    notes = path.with_suffix(".atr")
    rate = extent(path).rate
    assert rate is not None  # WFDB states it
    if extent(path).samples < (cut or Cut()).window * rate:
        left.note(f"recordings shorter than a window of {(cut or Cut()).window:g} s", [unit])
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
        kind = ectopic(symbols)
        unclear = (
            "few beats" if len(symbols) < FEWEST else "other beats" if not kind and set(symbols) != {"N"} else None
        )
        side: Split = "train" if learned or early else "test"
        if side == "train" and not unclear and not kind and (why := bad(window.span)) is not None:
            unclear = why
            left.note(f"windows in which {why}", [window.id])
        if unclear or (side == "train" and kind):
            side = "held"
        out.append(
            Record(
                window.id,
                path,
                side,
                int(bool(kind or unclear)),
                mask=notes if kind else None,
                defect=kind or unclear,
                unit=f"{unit}, calibrating" if early else unit,
                span=window.span,
            )
        )
    return out
