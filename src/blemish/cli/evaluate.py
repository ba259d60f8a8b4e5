"""`blemish evaluate`: a model and a data set in, metrics out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.cli.about import console
from blemish.cli.progress import track
from blemish.outputs import check_files, figures, page

if TYPE_CHECKING:
    from blemish.evaluation.summary import Evaluation, Metric, Rate


def run(
    model: Path,
    data: str,
    json_file: Path | None,
    report: Path | None,
    layout: str | None,
    split: str | None,
    categories: list[str],
    threads: int | None,
    engine: str,
    reading: dict[str, Any],
) -> int:
    """Prints a table to stdout and writes the files that were asked for; returns the exit code. `reading` is what
    `Detector.load` takes."""
    from blemish.data import layouts, registry
    from blemish.detector import Detector
    from blemish.evaluation.evaluate import evaluate

    check_files({"--json": (json_file, figures), "--report": (report, page)}, read=[data])
    detector = Detector.load(model, **reading)
    kind = registry.of(detector.model.meta)
    records = layouts.select(layouts.index(data, layout, split, cut=kind.cut, kind=kind.name), categories)
    line = detector.inspector(engine, threads=threads)
    cases: Any = None
    if report is not None:
        from blemish.evaluation.report.cases import Cases

        cases = Cases(line.calibrator, line.kind)
    evaluation = evaluate(
        line,
        records,
        model=detector.model.describe(),
        source=data,
        track=track,
        keep=cases.see if cases is not None else None,
    )
    show(evaluation)
    if json_file is not None:
        evaluation.save_json(json_file)
    if report is not None:
        from blemish.evaluation.report.page import write_report

        write_report(report, evaluation, cases=cases)
    for image in evaluation.unread:
        warnings.warn(f"not measured: {image.error}", stacklevel=2)
    for image in evaluation.unusable_masks:
        warnings.warn(f"not measured in pixels: {image.id}: {image.error}", stacklevel=2)
    return 1 if evaluation.unread or evaluation.unusable_masks else 0


_SHOWN = ("I-AUROC", "I-AP", "P-AUROC", "AUPRO@0.3", "AUPRO@0.05", "SegF1")


def _figure(metric: Metric | Rate | None) -> str:
    if metric is None:
        return ""
    interval = "" if metric.low is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    return f"{metric.value:.3f}{interval}"


def show(evaluation: Evaluation) -> None:
    """The metrics table on stdout: whole set, categories, defect types."""
    from rich.markup import escape
    from rich.table import Table

    from blemish.evaluation.summary import IMAGE, PIXEL, cut_at

    out = console()
    setting = evaluation.setting
    out.print(
        f"{setting.good} good and {setting.anomalous} anomalous images, network input "
        f"{setting.network_input}, {setting.engine} {setting.precision}; intervals are 95 %",
        markup=False,
    )
    shown = {name: {**IMAGE, **PIXEL}[name] for name in _SHOWN}
    table = Table("", *shown, "false alarms", "escapes", box=None, pad_edge=False)
    for name, part in {"all": evaluation.overall, **evaluation.by_category}.items():
        metrics = [_figure(get(part)) for get in shown.values()]
        table.add_row(escape(name), *metrics, _figure(part.false_alarms), _figure(part.escapes))
    for name, defect in evaluation.by_defect.items():
        missed = "" if defect.detected is None else f"{defect.detected.complement.value:.3f}"
        label = f"  {escape(name)} ({defect.anomalous})"
        table.add_row(label, _figure(defect.auroc), *[""] * len(shown), missed)
    out.print(table)
    if (said := cut_at(evaluation)) is not None:
        out.print(said, markup=False)
