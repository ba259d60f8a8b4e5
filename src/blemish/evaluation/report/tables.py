"""The tables of a report: which figure stands in which column, with its interval, and the settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, TypeVar

from blemish.data import registry
from blemish.evaluation import summary
from blemish.evaluation.summary import DefectSummary, Evaluation, Masks, Metric, Rate, Summary

T = TypeVar("T", Summary, DefectSummary)


def table(rows: Sequence[tuple[str, T]], columns: Iterable[tuple[str, Callable[[T], str]]], caption: str = "") -> str:
    """An HTML table: a line for each named summary, a dash where it lacks a figure; no column without any."""
    columns = [(name, cell) for name, cell in columns if any(cell(each) for _, each in rows)]
    head = "".join(f'<th scope="col">{name}</th>' for name, _ in columns)
    body = []
    for name, each in rows:
        cells = "".join(f'<td data-name="{column}">{cell(each) or "–"}</td>' for column, cell in columns)
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    title = f"<caption>{caption}</caption>" if caption else ""
    return f'<table>{title}<thead><tr><th scope="col"></th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def percent(share: float) -> str:
    """One decimal."""
    return f"{100 * share:.1f}%"


def share(rate: Rate) -> str:
    """A proportion with its interval, as part of a sentence."""
    return f"{percent(rate.value)} (interval {percent(rate.low)} to {percent(rate.high)})"


def interval(metric: Metric) -> str:
    """`low to high` of a metric that has an interval."""
    return f"{metric.low:.3f} to {metric.high:.3f}"


def _figure(get: Callable[[T], Metric | None]) -> Callable[[T], str]:
    """A metric with its interval where it has one."""

    def cell(of: T) -> str:
        metric = get(of)
        if metric is None:
            return ""
        bounds = f"<small>{interval(metric)}</small>" if metric.low is not None else ""
        return f"<span>{metric.value:.3f}{bounds}</span>"

    return cell


def _share(get: Callable[[T], Rate | None]) -> Callable[[T], str]:
    def cell(of: T) -> str:
        rate = get(of)
        if rate is None:
            return ""
        return f"<span>{percent(rate.value)}<small>{percent(rate.low)} to {percent(rate.high)}</small></span>"

    return cell


OfSummary = tuple[str, Callable[[Summary], str]]
IMAGE: tuple[OfSummary, ...] = (
    ("Good", lambda each: f"{each.good:,}"),
    ("Defective", lambda each: f"{each.anomalous:,}"),
    *((name, _figure(get)) for name, get in summary.IMAGE.items()),
    ("Good rejected", _share(lambda each: each.false_alarms)),
    ("Defects found", _share(lambda each: each.found)),
)
PIXEL: tuple[OfSummary, ...] = tuple((name, _figure(get)) for name, get in summary.PIXEL.items())
PRODUCT: tuple[OfSummary, ...] = (
    ("Told right, good", _share(lambda each: each.routed_good)),
    ("Told right, defective", _share(lambda each: each.routed_anomalous)),
    ("Called unknown, good", _share(lambda each: each.unknown_good)),
    ("Called unknown, defective", _share(lambda each: each.unknown_anomalous)),
)
DEFECT: tuple[tuple[str, Callable[[DefectSummary], str]], ...] = (
    ("Images", lambda each: f"{each.anomalous:,}"),
    ("I-AUROC", _figure(lambda each: each.auroc)),
    ("Defects found", _share(lambda each: each.found)),
)


def candidates(evaluation: Evaluation) -> str:
    """What method auto has tried; empty where the method was named."""
    tried = evaluation.model.get("chosen", ())
    if not tried:
        return ""

    def figure(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    rows = "".join(
        f"<tr><th>{escape(each['method'])}</th><td>{escape(each['image_size'])}{', located' if each['located'] else ''}"
        f"</td><td>{figure(each['auroc'], '.3f')}</td><td>{figure(each['found'], '.0%')}</td>"
        f"<td>{figure(each['milliseconds'], '.0f')}</td><td>{escape(each['out'] or 'chosen')}</td></tr>"
        for each in tried
    )
    return (
        "<section><h2>How the method was chosen</h2><p>Each candidate learned from some of the good images and judged "
        "others, as they are and with synthetic defects drawn on them. No defective part was seen.</p>"
        "<table><thead><tr><th>Method</th><th>Size</th><th>AUROC</th><th>Found at the promised rate</th><th>ms</th>"
        f"<th></th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def settings(evaluation: Evaluation) -> str:
    """Everything needed to reproduce the figures."""
    rows = {**_of_data(evaluation), **_of_model(evaluation), **_of_line(evaluation)}
    code = {"Digest of their ids", "Its options", "Backbone"}
    cells = [
        f"<dt>{escape(k)}</dt><dd>{f'<code>{escape(_plain(v))}</code>' if k in code else escape(_plain(v))}</dd>"
        for k, v in rows.items()
        if v is not None
    ]
    return f"<section><h2>Settings</h2><dl>{''.join(cells)}</dl></section>"


def _of_data(evaluation: Evaluation) -> dict[str, Any]:
    setting, data = evaluation.setting, evaluation.model.get("data", {})
    return {
        "Test data": setting.source,
        "Test images": f"{setting.good:,} good, {setting.anomalous:,} defective",
        "Masks of the defects": _masks(setting.masks or Masks()),
        "Categories": f"{setting.categories} in one model" if setting.categories > 1 else "1",
        "Learned from": f"{data['learned_from']:,} good images" if data else None,
        "Labels used in learning": setting.labels_used_in_learning,
        "Digest of their ids": data.get("ids_sha256"),
    }


def _of_model(evaluation: Evaluation) -> dict[str, Any]:
    model, setting = evaluation.model, evaluation.setting
    formats = dict.fromkeys(p["precision"] for p in model.get("training", []) if "precision" in p)
    unit = registry.get(setting.kind).takes_in
    return {
        "Method": model.get("method"),
        "Its options": ", ".join(f"{k}={v}" for k, v in model.get("config", {}).items()) or None,
        "Backbone": model.get("backbone", {}).get("identity"),
        "Licence of its weights": model.get("backbone", {}).get("licence") or None,
        "Network input": f"{setting.network_input} {unit}".strip(),
        "Trained in": ", ".join(formats) or None,
        "Size of a source pixel": model.get("preprocess", {}).get("scale"),
        "Acceptance rules": "; ".join(model.get("rules", [])) or None,
    }


def _of_line(evaluation: Evaluation) -> dict[str, Any]:
    model, setting = evaluation.model, evaluation.setting
    return {
        "Engine": f"{setting.engine}, {setting.precision}",
        "Seed": model.get("seed"),
        "Promise": setting.promise,
        "Regions": model.get("region_promise", {}).get(setting.precision),
        "Threshold": None if setting.threshold is None else f"{setting.threshold:.6g}",
        "Map threshold": None if setting.map_threshold is None else f"{setting.map_threshold:.6g}",
        "Time to learn": f"{model['fit_seconds']:,} s" if "fit_seconds" in model else None,
        **{key.replace("_", " ").capitalize(): value for key, value in evaluation.timing.to_json().items()},
        "Software": ", ".join(f"{k} {v}" for k, v in model.get("software", {}).items()) or None,
    }


def _masks(counts: Masks) -> str | None:
    """How many defective samples have a mask, and what is wrong with the masks of the others."""
    words = {
        "marked in a part": counts.marked,
        "marked as a whole": counts.whole,
        "with an empty mask": counts.empty,
        "without a mask": counts.missing,
        "with a mask that cannot be used": counts.unusable,
    }
    return ", ".join(f"{count:,} {text}" for text, count in words.items() if count) or None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
