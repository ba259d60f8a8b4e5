"""What people say of parts: lanes that hand pictures out, and judgements, which supersede each other and never change.

In a blind lane neither verdict nor map is in view, nor why the part is asked for. Only blind judgements say anything of
the promise: who sees a box finds a defect in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, case, exists, func, insert, or_, select, update

from blemish.errors import BlemishError
from blemish.station.alarms import raise_alarm
from blemish.station.auth import Identity
from blemish.station.ids import now_ms
from blemish.station.judging import as_text
from blemish.station.ledger.schema import inspections, lots, outbox, queue, reviews, sinks, sources

MIXED = ("reject", "drawn", "unknown", "error")  # what the mixed lane hands out
LANES = ("mixed", *MIXED, "second")
BLIND = ("mixed", "drawn", "second")
UNSEEN = ("drawn", "second")  # only for who has not judged the part before
LEASE_MS = 120_000
WINDOW = 64  # of the oldest parts of each lane: among them the order is drawn at random
REPEATS = 0.02  # share of judged parts that a second person judges too
TRUTHS = ("good", "defect", "unsure")


class NotYours(BlemishError):
    """A judgement that is somebody else's, or that a later one has superseded."""


class Differs(BlemishError):
    """The key of the client stands for another judgement."""


@dataclass(frozen=True)
class Judgement:
    """What somebody says of a part."""

    truth: str
    ms_shown: int
    blind: bool
    type: str | None = None
    comment: str | None = None
    boxes: Sequence[Sequence[int]] = ()


def standing() -> Select[Any]:
    """Judgements that no later one supersedes and that are not taken back: one of each person and part."""
    later = reviews.alias("later")
    return select(reviews).where(reviews.c.truth != "withdrawn", ~exists().where(later.c.supersedes == reviews.c.id))


def waiting(connection: Connection, user: Identity, source: str | None = None) -> dict[str, int]:
    """Parts that wait in each lane for this person; a part that waits for two reasons counts once in mixed."""
    rows = _open(user, source).subquery()
    asked = select(rows.c.lane, func.count(func.distinct(rows.c.seq))).group_by(rows.c.lane)
    counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(asked)}
    mixed = connection.scalar(select(func.count(func.distinct(rows.c.seq))).where(rows.c.lane.in_(MIXED)))
    return {"mixed": mixed or 0, **{lane: counts.get(lane, 0) for lane in LANES[1:]}}


def _open(user: Identity, source: str | None) -> Select[Any]:
    """Rows of the queue that are this person's to judge: leased to nobody else, and not judged by them before."""
    other, mine = queue.alias("other"), standing().subquery("mine")
    until = now_ms() - LEASE_MS
    rows = (
        select(queue.c.seq, queue.c.lane)
        .where(queue.c.state == "waiting")
        .where(
            ~exists().where(
                other.c.seq == queue.c.seq,
                other.c.state == "waiting",
                other.c.claimed_at > until,
                other.c.claimed_by != user.name,
            )
        )
        .where(
            or_(
                queue.c.lane.not_in(UNSEEN),
                ~exists().where(mine.c.seq == queue.c.seq, mine.c.user_id == user.user_id),
            )
        )
    )
    if source is not None:
        rows = rows.join(inspections, inspections.c.seq == queue.c.seq).join(
            sources, sources.c.id == inspections.c.source_id
        )
        rows = rows.where(sources.c.name == source)
    return rows


