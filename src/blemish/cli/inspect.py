"""`blemish inspect`: images in, one line each out."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cli.progress import Terminated, track
from blemish.errors import ConfigError, DataError
from blemish.outputs import ELSEWHERE, MapFolder, below, check_file, stems

if TYPE_CHECKING:
    from blemish.data.modality import Modality
    from blemish.inspection.inspector import Inspector

_KEYS = (
    "image_path", "pred_score", "p_value", "threshold", "pred_label", "category", "category_confidence", "unknown",
    "map_threshold", "map_threshold_per", "regions", "map", "raw_map", "seconds", "error", "hint",
)  # fmt: skip
_COLUMNS = tuple(key for key in _KEYS if key != "regions")
_ALARM = "alarm"  # stands last where parts are located
_SPAN = "span"  # stands behind the path where recordings are inspected


def run(
    model: Path,
    paths: list[Path],
    maps: Path | None,
    raw_maps: Path | None,
    server_maps: Path | None,
    form: str,
    fail_on_anomaly: bool,
    batch_size: int,
    threads: int | None,
    engine: str,
    reading: dict[str, Any],
    masks: Path | None = None,
    labels: tuple[str, Path] | None = None,
) -> int:
    """Returns the exit code. `reading` is what `Detector.load` takes."""
    from blemish.data import registry
    from blemish.detector import Detector
    from blemish.system import cores

    detector = Detector.load(model, **reading)
    kind = registry.of(detector.model.meta)
    other: Counter[str] = Counter()
    files = list(_sources(_files(paths, kind, other), kind))
    readable = [source for _, source, _ in files if not isinstance(source, DataError)]
    wanted = {"--maps": (maps, ".png"), "--raw-maps": (raw_maps, ".npy"), "--masks": (masks, ".png")}
    places = _Places(wanted, labels, [stem for _, source, stem in files if not isinstance(source, DataError)], paths)
    server = None
    if server_maps is not None:
        from blemish.cli.server_maps import ServerMaps

        for option, folder in [*((o, f) for o, (f, _) in wanted.items()), ("--labels", labels and labels[1])]:
            if folder is not None and folder.resolve().is_relative_to(server_maps.resolve()):
                message = f"lies in {server_maps}, which may hold maps for the server alone"
                raise DataError(message, path=folder, hint=ELSEWHERE.format(option))
        named = [path for path, source, _ in files if not isinstance(source, DataError)]
        server = ServerMaps(server_maps, named, detector.model, read=paths)
    threads = threads or max(1, min(cores(), len(readable)))  # a stream that stays idle takes its time to compile too
    line = detector.inspector(engine, threads=threads, batch=batch_size)
    _check_threshold(line.calibrator is not None, fail_on_anomaly)
    places.begin(line)
    columns = (_COLUMNS[0], _SPAN, *_COLUMNS[1:]) if kind.timed else _COLUMNS
    columns = (*columns, *((_ALARM,) if kind.locates else ()), *_measured(line))
    results = iter(track(line.inspect_many(readable, errors="yield"), "inspect", len(readable)))
    wrong: list[DataError] = []
    undrawn = 0
    found = False
    with _terminable(), closing(places), closing(_Writer(form, columns)) as write:
        for path, source, stem in files:
            result = source if isinstance(source, DataError) else next(results)
            if isinstance(result, DataError):
                wrong.append(result)
                where = {_SPAN: None} if kind.timed else {}
                error = {"error": str(result), "hint": result.hint}
                write({**dict.fromkeys(_KEYS), **where, "image_path": str(path), "regions": [], **error})
                continue
            found = found or result.verdict in ("anomalous", "unknown")
            written: dict[str, str | None] = {"map_path": None, "raw_map": None}
            try:
                places.store(source, stem, result, line, written)
                if server is not None:
                    server.store(path, result)
                write(result.to_json(**written))
            except DataError as error:  # the verdict stands, its picture could not be made
                undrawn += 1
                write({**result.to_json(**written), "error": str(error), "hint": error.hint})
    if server is not None:
        server.close()
    _tell(wrong, undrawn, len(files), other)
    return 1 if wrong or undrawn else 3 if found and fail_on_anomaly else 0


def _tell(wrong: Sequence[DataError], undrawn: int, inputs: int, other: Counter[str]) -> None:
    """On stderr how many inputs have no verdict and why, how many no map, and which other files were found beside
    them."""
    from blemish.data.listing import Listing, reasons

    if wrong:
        print(f"warning: {len(wrong)} of {inputs} inputs could not be inspected: {reasons(wrong)}", file=sys.stderr)
    if undrawn:
        print(f"warning: {undrawn} of {inputs} maps could not be written", file=sys.stderr)
    if message := Listing([], [], other).not_inspected():
        print(f"note: {message}", file=sys.stderr)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: what was judged so far is printed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_ray(
    model: Path,
    sources: list[str],
    out: str | None,
    address: str | None,
    workers: int | None,
    fail_on_anomaly: bool,
    reading: dict[str, Any],
    local: dict[str, Any],
) -> int:
    """Inspect on a cluster into Parquet; prints one JSON line and returns the exit code, as `run` does."""
    from contextlib import redirect_stdout

    from blemish.cli.about import emit
    from blemish.inspection import modelfile
    from blemish.inspection.on_ray import inspect
    from blemish.inspection.open import reading as read_as

    refuse(local, "with --engine ray")
    if out is None:
        raise ConfigError("--engine ray writes Parquet files", hint="say where with --out")
    loaded = read_as(modelfile.load(model), **reading)
    _check_threshold(bool(loaded.calibrators), fail_on_anomaly)
    # Ray prints its internal errors on stdout, and no setting turns that off
    with _terminable(), redirect_stdout(sys.stderr):
        summary = inspect(loaded, sources, out, address=address, workers=workers, track=track)
    emit(summary)
    if summary["errors"]:
        print(f"warning: {summary['errors']} of {summary['rows']} inputs could not be inspected", file=sys.stderr)
    return 1 if summary["errors"] else 3 if summary["anomalous"] and fail_on_anomaly else 0


def _check_threshold(has_threshold: bool, needed: bool) -> None:
    """Warn that there will be no verdicts; ConfigError where the exit code should depend on them."""
    if has_threshold:
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


def _sources(files: list[tuple[Path, DataError | None, str]], kind: Modality[Any]) -> Iterator[tuple[Path, Any, str]]:
    """(file, what is inspected of it, stem for its map): of a recording each window, or why there is none."""
    for path, error, stem in files:
        try:
            found = kind.sources(path) if error is None else [error]
        except DataError as refused:
            found = [refused]
        for number, source in enumerate(found):
            numbered = kind.several and not isinstance(source, DataError)
            yield path, source, f"{stem}_{number:04}" if numbered else stem


def _files(paths: list[Path], kind: Modality[Any], other: Counter[str]) -> list[tuple[Path, DataError | None, str]]:
    """(file, None, stem for its maps) of all that is named, and (file or folder, why, stem) of what is not inspected:
    files of kinds that are not read, folders with nothing in them. What lies beside is counted in `other`.

    DataError where nothing at all is there.
    """
    found: list[tuple[Path, DataError | None]] = []
    empty: list[DataError] = []
    for path in paths:
        inside: list[tuple[Path, DataError | None]] = [(path, None)]
        if path.is_dir():
            listing = kind.listing(path, kind.cut)
            other.update(listing.other)
            inside = [*((file, None) for file in listing.files), *((e.path or path, e) for e in listing.unread)]
            inside.sort(key=lambda one: one[0])
        if not inside:
            empty.append(DataError(f"no {kind.name}s in this folder", path=path, hint=kind.hint))
            inside = [(path, empty[-1])]
        found += inside
    if len(empty) == len(found):
        raise empty[0]
    beside = kind.named_with([file for file, _ in found])
    found = [(file, error) for file, error in found if file not in beside]
    names = stems([file for file, _ in found], [path if path.is_dir() else path.parent for path in paths])
    return [(file, error, name) for (file, error), name in zip(found, names, strict=True)]


class _Places:
    """Where overlays, raw maps, masks and labels go; DataError, before any work, where they cannot.

    `wanted` has the folder, or None, and the suffix of each option; `labels` format and place.
    """

    def __init__(
        self,
        wanted: dict[str, tuple[Path | None, str]],
        labels: tuple[str, Path] | None,
        stems: Sequence[str],
        read: Sequence[Path],
    ) -> None:
        from blemish.inspection.labels import Coco

        self.roots = [path if path.is_dir() else path.parent for path in read]
        self.coco: Coco | None = None
        form, place = labels or ("", None)
        names = {option: {f"{stem}{suffix}" for stem in stems} for option, (folder, suffix) in wanted.items() if folder}
        if form == "yolo":
            wanted = {**wanted, _LABELS: (place, ".txt")}
            names[_LABELS] = {_CLASSES, *(_label_file(stem) for stem in stems)}
        elif place is not None:
            check_file(place, _LABELS, read=read, is_ours=Coco.is_ours)
            self.coco = Coco(place, len(stems))
        self.folders = {
            option: MapFolder(folder, option, names[option], read=read)
            for option, (folder, _) in wanted.items()
            if folder is not None
        }
        self._check_distinct()

    def _check_distinct(self) -> None:
        """DataError where two options would write one file."""
        taken = {os.path.realpath(self.coco.path): _LABELS} if self.coco else {}
        for option, folder in self.folders.items():
            root = os.path.realpath(folder.path)
            for name in sorted(folder.names):
                other = taken.setdefault(os.path.join(root, *name.split("/")), option)
                if other != option:
                    message = f"would be written by {other} and by {option}"
                    raise DataError(message, path=folder.path / name, hint="give each a folder of its own")

    def begin(self, line: Inspector) -> None:
        """ConfigError where the model cannot mark regions; else list what is to come."""
        self.marks = self.coco is not None or not {"--masks", _LABELS}.isdisjoint(self.folders)
        if self.marks:
            from blemish.inspection.labels import check

            check(line)
        for folder in self.folders.values():
            folder.begin()
        if _LABELS in self.folders:
            from blemish.inspection.labels import NAME

            self.folders[_LABELS].write(_CLASSES, f"{NAME}\n".encode())

    def store(self, source: Any, stem: str, result: Any, line: Inspector, written: dict[str, str | None]) -> None:
        """Write what was asked for; the paths of maps go into `written`."""
        if "--raw-maps" in self.folders:
            import numpy as np

            data = io.BytesIO()
            np.save(data, result.anomaly_map)
            written["raw_map"] = self.folders["--raw-maps"].write(f"{stem}.npy", data.getvalue())
        if "--maps" in self.folders:
            from blemish.data import drawing
            from blemish.inspection.scale import scale_of

            kind, scale = line.kind, scale_of(line.calibrator, result.anomaly_map)
            picture = kind.picture(kind.read(source), result.anomaly_map, scale=scale, regions=result.regions)
            written["map_path"] = self.folders["--maps"].write(f"{stem}.png", drawing.encode(picture))
        if self.marks:
            self._mark(source, stem, result, line)

    def _mark(self, source: Any, stem: str, result: Any, line: Inspector) -> None:
        from blemish.inspection.labels import marked, mask_png, yolo

        found = marked(line, result)
        if "--masks" in self.folders:
            self.folders["--masks"].write(f"{stem}.png", mask_png(found))
        if _LABELS in self.folders:
            self.folders[_LABELS].write(_label_file(stem), yolo(found))
        if self.coco is not None:
            self.coco.add(below(Path(source), self.roots), result, found)

    def close(self) -> None:
        """List what was written, and write the labels that are one file."""
        for folder in self.folders.values():
            folder.end()
        if self.coco is not None:
            self.coco.write()


_LABELS = "--labels"
_CLASSES = "classes.txt"


def _label_file(stem: str) -> str:
    """Where YOLO's tools look for it; apart from `classes.txt`, which a picture may be called too."""
    return f"labels/{stem}.txt"


