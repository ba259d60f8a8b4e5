"""The outbox: messages that were written with their verdicts go to each sink in order, at least once.

A thread for each sink, so that one that is down, or hangs, holds up no other. What a sink has is marked in groups; a
kill before that sends it again, with the same `inspection_id`. A sink that fails is asked again after 1 s, doubling to
5 minutes; a message that a receiver refuses again and again is kept as failed and said, and the next one goes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from sqlalchemy import Connection, and_, func, select, update

from blemish.errors import BlemishError
from blemish.station.alarms import clear_alarm, raise_alarm
from blemish.station.audit import Actor, append
from blemish.station.config import Config
from blemish.station.ids import now_ms
from blemish.station.judging import as_text
from blemish.station.ledger.database import Full, Ledger, Locked
from blemish.station.ledger.schema import outbox, sinks
from blemish.station.place import Place
from blemish.station.sinks import made
from blemish.station.sinks.base import Message, Refused, Sink

log = logging.getLogger("blemish.station.outbox")

FIRST, LONGEST = 1.0, 300.0  # seconds until a sink that has failed is asked again
LATE = 60.0  # seconds that the oldest message of a sink may wait
TRIES = 5  # of a message that is refused
BATCH = 100  # messages that are read, and marked, together
GROUP = 0.5  # seconds after which what was delivered is marked, if there are not so many
LOOK = 1.0  # seconds between two looks at the sinks, and at the outbox where nobody says that something is new

WAITING = and_(outbox.c.done_at.is_(None), outbox.c.failed_at.is_(None))


@dataclass
class Outbox:
    """Sends what waits. `run` returns when `stop` is set, after what was delivered is marked."""

    place: Place
    config: Config
    ledger: Ledger
    _senders: dict[int, _Sender] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)  # text of alarms as they stand, by kind

    def wake(self) -> None:
        """Something is new."""
        for sender in list(self._senders.values()):
            sender.new.set()

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        while not stop.is_set():
            try:
                self._see_sinks()
                self._see_alarms()
            except (Locked, Full) as error:
                log.warning("%s", error)
            except Exception:  # senders go on
                log.exception("outbox")
            stop.wait(LOOK)
        for sender in self._senders.values():
            sender.end()
        until = monotonic() + 5
        for sender in self._senders.values():
            sender.join(max(0.0, until - monotonic()))

    def _see_sinks(self) -> None:
        with self.ledger.read() as connection:
            rows = {row.id: row for row in connection.execute(select(sinks).where(sinks.c.active))}
        for key, sender in list(self._senders.items()):
            row = rows.get(key)
            if row is None or (row.name, row.kind, row.config) != sender.of or not sender.is_alive():
                sender.end()
                if not sender.is_alive():  # else it is about to finish: never two for one sink
                    del self._senders[key]
        for key, row in rows.items():
            if key not in self._senders:
                sender = self._senders[key] = _Sender(self, row)
                sender.start()

    def _see_alarms(self) -> None:
        """One alarm that names the sinks that are late, one for messages that were given up."""
        late, kept = [], []
        with self.ledger.read() as connection:
            for key, sender in self._senders.items():
                mine = outbox.c.sink_id == key
                oldest = connection.scalar(select(outbox.c.at).where(mine, WAITING).order_by(outbox.c.id).limit(1))
                if oldest is not None and now_ms() - oldest > 1000 * LATE:
                    late.append(f"{sender.of[0]} is behind: {sender.error or 'slower than the line'}")
                failed = connection.scalar(select(func.count()).where(mine, outbox.c.failed_at.is_not(None)))
                if failed:
                    kept.append(f"{sender.of[0]} has refused {failed} messages")
        self._say("sink", "; ".join(late))
        self._say("undelivered", "; ".join(kept))

    def _say(self, kind: str, text: str) -> None:
        if self._said.get(kind) == text:
            return
        with self.ledger.write() as connection:
            if text:
                raise_alarm(connection, kind, "amber", text)
            else:
                clear_alarm(connection, kind)
        self._said[kind] = text


class _Sender(threading.Thread):
    """Sends the messages of one sink."""

    def __init__(self, outbox: Outbox, row: Any) -> None:
        super().__init__(name=f"sink-{row.name}", daemon=True)
        self.key, self.of = int(row.id), (row.name, row.kind, row.config)
        self.place, self.config, self.ledger = outbox.place, outbox.config, outbox.ledger
        self.new, self.stop = threading.Event(), threading.Event()
        self.error = ""  # why nothing goes, where that is so

    def end(self) -> None:
        """Stop after the message that is being sent."""
        self.stop.set()
        self.new.set()

    def run(self) -> None:
        name, kind, config = self.of
        sink: Sink[Any] | None = None
        pause = FIRST
        while not self.stop.is_set():
            self.new.clear()
            try:
                sink = sink or made(kind, name, json.loads(config), self.place, self.config)
                more = self._some(sink)
                self.error, pause = "", FIRST
                if not more:
                    self.new.wait(LOOK)
            except (Locked, Full) as error:
                log.warning("sink %s: %s", name, error)
                self.stop.wait(LOOK)
            except Exception as error:  # of a sink: whatever it is, the others go on
                if not isinstance(error, BlemishError):
                    log.exception("sink %s", name)
                elif not self.error:
                    log.warning("sink %s: %s", name, error)
                self.error = str(error) or type(error).__name__
                self.stop.wait(pause)
                pause = min(2 * pause, LONGEST)
        if sink is not None:
            sink.close()

    def _some(self, sink: Sink[Any]) -> bool:
        """Send what waits, or a batch of it; whether there was any."""
        with self.ledger.read() as connection:
            rows = connection.execute(
                select(outbox).where(outbox.c.sink_id == self.key, WAITING).order_by(outbox.c.id).limit(BATCH)
            ).all()
        if not rows:
            sink.idle()
            return False
        delivered: list[int] = []
        left = {row.id: row for row in rows}  # in order
        marked = monotonic()
        try:
            for key in sink.send([message(row) for row in rows]):
                delivered.append(key)
                del left[key]
                if self.stop.is_set():
                    break
                if monotonic() - marked > GROUP:
                    self._mark(delivered)
                    delivered, marked = [], monotonic()
        except Exception as error:
            self._mark(delivered, next(iter(left.values()), None), error)
            raise
        self._mark(delivered)
        return True

    def _mark(self, delivered: Sequence[int], row: Any = None, error: Exception | None = None) -> None:
        """What was delivered, and how the first of the others failed; however long that takes, unless told to stop."""
        now = now_ms()
        while delivered or row is not None:
            try:
                with self.ledger.write() as connection:
                    if delivered:
                        connection.execute(update(outbox).where(outbox.c.id.in_(delivered)).values(done_at=now))
                    if row is not None:
                        gone = isinstance(error, Refused) and row.tries + 1 >= TRIES
                        values = {"tries": row.tries + 1, "last_error": str(error), "failed_at": now if gone else None}
                        connection.execute(update(outbox).where(outbox.c.id == row.id).values(**values))
                return
            except (Locked, Full) as locked:
                log.warning("sink %s: %s", self.of[0], locked)
                if self.stop.wait(LOOK):
                    return


def message(row: Any) -> Message:
    """A row of the outbox as sinks are given it; one that is of no inspection has a name of its own."""
    said, body = json.loads(row.payload), row.payload
    key = said.get("inspection_id")
    if key is None:
        key = said["message_id"] = f"message-{row.id}"
        body = as_text(said)
    return Message(row.id, key, str(said.get("source", "station")), int(said.get("at", row.at)), body)


def again(connection: Connection, actor: Actor, sink_id: int) -> int:
    """Send once more what a sink's receiver has refused, in its order; how many."""
    failed = and_(outbox.c.sink_id == sink_id, outbox.c.failed_at.is_not(None))
    count = connection.execute(update(outbox).where(failed).values(failed_at=None, tries=0)).rowcount
    append(connection, actor, "sink.again", f"sink {sink_id}", after={"messages": count})
    return int(count)
