"""What runs beside the line: jobs that make candidates, and messages that are sent once more."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse
from sqlalchemy import select

from blemish.station.auth import Identity
from blemish.station.jobs import ARGS, Args, ask, stop_job
from blemish.station.ledger.schema import jobs, sinks
from blemish.station.outbox import again
from blemish.station.reading import iso
from blemish.station.web.changing import Body, RowId, plain, row_of
from blemish.station.web.problems import Problem
from blemish.station.web.state import Here, needs

router = APIRouter()

Read = Annotated[Identity, Depends(needs("read"))]
Engineer = Annotated[Identity, Depends(needs("models"))]
LOG = 1 << 20  # bytes of a log's end that are shown


class JobBody(Body):
    """What is asked for; of the good images, and of the command of that name."""

    kind: Literal["fit", "adapt", "calibrate", "power"]
    args: Args


def job_view(row: Any) -> dict[str, Any]:
    own = {name: getattr(row, name) for name in ("id", "kind", "state", "by", "progress", "eta")}
    times = {name: iso(getattr(row, name)) for name in ("asked_at", "started_at", "ended_at")}
    return {**own, **times, "args": json.loads(row.args), "result": row.result and json.loads(row.result)}


@router.get("/jobs", tags=["jobs"])
def list_jobs(web: Here, _: Read) -> Any:
    """The latest thousand, the newest first."""
    with web.ledger.read() as connection:
        rows = connection.execute(select(jobs).order_by(jobs.c.id.desc()).limit(1000)).all()
    return JSONResponse({"jobs": [job_view(row) for row in rows]})


@router.get("/jobs/{id}", tags=["jobs"])
def get_job(web: Here, id: RowId, _: Read) -> Any:
    """One of them."""
    with web.ledger.read() as connection:
        return JSONResponse(job_view(row_of(connection, jobs, id)))


@router.get("/jobs/{id}/log", tags=["jobs"], response_class=PlainTextResponse)
def get_log(web: Here, id: RowId, _: Engineer) -> PlainTextResponse:
    """The end of what its command said."""
    with web.ledger.read() as connection:
        row_of(connection, jobs, id)
    path = web.place.jobs / str(id) / "log"
    if not path.is_file():
        raise Problem(404, f"job {id} has said nothing yet")
    return PlainTextResponse(path.read_bytes()[-LOG:].decode("utf-8", "replace"))


@router.post("/jobs", tags=["jobs"], status_code=201)
def add_job(web: Here, body: JobBody, who: Engineer) -> Any:
    """Ask for one. It waits for its turn, and makes a candidate: nothing goes live by it."""
    args = ARGS.dump_python(body.args, mode="json")
    plain(args)
    if not 0 <= (body.args.model or 0) <= 2**53:
        raise Problem(422, f"there is no model {body.args.model}")
    with web.ledger.write() as connection:
        number = ask(connection, who.actor, body.kind, args)
        return JSONResponse(job_view(row_of(connection, jobs, number)), 201)


@router.post("/jobs/{id}/stop", tags=["jobs"])
def stop(web: Here, id: RowId, who: Engineer) -> Any:
    """Stop one that waits or runs."""
    with web.ledger.write() as connection:
        row_of(connection, jobs, id)
        stop_job(connection, who.actor, id)
        return JSONResponse(job_view(row_of(connection, jobs, id)))


@router.post("/sinks/{id}/again", tags=["sinks"])
def send_again(web: Here, id: RowId, who: Annotated[Identity, Depends(needs("sinks"))]) -> Any:
    """Send once more what the receiver has refused."""
    with web.ledger.write() as connection:
        row_of(connection, sinks, id)
        return JSONResponse({"messages": again(connection, who.actor, id)})
