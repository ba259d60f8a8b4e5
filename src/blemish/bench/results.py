"""From the folders of cells to three tables: one row per figure, per cell, per pair of methods. All Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from blemish.bench import store
from blemish.files import write_whole
from blemish.metrics.intervals import Difference, delong_paired
from blemish.metrics.pixels import aupro_paired

Row = dict[str, Any]
TABLES = ("results", "cells", "pairs")

NAMES = {
    ("image", "auroc"): "I-AUROC",
    ("image", "ap"): "I-AP",
    ("image", "f1max"): "I-F1max",
    ("pixel", "auroc"): "P-AUROC",
    ("pixel", "ap"): "P-AP",
    ("pixel", "f1max"): "P-F1max",
    ("pixel", "aupro_0.3"): "AUPRO@0.3",
    ("pixel", "aupro_0.05"): "AUPRO@0.05",
    ("pixel", "spro_0.05"): "sPRO@0.05",
}


@dataclass(frozen=True)
class Tables:
    """The three tables; `results` has one row per cell, part and metric."""

    results: tuple[Row, ...]
    cells: tuple[Row, ...]
    pairs: tuple[Row, ...]


def collect(folders: Sequence[Path], known: Sequence[Row] = ()) -> Tables:
    """Sum up the cells in these folders; `known` are pairs of an earlier run, which are not tested again."""
    records = {folder: store.record(folder) for folder in folders}
    results = [row for record in records.values() for row in _figures(record)]
    return Tables(
        tuple(results), tuple(map(_cell, records.values())), tuple(_pairs(records, {_key(row): row for row in known}))
    )


def write(tables: Tables, folder: Path) -> None:
    """`results.parquet`, `cells.parquet`, `pairs.parquet`."""
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
    return Tables(*(tuple(parquet.read_table(f).to_pylist()) if f.is_file() else () for f in files))


def _figures(record: Row) -> Iterator[Row]:
    """Every figure of one cell, with its interval where it has one."""
    head = {"digest": record["digest"], "where": record["where"], "label": record["label"], "seed": record["seed"]}
    parts = [("overall", "", record["overall"])]
    parts += [("category", name, part) for name, part in record["by_category"].items()]
    for scope, name, part in parts:
        for (kind, key), metric in NAMES.items():
            if kind == "image" and not record["image_metrics"]:
                continue
            if (found := part.get(kind, {}).get(key)) is not None:
                yield {**head, "scope": scope, "part": name, "metric": metric, **_interval(found)}
    for name, part in record["by_defect"].items():
        if "auroc" in part and record["image_metrics"]:
            yield {**head, "scope": "defect", "part": name, "metric": "I-AUROC", **_interval(part["auroc"])}


def _interval(found: Row) -> Row:
    return {"value": float(found["value"]), "low": found.get("low"), "high": found.get("high")}


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


def _key(row: Row) -> tuple[str, str, str]:
    return row["digest_a"], row["digest_b"], row["metric"]


def _pairs(records: dict[Path, Row], known: dict[tuple[str, str, str], Row]) -> Iterator[Row]:
    """Methods with their default options against each other, and other options against the same method's defaults."""
    jobs: dict[tuple[str, int], list[Path]] = {}
    for folder, record in records.items():
        jobs.setdefault((record["where"], record["seed"]), []).append(folder)
    for folders in jobs.values():
        for first, second in combinations(folders, 2):
            a, b = records[first], records[second]
            plain = (a["label"] == a["method"], b["label"] == b["method"])
            if all(plain) or (any(plain) and a["method"] == b["method"]):
                yield from _tested(first, second, a, b, known)


def _tested(first: Path, second: Path, a: Row, b: Row, known: dict[tuple[str, str, str], Row]) -> Iterator[Row]:
    head = {"where": a["where"], "seed": a["seed"], "a": a["label"], "b": b["label"]}
    head |= {"digest_a": a["digest"], "digest_b": b["digest"]}
    one, other = store.images(first), store.images(second)
    assert one["id"] == other["id"], "cells of one data digest measure the same images"
    if a["image_metrics"] and "image" in a["overall"]:
        found = delong_paired(one["label"], one["score"], other["score"])
        yield {**head, "metric": "I-AUROC", "test": "DeLong", **found._asdict()}
    if "pixel" in a["overall"]:
        row = {**head, "metric": "AUPRO@0.3", "test": "bootstrap over images, 10,000 draws"}
        yield known.get(_key(row)) or {**row, **_bootstrapped(first, second)._asdict()}


def _bootstrapped(first: Path, second: Path) -> Difference:
    a, b = store.pixels(first), store.pixels(second)
    assert a is not None
    assert b is not None
    return aupro_paired(a, b, generator=np.random.default_rng(0), replicas=10_000)