def _measured(line: Inspector) -> tuple[str, ...]:
    """Columns of a CSV that only models which measure regions have."""
    if line.measuring is None:
        return ()
    judged = (*(("areas",) if line.kind.areas else ()), *(("rules", "decided_by") if line.measuring.rules else ()))
    return ("count", *line.measuring.columns, *judged)


def _longest(row: dict[str, Any]) -> dict[str, Any]:
    """How many regions there are, and the measures of the longest one: a CSV has one line for each input. Areas and
    rules that reject it."""
    longest: dict[str, Any] = max(row["regions"], key=lambda region: region.get("length_px") or 0.0, default={})
    lists = {k: " ".join(f"{x:.6g}" for x in v) for k, v in longest.items() if isinstance(v, list)}
    areas = [area["name"] for area in row.get("areas", ()) if area["label"] == "anomalous"]
    rules = [rule["rule"] for rule in row.get("rules", ()) if rule["fired"]]
    judged = {"areas": "; ".join(areas), "rules": "; ".join(rules)}
    return {"count": len(row["regions"]), **{k: v for k, v in longest.items() if k not in row}, **lists, **judged}


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
            cells = {**row, **_longest(row)}
            self._csv(["" if cells.get(c) is None else cells[c] for c in self.columns])
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

        from blemish.cli.about import console, printable

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
            name = escape(printable(row["image_path"]))
            if row.get(_SPAN):
                name += " {:.1f}-{:.1f} s".format(*row[_SPAN])
            if row["error"]:
                table.add_row(name, "", "", "error", escape(printable(row["error"])))
                continue
            p = "" if row["p_value"] is None else f"{row['p_value']:.3g}"
            verdict = row["pred_label"] or "not calibrated"
            score = "" if row["pred_score"] is None else f"{row['pred_score']:.4g}"
            if row.get(_ALARM):
                verdict = escape(printable(f"{verdict}: {row[_ALARM]}"))
            category = f"unknown, most like {row['category']}" if row["unknown"] else row["category"] or ""
            table.add_row(name, score, p, verdict, str(len(row["regions"])), category)
        console().print(table)
