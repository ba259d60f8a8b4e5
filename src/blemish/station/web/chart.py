"""Lines over hours, drawn by the server: no script, and the same figures as in the table below them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from blemish.station.ledger.record import BINS
from blemish.station.reading import VERDICTS

WIDTH, HEIGHT, LEFT, BELOW = 900, 180, 64, 24
SHARES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


def by_hour(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the trend, deployments put together: shares in percent, scores as multiples of the threshold."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["source"], row["hour"]].append(row)
    out = []
    for (source, hour), group in sorted(groups.items()):
        counts = {name: sum(row[name] for row in group) for name in VERDICTS}
        total = sum(counts.values())
        known = total - counts["error"]
        scores = [sum(row["scores"][k] if row["scores"] else 0 for row in group) for k in range(BINS)]
        means = {
            name: sum(row[name] * (row["total"] - row["error"]) for row in group) / known if known else None
            for name in ("brightness", "focus")
        }
        ng = 100 * counts["anomalous"] / total if total else None
        shares = {name: _quantile(scores, share) for name, share in SHARES.items()}
        out.append({"hour": hour, "source": source, **counts, "total": total, "ng": ng, **shares, **means})
    return out


def _quantile(counts: Sequence[int], share: float) -> float | None:
    """The upper edge of the bin that it falls into, as `bin_of` has them."""
    wanted, seen = share * sum(counts), 0
    if not wanted:
        return None
    for k, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return float(2 ** (8 * (k + 1) / BINS - 4))
    return None


def chart(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    label: str,
    limit: float | None = None,
    *,
    zero: bool = True,
) -> Markup:
    """An SVG of columns of `by_hour` for one source; `limit` is a line across, `zero` is where the axis begins, hours
    without parts are left out."""
    hours = sorted({row["hour"] for row in rows})
    values: list[float] = [row[name] for row in rows for name in names if row[name] is not None]
    if not values:
        return Markup("<p>–</p>")
    top, low = max([*values, *([limit] if limit is not None else [])]), min(values)
    low = min(0.0, low) if zero else low - 0.1 * (top - low)
    span = (top - low) or 1.0
    place = {hour: LEFT + (WIDTH - LEFT) * (k + 0.5) / len(hours) for k, hour in enumerate(hours)}

    def y(value: float) -> float:
        return 8.0 + (HEIGHT - BELOW - 8) * (1 - (value - low) / span)

    parts = ['<div class="table" tabindex="0">']  # on a narrow screen it is moved sideways
    parts.append(f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">')
    for value in (low, low + span / 2, top):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 5:.1f}" text-anchor="end">{value:.3g}</text>')
    if limit is not None:
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>')
    for number, name in enumerate(names):
        line = [(place[row["hour"]], y(row[name])) for row in rows if row[name] is not None]
        points = " ".join(f"{x:.1f},{v:.1f}" for x, v in line)
        parts.append(f'<polyline class="line{number}" points="{points}"/>')
        parts += [f'<circle class="line{number}" cx="{x:.1f}" cy="{v:.1f}" r="2.5"/>' for x, v in line]
    for hour in dict.fromkeys((hours[0], hours[len(hours) // 2], hours[-1])):
        anchor = "start" if hour == hours[0] and len(hours) > 1 else "end" if hour == hours[-1] else "middle"
        text = f"{hour[5:10]} {hour[11:16]}"
        parts.append(f'<text x="{place[hour]:.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}">{text}</text>')
    return Markup("".join([*parts, "</svg></div>"]))
