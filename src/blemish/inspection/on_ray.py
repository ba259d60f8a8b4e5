"""Inspection on a cluster: paths go out through Ray Data, rows come back, Parquet parts are written one by one.

Why each sample is in the result exactly once: every one has a number, each window of a recording too; the driver alone
writes, part k holds the rows of numbers k * PART to (k + 1) * PART - 1, and it is written, whole, when each of them has
come back. A worker that dies takes unfinished rows with it, which Ray Data runs again; a row that comes back twice has
the same number. A driver that dies leaves finished parts, and the next one requests the numbers of the other parts
only.

No sample passes through the object store: a worker reads the file itself. What the driver holds are paths, and the rows
of parts that are not full yet.

The driver says which number format is computed in. A worker whose processor lacks it refuses, and the run ends: scores
of two number formats are not comparable.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blemish.data import registry
from blemish.data import storage as places
from blemish.data.image.decode import take_encoded
from blemish.data.modality import Modality
from blemish.errors import ConfigError, DataError, EngineError
from blemish.inspection.inspector import Inspector, precision_of
from blemish.inspection.measuring import Measuring
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.inspection.ray_session import session
from blemish.outputs import check_folder
from blemish.types import Track, no_track

PART = 1000  # rows in one file
BATCH = 16  # images in one call of a worker
READERS = 4  # files that a worker reads ahead at a time: object storage answers late
BLOCK = 64  # images that a worker is given at a time, and does again after one has died
PLAN = "_plan.json"
SUMMARY = "_summary.json"


class _Sample(NamedTuple):
    """One row of the result: a file, and which of its samples (`Modality.sources`)."""

    path: str
    which: int = 0


class _Inspecting:
    """One process, one core, one compiled model.

    `shared` holds the reference to the model. Relative paths start at `base`: a worker's own folder is another one.
    """

    def __init__(self, shared: list[Any], precision: Any, base: str) -> None:
        import ray

        model: Model = ray.get(shared[0])
        self.base, self.readers = base, ThreadPoolExecutor(READERS)
        self.refusal = ""
        self.last: tuple[str, list[Any]] | None = None
        try:
            self.line = Inspector(model, open_model(model, precision=precision), threads=1)
        except EngineError as error:  # reported by the next call: Ray would restart such a worker forever
            self.refusal = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """{number, path, index} -> {number, row}: each row is the JSON line of one sample; -1 numbers a refusal."""
        if self.refusal:
            return {"number": np.array([-1]), "row": np.array([self.refusal], object)}
        samples = [_Sample(str(path), int(i)) for path, i in zip(batch["path"], batch["index"], strict=True)]
        sources = self.readers.map(self._source, samples)
        rows = [
            json.dumps(self._row(sample.path, source), allow_nan=False)
            for sample, source in zip(samples, sources, strict=True)
        ]
        return {"number": batch["number"], "row": np.array(rows, object)}

    def _place(self, path: str) -> str:
        return path if places.is_url(path) else os.path.join(self.base, path)

    def _source(self, sample: _Sample) -> Any:
        """What the line inspects of a sample, or the DataError in its place."""
        place = self._place(sample.path)
        try:
            if not self.line.kind.read_from_files:
                return take_encoded(places.read(place), sample.path)
            found = self._sources(place)
            if sample.which >= len(found):
                raise DataError("has become shorter since the run began", path=place, hint="start with another --out")
            return found[sample.which]
        except DataError as error:
            return error

    def _sources(self, place: str) -> list[Any]:
        """Of one file, as long as its samples come one after the other."""
        last = self.last
        if last is None or last[0] != place:
            self.last = last = (place, self.line.kind.sources(Path(place)))
        return last[1]

    def _row(self, path: str, source: Any) -> dict[str, Any]:
        try:
            if isinstance(source, DataError):
                raise source
            return self.line.inspect(source).to_json() | {"image_path": path}
        except DataError as error:  # under the name that the file was listed by
            wrong = f"{path}: {str(error).removeprefix(f'{self._place(path)}: ').removeprefix(f'{path}: ')}"
            return {"image_path": path, "regions": [], "error": wrong, "hint": error.hint}


def inspect(
    model: Model,
    sources: list[str],
    out: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    track: Track = no_track,
) -> dict[str, Any]:
    """Inspect all samples of folders, manifests and URLs into Parquet parts in `out`; what the parts hold.

    The rows are those of the local engine but for `seconds`, bit for bit, in the order of the listing; a recording has
    one for each of its windows. A run that was stopped resumes. ConfigError where `out` belongs to other samples or
    another model, or where samples that are no images have URLs.
    """
    kind = registry.of(model.meta)
    _check_urls(sources, kind)
    listed = places.files(sources, type(kind), kind.cut)
    _check_urls(listed, kind)  # of manifests
    paths = _samples(listed, kind)
    if not places.is_url(out):
        read_here = [source for source in sources if not places.is_url(source)]
        check_folder(out, "--out", read=read_here, is_ours=lambda folder: (folder / PLAN).is_file())
    precision = precision_of(model, "openvino")
    plan = {
        "images": len(paths),
        "part": PART,
        "paths": _digest(json.dumps([_named(sample) for sample in paths]).encode()),
        "model": _model_digest(model),
        "precision": precision,
    }
    parts, schema = range(-(-len(paths) // PART)), _schema(kind, Measuring.at_inspection(kind, model.meta.rules))
    finished = _finished(out, plan)
    missing = [k for k in parts if _name(k) not in finished]
    if missing:
        with session(address, workers) as ray:
            count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            rows = _stream(ray, model, precision, paths, missing, count)
            for k, part in track(_parts(rows, missing, len(paths)), "inspect", len(missing)):
                places.write(places.join(out, _name(k)), _parquet(part, schema))
    summary = {**plan, **_summed(out, parts, len(paths)), "out": out}
    places.write(places.join(out, SUMMARY), (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def _check_urls(names: list[str], kind: Modality[Any]) -> None:
    """ConfigError for a URL where a sample is several files, which lie beside each other."""
    if kind.lightings and kind.read_from_files and (urls := [name for name in names if places.is_url(name)]):
        hint = "copy them to a folder that all machines share, and name that"
        raise ConfigError(f"{urls[0]}: a file for each lighting is read from a folder, not from URLs", hint=hint)


def _samples(paths: list[str], kind: Modality[Any]) -> list[_Sample]:
    """Every sample of the files; a file that cannot be read counts as one, whose row says why."""
    found = []
    for path in paths:
        try:
            count = 1 if places.is_url(path) else len(kind.sources(Path(path)))
        except DataError:
            count = 1
        found += [_Sample(path, index) for index in range(count)]
    return found


def _named(sample: _Sample) -> list[Any]:
    """What a sample is in a plan."""
    path = sample.path if places.is_url(sample.path) else os.path.abspath(sample.path)
    return [sample.path, path, *([sample.which] if sample.which else [])]


def read(out: str) -> Any:
    """All rows of a finished run as one Arrow table, in the order of the listing."""
    import pyarrow as pa

    names = [n for n in places.names_in(out) if n.startswith("part-")]
    # parts of earlier versions have fewer columns
    return pa.concat_tables([_table(places.join(out, name)) for name in names], promote_options="default")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _model_digest(model: Model) -> str:
    """Of all that a row depends on: the graph, or what runs in its place, and the thresholds."""
    description: dict[str, Any] = {
        "meta": model.meta.to_json(),
        "calibration": {k: c.to_json() for k, c in model.calibrators.items()},
    }
    if model.categories is not None:
        description["categories"] = model.categories.to_json()
    if model.categories is not None or model.heads:
        description["heads"] = {k: _digest(v) for k, v in model.heads.items()}
    if not model.meta.graph:
        description["tensors"] = _digest(model.tensors)
    return _digest(_digest(model.graph).encode() + json.dumps(description, sort_keys=True).encode())


def _name(part: int) -> str:
    return f"part-{part:07d}.parquet"


def _finished(out: str, plan: dict[str, Any]) -> set[str]:
    """Names of the finished parts, after checking that they belong to this plan; a new plan is written down."""
    names = set(places.names_in(out))
    if PLAN in names:
        hint = "choose another folder (--out), or remove the old result"
        try:
            earlier = json.loads(places.read(places.join(out, PLAN)))
        except ValueError:
            raise DataError("describes no run", path=places.join(out, PLAN), hint=hint) from None
        if earlier != plan:
            raise ConfigError(f"{out}: holds a result of other samples or another model", hint=hint)
        return names
    if any(name.endswith(".parquet") for name in names):
        raise ConfigError(f"{out}: holds Parquet files of something else", hint="choose another folder (--out)")
    places.write(places.join(out, PLAN), json.dumps(plan, indent=1).encode())
    return set()


def _stream(
    ray: Any, model: Model, precision: str, paths: list[_Sample], missing: list[int], count: int
) -> Iterator[tuple[int, str]]:
    """(number, row) of every sample of the missing parts, in any order."""
    import pyarrow as pa
    import ray.data as data
    from ray.exceptions import RayError

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its error is raised below
    numbers = [n for k in missing for n in range(k * PART, min((k + 1) * PART, len(paths)))]
    size = min(BLOCK, -(-len(numbers) // count))
    blocks = [  # made here: a step that splits them would wait for a core that the workers hold
        pa.table({"number": block, "path": [paths[n].path for n in block], "index": [paths[n].which for n in block]})
        for block in (numbers[i : i + size] for i in range(0, len(numbers), size))
    ]
    light = replace(model, tensors=b"") if model.meta.graph else model
    shared = ray.put(light)  # held until the end: a worker that is restarted fetches it again
    rows = data.from_arrow(blocks).map_batches(
        _Inspecting,
        fn_constructor_args=([shared], precision, os.getcwd()),
        batch_size=BATCH,
        batch_format="numpy",
        concurrency=min(count, len(blocks)),
        num_cpus=1,
    )
    try:
        for batch in rows.iter_batches(batch_size=BATCH, batch_format="numpy", prefetch_batches=1):
            for number, row in zip(batch["number"].tolist(), batch["row"].tolist(), strict=True):
                if number < 0:
                    raise EngineError(f"a worker cannot do as the driver does: {row}", hint="use machines of one kind")
                yield number, row
    except RayError as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise EngineError(f"the cluster stopped: {last}", hint="start again: it resumes") from error


def _parts(
    rows: Iterator[tuple[int, str]], missing: list[int], total: int
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Parts as they become complete; EngineError where rows are missing at the end."""
    waiting: dict[int, dict[int, str]] = {k: {} for k in missing}
    for number, row in rows:
        k = number // PART
        if k not in waiting:
            continue  # its part is written: the row came twice
        waiting[k][number] = row
        if len(waiting[k]) == min(PART, total - k * PART):
            part = waiting.pop(k)
            yield k, [json.loads(part[n]) for n in sorted(part)]
    if waiting:
        short = sum(min(PART, total - k * PART) - len(part) for k, part in waiting.items())
        raise EngineError(f"{short} samples have not come back", hint="start again: it resumes")


