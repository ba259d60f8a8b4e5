"""Beats as people have marked them (WFDB annotations), and what follows for a window of the recording.

Classes follow ANSI/AAMI EC57: bundle branch blocks and escape beats count as normal ones in the class N.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish.data.signal.recordings import read_beats, read_recording
from blemish.errors import DataError

CLASSES = {
    **dict.fromkeys("NLRej", "normal"),
    **dict.fromkeys("AaJS", "supraventricular"),
    **dict.fromkeys("VE", "ventricular"),
    "F": "fusion",
    **dict.fromkeys("/fQ?B!rn", "other"),
}
"""Beat annotations by symbol; every other symbol (rhythm, noise, artefacts) is no beat."""
ALTERED = {"L": "left bundle branch block", "R": "right bundle branch block", "/": "paced", "f": "paced"}
"""Beats on their usual rhythm whose shape is not the usual one, by symbol (f: fusion of a paced and a normal beat)."""
BEFORE, AFTER = 0.25, 0.35  # seconds around the R peak of an ectopic beat that count as anomalous


def beats_in(path: Path, first: int, last: int) -> tuple[NDArray[np.int64], list[str]]:
    """(samples, symbols) of the beats of an annotation file whose R peak lies in [first, last)."""
    samples, symbols = read_beats(path)
    chosen = [i for i in np.flatnonzero((samples >= first) & (samples < last)).tolist() if symbols[i] in CLASSES]
    return samples[chosen], [symbols[i] for i in chosen]


def ectopic(symbols: list[str]) -> str | None:
    """The commonest class among beats that are not of class N; None where all are."""
    found = Counter(CLASSES[s] for s in symbols if CLASSES[s] != "normal")
    return found.most_common(1)[0][0] if found else None


def altered(symbols: list[str]) -> str | None:
    """The commonest kind among beats of altered shape, where all others are normal (N); None otherwise."""
    found = Counter(ALTERED[s] for s in symbols if s in ALTERED)
    return found.most_common(1)[0][0] if found and set(symbols) <= {"N", *ALTERED} else None


def beat_mask(mask: Path, recording: Path, span: tuple[int, int] | None, length: int) -> NDArray[np.bool_]:
    """(N,) of a window: True around ectopic beats of a WFDB annotation file, or what a `.npy` of bools (N of the whole
    recording) says. DataError where the file does not fit."""
    first = span[0] if span else 0
    if mask.suffix.lower() == ".npy":
        values = read_recording(mask).values
        if values.shape[0] != 1 or values.shape[1] < first + length:
            raise DataError(f"has shape {values.shape}, and the window ends at {first + length}", path=mask)
        return np.asarray(values[0, first : first + length] > 0)
    rate = read_recording(recording).rate
    if rate is None:
        raise DataError("marks beats of a recording whose rate is not known", path=mask)
    out = np.zeros(length, np.bool_)
    reach = round(BEFORE * rate), round(AFTER * rate)
    samples, symbols = beats_in(mask, first - reach[1], first + length + reach[0])
    for sample, symbol in zip(samples.tolist(), symbols, strict=True):
        if CLASSES[symbol] != "normal":
            out[max(sample - reach[0] - first, 0) : max(sample + reach[1] - first, 0)] = True
    return out
