"""Alarms: one open row for each kind and source; raised once, cleared when the cause is gone."""

from __future__ import annotations

from sqlalchemy import Connection, and_, insert, select, update

from blemish.station.ids import now_ms
from blemish.station.ledger.schema import alarms

REMEDIES = {
    "no_model": "approve a model for the source, or roll back",
    "unequal": "run it on the computer that it was approved on, or approve it here again",
    "unreadable": "look at the picture in quarantine/: was it cut off while it was written?",
    "failed": "look at the log of the worker; the picture is in quarantine/",
    "unreachable": "check cable, share and permission; pictures stay where they are",
    "disk": "free space, or keep pictures for a shorter time",
    "locked": "another program holds the ledger: backup or virus scanner?",
    "backlog": "the line is faster than this computer: fewer pixels, or more threads",
    "sink": "check the receiver; messages are kept until it takes them",
    "undelivered": "correct the receiver or the sink, then send them again",
    "escape": "stop and look for the part; what was made since the last good one may hold more",
    "storm": "stop and look: lamp, lens, fixture, another product?",
    "clock": "check the time service of this computer",
    "reserve": "free space: the station's reserve is in use",
}
EVENTS = ("unreadable", "failed", "escape")  # they have happened: they end when somebody has seen them


def raise_alarm(
    connection: Connection,
    kind: str,
    level: str,
    text: str,
    source_id: int | None = None,
    *,
    remedy: str | None = None,
    about_at: int | None = None,
    evidence: float | None = None,
) -> bool:
    """Open an alarm, or bring the open one of its kind and source up to date; whether it is new.

    about_at: since when it has been so, probably, ms.
    """
    values = {"level": level, "text": text, "about_at": about_at, "evidence": evidence}
    values["remedy"] = REMEDIES.get(kind, "") if remedy is None else remedy
    there = connection.execute(
        select(alarms.c.id, alarms.c.level).where(
            and_(
                alarms.c.kind == kind, alarms.c.source_id.is_not_distinct_from(source_id), alarms.c.cleared_at.is_(None)
            )
        )
    ).first()
    if there is not None:
        connection.execute(update(alarms).where(alarms.c.id == there.id).values(**values))
        return False
    connection.execute(insert(alarms).values(kind=kind, source_id=source_id, raised_at=now_ms(), **values))
    return True


def clear_alarm(connection: Connection, kind: str, source_id: int | None = None) -> None:
    """The cause is gone."""
    connection.execute(
        update(alarms)
        .where(
            and_(
                alarms.c.kind == kind, alarms.c.source_id.is_not_distinct_from(source_id), alarms.c.cleared_at.is_(None)
            )
        )
        .values(cleared_at=now_ms())
    )
