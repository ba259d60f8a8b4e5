"""Changes: made with their effect, signed by password, or dropped. Nothing else puts a model live."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import Connection, select

from blemish.station import auth, changes
from blemish.station.auth import Identity
from blemish.station.ids import now_ms
from blemish.station.ledger.schema import changes as table
from blemish.station.ledger.schema import models, sources
from blemish.station.reading import iso, milliseconds
from blemish.station.recalibrate import recalibrate as recalibrate_parts
from blemish.station.wake import ring
from blemish.station.web.approving import Reason, source_id_of
from blemish.station.web.changing import Body, RowId, row_of
from blemish.station.web.people import Password
from blemish.station.web.state import Here, Name, Text, Web, as_table, needs
from blemish.station.worker import bell_of

router = APIRouter(tags=["changes"])

Read = Annotated[Identity, Depends(needs("read"))]
Engineer = Annotated[Identity, Depends(needs("deploy"))]
COLUMNS = "id kind source model_id model state made_by made_at decided_by decided_at reason before_id after_id".split()
COUNTED = ["to_ok", "to_ng", "looked_at", "of"]


class ChangeBody(Body):
    """A model that is to judge a source's pictures."""

    source: Name
    model: Annotated[int, Field(ge=1, le=2**53)]
    reason: Text = ""


class RecalibrationBody(Body):
    """Drawn parts of a source that are to make its threshold anew."""

    source: Name
    start: Annotated[datetime, Field(alias="from")]
    end: Annotated[datetime | None, Field(alias="to")] = None
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95


class Approval(Body):
    """A signature. Known defects that would be lost are accepted in so many words."""

    reason: Reason
    password: Password | None = None
    lost_defects_accepted: bool = False


class Dropping(Body):
    """Why nothing comes of it."""

    reason: Reason


def listed(connection: Connection, change: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """Changes as JSON, the newest first; of one, whether its effect still holds too."""
    rows = (
        select(table, sources.c.name.label("source"), models.c.name.label("model"), models.c.digest)
        .join(sources, sources.c.id == table.c.source_id)
        .join(models, models.c.id == table.c.model_id)
        .order_by(table.c.id.desc())
        .limit(limit)
    )
    if change is not None:
        rows = rows.where(table.c.id == change)
    out = []
    for row in connection.execute(rows).mappings():
        times = {name: iso(row[name]) for name in ("made_at", "decided_at")}
        own = {name: row[name] for name in COLUMNS}
        out.append({**own, **times, "digest": row["digest"], "effect": json.loads(row["effect"])})
    return out


def one(web: Web, change: int) -> dict[str, Any]:
    """A change as JSON, and whether it is measured against what is live and known now. 404."""
    with web.ledger.read() as connection:
        row = row_of(connection, table, change)
        return {**listed(connection, change)[0], "current": changes.is_current(connection, row)}


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A change as a row of a table."""
    parts, defects = row["effect"].get("parts", {}), row["effect"].get("defects", {})
    return {**row, **{name: parts.get(name) for name in COUNTED}, "defects_lost": defects.get("lost")}


def make(web: Web, who: Identity, body: ChangeBody) -> int:
    """Measure a candidate, and make a change of it: its number."""
    with web.ledger.read() as connection:
        source_id = source_id_of(connection, body.source)
    found = changes.effect_apart(web.place, web.ledger, source_id, body.model)
    with web.ledger.write() as connection:
        return changes.add(connection, who.actor, source_id, body.model, found, note=body.reason)


def measure(web: Web, who: Identity, change: int) -> None:
    """Measure an open change anew."""
    with web.ledger.read() as connection:
        row = row_of(connection, table, change)
    if row.state != "open":
        raise changes.Refuses(f"change {change} is {row.state} already")
    found = changes.effect_apart(web.place, web.ledger, row.source_id, row.model_id)
    with web.ledger.write() as connection:
        changes.measured(connection, who.actor, change, found)


def approve(web: Web, who: Identity, change: int, body: Approval) -> None:
    """Sign a change; its model is live from the next picture on."""
    auth.sign(web.ledger, who, body.password)
    with web.ledger.write() as connection:
        row_of(connection, table, change)
        changes.approve(connection, who.actor, change, body.reason, lost_accepted=body.lost_defects_accepted)
    ring(bell_of(web.place))


def drop(web: Web, who: Identity, change: int, body: Dropping) -> None:
    """Nothing comes of it."""
    with web.ledger.write() as connection:
        row_of(connection, table, change)
        changes.drop(connection, who.actor, change, body.reason)


@router.get("/changes")
def list_changes(web: Here, _: Read, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Any:
    """The newest first, each with its effect."""
    with web.ledger.read() as connection:
        return JSONResponse({"changes": listed(connection, limit=limit)})


@router.get("/changes.csv")
def changes_csv(web: Here, _: Read, limit: Annotated[int, Query(ge=1, le=1000)] = 1000) -> Response:
    """The same as a table."""
    with web.ledger.read() as connection:
        rows = [flat(row) for row in listed(connection, limit=limit)]
    return as_table("changes", rows, [*COLUMNS, *COUNTED, "defects_lost"])


@router.get("/changes/{id}")
def get_change(web: Here, id: RowId, _: Read) -> Any:
    """One of them; `current` is false where another model is live, or other defects are known, since then."""
    return JSONResponse(one(web, id))


@router.post("/changes", status_code=201)
def add_change(web: Here, body: ChangeBody, who: Engineer) -> Any:
    """Measure what a model would have said of the last 5,000 parts of a source, and of its known defects."""
    return JSONResponse(one(web, make(web, who, body)), 201)


@router.post("/recalibrations", status_code=201)
def recalibrate(web: Here, body: RecalibrationBody, who: Engineer) -> Any:
    """A new threshold from drawn parts: an open change. 422 says how many more have to be drawn or judged."""
    with web.ledger.read() as connection:
        source_id = source_id_of(connection, body.source)
    end = now_ms() if body.end is None else milliseconds(body.end)
    made = recalibrate_parts(
        web.place,
        web.ledger,
        who.actor,
        source_id,
        milliseconds(body.start),
        end,
        rate=body.false_alarm_rate,
        confidence=body.confidence,
    )
    return JSONResponse(one(web, made), 201)


@router.post("/changes/{id}/measure")
def measure_again(web: Here, id: RowId, who: Engineer) -> Any:
    """Measure an open change anew."""
    measure(web, who, id)
    return JSONResponse(one(web, id))


@router.post("/changes/{id}/approve")
def approve_change(web: Here, id: RowId, body: Approval, who: Engineer) -> Any:
    """Put it live. 409 where its effect has to be measured anew, golden pictures differ on this computer, known defects
    would be lost and that is not accepted, or who has made it approves it and the station asks for another."""
    approve(web, who, id, body)
    return JSONResponse(one(web, id))


@router.post("/changes/{id}/drop")
def drop_change(web: Here, id: RowId, body: Dropping, who: Engineer) -> Any:
    """Nothing comes of it."""
    drop(web, who, id, body)
    return JSONResponse(one(web, id))
