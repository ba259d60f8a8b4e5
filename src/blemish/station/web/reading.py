"""What was judged, and what the station says of itself: nothing here changes anything."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import StringConstraints
from sqlalchemy import Select, select

from blemish.station import audit as trail
from blemish.station.export import exported
from blemish.station.ids import is_id
from blemish.station.ledger.schema import alarms as alarm_rows
from blemish.station.ledger.schema import audit, inspections, lots, sources
from blemish.station.reading import (
    COLUMNS,
    VERDICTS,
    alarm,
    all_alarms,
    all_inspections,
    inspection,
    iso,
    milliseconds,
    trend,
)
from blemish.station.web.intake import found
from blemish.station.web.problems import Problem
from blemish.station.web.state import Here, Name, Number, Time, Web, as_table, needs

router = APIRouter(dependencies=[Depends(needs("read"))])

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}$")]
KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
}
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def asked_for(
    source: Name | None = None,
    verdict: Annotated[list[Literal["good", "anomalous", "unknown", "error"]] | None, Query()] = None,
    state: Literal["judged", "unreadable", "failed", "repeat"] | None = None,
    lot: Name | None = None,
    part_id: Name | None = None,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
    after_seq: Number | None = None,
    before_seq: Number | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Select[Any]:
    """The rows that a request's filters leave, the newest first; after a number, the oldest first."""
    rows = all_inspections()
    for column, value in (
        (sources.c.name, source),
        (inspections.c.state, state),
        (lots.c.name, lot),
        (inspections.c.part_id, part_id),
    ):
        if value is not None:
            rows = rows.where(column == value)
    if verdict:
        rows = rows.where(inspections.c.verdict.in_(verdict))
    if start is not None:
        rows = rows.where(inspections.c.judged_at >= milliseconds(start))
    if end is not None:
        rows = rows.where(inspections.c.judged_at < milliseconds(end))
    if before_seq is not None:
        rows = rows.where(inspections.c.seq < before_seq)
    if after_seq is not None:
        return rows.where(inspections.c.seq > after_seq).order_by(inspections.c.seq).limit(limit)
    return rows.order_by(inspections.c.seq.desc()).limit(limit)


Rows = Annotated[Select[Any], Depends(asked_for)]


def _all(web: Web, rows: Select[Any]) -> list[dict[str, Any]]:
    with web.ledger.read() as connection:
        return [inspection(row) for row in connection.execute(rows).mappings()]


@router.get("/inspections", tags=["inspections"])
def list_inspections(web: Here, rows: Rows, fields: Annotated[str | None, Query(max_length=1000)] = None) -> Any:
    """Rows of the ledger; `fields` names those that are wanted, with commas between."""
    each = _all(web, rows)
    if fields is not None:
        wanted = fields.split(",")
        each = [{name: row.get(name) for name in wanted} for row in each]
    return JSONResponse({"inspections": each})


@router.get("/inspections.csv", tags=["inspections"])
def inspections_csv(web: Here, rows: Rows) -> Response:
    """The same as a table."""
    return as_table("inspections", _all(web, rows), list(COLUMNS))


@router.get("/inspections/{id}", tags=["inspections"], responses={202: {"description": "not judged yet"}})
def get_inspection(web: Here, id: Id) -> Any:
    """One inspection."""
    row = found(web, id)
    if row is None and is_id(id) and any(picture == id for picture, _ in web.spool.ids()):
        return JSONResponse({"id": id, "state": "waiting"}, 202)
    row = row or found(web, id)  # it was judged between the two
    if row is None:
        raise Problem(404, f"there is no inspection {id}")
    return JSONResponse(row)


def _file(web: Web, id: str, which: Literal["image", "thumb", "map"]) -> FileResponse:
    with web.ledger.read() as connection:
        row = connection.execute(select(inspections).where(inspections.c.id == id)).first()
    if row is None:
        raise Problem(404, f"there is no inspection {id}")
    suffix, under = {"image": (row.suffix, "store"), "thumb": (".jpg", "thumbs"), "map": (".png", "maps")}[which]
    quarantined = which == "image" and row.state in ("unreadable", "failed")
    waiting = web.place.spool / str(row.source_id) / f"{row.id}{suffix}"  # until it is moved after the commit
    path = web.place.quarantine / f"{row.id}{suffix}" if quarantined else web.place.stored(row.id, suffix, under)
    for place in (path, *([waiting] if which == "image" else [])):
        if place.is_file():
            kind = KINDS.get(suffix, "application/octet-stream")
            shown = "attachment" if quarantined or kind == "application/octet-stream" else "inline"
            return FileResponse(
                place, media_type=kind, filename=f"{row.id}{suffix}", content_disposition_type=shown, headers=FOREVER
            )
    if row.purged_at is not None:
        raise Problem(410, f"it was removed {iso(row.purged_at)}, as station.toml says")
    raise Problem(404, "there is none: repeats are not kept, and what cannot be read has neither thumbnail nor map")


@router.get("/inspections/{id}/image", tags=["inspections"], response_class=FileResponse)
def image(web: Here, id: Id) -> FileResponse:
    """The picture as it came, byte for byte."""
    return _file(web, id, "image")


