"""From the folders of cells to tables: one row per figure, per cell, per pair of methods, per image. All Parquet."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from blemish.evaluation.bench import store
from blemish.evaluation.metrics.intervals import Difference, delong_paired
from blemish.evaluation.metrics.pixels import aupro_paired
from blemish.evaluation.summary import IMAGE, PIXEL, DefectSummary, Metric, Rate, Summary
from blemish.files import write_whole

Row = dict[str, Any]
TABLES = ("results", "cells", "pairs", "scores")

ROUTING: dict[str, Callable[[Summary], Rate | None]] = {
    "routed right, good": lambda summary: summary.routed_good,
    "routed right, defective": lambda summary: summary.routed_anomalous,
    "unknown, good": lambda summary: summary.unknown_good,
    "unknown, defective": lambda summary: summary.unknown_anomalous,
}


@dataclass(frozen=True)
class Tables:
    """What a run came to: enough to go on from on another machine, without the folders of its cells.

    `results` has one row per cell, part and metric; `scores` one per cell, with the labels and raw scores of its test
    images, so that a later method can be tested against it.
    """

    results: tuple[Row, ...] = ()
    cells: tuple[Row, ...] = ()
    pairs: tuple[Row, ...] = ()
    scores: tuple[Row, ...] = ()


def collect(folders: Sequence[Path], known: Tables | None = None, marks: Sequence[str] = ()) -> Tables:
    """Sum up the cells in these folders, and the cells of `marks` (digests, in order) that only `known` tables have.

    Pairs that `known` has are not tested again.
    """
    known = known or Tables()
    found = {record["digest"]: (folder, record) for folder in folders for record in [store.record(folder)]}
    taken = set(marks) - set(found)
    place = {mark: number for number, mark in enumerate(marks)}

    def joined(own: Iterable[Row], earlier: Iterable[Row]) -> tuple[Row, ...]:
        rows = [*own, *(row for row in earlier if row["digest"] in taken)]
        return tuple(sorted(rows, key=lambda row: place.get(row["digest"], len(place))))

    records = [record for _, record in found.values()]
    cells = joined(map(_cell, records), known.cells)
    scores = joined((_scores(folder, record) for folder, record in found.values()), known.scores)
    pairs = _Pairs({mark: folder for mark, (folder, _) in found.items()}, scores, known.pairs)
    figures = joined((row for record in records for row in _figures(record)), known.results)
    return Tables(figures, cells, tuple(pairs.of(cells)), scores)


def write(tables: Tables, folder: Path) -> None:
    """Each table as `<its name>.parquet`."""
    import pyarrow as pa
    from pyarrow import parquet

    for name in TABLES:
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(list(getattr(tables, name))), buffer)
        write_whole(folder / f"{name}.parquet", buffer.getvalue())


def read(folder: Path) -> Tables:
    """What `write` wrote; tables that are not there are empty."""
    from pyarrow import parquet

    files = [folder / f"{name}.parquet" for name in TABLES]
    tables = Tables(*(tuple(parquet.read_table(f).to_pylist()) if f.is_file() else () for f in files))
    return replace(tables, cells=tuple({"alone": "", **row} for row in tables.cells))  # tables of earlier versions


def _figures(record: Row) -> Iterator[Row]:
    """Every figure of one cell, with its interval where it has one."""
    head = {"digest": record["digest"], "where": record["where"], "label": record["label"], "seed": record["seed"]}
    parts = [("overall", "", Summary.from_json(record["overall"]))]
    parts += [("category", name, Summary.from_json(part)) for name, part in record["by_category"].items()]
    measured = {**(IMAGE if record["image_metrics"] else {}), **PIXEL}
    for metrics in (measured, ROUTING):
        for scope, name, part in parts:
            for metric, get in metrics.items():
                if (found := get(part)) is not None:
                    yield {**head, "scope": scope, "part": name, "metric": metric, **_interval(found)}
    for name, values in record["by_defect"].items():
        auroc = DefectSummary.from_json(values).auroc
        if auroc is not None and record["image_metrics"]:
            yield {**head, "scope": "defect", "part": name, "metric": "I-AUROC", **_interval(auroc)}


def _interval(found: Metric | Rate) -> Row:
    return {"value": float(found.value), "low": found.low, "high": found.high}


def _cell(record: Row) -> Row:
    overall = record["overall"]
    names = (
        "digest",
        "set",
        "where",
        "category",
        "setting",
        "seed",
        "method",
        "label",
        "image_metrics",
        "ranked",
        "note",
    )
    return {
        **{name: record[name] for name in (*names, "weights", "network_input", "precision", "started", "peak_mb")},
        "backbone": record["backbone"]["identity"],
        "data_digest": record["data"]["digest"],
        "learned_from": record["data"]["learned_from"],
        "good": overall["good"],
        "anomalous": overall["anomalous"],
        "images": record["features"]["images"],
        "computed": record["features"]["computed"],
        "alone": record.get("alone", ""),  # records of earlier versions have none
        "code": record.get("code", ""),
        "features_seconds": record["features"]["seconds"],
        "fit_seconds": record["fit"]["seconds"],
        "fit_peak_mb": record["fit"]["peak_mb"],
        "wall_seconds": record["wall_seconds"],
        "cpu_ms": record["inspect"]["cpu_ms"],
        "backbone_cpu_ms": record["inspect"]["backbone_cpu_ms"],
        "ratio": record["inspect"]["ratio"],
        **{name: record["size"][name] for name in ("values", "gmacs", "backbone_gmacs")},
        "checked": record["checked"]["images"],
        "unread": len(record["unread"]),
        "cores": record["machine"]["cores"],
        "processor": record["machine"]["processor"],
        "blemish": record["software"]["blemish"],
    }


def _scores(folder: Path, record: Row) -> Row:
    images = store.images(folder)
    return {"digest": record["digest"], "labels": images["label"], "scores": images["score"]}


class _Pairs:
    """Tests of two cells on the same images."""

    def __init__(self, folders: dict[str, Path], scores: Sequence[Row], known: Sequence[Row]) -> None:
        self.folders = folders
        self.scores = {row["digest"]: row for row in scores}
        self.known = {self.key(row): row for row in known}

    @staticmethod
    def key(row: Row) -> tuple[str, str, str]:
        return row["digest_a"], row["digest_b"], row["metric"]

    def of(self, cells: Sequence[Row]) -> Iterator[Row]:
        """Methods with their default options against each other, and other options against the method's defaults."""
        jobs: dict[tuple[str, int], list[Row]] = {}
        for cell in cells:
            jobs.setdefault((cell["where"], cell["seed"]), []).append(cell)
        for together in jobs.values():
            for a, b in combinations(together, 2):
                plain = (a["label"] == a["method"], b["label"] == b["method"])
                if all(plain) or (any(plain) and a["method"] == b["method"]):
                    yield from self.tested(a, b)

    def tested(self, a: Row, b: Row) -> Iterator[Row]:
        """What can be tested: images' scores are kept beside the figures, pixels only in the folders of cells."""
        head = {"where": a["where"], "seed": a["seed"], "a": a["label"], "b": b["label"]}
        head |= {"digest_a": a["digest"], "digest_b": b["digest"]}
        if a["image_metrics"] and a["good"] and a["anomalous"]:
            yield from self.one({**head, "metric": "I-AUROC", "test": "DeLong"}, self.delong)
        row = {**head, "metric": "AUPRO@0.3", "test": "bootstrap over images, 10,000 draws"}
        yield from self.one(row, self.bootstrapped)

    def one(self, row: Row, test: Callable[[str, str], Difference | None]) -> Iterator[Row]:
        if (earlier := self.known.get(self.key(row))) is not None:
            yield earlier
        elif (found := test(row["digest_a"], row["digest_b"])) is not None:
            yield {**row, **found._asdict()}

    def delong(self, a: str, b: str) -> Difference | None:
        one, other = self.scores.get(a), self.scores.get(b)
        if one is None or other is None:
            return None
        assert one["labels"] == other["labels"], "cells of one data digest measure the same images"
        return delong_paired(one["labels"], one["scores"], other["scores"])

    def bootstrapped(self, a: str, b: str) -> Difference | None:
        if a not in self.folders or b not in self.folders:
            return None
        one, other = store.pixels(self.folders[a]), store.pixels(self.folders[b])
        if one is None or other is None:
            return None
        return aupro_paired(one, other, generator=np.random.default_rng(0), replicas=10_000)
