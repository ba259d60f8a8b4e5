"""What people set: sources, sinks, products, lots and settings. Each change names what it changes by its ETag, and is
audited in its own transaction."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Depends, Header, Path, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import Connection, Table, insert, select, update

from blemish.station import audit
from blemish.station import sinks as of_sinks
from blemish.station.alarms import EVENTS
from blemish.station.auth import Identity
from blemish.station.ids import now_ms
from blemish.station.judging import as_text
from blemish.station.ledger.schema import alarms, lots, products, settings, sinks, sources
from blemish.station.lots import start_lot
from blemish.station.reading import alarm, all_alarms, iso
from blemish.station.sources.folder import Options
from blemish.station.wake import ring
from blemish.station.web.problems import Problem
from blemish.station.web.state import Here, Name, Text, Web, as_table, etag, needs, shown, unchanged
from blemish.station.worker import bell_of

router = APIRouter()

IfMatch = Annotated[str | None, Header(max_length=1000)]
RowId = Annotated[int, Path(ge=1, le=2**53)]


class Body(BaseModel):
    """Of a request: nothing but what is named."""

    model_config = ConfigDict(extra="forbid")


class SourceBody(Body):
    """A source: where pictures come from."""

    name: Name
    kind: Literal["folder", "http"]
    config: dict[str, Any] = {}
    product: Name | None = None
    active: bool = True


def _known(kind: str) -> str:
    if kind not in of_sinks.kinds():
        raise ValueError(f"one of {', '.join(of_sinks.kinds())}")
    return kind


class SinkBody(Body):
    """A sink: where verdicts go."""

    name: Name
    kind: Annotated[Name, AfterValidator(_known)]
    config: dict[str, Any] = {}
    active: bool = True


class ProductBody(Body):
    """A product: what is inspected."""

    name: Name
    config: dict[str, Any] = {}


class HttpOptions(Body):
    """What a source of kind http may be told."""

    review_rate: float = Field(0.0, ge=0, le=1)
    always_new: bool = False


class Kind(NamedTuple):
    """A table that people change."""

    table: Table
    body: type[Body]
    right: str
    view: Callable[[Connection, Any], dict[str, Any]]
    columns: Callable[[Web, Connection, Any, Any], dict[str, Any]]  # of a body, and the row before it


def plain(value: Any) -> str:
    """JSON as text. 422 where it is none: not a number, half a character, nested too deeply."""
    try:
        json.dumps(value, allow_nan=False)
        as_text(value).encode()
    except (ValueError, RecursionError) as error:
        raise Problem(422, f"this is no JSON ({error})") from None
    return as_text(value)


def source_view(connection: Connection, row: Any) -> dict[str, Any]:
    product = connection.scalar(select(products.c.name).where(products.c.id == row.product_id))
    own = {"id": row.id, "name": row.name, "kind": row.kind, "config": json.loads(row.config), "product": product}
    return {**own, "active": row.active, "version": row.version}


def _source_columns(web: Web, connection: Connection, body: SourceBody, before: Any) -> dict[str, Any]:
    if before is not None and before.kind != body.kind:
        raise Problem(422, "the kind of a source does not change", "make another one")
    config = plain(body.config)
    try:
        TypeAdapter(Options if body.kind == "folder" else HttpOptions).validate_python(body.config)
        if body.kind == "folder":
            web.config.inside(Options.of(body.config).path)
    except ValidationError as error:
        first = error.errors()[0]
        raise Problem(422, f"config.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, OSError) as error:  # a name that can be none of a folder
        raise Problem(422, f"config.path: {error}", getattr(error, "hint", None)) from None
    product = None
    if body.product is not None:
        product = connection.scalar(select(products.c.id).where(products.c.name == body.product))
        if product is None:
            raise Problem(422, f"there is no product '{body.product}'", "POST /api/v1/products")
    return {"name": body.name, "kind": body.kind, "config": config, "product_id": product, "active": body.active}


def _sink_view(_: Connection, row: Any) -> dict[str, Any]:
    own = {"id": row.id, "name": row.name, "kind": row.kind, "config": of_sinks.shown(row.kind, json.loads(row.config))}
    return {**own, "active": row.active, "version": row.version}


def _sink_columns(web: Web, _: Connection, body: SinkBody, before: Any) -> dict[str, Any]:
    if before is not None and before.kind != body.kind:
        raise Problem(422, "the kind of a sink does not change", "make another one")
    config = of_sinks.merged(body.kind, body.config, json.loads(before.config) if before is not None else {})
    text = plain(config)
    try:
        of_sinks.made(body.kind, body.name, config, web.place, web.config)
    except ValueError as error:  # ConfigError too
        raise Problem(422, str(error), getattr(error, "hint", None)) from None
    return {"name": body.name, "kind": body.kind, "config": text, "active": body.active}


def _product_view(_: Connection, row: Any) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "config": json.loads(row.config), "version": row.version}


def _product_columns(_: Web, __: Connection, body: ProductBody, ___: Any) -> dict[str, Any]:
    return {"name": body.name, "config": plain(body.config)}


KINDS = {
    "source": Kind(sources, SourceBody, "sources", source_view, _source_columns),
    "sink": Kind(sinks, SinkBody, "sinks", _sink_view, _sink_columns),
    "product": Kind(products, ProductBody, "products", _product_view, _product_columns),
}


def row_of(connection: Connection, table: Table, id: int) -> Any:
    """A row by its number. 404."""
    row = connection.execute(select(table).where(table.c.id == id)).first()
    if row is None:
        raise Problem(404, f"there is no number {id} in {table.name}")
    return row


def name_is_free(connection: Connection, table: Table, name: str, but: int | None = None) -> None:
    """409 where another row has the name."""
    there = connection.scalar(select(table.c.id).where(table.c.name == name))
    if there is not None and there != but:
        raise Problem(409, f"the name '{name}' is taken", f"it is number {there} in {table.name}")


def _offer(word: str, kind: Kind) -> None:
    """The paths of a kind."""
    plural, table, body_type = kind.table.name, kind.table, kind.body

    def every(web: Here, _: Annotated[Identity, Depends(needs("read"))]) -> list[dict[str, Any]]:
        with web.ledger.read() as connection:
            return [kind.view(connection, row) for row in connection.execute(select(table).order_by(table.c.id)).all()]

    @router.get(f"/{plural}", tags=[plural], name=f"list {plural}")
    def get_all(rows: Annotated[list[dict[str, Any]], Depends(every)]) -> Any:
        return JSONResponse({plural: [{**row, "etag": etag(row)} for row in rows]})

    @router.get(f"/{plural}.csv", tags=[plural], name=f"{plural} as a table")
    def get_csv(rows: Annotated[list[dict[str, Any]], Depends(every)]) -> Response:
        return as_table(plural, rows, [*rows[0]] if rows else ["id", "name"])

    @router.get(f"/{plural}/{{id}}", tags=[plural], name=f"get {word}")
    def get_one(web: Here, id: RowId, _: Annotated[Identity, Depends(needs("read"))]) -> Any:
        with web.ledger.read() as connection:
            return shown(kind.view(connection, row_of(connection, table, id)))

    @router.post(f"/{plural}", tags=[plural], name=f"add {word}", status_code=201)
    def add(web: Here, body: body_type, who: Annotated[Identity, Depends(needs(kind.right))]) -> Any:  # type: ignore[valid-type]
        with web.ledger.write() as connection:
            made = added(web, connection, word, body, who)
        tell(web)
        return shown(made, 201)

    @router.put(f"/{plural}/{{id}}", tags=[plural], name=f"change {word}")
    def change(
        web: Here,
        id: RowId,
        body: body_type,  # type: ignore[valid-type]
        who: Annotated[Identity, Depends(needs(kind.right))],
        if_match: IfMatch = None,
    ) -> Any:
        with web.ledger.write() as connection:
            after = changed(web, connection, word, id, body, who, if_match)
        tell(web)
        return shown(after)


def added(web: Web, connection: Connection, word: str, body: Any, who: Identity) -> dict[str, Any]:
    """A new row of a kind, as it is shown; audited."""
    kind = KINDS[word]
    name_is_free(connection, kind.table, body.name)
    key = connection.execute(insert(kind.table).values(**kind.columns(web, connection, body, None)))
    assert key.inserted_primary_key is not None
    made = kind.view(connection, row_of(connection, kind.table, key.inserted_primary_key[0]))
    audit.append(connection, who.actor, f"{word}.add", made["name"], after=made)
    return made


def changed(
    web: Web, connection: Connection, word: str, id: int, body: Any, who: Identity, if_match: str | None
) -> dict[str, Any]:
    """A row of a kind after its change, as it is shown; audited."""
    kind = KINDS[word]
    row = row_of(connection, kind.table, id)
    before = kind.view(connection, row)
    unchanged(before, if_match)
    name_is_free(connection, kind.table, body.name, id)
    values = {**kind.columns(web, connection, body, row), "version": row.version + 1}
    connection.execute(update(kind.table).where(kind.table.c.id == id).values(**values))
    after = kind.view(connection, row_of(connection, kind.table, id))
    audit.append(connection, who.actor, f"{word}.change", after["name"], before=before, after=after)
    return after


def tell(web: Web) -> None:
    """The worker reads what has changed."""
    ring(bell_of(web.place))


for _word, _kind in KINDS.items():
    _offer(_word, _kind)


class LotBody(Body):
    """The lot that a source begins."""

    source: Name
    name: Name


class LotChange(Body):
    """A lot is closed, or named otherwise."""

    name: Name
    ended: bool


def _lot_view(connection: Connection, row: Any) -> dict[str, Any]:
    source = connection.scalar(select(sources.c.name).where(sources.c.id == row.source_id))
    own = {"id": row.id, "name": row.name, "source": source}
    return {**own, "started_at": iso(row.started_at), "ended_at": iso(row.ended_at)}


@router.get("/lots", tags=["lots"])
def list_lots(web: Here, _: Annotated[Identity, Depends(needs("read"))]) -> Any:
    """The latest thousand, the newest first."""
    with web.ledger.read() as connection:
        rows = connection.execute(select(lots).order_by(lots.c.id.desc()).limit(1000)).all()
        return JSONResponse({"lots": [_lot_view(connection, row) for row in rows]})


@router.get("/lots/{id}", tags=["lots"])
def get_lot(web: Here, id: RowId, _: Annotated[Identity, Depends(needs("read"))]) -> Any:
    """One lot."""
    with web.ledger.read() as connection:
        return shown(_lot_view(connection, row_of(connection, lots, id)))


@router.post("/lots", tags=["lots"], status_code=201)
def add_lot(web: Here, body: LotBody, who: Annotated[Identity, Depends(needs("lots"))]) -> Any:
    """Begin a lot; the one before it of that source ends."""
    with web.ledger.write() as connection:
        source = connection.scalar(select(sources.c.id).where(sources.c.name == body.source))
        if source is None:
            raise Problem(422, f"there is no source '{body.source}'")
        number = start_lot(connection, who.actor, source, body.name)
        return shown(_lot_view(connection, row_of(connection, lots, number)), 201)


@router.put("/lots/{id}", tags=["lots"])
def change_lot(
    web: Here, id: RowId, body: LotChange, who: Annotated[Identity, Depends(needs("lots"))], if_match: IfMatch = None
) -> Any:
    """Close a lot, or give it another name."""
    with web.ledger.write() as connection:
        row = row_of(connection, lots, id)
        before = _lot_view(connection, row)
        unchanged(before, if_match)
        if row.ended_at is not None and not body.ended:
            raise Problem(409, "a lot that has ended is not opened again", "begin another one")
        ended = (row.ended_at or now_ms()) if body.ended else None
        connection.execute(update(lots).where(lots.c.id == id).values(name=body.name, ended_at=ended))
        after = _lot_view(connection, row_of(connection, lots, id))
        audit.append(connection, who.actor, "lot.change", body.name, before=before, after=after)
        return shown(after)


Key = Annotated[str, StringConstraints(max_length=100, pattern=r"^[a-z][a-z0-9_.-]*$")]


class Setting(Body):
    """A value."""

    value: Any


def _setting(connection: Connection, key: str) -> dict[str, Any] | None:
    row = connection.execute(select(settings).where(settings.c.key == key)).first()
    return None if row is None else {"key": row.key, "value": json.loads(row.value), "version": row.version}


@router.get("/settings", tags=["settings"])
def list_settings(web: Here, _: Annotated[Identity, Depends(needs("read"))]) -> Any:
    """All of them."""
    with web.ledger.read() as connection:
        keys = connection.scalars(select(settings.c.key).order_by(settings.c.key)).all()
        return JSONResponse({"settings": [_setting(connection, key) for key in keys]})


@router.get("/settings/{key}", tags=["settings"])
def get_setting(web: Here, key: Key, _: Annotated[Identity, Depends(needs("read"))]) -> Any:
    """One of them."""
    with web.ledger.read() as connection:
        found = _setting(connection, key)
    if found is None:
        raise Problem(404, f"'{key}' was never set")
    return shown(found)


@router.put("/settings/{key}", tags=["settings"])
def change_setting(
    web: Here, key: Key, body: Setting, who: Annotated[Identity, Depends(needs("settings"))], if_match: IfMatch = None
) -> Any:
    """Set it; one that was set before is named by its ETag."""
    value = plain(body.value)
    with web.ledger.write() as connection:
        before = _setting(connection, key)
        if before is None:
            connection.execute(insert(settings).values(key=key, value=value))
        else:
            unchanged(before, if_match)
            values = {"value": value, "version": before["version"] + 1}
            connection.execute(update(settings).where(settings.c.key == key).values(**values))
        after = _setting(connection, key)
        audit.append(connection, who.actor, "setting.change", key, before=before, after=after)
    return shown(after)


class Ack(Body):
    """What somebody says to an alarm."""

    note: Text = ""


@router.post("/alarms/{id}/ack", tags=["alarms"])
def acknowledge(web: Here, id: RowId, body: Ack, who: Annotated[Identity, Depends(needs("alarms"))]) -> Any:
    """Somebody has seen it; it stays open until its cause is gone, where it has one that lasts."""
    with web.ledger.write() as connection:
        row = row_of(connection, alarms, id)
        if row.acked_at is not None:
            raise Problem(409, f"it was acknowledged by {row.acked_by} {iso(row.acked_at)}")
        values = {"acked_by": who.name, "acked_at": now_ms(), "note": body.note}
        if row.kind in EVENTS:
            values["cleared_at"] = values["acked_at"]
        connection.execute(update(alarms).where(alarms.c.id == id).values(**values))
        audit.append(connection, who.actor, "alarm.ack", f"{row.kind} {id}", after=values)
        return JSONResponse(alarm(connection.execute(all_alarms().where(alarms.c.id == id)).mappings().one()))
