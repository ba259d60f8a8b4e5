"""One cell: learn, check that the cached line equals the deployed one, measure, and record everything."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np

from blemish import config, methods
from blemish.data import registry
from blemish.data.modality import Modality
from blemish.errors import BlemishError
from blemish.evaluation.bench import store
from blemish.evaluation.bench.cached_inspector import CachedLine, CountedCache, differing
from blemish.evaluation.bench.macs import macs
from blemish.evaluation.bench.suite import Cell
from blemish.evaluation.evaluate import evaluate
from blemish.evaluation.summary import Evaluation
from blemish.files import content_id, read_file, write_whole
from blemish.inspection import modelfile
from blemish.inspection.engines import open_engine
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model, arrays
from blemish.inspection.routed import head_name
from blemish.learning import artefacts, backbones, effort
from blemish.learning.backbones.weights import PACKAGED
from blemish.learning.code_digest import code_digest
from blemish.learning.fit import fit
from blemish.learning.options import OPTIONS, FitOptions
from blemish.learning.plan import load_backbone
from blemish.learning.sources.base import Learning
from blemish.learning.sources.features import FeatureSource
from blemish.learning.sources.registry import learning_for
from blemish.system import cores
from blemish.types import Needs, Record

SCHEMA = 1
PROBED = 24  # test images on which the cached line is compared with the deployed one, and both are timed
ROUNDS = 3  # over them, interleaved


def digest(cell: Cell, records: Sequence[Record]) -> str:
    """16 hex digits over all that the figures depend on: options, data, weights, the method's own code, the schema.

    Not over the rest of the package, or every change would run everything again; a change there that moves figures
    raises `SCHEMA`.
    """
    options = config.build(FitOptions, cell.options)
    value = {
        "schema": SCHEMA,
        "options": _named(_taken(config.to_json(options))),
        "setting": [cell.setting, cell.category],
        "data": data_digest(records, cell.learning.modality),
        "weights": weights_digest(options),
        "method": method_digest(cell.method.name, cell.options["options"]),
    }
    if sizes := effort.stated(options):
        value["effort"] = sizes
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def method_digest(name: str, options: dict[str, Any]) -> str:
    """Of the code of a method's own file, and of its heads' where it routes; `recall` serves adapted models alone,
    `left_out` thresholds, and of `efforts` the one in use has a place of its own in a cell's digest. Of several methods
    as one all of theirs; a change of how they are one raises `SCHEMA`."""
    if len(methods.parts(name)) > 1:
        parts = FitOptions(method=name, options=options).parts
        each = [method_digest(part.method, part.options) for part in parts]
        return hashlib.sha256("".join(each).encode()).hexdigest()
    cls = methods.get(name)
    routing = cls.routing(config.build(cls.Config, options))
    used = [cls, *([methods.get(routing.head)] if routing is not None and routing.head else [])]
    return code_digest(
        *(inspect.getsource(sys.modules[each.__module__]) for each in used), without=("recall", "left_out", "efforts")
    )


def _taken(options: dict[str, Any]) -> dict[str, Any]:
    """Without views where the method takes none."""
    seen = any(methods.get(name).takes_views() for name in methods.parts(options["method"]))
    return options if seen else {**options, "views": []}


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Without the options that came later where they have their defaults, so that older digests hold, and without the
    device: what is learned on another one differs in rounding alone."""
    defaults = config.to_json(FitOptions())
    told = {k: v for k, v in options.items() if k != "device"}
    return {k: v for k, v in told.items() if k == "options" or not OPTIONS[k].later or v != defaults[k]}


def data_digest(records: Sequence[Record], modality: type[Modality[Any]]) -> str:
    """sha256 over every record's id, side, label, category, unit, and the bytes that it and its masks show."""
    whole = hashlib.sha256()
    for r in sorted(records, key=lambda record: record.id):
        masks = r.mask if isinstance(r.mask, tuple) else (r.mask,) if r.mask else ()
        files = [modality.file_content(r) if r.span else _file_digest(r.path, r.path.stat().st_mtime_ns)]
        files += [_file_digest(path, path.stat().st_mtime_ns) for path in masks]
        whole.update(json.dumps([r.id, r.split, r.label, r.defect, r.group, r.unit, files]).encode())
    return whole.hexdigest()


@lru_cache(maxsize=200_000)
def _file_digest(path: Path, _: int) -> str:
    return content_id(read_file(path))


def weights_digest(options: FitOptions) -> str:
    """What the backbone's weights are: the digest of the file, or the name of the network where no file is known; none
    where the method takes samples as they are. With that of an artefact that the method reads."""
    if not learning_for(wants(options)).backbone:
        return "none"
    name = options.backbone or backbones.DEFAULT
    if options.weights is not None:
        found = hashlib.sha256(read_file(options.weights)).hexdigest()
    else:
        found = PACKAGED[name].sha256 if name in PACKAGED else f"timm {version('timm')} {name}"
    for part in options.parts:
        if artefact := wants(part).artefact:
            found += " " + hashlib.sha256(read_file(artefacts.place(artefact, name))).hexdigest()
    return found