def _schema(kind: Modality[Any], measuring: Measuring | None) -> Any:
    """Columns of a result: those of all modalities, this one's own, and what is measured."""
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    box = {"bbox": pa.list_(pa.int64()), "area_px": pa.int64(), "peak": number, "score": number}
    optional = {"interval": pa.list_(number), "box": pa.list_(number), "points": pa.int64()}
    box |= {name: optional[name] for name in kind.extra}
    for name in measuring.columns if measuring else ():
        box[name] = pa.list_(number) if name == "position_mm" else text if name == "area" else number
    area = pa.struct({"name": text, "score": number, "threshold": number, "label": text})
    rule = pa.struct({"rule": text, "fired": pa.bool_(), "value": number})
    columns = {
        "image_path": text,
        **({"lightings": pa.list_(text)} if kind.lightings else {}),
        **({"span": pa.list_(number)} if kind.timed else {}),
        **({"pose": pa.struct([(name, number) for name in ("x", "y", "angle", "match")])} if kind.locates else {}),
        **({"alarm": text} if kind.locates else {}),
        "pred_score": number,
        "p_value": number,
        "threshold": number,
        "pred_label": text,
        "category": text,
        "category_confidence": number,
        "unknown": pa.bool_(),
        "map_threshold": number,
        "map_threshold_per": text,
        **({"areas": pa.list_(area)} if kind.areas else {}),
        **({"rules": pa.list_(rule), "decided_by": text} if measuring and measuring.rules else {}),
        "regions": pa.list_(pa.struct(list(box.items()))),
        "map": text,
        "raw_map": text,
        "seconds": number,
        "error": text,
        "hint": text,
    }
    return pa.schema(list(columns.items()))


def _parquet(rows: list[dict[str, Any]], schema: Any) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


def _table(place: str) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(io.BytesIO(places.read(place)))
    except pyarrow.ArrowException as error:
        raise DataError(f"is damaged ({error})", path=place, hint="remove it and start again") from None


def _summed(out: str, parts: range, samples: int) -> dict[str, int]:
    """Counts over all parts, read one by one."""
    rows = errors = anomalous = 0
    for k in parts:
        table = _table(places.join(out, _name(k)))
        if table.num_rows != min(PART, samples - k * PART):
            raise DataError(
                f"has {table.num_rows} rows", path=places.join(out, _name(k)), hint="remove it, start again"
            )
        rows += table.num_rows
        errors += table.num_rows - table["error"].null_count
        anomalous += sum(verdict in ("anomalous", "unknown") for verdict in table["pred_label"].to_pylist())
    return {"rows": rows, "errors": errors, "anomalous": anomalous, "parts": len(parts)}
