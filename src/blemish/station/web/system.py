"""For whoever watches over the station: does it live, can it judge, what are its figures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select

from blemish.errors import BlemishError
from blemish.station import disk
from blemish.station.auth import Identity
from blemish.station.disk import Level
from blemish.station.ledger.schema import deployments, health
from blemish.station.sources.http import SILENT_MS, beat
from blemish.station.web.state import Here, needs

router = APIRouter(tags=["system"])


@router.get("/healthz")
def healthz() -> Any:
    """The process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", responses={503: {"description": "something is missing: `why` says what"}})
def readyz(web: Here) -> Any:
    """Whether a picture that comes now is judged: the worker lives, its models are loaded, the ledger can be written,
    and the disk has room."""
    why = []
    try:
        with web.ledger.read() as connection:
            silent, says = beat(connection)
            asked = select(deployments.c.source_id).where(deployments.c.until.is_(None))
            missing = set(connection.scalars(asked)) - set(says.get("live", ()))
        with web.ledger.write() as connection:
            connection.execute(health.delete().where(health.c.process == "probe"))  # takes the lock, changes nothing
        if silent is None or silent > SILENT_MS:
            why.append("the worker does not answer")
        if not says.get("live"):
            why.append("no model is live")
        if missing:
            why.append(f"models of {len(missing)} sources are not loaded")
    except BlemishError as error:
        why.append(str(error))
    if disk.level(web.place)[0] >= Level.STOP:
        why.append("the disk is full")
    return JSONResponse({"ready": not why, "why": why}, 503 if why else 200)


@router.get("/metrics", response_class=Response)
def metrics(web: Here, _: Annotated[Identity, Depends(needs("read"))]) -> Response:
    """In the format of Prometheus; with a token of scope `read`."""
    return Response(web.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
