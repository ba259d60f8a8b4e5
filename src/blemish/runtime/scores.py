"""Scores of good images through a graph, for calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from blemish.calibration import Calibrator, Kind
from blemish.categories import Row
from blemish.data.decode import content_id
from blemish.kinds import SampleKind
from blemish.modelfile import Model
from blemish.runtime.engines import Engine, Outputs, Precision, best_precision
from blemish.types import Record

Track = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
"""Shows progress over an iterable: (items, what is being done, how many there are) -> the same items."""

Scores = dict[str, list[tuple[float, float, str, str]]]
"""(score, largest value of the map, unit, content id) of each image, by number format."""


def no_track(items: Iterable[Any], _: str, __: int | None = None) -> Iterable[Any]:
    """Shows nothing."""
    return items


def unit_id(record: Record) -> str:
    """16 hex digits for a record's unit, so that a model knows units again without carrying their names."""
    return content_id(record.whole.encode("utf-8", "surrogateescape"))


def good_scores(model: Model, kind: SampleKind[Any], records: Sequence[Record], track: Track = no_track) -> Scores:
    """Run each sample through the model in every number format of this machine, float32 always among them."""
    out: Scores = {p: [] for p in formats()}
    for _, precision, _, row in scored(lambda p: kind.open(model, precision=p), kind, records, track):
        out[precision].append(row)
    return out


def scored(
    open_in: Callable[[Precision], Engine], kind: SampleKind[Any], records: Sequence[Record], track: Track = no_track
) -> Iterator[tuple[Record, Precision, Outputs, Row]]:
    """(record, number format, outputs of the engine, row of the score) of each image in each format of this machine.

    Copies of one file count once: the same image twice says nothing new.
    """
    engines = {p: open_in(p) for p in formats()}
    seen: set[str] = set()
    for record in track(records, "calibrate", len(records)):
        content, raw = kind.load(record)
        if content in seen:
            continue
        seen.add(content)
        prepared = kind.stack([kind.prepare(raw)])
        for precision, engine in engines.items():
            outputs = engine(prepared)
            yield record, precision, outputs, (float(outputs[0][0]), float(outputs[1].max()), record.whole, content)


def formats() -> tuple[Precision, ...]:
    """float32, and the short format where this machine computes in one."""
    return tuple(dict.fromkeys(("f32", best_precision())))


def calibrators(
    parts: Sequence[Scores], alpha: float, kind: Kind = "split", *, per_unit: bool = False
) -> dict[str, Calibrator]:
    """One calibrator per number format from the pooled parts; CalibrationError where there are too few images."""
    out = {}
    for precision in parts[0]:
        rows = [row for part in parts for row in part[precision]]
        scores, peaks, names, ids = zip(*rows, strict=True) if rows else ((), (), (), ())
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        out[precision] = Calibrator.fit(scores, peaks, alpha, kind, [numbers[name] for name in names], per_unit, ids)
    return out
