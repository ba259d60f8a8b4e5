"""Scores of good images through a graph, for calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from blemish.calibration import Calibrator, Kind
from blemish.data.decode import read_image
from blemish.data.geometry import Preprocess
from blemish.runtime.engines import best_precision, open_engine
from blemish.types import Record

Track = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
"""Shows progress over an iterable: (items, what is being done, how many there are) -> the same items."""

Scores = dict[str, list[tuple[float, float, str]]]
"""(score, largest value of the map, unit) of each image, by number format."""


def no_track(items: Iterable[Any], _: str, __: int | None = None) -> Iterable[Any]:
    """Shows nothing."""
    return items


def good_scores(graph: bytes, preprocess: Preprocess, records: Sequence[Record], track: Track = no_track) -> Scores:
    """Run each image through the graph in every number format of this machine, float32 always among them."""
    engines = {p: open_engine(graph, precision=p) for p in dict.fromkeys(("f32", best_precision()))}
    out: Scores = {p: [] for p in engines}
    for record in track(records, "calibrate", len(records)):
        image = preprocess(read_image(record.path))[None]
        for precision, engine in engines.items():
            score, anomaly_map = engine(image)
            unit = record.unit if record.unit is not None else record.id
            out[precision].append((float(score[0]), float(anomaly_map.max()), unit))
    return out


def calibrators(
    parts: Sequence[Scores], alpha: float, kind: Kind = "split", *, per_unit: bool = False
) -> dict[str, Calibrator]:
    """One calibrator per number format from the pooled parts; CalibrationError where there are too few images."""
    out = {}
    for precision in parts[0]:
        rows = [row for part in parts for row in part[precision]]
        scores, peaks, names = zip(*rows, strict=True) if rows else ((), (), ())
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        out[precision] = Calibrator.fit(scores, peaks, alpha, kind, [numbers[name] for name in names], per_unit)
    return out