def next_parts(
    connection: Connection, secret: bytes, user: Identity, lane: str, n: int, source: str | None = None
) -> list[dict[str, Any]]:
    """Up to n parts of a lane, leased to this person for two minutes; in an order that says nothing of the verdict."""
    lanes = MIXED if lane == "mixed" else (lane,)
    seqs: list[int] = []
    for each in lanes:
        oldest = _open(user, source).where(queue.c.lane == each).order_by(queue.c.seq).limit(max(WINDOW, n))
        seqs += [row.seq for row in connection.execute(oldest)]
    chosen = sorted(set(seqs), key=(lambda seq: _lot(secret, "order", seq)) if lane in BLIND else None)[:n]
    at = now_ms()
    connection.execute(
        update(queue)
        .where(queue.c.seq.in_(chosen), queue.c.state == "waiting")
        .values(claimed_by=user.name, claimed_at=at, claimed_in=lane)
    )
    asked = (
        select(inspections, sources.c.name.label("source"), lots.c.name.label("lot"))
        .join(sources, sources.c.id == inspections.c.source_id)
        .outerjoin(lots, lots.c.id == inspections.c.lot_id)
        .where(inspections.c.seq.in_(chosen))
    )
    rows = {row["seq"]: row for row in connection.execute(asked).mappings()}
    return [_item(rows[seq], lane, at + LEASE_MS) for seq in chosen]


def _lot(secret: bytes, what: str, seq: int) -> float:
    """A number in [0, 1) by the station's key: again the same, and known to nobody."""
    drawn = hmac.new(secret, f"{what} {seq}".encode(), hashlib.sha256).digest()
    return int.from_bytes(drawn[:7], "big") / 2**56


def _item(row: Any, lane: str, until: int) -> dict[str, Any]:
    out = {name: row[name] for name in ("id", "seq", "at", "source", "part_id", "lot", "width", "height")}
    out |= {"lane": lane, "blind": lane in BLIND, "lease_until": until}
    if lane not in BLIND:
        out |= {"pred_label": row["verdict"], "score": row["score"], "threshold": row["threshold"]}
        out["regions"] = json.loads(row["result"]).get("regions", [])
    return out


def judge_part(
    connection: Connection, secret: bytes, user: Identity, client_key: str, picture: str, said: Judgement
) -> tuple[int, bool]:
    """Keep a judgement: its number, and whether it is new. The same key again is the same judgement.

    A part that is judged unsure waits for a second person; so does a drawn one that is judged a defect, since leaving
    it out is what could lower a threshold, and a small share of the others. Differs, KeyError for an unknown picture.
    """
    values = {
        "truth": said.truth,
        "type": said.type,
        "comment": said.comment,
        "boxes": as_text([list(box) for box in said.boxes]),
        "ms_shown": said.ms_shown,
    }
    row = connection.execute(select(inspections).where(inspections.c.id == picture)).first()
    if row is None:
        raise KeyError(picture)
    known = connection.execute(select(reviews).where(reviews.c.client_key == client_key)).mappings().first()
    if known is not None:
        same = known["seq"] == row.seq and known["user_id"] == user.user_id
        if not same or any(known[name] != value for name, value in values.items()):
            raise Differs("this key is that of another judgement", hint="a new judgement takes a new key")
        return int(known["id"]), False
    lease = connection.execute(
        select(queue.c.claimed_in).where(
            queue.c.seq == row.seq, queue.c.state == "waiting", queue.c.claimed_by == user.name
        )
    ).first()
    lane = lease.claimed_in if lease is not None else "none"
    own = standing().where(reviews.c.seq == row.seq, reviews.c.user_id == user.user_id).subquery()
    key = connection.execute(
        insert(reviews).values(
            **values,
            seq=row.seq,
            user_id=user.user_id,
            at=now_ms(),
            lane=lane,
            blind=said.blind and lane in BLIND,
            client_key=client_key,
            supersedes=connection.scalar(select(own.c.id)),
        )
    ).inserted_primary_key
    assert key is not None
    _close(connection, and_(queue.c.seq == row.seq, queue.c.lane.in_(_settled(lane))))
    _free(connection, row.seq, user)
    again = (
        said.truth == "unsure" or (row.drawn and said.truth == "defect") or _lot(secret, "repeat", row.seq) < REPEATS
    )
    if again and lane != "second":
        _wait(connection, row.seq, "second")
    if row.verdict == "good" and said.truth == "defect":
        _escaped(connection, row, user)
    return int(key[0]), True


