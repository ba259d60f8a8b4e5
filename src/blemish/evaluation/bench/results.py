"""From the folders of cells to tables: one row per figure, per cell, per pair of methods, per image. All Parquet."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from blemish.evaluation.bench import store
from blemish.evaluation.metrics.intervals import Difference, delong_paired
from blemish.evaluation.metrics.pixels import aupro_paired
from blemish.evaluation.summary import IMAGE, PIXEL, DefectSummary, Metric, Rate, Summary
from blemish.files import write_whole

ROUTING: dict[str, Callable[[Summary], Rate | None]] = {
    "routed right, good": lambda summary: summary.routed_good,
    "routed right, defective": lambda summary: summary.routed_anomalous,
    "unknown, good": lambda summary: summary.unknown_good,
    "unknown, defective": lambda summary: summary.unknown_anomalous,
}


@dataclass(frozen=True, kw_only=True)
class FigureRow:
    """A metric of one part of one cell's test set, with its interval where it has one."""

    digest: str  # of the cell
    where: str
    label: str
    seed: int
    scope: str  # overall, category or defect, and of which one:
    part: str
    metric: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """What one cell was, and what it took. Defaults are for tables of earlier versions."""

    digest: str
    set: str
    where: str
    category: str | None
    setting: str
    seed: int
    method: str
    label: str
    image_metrics: bool
    ranked: bool
    note: str
    weights: str
    network_input: str
    precision: str
    started: str
    peak_mb: float
    backbone: str
    data_digest: str
    learned_from: int
    good: int
    anomalous: int
    images: int
    computed: int
    alone: str = ""
    code: str = ""
    effort: str = "standard"
    earlier: bool = False  # measured with an earlier version of the method, whose cell has not been run again
    features_seconds: float
    fit_seconds: float
    fit_peak_mb: float
    wall_seconds: float
    cpu_ms: float
    backbone_cpu_ms: float
    ratio: float
    values: int | None = None
    gmacs: float | None = None
    backbone_gmacs: float | None = None
    checked: int
    unread: int
    cores: int
    processor: str
    blemish: str


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """A paired test of cell a against cell b; `value` is a minus b."""

    where: str
    seed: int
    a: str
    b: str
    digest_a: str
    digest_b: str
    metric: str
    test: str
    value: float
    low: float
    high: float
    p_value: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What was tested."""
        return self.digest_a, self.digest_b, self.metric


@dataclass(frozen=True, kw_only=True)
class ScoresRow:
    """Labels and raw scores of a cell's test images, in the order of its records."""

    digest: str
    labels: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Tables:
    """The results of a run: enough to resume from on another machine, without the folders of its cells.

    `results` has one row per cell, part and metric; `scores` one per cell, with the labels and raw scores of its test
    images, so that a later method can be tested against it.
    """

    results: tuple[FigureRow, ...] = ()
    cells: tuple[CellRow, ...] = ()
    pairs: tuple[PairRow, ...] = ()
    scores: tuple[ScoresRow, ...] = ()


ROWS: dict[str, type[Any]] = {"results": FigureRow, "cells": CellRow, "pairs": PairRow, "scores": ScoresRow}


Row = TypeVar("Row", bound=FigureRow | CellRow | ScoresRow)


Key = tuple[str, str, int]  # where, label, seed


def collect(
    folders: Sequence[Path],
    known: Tables | None = None,
    marks: Sequence[str] = (),
    unfinished: Mapping[Key, int] | None = None,
) -> Tables:
    """Sum up the cells in these folders, and the cells of `marks` (digests, in order) that only `known` tables have.

    Of cells that are `unfinished` (with their place in the order) an `earlier` row of `known` stays, marked as such:
    other code or options have measured it. Pairs that `known` has are not tested again.
    """
    known = known or Tables()
    found = {record["digest"]: (folder, record) for folder in folders for record in [store.record(folder)]}
    place = {mark: number for number, mark in enumerate(marks)}
    taken, waiting = set(marks) - set(found), unfinished or {}
    old = {row.digest: waiting.get((row.where, row.label, row.seed)) for row in known.cells if row.digest not in place}
    kept = {mark: number for mark, number in old.items() if number is not None}
    place |= kept
    taken |= set(kept)

    def joined(new: Iterable[Row], earlier: Iterable[Row]) -> tuple[Row, ...]:
        rows = [*new, *(row for row in earlier if row.digest in taken)]
        rows.sort(key=lambda row: place.get(row.digest, len(place)))
        return tuple(rows)

    records = [record for _, record in found.values()]
    earlier = [replace(row, earlier=row.earlier or row.digest in kept) for row in known.cells]
    cells = joined(map(_cell, records), earlier)
    scores = joined((_scores(folder, record) for folder, record in found.values()), known.scores)
    pairs = _Pairs({mark: folder for mark, (folder, _) in found.items()}, scores, known.pairs)
    figures = joined((row for record in records for row in _figures(record)), known.results)
    return Tables(figures, cells, tuple(pairs.of(cells)), scores)


def write(tables: Tables, folder: Path) -> None:
    """Each table as `<its name>.parquet`."""
    import pyarrow as pa
    from pyarrow import parquet

    for name in ROWS:
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist([vars(row) for row in getattr(tables, name)]), buffer)
        write_whole(folder / f"{name}.parquet", buffer.getvalue())


def read(folder: Path) -> Tables:
    """What `write` wrote, of this version or an earlier one; tables that are not there are empty."""
    return Tables(**{name: _read(folder / f"{name}.parquet", row) for name, row in ROWS.items()})


