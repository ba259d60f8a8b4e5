"""Parts for people to judge, their judgements, and the promise that these are held against."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import JSONResponse, Response
from pydantic import Field, StringConstraints
from sqlalchemy import Select, select

from blemish.station.auth import Identity
from blemish.station.judgements import Differs, Judgement, NotYours, judge_part, next_parts, waiting, withdraw
from blemish.station.ledger.schema import inspections, reviews, users
from blemish.station.promise import COLUMNS, promises
from blemish.station.reading import iso
from blemish.station.retention import setting
from blemish.station.web.changing import Body, RowId
from blemish.station.web.problems import Problem
from blemish.station.web.reading import Id
from blemish.station.web.state import Here, Name, Number, Text, Web, as_table, needs

router = APIRouter()

SHORTEST = "review.shortest_ms"  # setting: a judgement that took less is a slip
SHORTEST_MS = 300
Judge = Annotated[Identity, Depends(needs("judge"))]
Read = Annotated[Identity, Depends(needs("read"))]
Key = Annotated[str, Path(pattern=r"^[0-9A-Za-z-]{8,64}$")]
Lane = Literal["mixed", "reject", "drawn", "unknown", "error", "second"]
Box = Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=4, max_length=4)]
FIELDS = (
    "id inspection at user lane truth type comment boxes ms_shown blind client_key supersedes superseded_by".split()
)


class ReviewBody(Body):
    """What somebody says of a part."""

    id: Id
    truth: Literal["good", "defect", "unsure"]
    type: Annotated[str, StringConstraints(max_length=60, pattern=r"^[^\x00]*$")] | None = None
    comment: Text | None = None
    boxes: list[Box] = Field([], max_length=64)
    ms_shown: int = Field(ge=0, le=2**31)
    blind: bool


def person(who: Identity) -> Identity:
    """403 for a machine: judgements are people's."""
    if who.user_id is None:
        raise Problem(403, "a token judges nothing", "log in as a person")
    return who


@router.get("/review/next", tags=["review"])
def get_next(
    web: Here,
    who: Judge,
    lane: Lane = "mixed",
    n: Annotated[int, Query(ge=1, le=24)] = 6,
    source: Name | None = None,
) -> Any:
    """Parts to judge, held for this person for two minutes; in blind lanes without their verdict."""
    person(who)
    with web.ledger.write() as connection:
        items = next_parts(connection, web.place.secret.read_bytes(), who, lane, n, source)
        counts = waiting(connection, who, source)
        shortest = setting(connection, SHORTEST, SHORTEST_MS)
    for item in items:
        item |= {"at": iso(item["at"]), "lease_until": iso(item["lease_until"])}
    return JSONResponse({"lane": lane, "waiting": counts, "shortest_ms": shortest, "items": items})


@router.put("/reviews/{client_key}", tags=["review"], responses={201: {"description": "kept"}})
def put_review(web: Here, who: Judge, client_key: Key, body: ReviewBody) -> Any:
    """Keep a judgement under a key of the client's own: sent again, it is the same one."""
    person(who)
    with web.ledger.read() as connection:
        shortest = setting(connection, SHORTEST, SHORTEST_MS)
    if body.ms_shown < shortest:
        raise Problem(422, f"the part was in view for {body.ms_shown} ms", f"look at it for {shortest} ms")
    said = Judgement(body.truth, body.ms_shown, body.blind, body.type, body.comment, body.boxes)
    try:
        with web.ledger.write() as connection:
            number, new = judge_part(connection, web.place.secret.read_bytes(), who, client_key, body.id, said)
    except KeyError:
        raise Problem(404, f"there is no inspection {body.id}") from None
    except Differs as error:
        raise Problem(409, str(error), error.hint) from None
    return JSONResponse(_one(web, number), 201 if new else 200)


@router.delete("/reviews/{id}", tags=["review"])
def delete_review(web: Here, who: Judge, id: RowId) -> Any:
    """Take back one's own judgement; the part waits again."""
    try:
        with web.ledger.write() as connection:
            number = withdraw(connection, person(who), id)
    except KeyError:
        raise Problem(404, f"there is no judgement {id}") from None
    except NotYours as error:
        raise Problem(409, str(error), error.hint) from None
    return JSONResponse(_one(web, number))


def _rows() -> Select[Any]:
    later = reviews.alias("later")
    own = [column for column in reviews.c if column.name not in ("seq", "user_id")]
    return (
        select(
            *own, inspections.c.id.label("inspection"), users.c.name.label("user"), later.c.id.label("superseded_by")
        )
        .join(inspections, inspections.c.seq == reviews.c.seq)
        .join(users, users.c.id == reviews.c.user_id)
        .outerjoin(later, later.c.supersedes == reviews.c.id)
    )


def _shown(row: Any) -> dict[str, Any]:
    return {name: iso(row[name]) if name == "at" else row[name] for name in FIELDS}


def _one(web: Web, number: int) -> dict[str, Any]:
    with web.ledger.read() as connection:
        return _shown(connection.execute(_rows().where(reviews.c.id == number)).mappings().one())


def _asked(
    id: Id | None = None,
    user: Name | None = None,
    after: Number | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Select[Any]:
    """Judgements, the newest first; after a number, the oldest first."""
    rows = _rows()
    if id is not None:
        rows = rows.where(inspections.c.id == id)
    if user is not None:
        rows = rows.where(users.c.name == user)
    if after is not None:
        return rows.where(reviews.c.id > after).order_by(reviews.c.id).limit(limit)
    return rows.order_by(reviews.c.id.desc()).limit(limit)


Asked = Annotated[Select[Any], Depends(_asked)]


def _all(web: Web, rows: Select[Any]) -> list[dict[str, Any]]:
    with web.ledger.read() as connection:
        return [_shown(row) for row in connection.execute(rows).mappings()]


@router.get("/reviews", tags=["review"])
def list_reviews(web: Here, rows: Asked, _: Read) -> Any:
    """Judgements, those that were superseded or taken back among them."""
    return JSONResponse({"reviews": _all(web, rows)})


@router.get("/reviews.csv", tags=["review"])
def reviews_csv(web: Here, rows: Asked, _: Read) -> Response:
    """The same as a table."""
    return as_table("reviews", _all(web, rows), FIELDS)


Deployment = Annotated[int | None, Query(ge=1, le=2**53, description="one that is not live any more")]


@router.get("/promise", tags=["promise"])
def get_promise(web: Here, _: Read, deployment: Deployment = None) -> Any:
    """What was promised of each source, and what is seen, by an interval that may be looked at at any time."""
    with web.ledger.read() as connection:
        return JSONResponse({"promises": promises(connection, deployment)})


@router.get("/promise.csv", tags=["promise"])
def promise_csv(web: Here, _: Read, deployment: Deployment = None) -> Response:
    """The same as a table."""
    with web.ledger.read() as connection:
        return as_table("promise", promises(connection, deployment), list(COLUMNS))
