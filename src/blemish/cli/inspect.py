"""`blemish inspect`: images in, one line each out."""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cli.progress import track
from blemish.errors import ConfigError, DataError
from blemish.files import write_whole

if TYPE_CHECKING:
    from blemish.kinds import SampleKind
    from blemish.runtime.inspector import Inspector

_KEYS = (
    "image_path", "pred_score", "p_value", "threshold", "pred_label", "category", "category_confidence", "unknown",
    "regions", "map", "seconds", "error",
)  # fmt: skip
_COLUMNS = tuple(key for key in _KEYS if key != "regions")
_SPAN = "span"  # stands behind the path where recordings are inspected


def run(
    model: Path,
    paths: list[Path],
    maps: Path | None,
    raw_maps: Path | None,
    form: str,
    fail_on_anomaly: bool,
    batch_size: int,
    threads: int | None,
    engine: str,
) -> int:
    """Returns the exit code."""
    from blemish import kinds
    from blemish.detector import Detector
    from blemish.runtime.engines import cores

    detector = Detector.load(model)
    kind = kinds.of(detector.model.meta)
    files = list(_sources(_files(paths, kind), kind))
    threads = threads or min(cores(), len(files))  # a stream that would stay idle takes its time to compile too
    line = detector.inspector(engine, threads=threads, batch=batch_size)
    _check_threshold(line.calibrator is not None, fail_on_anomaly)
    columns = _COLUMNS if kind.cut is None else (_COLUMNS[0], _SPAN, *_COLUMNS[1:])
    write = _Writer(form, columns)
    places = _Places(maps, raw_maps, line)
    failed = found = False
    readable = [source for _, source, _ in files if not isinstance(source, DataError)]
    results = iter(track(line.inspect_many(readable, errors=True), "inspect", len(readable)))
    for path, source, stem in files:
        result = source if isinstance(source, DataError) else next(results)
        if isinstance(result, DataError):
            failed = True
            where = {} if kind.cut is None else {_SPAN: None}
            write({**dict.fromkeys(_KEYS), **where, "image_path": str(path), "regions": [], "error": str(result)})
            continue
        found = found or result.verdict in ("anomalous", "unknown")
        try:
            write(result.to_json(places.store(source, stem, result)))
        except DataError as error:  # the verdict stands, its picture could not be made
            failed = True
            write({**result.to_json(), "error": str(error)})
    write.close()
    return 1 if failed else 3 if found and fail_on_anomaly else 0


def run_ray(
    model: Path,
    sources: list[str],
    out: str | None,
    address: str | None,
    workers: int | None,
    fail_on_anomaly: bool,
    local: dict[str, Any],
) -> int:
    """Inspect on a cluster into Parquet; prints one JSON line and returns the exit code, as `run` does."""
    from contextlib import redirect_stdout

    from blemish import modelfile
    from blemish.cli.about import emit
    from blemish.cluster.inspect import inspect

    refuse(local, "with --engine ray")
    if out is None:
        raise ConfigError("--engine ray writes Parquet files", hint="say where with --out")
    loaded = modelfile.load(model)
    _check_threshold(bool(loaded.calibrators), fail_on_anomaly)
    with redirect_stdout(sys.stderr):  # Ray prints there what goes wrong inside it, and takes no for no answer
        summary = inspect(loaded, sources, out, address=address, workers=workers, track=track)
    emit(summary)
    return 1 if summary["errors"] else 3 if summary["anomalous"] and fail_on_anomaly else 0


def _check_threshold(there: bool, needed: bool) -> None:
    """Warn that there will be no verdicts; ConfigError where the exit code was to depend on them."""
    if there:
        return
    if needed:
        raise ConfigError(
            "--fail-on-anomaly needs a threshold, and this model has none",
            hint="`blemish calibrate MODEL GOOD` makes one",
        )
    warnings.warn("this model has no threshold: scores, but no verdicts", stacklevel=3)


