"""What the ledger says, as tables of plain values: for pages, for the API, for exports."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select

from blemish.station.ids import now_ms
from blemish.station.ledger.record import HOUR
from blemish.station.ledger.schema import (
    alarms,
    deployments,
    hourly,
    inspections,
    lots,
    models,
    products,
    sources,
)
from blemish.station.place import Place

WORDS = {"good": "OK", "anomalous": "NG", "unknown": "UNKNOWN", "error": "ERROR"}  # on screens
VERDICTS = tuple(WORDS)
_PLAIN = tuple(
    (
        "seq id name part_id state verdict score p_value threshold width height bytes sha256 brightness contrast focus "
        "colour ms_wait ms_infer ms_total drawn draw_prob repeats hold error"
    ).split()
)
COLUMNS = ("seq", "id", "at", "judged_at", "source", "product", "lot", "line", "deployment", "model", *_PLAIN[2:])
"""Of the table of inspections; its JSON has what `blemish inspect` says too."""


def iso(ms: int | None) -> str | None:
    """A time of the ledger as text, UTC."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(at: datetime) -> int:
    """A time as the ledger keeps it; one without a zone is UTC."""
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def all_inspections() -> Select[Any]:
    """Rows of inspections with the names of what they belong to."""
    return (
        select(
            inspections,
            sources.c.name.label("source"),
            products.c.name.label("product"),
            lots.c.name.label("lot"),
            models.c.digest.label("model"),
        )
        .join(sources, sources.c.id == inspections.c.source_id)
        .outerjoin(products, products.c.id == inspections.c.product_id)
        .outerjoin(lots, lots.c.id == inspections.c.lot_id)
        .outerjoin(deployments, deployments.c.id == inspections.c.deployment_id)
        .outerjoin(models, models.c.id == deployments.c.model_id)
    )


def inspection(row: RowMapping) -> dict[str, Any]:
    """A row of it as JSON: the line of `blemish inspect`, and what the station knows."""
    return {
        **json.loads(row["result"]),
        **{name: row[name] for name in _PLAIN},
        "at": iso(row["at"]),
        "judged_at": iso(row["judged_at"]),
        "source": row["source"],
        "product": row["product"],
        "lot": row["lot"],
        "line": "OK" if row["verdict"] == "good" else "NG",  # what is not known to be good is rejected
        "deployment": row["deployment_id"],
        "model": row["model"] and f"sha256:{row['model']}",
        "purged_at": iso(row["purged_at"]),
    }


def alarm(row: RowMapping) -> dict[str, Any]:
    """A row of alarms as JSON."""
    times = {name: iso(row[name]) for name in ("raised_at", "about_at", "acked_at", "cleared_at")}
    return {**dict(row), **times}


def all_alarms() -> Select[Any]:
    """Alarms with the names of their sources, the newest first."""
    own = [column for column in alarms.c if column.name != "source_id"]
    joined = select(*own, sources.c.name.label("source")).outerjoin(sources, sources.c.id == alarms.c.source_id)
    return joined.order_by(alarms.c.id.desc())


def counters(connection: Connection, place: Place, waiting: int) -> dict[str, Any]:
    """What was judged since the hour a day ago, and what waits."""
    since = now_ms() // HOUR - 23
    sums = [func.coalesce(func.sum(hourly.c[name]), 0).label(name) for name in VERDICTS]
    row = connection.execute(select(*sums).where(hourly.c.hour >= since)).one()._asdict()
    counts = {name: int(row[name]) for name in VERDICTS}
    total = sum(counts.values())
    bad = counts["anomalous"] / total if total else None
    return {"since": iso(since * HOUR), **counts, "total": total, "anomalous_share": bad, "waiting": waiting}


def trend(connection: Connection, *, source: str | None, start: int | None, end: int | None) -> list[dict[str, Any]]:
    """Counts, times and the state of pictures, by hour, source, and deployment."""
    asked = (
        select(hourly, sources.c.name.label("source"), products.c.name.label("product"))
        .join(sources, sources.c.id == hourly.c.source_id)
        .outerjoin(products, products.c.id == hourly.c.product_id)
        .order_by(hourly.c.hour, hourly.c.source_id, hourly.c.deployment_id)
    )
    if source is not None:
        asked = asked.where(sources.c.name == source)
    if start is not None:
        asked = asked.where(hourly.c.hour >= start // HOUR)
    if end is not None:
        asked = asked.where(hourly.c.hour <= end // HOUR)
    out = []
    for row in connection.execute(asked).mappings():
        total = sum(row[name] for name in VERDICTS)
        known = total - row["error"] or 1
        out.append(
            {
                "hour": iso(row["hour"] * HOUR),
                "source": row["source"],
                "product": row["product"],
                "deployment": row["deployment_id"] or None,
                **{name: row[name] for name in VERDICTS},
                "total": total,
                "ms_mean": row["ms_sum"] / known,
                "ms_max": row["ms_max"],
                "brightness": row["brightness_sum"] / known,
                "focus": row["focus_sum"] / known,
                "scores": json.loads(row["scores"]),
            }
        )
    return out


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table for a spreadsheet: text that one would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return json.dumps(value) if isinstance(value, (list, dict)) else value