def _read(file: Path, row: type[Any]) -> tuple[Any, ...]:
    from pyarrow import parquet

    known = {field.name for field in fields(row)}
    with store.sound(file, "table", "remove it: the next run of its suite writes it again"):
        found = parquet.read_table(file).to_pylist() if file.is_file() else []
    return tuple(row(**{name: value for name, value in values.items() if name in known}) for values in found)


def _figures(record: Mapping[str, Any]) -> Iterator[FigureRow]:
    """Every figure of one cell, with its interval where it has one."""
    head = {name: record[name] for name in ("digest", "where", "label", "seed")}
    parts = [("overall", "", Summary.from_json(record["overall"]))]
    parts += [("category", name, Summary.from_json(part)) for name, part in record["by_category"].items()]
    measured = {**(IMAGE if record["image_metrics"] else {}), **PIXEL}
    for metrics in (measured, ROUTING):
        for scope, name, part in parts:
            for metric, get in metrics.items():
                if (found := get(part)) is not None:
                    yield FigureRow(**head, scope=scope, part=name, metric=metric, **_interval(found))
    for name, values in record["by_defect"].items():
        auroc = DefectSummary.from_json(values).auroc
        if auroc is not None and record["image_metrics"]:
            yield FigureRow(**head, scope="defect", part=name, metric="I-AUROC", **_interval(auroc))


def _interval(found: Metric | Rate) -> dict[str, Any]:
    return {"value": float(found.value), "low": found.low, "high": found.high}


def _cell(record: Mapping[str, Any]) -> CellRow:
    named = "digest set where category setting seed method label image_metrics ranked note weights network_input"
    features, fit, inspect = (record[name] for name in ("features", "fit", "inspect"))
    return CellRow(
        **{name: record[name] for name in (*named.split(), "precision", "started", "peak_mb")},
        backbone=record["backbone"]["identity"],
        data_digest=record["data"]["digest"],
        learned_from=record["data"]["learned_from"],
        good=record["overall"]["good"],
        anomalous=record["overall"]["anomalous"],
        images=features["images"],
        computed=features["computed"],
        alone=record.get("alone", ""),  # records of earlier versions have none
        code=record.get("code", ""),
        effort=record.get("run", {}).get("effort", "standard"),  # records of earlier versions say none
        features_seconds=features["seconds"],
        fit_seconds=fit["seconds"],
        fit_peak_mb=fit["peak_mb"],
        wall_seconds=record["wall_seconds"],
        **{name: inspect[name] for name in ("cpu_ms", "backbone_cpu_ms", "ratio")},
        **{name: record["size"][name] for name in ("values", "gmacs", "backbone_gmacs")},
        checked=record["checked"]["images"],
        unread=len(record["unread"]),
        cores=record["machine"]["cores"],
        processor=record["machine"]["processor"],
        blemish=record["software"]["blemish"],
    )


def _scores(folder: Path, record: Mapping[str, Any]) -> ScoresRow:
    images = store.images(folder)
    return ScoresRow(digest=record["digest"], labels=images["label"], scores=images["score"])


class _Pairs:
    """Tests of two cells on the same images."""

    def __init__(self, folders: dict[str, Path], scores: Sequence[ScoresRow], known: Sequence[PairRow]) -> None:
        self.folders = folders
        self.scores = {row.digest: row for row in scores}
        self.known = {row.key: row for row in known}

    def of(self, cells: Sequence[CellRow]) -> Iterator[PairRow]:
        """Methods with their default options against each other, and other options against the method's defaults."""
        jobs: dict[tuple[str, int], list[CellRow]] = {}
        for cell in cells:
            jobs.setdefault((cell.where, cell.seed), []).append(cell)
        for together in jobs.values():
            for a, b in combinations(together, 2):
                if a.earlier != b.earlier:
                    continue
                plain = (a.label == a.method, b.label == b.method)
                if all(plain) or (any(plain) and a.method == b.method):
                    yield from self.tested(a, b)

    def tested(self, a: CellRow, b: CellRow) -> Iterator[PairRow]:
        """What can be tested: images' scores are kept beside the figures, pixels only in the folders of cells."""
        if a.image_metrics and a.good and a.anomalous:
            yield from self.one(a, b, "I-AUROC", "DeLong", self.delong)
        yield from self.one(a, b, "AUPRO@0.3", "bootstrap over images, 10,000 draws", self.bootstrapped)

    def one(
        self, a: CellRow, b: CellRow, metric: str, name: str, test: Callable[[str, str], Difference | None]
    ) -> Iterator[PairRow]:
        if (earlier := self.known.get((a.digest, b.digest, metric))) is not None:
            yield earlier
        elif (found := test(a.digest, b.digest)) is not None:
            yield PairRow(
                where=a.where,
                seed=a.seed,
                a=a.label,
                b=b.label,
                digest_a=a.digest,
                digest_b=b.digest,
                metric=metric,
                test=name,
                **found._asdict(),
            )

    def delong(self, a: str, b: str) -> Difference | None:
        one, other = self.scores.get(a), self.scores.get(b)
        if one is None or other is None:
            return None
        assert one.labels == other.labels, "cells of one data digest measure the same images"
        return delong_paired(one.labels, one.scores, other.scores)

    def bootstrapped(self, a: str, b: str) -> Difference | None:
        if a not in self.folders or b not in self.folders:
            return None
        one, other = store.pixels(self.folders[a]), store.pixels(self.folders[b])
        if one is None or other is None:
            return None
        return aupro_paired(one, other, generator=np.random.default_rng(0), replicas=10_000)
