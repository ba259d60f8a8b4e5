"""Lots: parts of a source that belong together, from the start of one to the start of the next."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from blemish.station import audit
from blemish.station.ids import now_ms
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import lots


def open_lot(ledger: Ledger, source_id: int) -> int | None:
    """The lot that is open for a source."""
    with ledger.read() as connection:
        return connection.scalar(
            select(lots.c.id)
            .where(lots.c.source_id == source_id, lots.c.ended_at.is_(None), lots.c.started_at <= now_ms())
            .order_by(lots.c.id.desc())
            .limit(1)
        )


def start_lot(connection: Connection, actor: audit.Actor, source_id: int, name: str) -> int:
    """Open a lot, and end the one before it; audited. The open one again where it has that name."""
    there = connection.execute(
        select(lots).where(lots.c.source_id == source_id, lots.c.ended_at.is_(None)).order_by(lots.c.id.desc())
    ).first()
    if there is not None and there.name == name:
        return int(there.id)
    now = now_ms()
    open_ones = (lots.c.source_id == source_id) & lots.c.ended_at.is_(None)
    connection.execute(update(lots).where(open_ones).values(ended_at=now))
    key = connection.execute(insert(lots).values(name=name, source_id=source_id, started_at=now)).inserted_primary_key
    audit.append(
        connection, actor, "lot.start", name, before=None if there is None else there.name, after={"source": source_id}
    )
    assert key is not None
    return int(key[0])


def lot_named(ledger: Ledger, actor: audit.Actor, source_id: int, name: str) -> int:
    """The latest lot of that name; where a source has none, it is started."""
    with ledger.read() as connection:
        there = connection.scalar(
            select(lots.c.id).where(lots.c.source_id == source_id, lots.c.name == name).order_by(lots.c.id.desc())
        )
    if there is not None:
        return int(there)
    with ledger.write() as connection:
        return start_lot(connection, actor, source_id, name)