def learning_code() -> str:
    """sha256 of the package's files but for those that only read, measure or show a model.

    Of their bytes: a comment that changes while a cell runs costs no more than that cell's learning.
    """
    root = Path(config.__file__).parent
    files = (f for f in sorted(root.rglob("*.py")) if f.relative_to(root).parts[0] not in ("cli", "evaluation"))
    return hashlib.sha256(b"".join(content_id(f.read_bytes()).encode() for f in files)).hexdigest()


def work(cell: Cell, mark: str, folder: Path) -> dict[str, bytes]:
    """Run one cell; the files of its folder by name. `mark` is its digest.

    What was learned lies in the folder until the cell is finished: a fit may take hours, and is not lost when a later
    step fails. It is learned again where the learning code has changed.
    """
    started, begun = datetime.now(UTC), perf_counter()
    options = config.build(FitOptions, cell.options)
    records = cell.records()
    backbone = load_backbone(options)
    cache = CountedCache()
    warm = None if backbone is None else _warm(cell.learning, records, options, backbone, cache)
    features = {"images": 0, "computed": 0, "seconds": 0.0}
    if warm is not None:
        requested = sum(r.split != "held" for r in records)
        features = {"images": requested, "computed": cache.requested - cache.found, "seconds": warm[1]}
        print(f"{cell.title}: features in {warm[1]:.1f} s", flush=True)
    kept, note, code = folder / store.LEARNED, folder / store.NOTE, learning_code()
    if not (kept.is_dir() and note.is_file()) or json.loads(note.read_text())["code"] != code:
        learned = fit(records, options, backbone=None if options.fused else backbone, cache=cache, blind=True)
        print(f"learned from {learned.meta.data.learned_from} images in {learned.meta.fit_seconds} s", flush=True)
        shutil.rmtree(kept, ignore_errors=True)
        write_whole(note, json.dumps({"code": code, "peak_mb": peak_mb()}).encode())
        modelfile.save(learned, kept)
    model, fit_peak = modelfile.load(kept), float(json.loads(note.read_text())["peak_mb"])
    kind = registry.of(model.meta)
    if warm is not None and (kind.preprocess, model.meta.precision) == (warm[0].preprocess, warm[0].precision):
        source = warm[0]
    else:  # held-out images changed what was planned from all, or the short format was shown to be harmless
        source = _source(cell.learning, kind, backbone, options, cache, model.meta.precision)
    test = [r for r in records if r.split == "test"]
    line, checked = _line(model, source, test, cached=backbone is not None)
    if warm is not None:
        print(f"the cached line is the deployed one on {len(checked)} images", flush=True)
    before = perf_counter()
    evaluation = evaluate(line, records, model=model.describe(), source=cell.where)
    figures = evaluation.to_json()
    record = {
        **_head(cell, mark, records, model),
        "features": {**features, "seconds": round(features["seconds"], 2)},
        "fit": {
            "seconds": model.meta.fit_seconds,
            "peak_mb": fit_peak,
            "training": [phase.to_json() for phase in model.meta.training],
        },
        "inspect": _timed(model, source if backbone is not None else None, [kind.source(r) for r in checked]),
        "size": _size(model),
        "checked": {"images": len(checked), "differing": 0, "cached": isinstance(line, CachedLine)},
        "evaluate_seconds": round(perf_counter() - before, 2),
        **{name: figures[name] for name in ("overall", "by_category", "by_defect", "unread")},
        "setting_of_figures": figures["setting"],
        "peak_mb": max(peak_mb(), fit_peak),
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(perf_counter() - begun, 2),
    }
    return {"images.parquet": _images(evaluation), "pixels.npz": _pixels(evaluation), "cell.json": to_bytes(record)}


def wants(options: FitOptions) -> Needs:
    """What the method of these options takes; several as one, the image where one of them does."""
    if options.fused:
        each = [wants(part) for part in options.parts]
        return replace(each[0], image=any(needs.image for needs in each), artefact="")
    cls = methods.get(options.method)
    return cls.wants(config.build(cls.Config, options.options))


def _warm(
    learning: Learning, records: Sequence[Record], options: FitOptions, backbone: Any, cache: CountedCache
) -> tuple[Any, float]:
    """Bring the features of every image into the cache: the number computed and the time are recorded apart from
    fit."""
    start = perf_counter()
    good = [r for r in records if r.split == "train"]
    source = _source(learning, learning.plan(good, options, backbone), backbone, options, cache, options.precision)
    for _ in source.stream([*good, *(r for r in records if r.split == "test")]):
        pass
    return source, perf_counter() - start