def _settled(lane: str) -> Sequence[str]:
    """Lanes that a judgement in a lane answers: who has seen the verdict does not answer for a drawn part."""
    if lane == "second":
        return ("second",)
    return MIXED if lane in BLIND else tuple(each for each in MIXED if each != "drawn")


def _close(connection: Connection, which: Any) -> None:
    """The lease stays: it says in which lane the part was judged."""
    connection.execute(update(queue).where(which).values(state="done"))


def _free(connection: Connection, seq: int, user: Identity) -> None:
    """What else the part waits for is for others, now."""
    held = and_(queue.c.seq == seq, queue.c.state == "waiting", queue.c.claimed_by == user.name)
    connection.execute(update(queue).where(held).values(claimed_by=None, claimed_at=None, claimed_in=None))


def _wait(connection: Connection, seq: int, lane: str) -> None:
    there = and_(queue.c.seq == seq, queue.c.lane == lane)
    if connection.scalar(select(queue.c.state).where(there)) is None:
        connection.execute(insert(queue).values(seq=seq, lane=lane, state="waiting"))
    else:
        free = {"claimed_by": None, "claimed_at": None, "claimed_in": None}
        connection.execute(update(queue).where(there).values(state="waiting", **free))


def _escaped(connection: Connection, row: Any, user: Identity) -> None:
    """A defect that was called good: an alarm, and a message to every sink."""
    part = row.part_id or row.name or row.id
    source = connection.scalar(select(sources.c.name).where(sources.c.id == row.source_id))
    raise_alarm(connection, "escape", "red", f"part {part} was called good, and is a defect", row.source_id)
    payload = as_text(
        {
            "event": "escape",
            "inspection_id": row.id,
            "seq": row.seq,
            "at": now_ms(),
            "source": source,
            "part_id": row.part_id,
            "judged_by": user.name,
        }
    )
    for sink in connection.execute(select(sinks.c.id).where(sinks.c.active)):
        connection.execute(insert(outbox).values(sink_id=sink.id, seq=row.seq, payload=payload, at=now_ms()))


def withdraw(connection: Connection, user: Identity, number: int) -> int:
    """Take back one's own judgement: the part waits again, leased to this person. The number of the row that says so.

    KeyError where there is no such judgement; NotYours.
    """
    row = connection.execute(select(reviews).where(reviews.c.id == number)).first()
    if row is None:
        raise KeyError(number)
    if row.user_id != user.user_id:
        raise NotYours("this judgement is somebody else's", hint="judge the part yourself")
    if row.truth == "withdrawn" or connection.scalar(select(reviews.c.id).where(reviews.c.supersedes == number)):
        raise NotYours("a later judgement has superseded this one", hint="take that one back")
    key = connection.execute(
        insert(reviews).values(
            seq=row.seq,
            user_id=user.user_id,
            at=now_ms(),
            lane=row.lane,
            truth="withdrawn",
            ms_shown=0,
            blind=row.blind,
            client_key=f"withdrawn {number}",
            supersedes=number,
        )
    ).inserted_primary_key
    assert key is not None
    others = standing().where(reviews.c.seq == row.seq).subquery()
    first = connection.scalar(select(func.count()).select_from(others)) == 0
    connection.execute(
        update(queue)
        .where(queue.c.seq == row.seq, queue.c.lane.in_(_settled(row.lane)))
        .values(
            state="waiting",
            claimed_by=user.name,
            claimed_at=now_ms(),
            claimed_in=case((queue.c.claimed_in.is_(None), queue.c.lane), else_=queue.c.claimed_in),
        )
    )
    if first and row.lane != "second":
        _close(connection, and_(queue.c.seq == row.seq, queue.c.lane == "second"))
    return int(key[0])
