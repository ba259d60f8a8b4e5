"""The audit trail: who did what, when, to what and why; each entry holds the hash of the one before it.

A changed, removed or inserted entry breaks the chain (`verify`); the last entries cut off shows where the head's hash
has been told elsewhere: it is in each backup's note, and in the report of the day.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from blemish.station.ids import now_ms
from blemish.station.judging import as_text
from blemish.station.ledger.schema import audit
from blemish.station.place import digest

FIRST = "0" * 64
FIELDS = ("at", "actor", "role", "ip", "action", "object", "before", "after", "reason", "prev_hash")


class Actor(NamedTuple):
    """Who does something."""

    name: str
    role: str
    ip: str = ""


SYSTEM = Actor("station", "system")


def append(
    connection: Connection,
    actor: Actor,
    action: str,
    what: str,
    *,
    before: Any = None,
    after: Any = None,
    reason: str | None = None,
) -> str:
    """Add an entry in the transaction of the change itself; its hash."""
    last = connection.execute(select(audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).scalar()
    row = {
        "at": now_ms(),
        "actor": actor.name,
        "role": actor.role,
        "ip": actor.ip,
        "action": action,
        "object": what,
        "before": None if before is None else as_text(before),
        "after": None if after is None else as_text(after),
        "reason": reason,
        "prev_hash": last or FIRST,
    }
    own = hash_of(row)
    connection.execute(insert(audit).values(**row, hash=own))
    return own


def hash_of(row: dict[str, Any]) -> str:
    """sha256 of an entry with the hash of the one before it."""
    return digest(as_text([row[name] for name in FIELDS]).encode())


def broken(connection: Connection) -> int | None:
    """The number of the first entry that does not follow from the one before it; None where all do."""
    before = FIRST
    for row in connection.execute(select(audit).order_by(audit.c.seq)).mappings():
        if row["prev_hash"] != before or row["hash"] != hash_of(dict(row)):
            return int(row["seq"])
        before = row["hash"]
    return None


def head(connection: Connection) -> tuple[int, str]:
    """Number and hash of the last entry."""
    row = connection.execute(select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).first()
    return (0, FIRST) if row is None else (int(row.seq), str(row.hash))
