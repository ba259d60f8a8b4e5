"""Small inline SVG plots of scores: no script, no font, no library. Colours are classes of the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blemish.evaluation.metrics.ranking import roc_curve
from blemish.types import ALARM

W, H = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 22, 22, 44
BINS = 48

Floats = NDArray[np.float64]


def histogram(good: Sequence[float], anomalous: Sequence[float], threshold: float | None) -> str:
    """Scores of both classes, each as shares of its own images, with the threshold.

    Where a tail stretches the axis beyond reason, the last bin holds all that is higher, and says so.
    """
    every = np.array([*good, *anomalous, *([] if threshold is None else [threshold])], np.float64)
    scored = every[every < ALARM] if every.min() < ALARM else np.zeros(1)
    low, high = float(scored.min()), float(scored.max())
    usual = float(np.quantile(scored, 0.97))
    cut = high - low > 3 * (usual - low) > 0 or len(scored) < len(every)
    high = max(low + 1.5 * (usual - low), threshold or low) if cut else high
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    shares = [np.histogram(np.clip(values, low, high), edges)[0] / max(1, len(values)) for values in (good, anomalous)]
    top = max(float(s.max()) for s in shares) or 1.0
    parts = [_axes("anomaly score", "share of images")]
    parts += [_tick_x(x, (x - low) / (high - low), ("≥ " if cut and x == high else "")) for x in _ticks(low, high)]
    parts += [_tick_y(y, y / top) for y in _ticks(0, top)]
    for name, share in zip(("good", "bad"), shares, strict=True):
        parts.append(f'<path class="area {name}" d="{_steps(edges, share, low, high, top)}"/>')
    if threshold is not None:
        x = _x((threshold - low) / (high - low))
        anchor, dx = ("end", -6) if x > W / 2 else ("start", 6)
        parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{H - BOTTOM}"/>')
        parts.append(_label(x + dx, TOP - 2, f"threshold {threshold:.4g}", anchor))
    if cut:
        parts.append(f'<text class="tick" x="{W - RIGHT}" y="{TOP + 14}" text-anchor="end">last bar: and above</text>')
    what = f"Histogram of the anomaly scores of {len(good)} good and {len(anomalous)} defective images"
    return _svg(what + ("" if threshold is None else f", threshold at {threshold:.4g}"), parts)


def roc(
    labels: Sequence[int],
    scores: Sequence[float],
    point: tuple[float, float] | None,
    promised: tuple[float, str] | None,
) -> str:
    """The ROC curve.

    `point` = (share of good rejected, share of defects found) at the threshold; `promised` = a rate and its words.
    """
    curve = roc_curve(labels, scores)
    xs, ys = _corners(curve.fpr, curve.tpr)
    line = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in zip(xs, ys, strict=True))
    floor = f"{_x(1):.1f},{_y(0):.1f}"
    parts = [_axes("share of good parts rejected", "share of defects found")]
    parts += [_tick_x(100 * v, v, after="%") + _tick_y(v, v) for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts.append(f'<line class="chance" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>')
    parts.append(f'<polygon class="under" points="{line} {floor}"/><polyline class="curve" points="{line}"/>')
    if promised is not None:
        x = _x(promised[0])
        parts.append(f'<line class="promise" x1="{x:.1f}" x2="{x:.1f}" y1="{_y(1)}" y2="{_y(0)}"/>')
        parts.append(_label(x + 6, _y(0) - 8, promised[1]))
    if point is not None:
        x, y = _x(point[0]), _y(point[1])
        parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>')
        side, dx = ("end", -10) if point[0] > 0.7 else ("start", 10)
        text = f"at the threshold: {point[1]:.0%} found"
        parts.append(_label(x + dx, min(y + 18, _y(0) - 24), text, side))
    return _svg("ROC curve: share of defects found over share of good parts rejected", parts)


def rates(table: Sequence[Sequence[float]], xs: Sequence[str], ys: Sequence[str], x_name: str, y_name: str) -> str:
    """Shares as a grid of cells, the more the darker, each with its percentage; rows from below, as `ys` names them."""
    wide, high = (W - LEFT - RIGHT) / len(xs), (H - TOP - BOTTOM) / len(ys)
    parts = [_axes(x_name, y_name)]
    for j, (row, name) in enumerate(zip(table, ys, strict=True)):
        top = H - BOTTOM - (j + 1) * high
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{top + high / 2 + 4:.1f}" text-anchor="end">{name}</text>')
        for i, rate in enumerate(row):
            x = LEFT + i * wide
            parts.append(
                f'<rect class="cell" x="{x + 1:.1f}" y="{top + 1:.1f}" width="{wide - 2:.1f}" height="{high - 2:.1f}" '
                f'rx="3" fill-opacity="{0.06 + 0.94 * rate:.3f}"/>'
                f'<text class="{"on" if rate > 0.5 else "label"}" x="{x + wide / 2:.1f}" y="{top + high / 2 + 4:.1f}" '
                f'text-anchor="middle">{rate:.0%}</text>'
            )
    for i, name in enumerate(xs):
        x = LEFT + (i + 0.5) * wide
        parts.append(f'<text class="tick" x="{x:.1f}" y="{H - BOTTOM + 16}" text-anchor="middle">{name}</text>')
    return _svg(f"Share of probes found, by {x_name} and {y_name}", parts)


def _svg(what: str, parts: Sequence[str]) -> str:
    return f'<svg class="plot" viewBox="0 0 {W} {H}" role="img" aria-label="{what}">{"".join(parts)}</svg>'


def _x(share: float) -> float:
    return LEFT + share * (W - LEFT - RIGHT)


def _y(share: float) -> float:
    return H - BOTTOM - share * (H - BOTTOM - TOP)


def _axes(x: str, y: str) -> str:
    middle = (TOP + H - BOTTOM) / 2
    return (
        f'<text class="axis" x="{(LEFT + W - RIGHT) / 2}" y="{H - 8}" text-anchor="middle">{x}</text>'
        f'<text class="axis" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{y}</text>'
        f'<line class="base" x1="{LEFT}" x2="{W - RIGHT}" y1="{H - BOTTOM}" y2="{H - BOTTOM}"/>'
    )


def _label(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _tick_x(value: float, share: float, before: str = "", after: str = "") -> str:
    x, y = _x(share), H - BOTTOM + 16
    return f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{before}{value:.4g}{after}</text>'


def _tick_y(value: float, share: float) -> str:
    y = _y(share)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{W - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.3g}%</text>'
    )


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values inside [low, high], at most `most`."""
    raw = (high - low) / most
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(float(m * power) for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    return [round(k * step, 12) for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _steps(edges: Floats, shares: Floats, low: float, high: float, top: float) -> str:
    xs = [_x((e - low) / (high - low)) for e in edges]
    ys = [_y(s / top) for s in shares]
    path = f"M{xs[0]:.1f} {_y(0):.1f}"
    for left, right, y in zip(xs[:-1], xs[1:], ys, strict=True):
        path += f"L{left:.1f} {y:.1f}L{right:.1f} {y:.1f}"
    return f"{path}L{xs[-1]:.1f} {_y(0):.1f}Z"


def _corners(xs: Floats, ys: Floats) -> tuple[Floats, Floats]:
    """The same curve without the points that lie on a straight line between their neighbours."""
    bends = np.diff(xs)[1:] * np.diff(ys)[:-1] != np.diff(xs)[:-1] * np.diff(ys)[1:]
    kept = np.concatenate([[True], bends, [True]])
    return xs[kept], ys[kept]