@router.get("/inspections/{id}/thumb", tags=["inspections"], response_class=FileResponse)
def thumb(web: Here, id: Id) -> FileResponse:
    """JPEG of 320 pixels."""
    return _file(web, id, "thumb")


@router.get("/inspections/{id}/map", tags=["inspections"], response_class=FileResponse)
def heat(web: Here, id: Id) -> FileResponse:
    """The anomaly map, 8 bits, 128 at the threshold."""
    return _file(web, id, "map")


@router.get("/parts/{part_id}", tags=["inspections"])
def part(web: Here, part_id: Name) -> Any:
    """All inspections of a part, the oldest first."""
    rows = all_inspections().where(inspections.c.part_id == part_id).order_by(inspections.c.seq).limit(1000)
    each = _all(web, rows)
    if not each:
        raise Problem(404, f"no part '{part_id}' was inspected")
    return JSONResponse({"part_id": part_id, "inspections": each})


def _alarms(web: Web, open: bool | None, limit: int) -> list[dict[str, Any]]:
    rows = all_alarms().limit(limit)
    if open is not None:
        rows = rows.where(alarm_rows.c.cleared_at.is_(None) if open else alarm_rows.c.cleared_at.is_not(None))
    with web.ledger.read() as connection:
        return [alarm(row) for row in connection.execute(rows).mappings()]


Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/alarms", tags=["alarms"])
def list_alarms(web: Here, open: bool | None = None, limit: Limit = 100) -> Any:
    """The newest first."""
    return JSONResponse({"alarms": _alarms(web, open, limit)})


@router.get("/alarms.csv", tags=["alarms"])
def alarms_csv(web: Here, open: bool | None = None, limit: Limit = 1000) -> Response:
    """The same as a table."""
    columns = [column.name for column in alarm_rows.c if column.name != "source_id"]
    return as_table("alarms", _alarms(web, open, limit), [*columns, "source"])


def _trend(
    web: Here,
    by: Literal["hour"] = "hour",
    source: Name | None = None,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
) -> list[dict[str, Any]]:
    with web.ledger.read() as connection:
        return trend(
            connection,
            source=source,
            start=None if start is None else milliseconds(start),
            end=None if end is None else milliseconds(end),
        )


@router.get("/trend", tags=["trend"])
def get_trend(rows: Annotated[list[dict[str, Any]], Depends(_trend)]) -> Any:
    """Counts and means by hour, source and deployment, with a histogram of score over threshold in 64 bins that are
    logarithmic from 1/16 to 16."""
    return JSONResponse({"by": "hour", "rows": rows})


@router.get("/trend.csv", tags=["trend"])
def trend_csv(rows: Annotated[list[dict[str, Any]], Depends(_trend)]) -> Response:
    """The same as a table."""
    columns = ["hour", "source", "product", "deployment", *VERDICTS, "total", "ms_mean", "ms_max", "brightness"]
    return as_table("trend", rows, [*columns, "focus", "scores"])


def _audit(web: Web, after_seq: int, limit: int) -> list[dict[str, Any]]:
    rows = select(audit).where(audit.c.seq > after_seq).order_by(audit.c.seq).limit(limit)
    with web.ledger.read() as connection:
        return [{**row, "at": iso(row["at"]), "at_ms": row["at"]} for row in connection.execute(rows).mappings()]


@router.get("/audit", tags=["audit"], dependencies=[Depends(needs("audit"))])
def list_audit(web: Here, after_seq: Number = 0, limit: Limit = 100) -> Any:
    """Entries in order, and the last one's number and hash."""
    rows = _audit(web, after_seq, limit)
    with web.ledger.read() as connection:
        seq, sha256 = trail.head(connection)
    return JSONResponse({"audit": rows, "head": {"seq": seq, "hash": sha256}})


@router.get("/audit.csv", tags=["audit"], dependencies=[Depends(needs("audit"))])
def audit_csv(web: Here, after_seq: Number = 0, limit: Limit = 1000) -> Response:
    """The same as a table."""
    return as_table("audit", _audit(web, after_seq, limit), [column.name for column in audit.c])


@router.get("/audit/check", tags=["audit"], dependencies=[Depends(needs("audit"))])
def check_audit(web: Here) -> Any:
    """Whether each entry follows from the one before it: the first that does not."""
    with web.ledger.read() as connection:
        return JSONResponse({"broken": trail.broken(connection), "head": trail.head(connection)[1]})


@router.get("/export", tags=["export"], dependencies=[Depends(needs("export"))], response_class=StreamingResponse)
def export(
    web: Here,
    start: Annotated[Time, Query(alias="from")] = None,
    end: Annotated[Time, Query(alias="to")] = None,
    source: Name | None = None,
    pictures: bool = True,
) -> StreamingResponse:
    """A zip: inspections as CSV and JSON lines, their pictures, and what the models are."""
    parts = exported(
        web.place,
        web.ledger,
        start=None if start is None else milliseconds(start),
        end=None if end is None else milliseconds(end),
        source=source,
        pictures=pictures,
    )
    headers = {"Content-Disposition": 'attachment; filename="station.zip"'}
    return StreamingResponse(parts, media_type="application/zip", headers=headers)