def refuse(options: dict[str, Any], where: str) -> None:
    """ConfigError where one of these options was given."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} means nothing {where}", hint=f"leave {name} out")


def _sources(files: Iterator[tuple[Path, str]], kind: SampleKind[Any]) -> Iterator[tuple[Path, Any, str]]:
    """(file, what is inspected of it, stem for its map): of a recording each window, or why there is none."""
    for path, stem in files:
        try:
            found = kind.sources(path)
        except DataError as error:
            yield path, error, stem
            continue
        for number, source in enumerate(found):
            yield path, source, stem if kind.cut is None else f"{stem}_{number:04}"


def _files(paths: list[Path], kind: SampleKind[Any]) -> Iterator[tuple[Path, str]]:
    """(file, stem for its maps): the stem keeps the folders below a named folder, and is used once."""
    taken: set[str] = set()
    for path in paths:
        inside = kind.files(path) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"no {kind.name}s in this folder", path=path, hint=kind.hint)
        for file in inside:
            stem = file.relative_to(path).with_suffix("").as_posix() if path.is_dir() else file.stem
            numbered = (f"{stem}_{n}" for n in count(2))
            free = stem if stem not in taken else next(name for name in numbered if name not in taken)
            taken.add(free)
            yield file, free


class _Places:
    """Where overlays and raw maps go."""

    def __init__(self, maps: Path | None, raw_maps: Path | None, line: Inspector) -> None:
        self.maps, self.raw_maps, self.line = maps, raw_maps, line

    def store(self, source: Any, stem: str, result: Any) -> str | None:
        """Write what was asked for; the overlay's path, or None."""
        if self.raw_maps is not None:
            import numpy as np

            data = io.BytesIO()
            np.save(data, result.anomaly_map)
            write_whole(self.raw_maps / f"{stem}.npy", data.getvalue())
        if self.maps is None:
            return None
        from blemish import drawing

        target = self.maps / f"{stem}.png"
        kind, scale = self.line.kind, drawing.scale_of(self.line.calibrator, result.anomaly_map)
        picture = kind.picture(kind.read(source), result.anomaly_map, scale=scale, regions=result.regions)
        drawing.write_png(target, picture)
        return str(target)


class _Writer:
    """Prints results as they come; a table only at the end, when its widths are known."""

    def __init__(self, form: str, columns: tuple[str, ...]) -> None:
        self.form, self.columns = form, columns
        self.rows: list[dict[str, Any]] = []
        if form == "csv":
            self._csv(columns)

    def __call__(self, row: dict[str, Any]) -> None:
        if self.form == "jsonl":
            sys.stdout.write(json.dumps(row, allow_nan=False) + "\n")
            sys.stdout.flush()
        elif self.form == "csv":
            self._csv(["" if row[c] is None else row[c] for c in self.columns])
        else:
            self.rows.append(row)

    def _csv(self, values: Any) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        sys.stdout.write(line.getvalue())
        sys.stdout.flush()

    def close(self) -> None:
        """Print the table, where it is one."""
        if self.form != "table":
            return
        from rich.markup import escape
        from rich.table import Table

        from blemish.cli.about import console

        recordings = _SPAN in self.columns
        table = Table(
            "recording" if recordings else "image",
            "score",
            "p",
            "verdict",
            "regions",
            "category",
            box=None,
            pad_edge=False,
        )
        for row in self.rows:
            name = escape(row["image_path"])
            if row.get(_SPAN):
                name += " {:.1f}-{:.1f} s".format(*row[_SPAN])
            if row["error"]:
                table.add_row(name, "", "", "error", escape(row["error"]))
                continue
            p = "" if row["p_value"] is None else f"{row['p_value']:.3g}"
            verdict = row["pred_label"] or "not calibrated"
            category = f"unknown, most like {row['category']}" if row["unknown"] else row["category"] or ""
            table.add_row(name, f"{row['pred_score']:.4g}", p, verdict, str(len(row["regions"])), category)
        console().print(table)
