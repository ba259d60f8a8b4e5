"""The ledger's plots: accuracy against milliseconds, ranks over data sets, defect types. Matplotlib, SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from blemish.evaluation.bench.results import FigureRow, Tables
from blemish.files import write_whole

MAIN = "I-AUROC"
INK, GRID = "#1f2933", "#d9dee4"
LINE, LETTER, FRAME = 0.2, 0.075, 0.9  # inches that a line of text, a letter and what is above and below an axis take


def draw(tables: Tables, folder: Path) -> dict[str, Path]:
    """Every plot that the tables have enough for, as SVG in `folder`; {what it shows: file}."""
    import matplotlib

    kinds = {
        "accuracy": ("Accuracy against time", _accuracy),
        "ranks": ("Ranks over data sets", _ranks),
        "defects": ("Defect types", _defects),
    }
    out = {}
    with matplotlib.rc_context(_style()):
        for name, (title, draw_one) in kinds.items():
            if (picture := draw_one(tables)) is not None:
                out[title] = folder / f"{name}.svg"
                write_whole(out[title], _svg(picture))
    return out


def _style() -> Any:
    return {
        "backend": "svg",
        "svg.hashsalt": "blemish",  # the same tables give the same bytes
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.edgecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
    }


def _svg(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": "blemish"})
    return buffer.getvalue()


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _labels(tables: Tables) -> list[str]:
    return list(dict.fromkeys(c.label for c in tables.cells))


def _mean(rows: Sequence[FigureRow]) -> float | None:
    return mean(r.value for r in rows) if rows else None


def _by_set(tables: Tables, metric: str) -> dict[str, dict[str, float]]:
    """{set: {method: mean over seeds}} of the sets on which every method has the metric."""
    rows = [r for r in tables.results if r.scope == "overall" and r.metric == metric]
    out: dict[str, dict[str, float]] = {}
    for where in dict.fromkeys(r.where for r in rows):
        values = {label: _mean([r for r in rows if (r.where, r.label) == (where, label)]) for label in _labels(tables)}
        if all(v is not None for v in values.values()):
            out[where] = {label: float(v) for label, v in values.items() if v is not None}
    return out


def _accuracy(tables: Tables) -> Any:
    """One panel for image, one for pixel accuracy: mean over sets against the median time of an image."""
    panels = {name: table for name in (MAIN, "AUPRO@0.3") if (table := _by_set(tables, name))}
    if not panels:
        return None
    labels = _labels(tables)
    height = max(3.6, FRAME + LINE * len(labels))
    figure, axes = _figure((3.6 + LETTER * max(map(len, labels))) * len(panels), height, len(panels))
    for axis, (metric, table) in zip(axes, panels.items(), strict=True):
        dots = []
        for i, label in enumerate(labels):
            ms = median(c.cpu_ms for c in tables.cells if c.label == label and c.where in table)
            dots.append((mean(values[label] for values in table.values()), ms, label))
            axis.plot(ms, dots[-1][0], "o", color=f"C{i}", markersize=8, clip_on=False)
        axis.set_xlabel("processor ms an image, file to result")
        axis.set_ylabel(f"{metric}, mean of {len(table)} sets" if len(table) > 1 else metric)
        axis.set_xlim(left=0)
        axis.margins(y=0.1)
        _beside(axis, dots, LINE / (height - FRAME))
    return figure


def _beside(axis: Any, dots: Sequence[tuple[float, float, str]], line: float) -> None:
    """Names of dots (y, x, name) in a column right of the axis, in order and a line apart, each tied to its dot."""
    from scipy.optimize import isotonic_regression

    low, high = axis.get_ylim()
    ordered = sorted(dots)
    offsets = [line * k for k in range(len(ordered))]
    wanted = [(y - low) / (high - low) - a for (y, _, _), a in zip(ordered, offsets, strict=True)]
    # in order, never less than a line
    nearest = isotonic_regression(wanted).x.clip(0, max(1 - offsets[-1], 0)) + offsets
    for (y, x, name), place in zip(ordered, nearest, strict=True):
        axis.annotate(
            name,
            (x, y),
            xytext=(1.06, place),
            textcoords="axes fraction",
            color=INK,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": GRID, "linewidth": 0.8, "relpos": (0, 0.5), "zorder": 0},
        )


def _ranks(tables: Tables) -> Any:
    """Critical-difference diagram (Demsar 2006): mean ranks over sets; a bar joins what Nemenyi's test cannot tell."""
    counted = {c.where for c in tables.cells if c.ranked}
    table = {where: values for where, values in _by_set(tables, MAIN).items() if where in counted}
    labels = _labels(tables)
    if len(labels) < 2 or len(table) < 2:
        return None
    import pandas
    import scikit_posthocs

    frame = pandas.DataFrame.from_dict(table, orient="index", columns=labels)
    ranks = frame.rank(axis=1, ascending=False).mean()
    p_values = scikit_posthocs.posthoc_nemenyi_friedman(frame.to_numpy())
    p_values.index = p_values.columns = labels
    figure, (axis,) = _figure(6.4, 1.2 + 0.28 * len(labels))
    axis.grid(False)
    scikit_posthocs.critical_difference_diagram(
        ranks, p_values, ax=axis, label_fmt_left="{label} ({rank:.2f})  ", label_fmt_right="  {label} ({rank:.2f})"
    )
    axis.set_title(f"mean rank in {MAIN} over {len(table)} sets (1 = best)", fontsize=10)
    return figure


def _defects(tables: Tables) -> Any:
    """I-AUROC of each method for each defect type, one panel per set that has several types."""
    rows = [r for r in tables.results if r.scope == "defect"]
    parts: dict[str, list[str]] = {}
    for row in rows:
        parts.setdefault(row.where, [])
        if row.part not in parts[row.where]:
            parts[row.where].append(row.part)
    parts = {where: names for where, names in parts.items() if len(names) > 1}
    if not parts:
        return None
    labels = _labels(tables)
    widest = LETTER * max(map(len, labels))
    figure, axes = _figure(4.2 * len(parts) + widest, 1.3 + LINE * len(labels), len(parts))
    for axis, (where, names) in zip(axes, parts.items(), strict=True):
        for i, name in enumerate(names):
            found = [_mean([r for r in rows if (r.where, r.part, r.label) == (where, name, x)]) for x in labels]
            known = [(value, k) for k, value in enumerate(found) if value is not None]
            axis.plot(*zip(*known, strict=True), "o", color=f"C{i}", markersize=6, alpha=0.85, label=name)
        axis.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")  # chance
        axis.set_yticks(range(len(labels)), labels if axis is axes[0] else [""] * len(labels))
        axis.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
        axis.set_xlabel(MAIN)
        axis.set_title(where, fontsize=10)
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9, handletextpad=0.2)
    return figure
