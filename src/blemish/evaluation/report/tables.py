"""The tables of a report: which figure stands in which column, with its interval, and the settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from blemish.data import registry
from blemish.evaluation.evaluate import Evaluation, Metric

Row = tuple[str, Metric]
Column = tuple[str, Callable[[Metric], str]]


def table(rows: Sequence[Row], columns: Iterable[Column], caption: str = "") -> str:
    """An HTML table: a line for each named metric, a dash where it lacks a figure; no column without any."""
    columns = [(name, cell) for name, cell in columns if any(cell(metric) for _, metric in rows)]
    head = "".join(f'<th scope="col">{name}</th>' for name, _ in columns)
    body = []
    for name, metric in rows:
        cells = "".join(f'<td data-name="{column}">{cell(metric) or "–"}</td>' for column, cell in columns)
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    title = f"<caption>{caption}</caption>" if caption else ""
    return f'<table>{title}<thead><tr><th scope="col"></th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def found_of(metric: Metric) -> Metric | None:
    """Share of defects found, from the escapes or as it is given."""
    if missed := metric.get("escapes"):
        return {
            "value": 1 - missed["value"],
            "low": 1 - missed["high"],
            "high": 1 - missed["low"],
            "count": missed["of"] - missed["count"],
            "of": missed["of"],
        }
    return metric.get("detected")


def percent(share: float) -> str:
    """One decimal."""
    return f"{100 * share:.1f}%"


def share(metric: Metric) -> str:
    """A proportion with its interval, as part of a sentence."""
    return f"{percent(metric['value'])} (interval {percent(metric['low'])} to {percent(metric['high'])})"


def interval(metric: Metric) -> str:
    """`low to high` of a metric."""
    return f"{metric['low']:.3f} to {metric['high']:.3f}"


def _figure_cell(*keys: str) -> Callable[[Metric], str]:
    """The value found by following keys, with its interval where it has one."""

    def cell(metric: Metric) -> str:
        value: Any = metric
        for key in keys:
            value = (value or {}).get(key)
        if value is None:
            return ""
        bounds = f"<small>{interval(value)}</small>" if "low" in value else ""
        return f"<span>{value['value']:.3f}{bounds}</span>"

    return cell


def _share_cell(get: Callable[[Metric], Metric | None]) -> Callable[[Metric], str]:
    def cell(metric: Metric) -> str:
        share = get(metric)
        if not share:
            return ""
        low, high = percent(share["low"]), percent(share["high"])
        return f"<span>{percent(share['value'])}<small>{low} to {high}</small></span>"

    return cell


def _count_cell(key: str) -> Callable[[Metric], str]:
    return lambda metric: f"{metric[key]:,}" if key in metric else ""


IMAGE: tuple[Column, ...] = (
    ("Good", _count_cell("good")),
    ("Defective", _count_cell("anomalous")),
    ("I-AUROC", _figure_cell("image", "auroc")),
    ("I-AP", _figure_cell("image", "ap")),
    ("I-F1max", _figure_cell("image", "f1max")),
    ("Good rejected", _share_cell(lambda metric: metric.get("false_alarms"))),
    ("Defects found", _share_cell(found_of)),
)
PIXEL: tuple[Column, ...] = (
    ("P-AUROC", _figure_cell("pixel", "auroc")),
    ("P-AP", _figure_cell("pixel", "ap")),
    ("P-F1max", _figure_cell("pixel", "f1max")),
    ("AUPRO@0.3", _figure_cell("pixel", "aupro_0.3")),
    ("AUPRO@0.05", _figure_cell("pixel", "aupro_0.05")),
    ("sPRO@0.05", _figure_cell("pixel", "spro_0.05")),
)
PRODUCT: tuple[Column, ...] = (
    ("Told right, good", _share_cell(lambda metric: metric.get("routed_good"))),
    ("Told right, defective", _share_cell(lambda metric: metric.get("routed_anomalous"))),
    ("Called unknown, good", _share_cell(lambda metric: metric.get("unknown_good"))),
    ("Called unknown, defective", _share_cell(lambda metric: metric.get("unknown_anomalous"))),
)
DEFECT: tuple[Column, ...] = (
    ("Images", _count_cell("anomalous")),
    ("I-AUROC", _figure_cell("auroc")),
    ("Defects found", _share_cell(found_of)),
)


def settings(evaluation: Evaluation) -> str:
    """All that one needs to know to get the same figures again."""
    model, setting, timing = evaluation.model, evaluation.setting, evaluation.timing
    data, backbone = model.get("data", {}), model.get("backbone", {})
    config = ", ".join(f"{k}={v}" for k, v in model.get("config", {}).items())
    unit = registry.get(setting.get("kind", registry.DEFAULT)).takes_in
    rows: list[tuple[str, Any]] = [
        ("Test data", setting["source"]),
        ("Test images", f"{setting['good']:,} good, {setting['anomalous']:,} defective"),
        ("Masks of the defects", _masks(setting.get("masks", {}))),
        ("Categories", f"{setting['categories']} in one model" if setting["categories"] > 1 else "1"),
        ("Learned from", f"{data['learned_from']:,} good images" if data else None),
        ("Labels used in learning", setting["labels_used_in_learning"]),
        ("Digest of their ids", data.get("ids_sha256")),
        ("Method", model.get("method")),
        ("Its options", config or None),
        ("Backbone", backbone.get("identity")),
        ("Network input", f"{setting['network_input']} {unit}".strip()),
        (
            "Trained in",
            ", ".join(dict.fromkeys(p["precision"] for p in model.get("training", []) if "precision" in p)) or None,
        ),
        ("Engine", f"{setting['engine']}, {setting['precision']}"),
        ("Seed", model.get("seed")),
        ("Promise", setting["promise"]),
        ("Threshold", None if setting["threshold"] is None else f"{setting['threshold']:.6g}"),
        ("Time to learn", f"{model['fit_seconds']:,} s" if "fit_seconds" in model else None),
        *((key.replace("_", " ").capitalize(), value) for key, value in timing.items()),
        ("Software", ", ".join(f"{k} {v}" for k, v in model.get("software", {}).items()) or None),
    ]
    code = {"Digest of their ids", "Its options", "Backbone"}
    cells = [
        f"<dt>{escape(k)}</dt><dd>{f'<code>{escape(_plain(v))}</code>' if k in code else escape(_plain(v))}</dd>"
        for k, v in rows
        if v is not None
    ]
    return f"<section><h2>Settings</h2><dl>{''.join(cells)}</dl></section>"


def _masks(counts: Mapping[str, int]) -> str | None:
    """How many defective samples are marked, and what is odd about the others."""
    words = {
        "marked": "marked in a part",
        "whole": "marked as a whole",
        "empty": "with an empty mask",
        "missing": "without a mask",
        "unusable": "with a mask that cannot be used",
    }
    return ", ".join(f"{counts[key]:,} {text}" for key, text in words.items() if counts.get(key)) or None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
