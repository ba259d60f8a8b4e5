"""What happens now: a stream of events, and the same by asking again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import select

from blemish.station.auth import Identity
from blemish.station.ids import now_ms
from blemish.station.ledger.schema import alarms, deployments, inspections, models, sources
from blemish.station.reading import alarm, all_alarms, all_inspections, counters, inspection, iso
from blemish.station.sources.http import SILENT_MS, beat
from blemish.station.web.problems import Problem
from blemish.station.web.state import COOKIE, STREAMS, Here, Number, Web, identify, needs

router = APIRouter(tags=["live"])

PAUSE = 0.5  # seconds between two looks of a stream: with NEW in each, ten inspections a second
NEW = 5
MISSED = 100  # of the inspections since a stream broke off, the newest
CHECK = 15.0  # seconds between two looks whether a stream's session or token still holds


def now(web: Web, after_seq: int, limit: int) -> dict[str, Any]:
    """The newest inspections after a number, oldest first; counters, open alarms, what is live, and the heartbeat."""
    with web.ledger.read() as connection:
        newest = all_inspections().where(inspections.c.seq > after_seq).order_by(inspections.c.seq.desc()).limit(limit)
        rows = [inspection(row) for row in connection.execute(newest).mappings()][::-1]
        silent, says = beat(connection)
        live = (
            select(deployments.c.id, deployments.c.since, sources.c.name.label("source"), models.c.name.label("model"))
            .add_columns(models.c.digest, models.c.promise)
            .join(sources, sources.c.id == deployments.c.source_id)
            .join(models, models.c.id == deployments.c.model_id)
            .where(deployments.c.until.is_(None))
            .order_by(deployments.c.id)
        )
        return {
            "seq": rows[-1]["seq"] if rows else after_seq,
            "inspections": rows,
            "counters": counters(connection, web.place, web.spool.count()),
            "alarms": [
                alarm(row) for row in connection.execute(all_alarms().where(alarms.c.cleared_at.is_(None))).mappings()
            ],
            "deployments": [{**row, "since": iso(row["since"])} for row in connection.execute(live).mappings()],
            "heartbeat": {
                "at": iso(now_ms()),
                "worker_silent_ms": silent,
                "lives": silent is not None and silent <= SILENT_MS,
                "disk": says.get("level", 0),
            },
        }


@router.get("/live")
def live(
    web: Here,
    _: Annotated[Identity, Depends(needs("read"))],
    after_seq: Number = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 12,
) -> Any:
    """What is new since a number of the ledger; of many inspections the newest."""
    return JSONResponse(now(web, after_seq, limit))


def room(web: Here) -> None:
    """429 where too many streams are open."""
    if web.streams >= STREAMS:
        raise Problem(429, "too many streams are open", headers={"Retry-After": "5"})


@router.get("/stream", dependencies=[Depends(room)], response_class=EventSourceResponse)
async def stream(
    request: Request,
    web: Here,
    _: Annotated[Identity, Depends(needs("read"))],
    last_event_id: Annotated[str | None, Header()] = None,
    after_seq: Number | None = None,
) -> AsyncIterator[ServerSentEvent]:
    """Events: inspection (its id is its number in the ledger; where they come faster than ten a second, the newest),
    counters and heartbeat each second, alarm (all open ones) and deployment where they have changed. Last-Event-ID
    resumes."""
    resumed = last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 17
    seq = int(last_event_id or 0) if resumed else after_seq if after_seq is not None else max(0, web.hub.seq - 12)
    web.streams += 1
    try:
        limit, second, checked = MISSED, 0.0, time.monotonic()
        before: dict[str, Any] = {}
        while not web.stopping():
            told = await run_in_threadpool(now, web, seq, limit)
            limit, seq = NEW, told["seq"]
            for row in told["inspections"]:
                yield ServerSentEvent(data=row, event="inspection", id=str(row["seq"]))
            for name in ("alarms", "deployments"):
                if told[name] != before.get(name):
                    yield ServerSentEvent(data=told[name], event=name[:-1])
            before = told
            if time.monotonic() - second >= 1:
                second = time.monotonic()
                yield ServerSentEvent(data=told["counters"], event="counters")
                yield ServerSentEvent(data=told["heartbeat"], event="heartbeat")
            if time.monotonic() - checked > CHECK:
                checked = time.monotonic()
                if not await run_in_threadpool(_still, request, web):
                    return
            await asyncio.sleep(PAUSE)
    finally:
        web.streams -= 1


def _still(request: Request, web: Web) -> bool:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    bearer = HTTPAuthorizationCredentials(scheme=scheme, credentials=text) if text else None
    who = identify(web, "", bearer, request.cookies.get(COOKIE))
    return who is not None and "read" in who.rights
