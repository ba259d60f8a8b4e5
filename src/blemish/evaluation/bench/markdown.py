"""What pages are made of: tables, and figures with their spread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from blemish.evaluation.bench.results import FigureRow, Tables


def unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def figure(rows: list[FigureRow], compact: bool = False) -> str:
    """Mean over seeds, half their range, and the first seed's interval."""
    if not rows:
        return ""
    values = [row.value for row in sorted(rows, key=lambda r: r.seed)]
    out = f"{mean(values):.3f}"
    if len(values) > 1:
        out += f" ± {(max(values) - min(values)) / 2:.3f}"
    first = min(rows, key=lambda r: r.seed)
    return out if compact or first.low is None else f"{out} [{first.low:.3f}, {first.high:.3f}]"


def of(tables: Tables, **wanted: Any) -> list[FigureRow]:
    return [row for row in tables.results if all(getattr(row, k) == v for k, v in wanted.items())]