def _source(
    learning: Learning, kind: Modality[Any], backbone: Any, options: FitOptions, cache: CountedCache, format_: str
) -> Any:
    """What the head of this method takes."""
    precision: Any = "bf16" if format_ == "bf16" else "f32"
    return learning.open(kind, backbone, cache, precision=precision, image=wants(options).image)


def _line(model: Model, source: Any, test: Sequence[Record], *, cached: bool) -> tuple[Inspector, list[Record]]:
    """The line to measure with, from cached features proven on some test images to be the deployed one, or that itself;
    those images."""
    chosen = list(test[:: max(1, len(test) // PROBED)][:PROBED])
    deployed = Inspector(model, threads=source.threads)
    if not cached:
        return deployed, chosen
    line = CachedLine(model, source)
    if count := differing(deployed, line, [r.path for r in chosen]):
        raise BlemishError(f"cached features give other results than the deployed graph on {count} of {len(chosen)}")
    return line, chosen


def _size(model: Model) -> dict[str, Any]:
    """Values that a model holds besides the backbone, of all its heads, and multiply-adds of one sample in the backbone
    (0 where there is none) and in the head behind it (the first of several; 0 where it is no graph)."""
    kept = sum(v.size for v in arrays(model.tensors).values() if np.issubdtype(v.dtype, np.floating))
    trunk, head = macs(model.graph, model.heads.get(head_name(0))) if model.meta.graph else (0.0, 0.0)
    return {"values": kept, "backbone_gmacs": trunk, "gmacs": head}


def _timed(model: Model, before: FeatureSource | None, samples: Sequence[Any]) -> dict[str, Any]:
    """Processor milliseconds a sample, one thread: the deployed line and, where one is before the method, decoding +
    bare backbone, interleaved."""
    deployed = Inspector(model, threads=1)
    calls: dict[str, Callable[[Any], Any]] = {"line": deployed.inspect}
    if before is not None:
        trunk = open_engine(before.graph, precision=before.precision)
        calls["bare"] = lambda source: trunk(deployed.kind.prepare(deployed.kind.read(source))[None])
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for sample in samples:
            for name, call in calls.items():
                start = process_time()
                call(sample)
                if turn:  # the first round warms up
                    times[name].append(1000 * (process_time() - start))
    line = median(times["line"])
    if before is None:
        return {"cpu_ms": round(line, 3), "backbone_cpu_ms": 0.0, "ratio": None}
    backbone = median(times["bare"])
    return {"cpu_ms": round(line, 3), "backbone_cpu_ms": round(backbone, 3), "ratio": round(line / backbone, 3)}


def _head(cell: Cell, mark: str, records: Sequence[Record], model: Model) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "digest": mark,
        "code": method_digest(cell.method.name, cell.options["options"]),
        "title": cell.title,
        "set": cell.data.name,
        "where": cell.where,
        "category": cell.category,
        "setting": cell.setting,
        "seed": cell.seed,
        "method": cell.method.name,
        "label": cell.method.label,
        "image_metrics": cell.data.image_metrics,
        "ranked": cell.data.ranked and cell.setting == "single",
        "note": cell.data.note,
        "alone": ", ".join(f"{name} = {value}" for name, value in cell.alone.items()),
        "run": model.run,
        "backbone": model.meta.to_json()["backbone"],
        "weights": weights_digest(config.build(FitOptions, cell.options)),
        "data": {
            "digest": data_digest(records, cell.learning.modality),
            "learned_from": model.meta.data.learned_from,
        },
        "network_input": registry.of(model.meta).takes,
        "precision": model.meta.precision,
        "parity": model.parity.get("engines", {}),
        "software": model.meta.software,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": cores()},
    }


def _images(evaluation: Evaluation) -> bytes:
    """One row per test image, in the order of the records."""
    import pyarrow as pa
    from pyarrow import parquet

    names = ("id", "label", "defect", "group", "score", "p_value", "verdict")
    columns = {name: [getattr(s, name) for s in evaluation.samples] for name in names}
    types = {"label": pa.int8(), "score": pa.float64(), "p_value": pa.float64()}
    table = pa.table({k: pa.array(v, types.get(k, pa.string())) for k, v in columns.items()})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def _pixels(evaluation: Evaluation) -> bytes:
    """The counts behind the pixel metrics, for paired tests; empty where there are no masks."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = evaluation.pixels.to_arrays() if evaluation.pixels else {}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def to_bytes(record: dict[str, Any]) -> bytes:
    """JSON, as it is kept."""
    return (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()


def peak_mb() -> float:
    """Largest resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def quiet_threads() -> None:
    """PyTorch's, which reads this once, when it is first imported: they must not spin beside the engine, and there is
    one: the bits of a sum depend on how many share it, and cells may run side by side."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = "1"
