"""The main job on real images, from start to end: learn, calibrate, inspect images it has not seen, report.

Only `run_demo`'s fit loads torch, and only when it is called.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from blemish.data.drawing import Picture, colours, write_png
from blemish.data.image.decode import read_image, read_mask
from blemish.data.image.picture import thumbnail
from blemish.data.image.preprocess import to_source
from blemish.data.synthesis.contact_sheet import Row, contact_sheet, fitted
from blemish.errors import DataError
from blemish.evaluation.evaluate import evaluate
from blemish.evaluation.report.cases import Cases
from blemish.evaluation.report.page import judge, write_report
from blemish.evaluation.summary import Evaluation
from blemish.files import write_whole
from blemish.inspection.modelfile import check_place
from blemish.inspection.scale import scale_of
from blemish.outputs import check_files, check_folder, figures, is_model, page
from blemish.types import AnomalyResult, Record, Track, no_track

if TYPE_CHECKING:
    from blemish.detector import Detector
    from blemish.inspection.inspector import Inspector

DATA = "elpv"
ALL = "all"
STAGE = "stage_milliseconds_"
STAGES = tuple(STAGE + name for name in ("decode", "resize", "graph", "map_to_source"))


@dataclass(frozen=True)
class Demo:
    """The result of a demo: `main` is the model of all categories, `others` one for each where there are several.

    `verdict` says how the promise of the main model fared; `files` are the written ones, by what they are: model,
    metrics, report, heatmap.
    """

    source: str
    method: str
    main: Evaluation
    others: dict[str, Evaluation]
    verdict: str
    files: dict[str, Path]

    def to_json(self) -> dict[str, Any]:
        """Plain values: the content of metrics.json."""
        return {
            "schema": 1,
            "source": self.source,
            "method": self.method,
            "verdict": self.verdict,
            "main": self.main.to_json(),
            "others": {name: evaluation.to_json() for name, evaluation in self.others.items()},
        }


def run_demo(
    data: str | Path | None,
    out: str | Path,
    method: str = "padim",
    *,
    false_alarm_rate: float | None = None,
    image_size: int | str = 256,
    seed: int = 0,
    held_out: float = 0.2,
    layout: str | None = None,
    options: Mapping[str, Any] | None = None,
    track: Track | None = None,
) -> Demo:
    """Learn from the good training images, evaluate on the test images, and write everything into the folder `out`.

    `data` None takes the solar cells of the package elpv-dataset, split by blocks; else any data set with a test
    split. Where it has several categories, one model learns them all and is calibrated, and each gets one of its own
    for its ranking alone. The rate is 0.05 where none is given, and 0.1 for the solar cells: they come from a few
    modules that differ among each other, and a stricter promise to cells of a new one would let half of the defects
    pass.
    Raises DataError (with a hint) where the data are missing or have no test images, and what `Detector.fit` raises.
    """
    from blemish.data import layouts

    out, source = Path(out), str(data or DATA)
    files = {
        "model": out / "model.blemish",
        "metrics": out / "metrics.json",
        "report": out / "report.html",
        "heatmap": out / "heatmap.png",
    }
    _check_place(out, files, source)
    records = layouts.index(source, layout)
    if not any(r.split == "test" for r in records):
        raise DataError("has no test images", path=source, hint="give a data set laid out like MVTec AD: train, test")
    groups = sorted({r.group for r in records if r.group})

    rate = false_alarm_rate if false_alarm_rate is not None else 0.1 if source == DATA else 0.05

    def new(calibration: str = "auto") -> Detector:
        from blemish.detector import Detector

        return Detector(
            method,
            image_size=image_size,
            seed=seed,
            held_out=held_out,
            calibration=calibration,
            false_alarm_rate=rate,
            **(options or {}),
        )

    others = {}
    for group in groups if len(groups) > 1 else ():
        part = layouts.select(records, [group])
        others[group] = _learn(new("none"), part, source, _named(track or no_track, group))[1]
    detector = new()
    inspector, main, cases = _learn(detector, records, source, track or no_track)
    stage_times: dict[str, Any] = stages(inspector, records)
    main = replace(main, timing=replace(main.timing, **stage_times))
    demo = Demo(
        source, method, main, others, judge(main.overall, inspector.calibrator, main.setting.seen_before)[1], files
    )
    detector.save(files["model"])
    write_whole(files["metrics"], (json.dumps(demo.to_json(), indent=1, allow_nan=False) + "\n").encode())
    title = "Solar cells (ELPV): inspection report" if source == DATA else None
    write_report(files["report"], main, cases=cases, title=title, others=others)
    write_png(files["heatmap"], heatmap_sheet(inspector, choose(records, main)))
    return demo


def _check_place(out: Path, files: Mapping[str, Path], source: str) -> None:
    """DataError, before any work, where `out` is neither new, nor empty, nor what an earlier demo wrote."""
    check_folder(out, "--out", read=[source], is_ours=lambda _: is_model(files["model"]))
    check_place(files["model"])
    if out.is_dir():
        check_files({"--out, metrics": (files["metrics"], figures), "--out, report": (files["report"], page)})


def _learn(
    detector: Detector, records: Sequence[Record], source: str, track: Track
) -> tuple[Inspector, Evaluation, Cases]:
    """Fit and evaluate."""
    detector.fit(records, track=track)
    inspector, model = detector.inspector(), detector.model.describe()
    cases = Cases(inspector.calibrator, inspector.kind)
    return inspector, evaluate(inspector, records, model=model, source=source, track=track, keep=cases.see), cases


def _named(track: Track, name: str) -> Track:
    def named(items: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
        return track(items, f"{what} {name}".strip(), total)

    return named


def stages(inspector: Inspector, records: Sequence[Record], most: int = 60) -> dict[str, float]:
    """Median milliseconds of each stage of the line on one image at a time, over up to `most` test images."""
    test = [r for r in records if r.split == "test"]
    stage_times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for record in test[:: max(1, len(test) // most)][:most]:
        marks = [perf_counter()]
        image = read_image(record.path)
        marks.append(perf_counter())
        ready = inspector.preprocess(image)[None]
        marks.append(perf_counter())
        _, maps = inspector.engine(ready)
        marks.append(perf_counter())
        to_source(maps[0], image.shape[:2])
        marks.append(perf_counter())
        for times, start, end in zip(stage_times.values(), marks[:-1], marks[1:], strict=True):
            times.append(1000 * (end - start))
    return {stage: round(median(times), 3) for stage, times in stage_times.items()}


def show(demo: Demo, console: Console) -> None:
    """Print the result of the demo: the table, the verdict on the promise, the time of each stage, the files."""
    console.print(table(demo))
    console.print(demo.verdict, highlight=False)
    timing = demo.main.timing.to_json()
    shown_times = [f"{k.removeprefix(STAGE).replace('_', ' ')} {v:.3g} ms" for k, v in timing.items() if k in STAGES]
    console.print("one image at a time: " + ", ".join(shown_times), highlight=False)
    for what, path in demo.files.items():
        console.print(f"{what}: {path}", highlight=False, markup=False, soft_wrap=True)


def table(demo: Demo) -> Table:
    """The figures for people, one line for each model."""
    out = Table(title=f"{demo.source}: {demo.method}, learned from good images only", title_justify="left")
    out.add_column("model")
    for name in ("image AUROC (95 %)", "good rejected (95 %)", "promised", "defects found (95 %)", "ms/image"):
        out.add_column(name, justify="right")
    for name, evaluation in [*demo.others.items(), (ALL, demo.main)]:
        overall = evaluation.overall
        area, alarms, found = overall.image and overall.image.auroc, overall.false_alarms, overall.found
        out.add_row(
            name,
            f"{area.value:.3f} ({area.low:.3f}-{area.high:.3f})" if area else "-",
            f"{alarms.value:.1%} ({alarms.low:.1%}-{alarms.high:.1%})" if alarms else "-",
            f"{alarms.promised:.1%}" if alarms else "-",
            f"{found.value:.1%} ({found.low:.1%}-{found.high:.1%})" if found else "-",
            f"{evaluation.timing.milliseconds_per_image:.1f}",
        )
    return out


def choose(records: Sequence[Record], evaluation: Evaluation, most: int = 6) -> list[Record]:
    """Records worth a picture: the good one of median score, then rejected defective ones, types in turn.

    Without a threshold, or where nothing was rejected, the highest-scoring defective ones.
    """
    by_id = {r.id: r for r in records}
    good = sorted((s for s in evaluation.samples if s.label == 0), key=lambda s: s.score)
    bad = sorted((s for s in evaluation.samples if s.label == 1), key=lambda s: -s.score)
    bad = [s for s in bad if s.verdict == "anomalous"] or bad
    kinds: dict[tuple[str | None, str | None], list[str]] = {}
    for sample in bad:
        kinds.setdefault((sample.defect, sample.group), []).append(sample.id)
    turns = [ids[k] for k in range(most) for ids in kinds.values() if k < len(ids)]
    chosen = [good[len(good) // 2].id] if good else []
    return [by_id[i] for i in (chosen + turns)[:most]]


def readme_picture(
    data: str | Path, path: str | Path, method: str = "padim", *, most: int = 6, track: Track | None = None
) -> None:
    """A contact sheet made from any data set, for one whose pictures may be published. Errors: see `run_demo`."""
    from blemish.data import layouts
    from blemish.detector import Detector

    records = layouts.index(data)
    inspector, evaluation, _ = _learn(Detector(method), records, str(data), track or no_track)
    write_png(path, heatmap_sheet(inspector, choose(records, evaluation, most)))


TILE = 300  # pixels


def heatmap_sheet(inspector: Inspector, records: Sequence[Record]) -> Picture:
    """Images beside their heat maps with a caption each, and the colour bar: RGB (H, W, 3)."""
    if not records:
        raise DataError("there is no image to draw", hint="give at least one record")
    rows = [_row(inspector, record) for record in records]
    bar = colours(np.linspace(0, 1, 2 * TILE))[None].repeat(14, 0)
    ends = "Colours below, from left to right: usual, the map threshold at a quarter, unusual"
    sheet = contact_sheet(
        "Parts and what is unusual about them",
        ends,
        ["as photographed, and as seen by the model"],
        rows,
        side=2 * TILE,
        across=2,
    )
    return np.vstack([sheet, fitted(bar, (40, sheet.shape[1]))])


def _row(inspector: Inspector, record: Record) -> Row:
    """The caption and the picture of one record."""
    result: AnomalyResult = inspector.inspect(record.path)
    scale = scale_of(inspector.calibrator, result.anomaly_map)
    h, w = result.anomaly_map.shape
    mask: NDArray[np.bool_] | None = read_mask(record.mask, (h, w)) if record.mask is not None else None
    image = read_image(record.path)
    pair = thumbnail(image, result.anomaly_map, scale=scale, regions=result.regions, mask=mask, longest=TILE)
    outcome = {"anomalous": "rejected", "unknown": "unknown", "good": "passed", None: "not judged"}[result.verdict]
    name = (record.defect or "defective") if record.label else "good part"
    p = "" if result.p_value is None else f"   p {result.p_value:.2g}"
    return f"{name}: {outcome}   score {result.score:.3g}{p}", [pair]
