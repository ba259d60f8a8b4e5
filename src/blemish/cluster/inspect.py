"""Inspection on a cluster: paths go out through Ray Data, rows come back, Parquet parts are written one by one.

Why each image is in the result exactly once: every path has a number; the driver alone writes, part k holds the rows of
numbers k * PART to (k + 1) * PART - 1, and it is written, whole, when each of them has come back. A worker that dies
takes unfinished rows with it, which Ray Data runs again; a row that came back twice would fall on its own number. A
driver that dies leaves finished parts, and its successor asks for the numbers of the other parts only.

No image passes through the object store: a worker reads the bytes itself. What the driver holds are paths, and the rows
of parts that are not full yet.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from blemish.cluster import places
from blemish.cluster.session import session
from blemish.data.decode import decode_image
from blemish.errors import ConfigError, DataError, EngineError
from blemish.modelfile import Model
from blemish.runtime.inspector import Inspector
from blemish.runtime.scores import Track, no_track

PART = 1000  # rows in one file
BATCH = 16  # images in one call of a worker
BLOCK = 64  # images that a worker is given at a time, and does again after one has died
PLAN = "_plan.json"
SUMMARY = "_summary.json"


class _Worker:
    """One process, one core, one compiled model."""

    def __init__(self, model: Model, precision: str) -> None:
        self.line = Inspector(model, threads=1)
        if self.line.engine.precision != precision:
            raise EngineError(
                f"this worker computes in {self.line.engine.precision}, not in {precision}: figures would differ",
                hint="use machines of one kind",
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """{number, path} -> {number, row}: each row is the JSON line of one image."""
        rows = [json.dumps(self._row(str(path)), allow_nan=False) for path in batch["path"]]
        return {"number": batch["number"], "row": np.array(rows, object)}

    def _row(self, path: str) -> dict[str, Any]:
        try:
            if not places.is_url(path):
                return self.line.inspect(path).to_json()
            return self.line.inspect(decode_image(places.read(path), path)).to_json() | {"image_path": path}
        except DataError as error:
            return {"image_path": path, "regions": [], "error": str(error)}


class _Fetching(_Worker):
    """A worker that takes the model from the object store."""

    def __init__(self, shared: list[Any], precision: str) -> None:
        import ray

        super().__init__(ray.get(shared[0]), precision)


def inspect(
    model: Model,
    sources: list[str],
    out: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    track: Track = no_track,
) -> dict[str, Any]:
    """Inspect all images of folders, manifests and URLs into Parquet parts in `out`; what it came to.

    The rows are those of the local engine but for `seconds`, bit for bit, in the order of the listing. A run that was
    stopped goes on. ConfigError where `out` belongs to other images or another model.
    """
    paths = places.images(sources)
    plan = {
        "images": len(paths),
        "part": PART,
        "paths": hashlib.sha256("\n".join(paths).encode("utf-8", "surrogateescape")).hexdigest(),
        "model": hashlib.sha256(model.graph).hexdigest(),
    }
    parts = range(-(-len(paths) // PART))
    there = _finished(out, plan)
    missing = [k for k in parts if _name(k) not in there]
    if missing:
        with session(address, workers) as ray:
            count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            rows = _stream(ray, model, paths, missing, count)
            for k, part in track(_parts(rows, missing, len(paths)), "inspect", len(missing)):
                places.write(places.join(out, _name(k)), _parquet(part))
    summary = {**plan, **_summed(out, parts), "out": out}
    places.write(places.join(out, SUMMARY), (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def read(out: str) -> Any:
    """All rows of a finished run as one Arrow table, in the order of the listing."""
    import pyarrow as pa

    names = [n for n in places.names_in(out) if n.endswith(".parquet")]
    return pa.concat_tables([_table(places.join(out, name)) for name in names])


def _name(part: int) -> str:
    return f"part-{part:07d}.parquet"


def _finished(out: str, plan: dict[str, Any]) -> set[str]:
    """Names of the parts that are there, once it is sure that they are of this plan, which is written down if new."""
    names = set(places.names_in(out))
    if PLAN in names:
        if json.loads(places.read(places.join(out, PLAN))) != plan:
            hint = "choose another --out, or remove the old result"
            raise ConfigError(f"{out}: holds a result of other images or another model", hint=hint)
        return names
    if any(name.endswith(".parquet") for name in names):
        raise ConfigError(f"{out}: holds Parquet files of something else", hint="choose another --out")
    places.write(places.join(out, PLAN), json.dumps(plan, indent=1).encode())
    return set()


def _stream(ray: Any, model: Model, paths: list[str], missing: list[int], count: int) -> Iterator[tuple[int, str]]:
    """(number, row) of every image of the missing parts, in any order."""
    import logging

    import pyarrow as pa
    import ray.data as data
    from ray.exceptions import RayError

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    numbers = [n for k in missing for n in range(k * PART, min((k + 1) * PART, len(paths)))]
    size = min(BLOCK, -(-len(numbers) // count))
    blocks = [  # made here: a step that splits them would wait for a core that the workers hold
        pa.table({"number": some, "path": [paths[n] for n in some]})
        for some in (numbers[i : i + size] for i in range(0, len(numbers), size))
    ]
    shared = ray.put(model)  # held until the end: a worker that is started again fetches it anew
    rows = data.from_arrow(blocks).map_batches(
        _Fetching,
        fn_constructor_args=([shared], Inspector(model, threads=1).engine.precision),
        batch_size=BATCH,
        batch_format="numpy",
        concurrency=min(count, len(blocks)),
        num_cpus=1,
    )
    try:
        for batch in rows.iter_batches(batch_size=BATCH, batch_format="numpy", prefetch_batches=1):
            yield from zip(batch["number"].tolist(), batch["row"].tolist(), strict=True)
    except RayError as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise EngineError(f"the cluster stopped: {last}", hint="start again: it goes on") from error


def _parts(
    rows: Iterator[tuple[int, str]], missing: list[int], total: int
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Full parts as they get full; EngineError where rows are missing at the end."""
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
        raise EngineError(f"{short} images have not come back", hint="start again: it goes on")


def _schema() -> Any:
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    box = {"bbox": pa.list_(pa.int64()), "area_px": pa.int64(), "peak": number, "score": number}
    columns = {
        "image_path": text,
        "pred_score": number,
        "p_value": number,
        "threshold": number,
        "pred_label": text,
        "category": text,
        "regions": pa.list_(pa.struct(list(box.items()))),
        "map": text,
        "seconds": number,
        "error": text,
    }
    return pa.schema(list(columns.items()))


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=_schema()), buffer)
    return buffer.getvalue()


def _table(place: str) -> Any:
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(places.read(place)))


def _summed(out: str, parts: range) -> dict[str, int]:
    """Counts over all parts, read one by one."""
    rows = errors = anomalous = 0
    for k in parts:
        table = _table(places.join(out, _name(k)))
        rows += table.num_rows
        errors += table.num_rows - table["error"].null_count
        anomalous += table["pred_label"].to_pylist().count("anomalous")
    return {"rows": rows, "errors": errors, "anomalous": anomalous, "parts": len(parts)}
