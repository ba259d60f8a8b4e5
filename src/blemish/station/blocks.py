"""Rows of the ledger -> blocks of accepted parts -> evidence of drift -> alarms; and the rule for what cannot wait.

A block is at least 100 accepted parts and ten minutes, of one lot. Its value is the mean of exactly 100 of them, drawn
by lot, so that blocks are alike in law. All is told again by the ledger's rows: a kill loses and doubles no block.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, func, insert, select

from blemish.errors import BlemishError
from blemish.station.alarms import clear_alarm, raise_alarm
from blemish.station.drift import LIMITS, Monitor, combined, lag_one, level
from blemish.station.judging import as_text
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import alarms, blocks, deployments, inspections, products, sources
from blemish.station.place import Place

log = logging.getLogger("blemish.station.blocks")

PARTS = 100  # accepted parts of which a block's value is the mean
MINUTES = 10.0
CHUNK = 2000  # rows that are read at once
PAUSE = 1.0  # seconds between two looks
LAST, MANY, FEW = 10, 8, 2  # the storm rule: so many of the last rejected; over where no more than FEW are
OUTSIDE = 5  # parts in a row that look like nothing that was ever accepted
SEEN = 100  # accepted parts from which on it is known what they look like
LOOKS = ("brightness", "focus", "colour")

MONITORS: dict[str, Callable[[Any], float | None]] = {
    "score": lambda row: row.score / row.threshold if row.score is not None and row.threshold else None,
    "brightness": lambda row: row.brightness,
    "focus": lambda row: row.focus,
    "colour": lambda row: row.colour,
    "position": lambda row: None if row.shift_x is None else (row.shift_x**2 + row.shift_y**2) ** 0.5,
}
"""Of an accepted part; shares of a block's parts that were rejected, or that no product was found for, stand beside."""
SHARES = ("rejected", "unknown")
REMEDIES = {
    "score": "compare parts from before and after: material, fixture, lamp, lens; recalibrate last",
    "rejected": "look at the rejects: is it the parts? else fixture, lamp, lens; recalibrate last",
    "brightness": "clean or replace the lamp, check exposure; recalibrate last",
    "focus": "clean the lens, check distance and aperture; recalibrate last",
    "colour": "check the lamp and the white balance; recalibrate last",
    "position": "check fixture and trigger; recalibrate last",
    "unknown": "is another product on the line?",
}


@dataclass
class Cutter:
    """Cuts the rows of a source into blocks; holds no more of one than it needs."""

    secret: bytes
    parts: int = PARTS
    minutes: float = MINUTES
    lot: int | None = None
    first: Any = None
    last: Any = None
    accepted: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("all", *SHARES), 0))
    drawn: list[tuple[float, int, Any]] = field(default_factory=list)

    def add(self, row: Any) -> dict[str, Any] | None:
        """Take the next row; the block that it ends, if any."""
        done = None
        if self.first is not None and row.lot_id != self.lot:
            done = self._block() if self.accepted >= self.parts else None
            self._clear()
        if self.first is None:
            self.first, self.lot = row, row.lot_id
        self.last = row
        self.counts["all"] += 1
        self.counts["rejected"] += row.verdict == "anomalous"
        self.counts["unknown"] += row.verdict == "unknown"
        if row.verdict == "good":
            self.accepted += 1
            heapq.heappush(self.drawn, (-self._draw(row.seq), row.seq, row))  # the largest goes first
            if len(self.drawn) > self.parts:
                heapq.heappop(self.drawn)
        whole = self.accepted >= self.parts and row.judged_at - self.first.judged_at >= 60_000 * self.minutes
        if whole and done is None:
            done = self._block()
            self._clear()
        return done

    def _draw(self, seq: int) -> float:
        return uniform(self.secret, f"block {seq}")

    def _block(self) -> dict[str, Any]:
        values: dict[str, float] = {}
        for name, of in MONITORS.items():
            known = [value for _, _, row in self.drawn if (value := of(row)) is not None]
            if len(known) == self.parts:
                values[name] = sum(known) / len(known)
        for name in SHARES:
            values[name] = self.counts[name] / self.counts["all"]
        own = {"from_seq": self.first.seq, "to_seq": self.last.seq, "ended_at": self.last.judged_at}
        return {**own, "lot_id": self.lot, "n": self.accepted, "values": values}

    def _clear(self) -> None:
        self.lot, self.first, self.last, self.accepted, self.drawn = None, None, None, 0, []
        self.counts = dict.fromkeys(("all", *SHARES), 0)


def uniform(secret: bytes, what: str) -> float:
    """A number in [0, 1) by the station's key: again the same."""
    return int.from_bytes(hmac.new(secret, what.encode(), hashlib.sha256).digest()[:7], "big") / 2**56


@dataclass
class Watch:
    """What is known of one source since its model went live."""

    source_id: int
    product_id: int
    epoch: int  # the deployment
    cutter: Cutter
    seen: int  # number of the last row that was taken
    monitors: dict[str, Monitor]
    newest: deque[bool] = field(default_factory=lambda: deque(maxlen=LAST))
    outside: int = 0
    looks: dict[str, list[float]] = field(default_factory=dict)  # the least and the most of accepted parts
    accepted: int = 0
    odd: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=OUTSIDE))  # accepted, not in `looks` yet

    @classmethod
    def of(cls, connection: Connection, secret: bytes, source: Any, epoch: int, config: dict[str, Any]) -> Watch:
        """As the ledger has it."""
        product = source.product_id or 0
        own = and_(blocks.c.source_id == source.id, blocks.c.product_id == product, blocks.c.epoch == epoch)
        rows = connection.execute(select(blocks).where(own).order_by(blocks.c.number)).all()
        monitors = {}
        for name in {row.monitor for row in rows}:
            of_it = [row for row in rows if row.monitor == name]
            monitors[name] = Monitor.of([row.value for row in of_it], json.loads(of_it[-1].evidence))
        cutter = Cutter(secret, int(config.get("block_parts", PARTS)), float(config.get("block_minutes", MINUTES)))
        seen = max((row.to_seq for row in rows), default=0)
        made = cls(source.id, product, epoch, cutter, seen, monitors)
        ends = [f(inspections.c[name]) for name in LOOKS for f in (func.min, func.max)]
        good = and_(
            inspections.c.deployment_id == epoch,
            inspections.c.source_id == source.id,
            inspections.c.verdict == "good",
            inspections.c.seq <= seen,
        )
        count, *found = connection.execute(select(func.count(), *ends).where(good)).one()
        made.accepted = int(count)
        if count and None not in found:
            made.looks = {name: [found[2 * i], found[2 * i + 1]] for i, name in enumerate(LOOKS)}
        return made

    def rows(self, connection: Connection) -> list[Any]:
        """The next ones."""
        names = "seq verdict score threshold brightness focus colour shift_x shift_y lot_id judged_at source_id".split()
        asked = (
            select(*(inspections.c[name] for name in names))
            .where(inspections.c.deployment_id == self.epoch, inspections.c.seq > self.seen)
            .where(inspections.c.state == "judged", inspections.c.source_id == self.source_id)
            .order_by(inspections.c.seq)
            .limit(CHUNK)
        )
        return list(connection.execute(asked))

    def look(self, row: Any) -> None:
        """For the rules that need no block."""
        self.newest.append(row.verdict != "good")
        values = {name: getattr(row, name) for name in LOOKS}
        if None in values.values():
            return
        known = self.accepted >= SEEN
        beyond = known and any(not self._within(name, value) for name, value in values.items())
        self.outside = self.outside + 1 if beyond else 0
        if row.verdict == "good":
            self.accepted += 1
            self.odd.append(values)
        if not beyond:  # a single odd one was no change: it is one of those that are accepted
            for accepted in self.odd:
                for name, value in accepted.items():
                    least, most = self.looks.get(name, [value, value])
                    self.looks[name] = [min(least, value), max(most, value)]
            self.odd.clear()

    def _within(self, name: str, value: float) -> bool:
        ends = self.looks.get(name)
        return ends is None or ends[0] <= value <= ends[1]

    def storm(self) -> str | None:
        """What cannot wait for a block, in words."""
        if sum(self.newest) >= MANY:
            return f"{sum(self.newest)} of the last {LAST} parts were rejected"
        if self.outside >= OUTSIDE:
            return (
                f"the last {self.outside} pictures look like none that was accepted before: brightness, focus or colour"
            )
        return None

    def calm(self) -> bool:
        return sum(self.newest) <= FEW and self.outside == 0


class Blocks:
    """Looks after all sources, in a thread of the worker's."""

    def __init__(self, place: Place, ledger: Ledger) -> None:
        self.secret, self.ledger = place.secret.read_bytes(), ledger
        self.watches: dict[int, Watch] = {}

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        while not stop.wait(PAUSE):
            try:
                while self.step() and not stop.is_set():
                    pass
            except BlemishError as error:  # the ledger is locked, or full: the rows are there the next time
                log.warning("%s", error)
                self.watches.clear()

    def step(self) -> int:
        """Take new rows of each source, some of them; how many there were."""
        taken = 0
        with self.ledger.read() as connection:
            live = {
                row.source_id: row.id
                for row in connection.execute(
                    select(deployments.c.source_id, deployments.c.id).where(deployments.c.until.is_(None))
                )
            }
            each = list(connection.execute(select(sources)))
            configs = {row.id: json.loads(row.config) for row in connection.execute(select(products))}
            for source in each:
                known = self.watches.get(source.id)
                if source.id in live and (known is None or known.epoch != live[source.id]):
                    config = configs.get(source.product_id, {})
                    self.watches[source.id] = Watch.of(connection, self.secret, source, live[source.id], config)
        for watch in list(self.watches.values()):
            if live.get(watch.source_id) == watch.epoch:
                taken += self._take(watch)
        return taken

    def _take(self, watch: Watch) -> int:
        with self.ledger.read() as connection:
            rows = watch.rows(connection)
        for row in rows:
            watch.seen = row.seq
            watch.look(row)
            block = watch.cutter.add(row)
            if block is not None:
                self._close(watch, block)
        if rows:
            self._storm(watch)
        return len(rows)

    def _close(self, watch: Watch, block: dict[str, Any]) -> None:
        """Keep a block, with what it adds to the evidence, and the alarm that it raises or ends."""
        written = []
        for name, value in block["values"].items():
            monitor = watch.monitors.setdefault(name, Monitor())
            key = f"rank {watch.source_id} {watch.product_id} {name} {watch.epoch} {monitor.count + 1}"
            p = monitor.add(value, uniform(self.secret, key))
            own = {"monitor": name, "number": monitor.count, "value": value, "rank_p": p}
            written.append({**own, "evidence": as_text(monitor.state())})
        place = {"source_id": watch.source_id, "product_id": watch.product_id, "epoch": watch.epoch}
        facts = {name: block[name] for name in ("from_seq", "to_seq", "ended_at", "lot_id", "n")}
        total = combined(watch.monitors.values())
        with self.ledger.write() as connection:
            connection.execute(insert(blocks), [{**place, **facts, **each} for each in written])
            if (how := level(total)) is None:
                clear_alarm(connection, "drift", watch.source_id)
                return
            name, worst = max(watch.monitors.items(), key=lambda pair: pair[1].evidence)
            began = connection.scalar(
                select(blocks.c.ended_at).where(
                    *(blocks.c[key] == value for key, value in place.items()),
                    blocks.c.monitor == name,
                    blocks.c.number == worst.since,
                )
            )
            text = f"accepted parts look different ({name}): by chance once in {LIMITS[how]:,.0f} blocks"
            raise_alarm(
                connection, "drift", how, text, watch.source_id, remedy=REMEDIES[name], about_at=began, evidence=total
            )

    def _storm(self, watch: Watch) -> None:
        text = watch.storm()
        with self.ledger.read() as connection:
            there = connection.scalar(
                select(alarms.c.id).where(
                    alarms.c.kind == "storm", alarms.c.source_id == watch.source_id, alarms.c.cleared_at.is_(None)
                )
            )
        if text is not None and there is None:
            with self.ledger.write() as connection:
                raise_alarm(connection, "storm", "red", text, watch.source_id)
        elif there is not None and watch.calm():
            with self.ledger.write() as connection:
                clear_alarm(connection, "storm", watch.source_id)


def drifts(connection: Connection) -> list[dict[str, Any]]:
    """The state of each source with blocks, since its model went live; plain values."""
    live = (
        select(
            deployments.c.id, deployments.c.source_id, sources.c.name.label("source"), products.c.name.label("product")
        )
        .join(sources, sources.c.id == deployments.c.source_id)
        .outerjoin(products, products.c.id == sources.c.product_id)
        .where(deployments.c.until.is_(None))
        .order_by(sources.c.name)
    )
    out = []
    for one in connection.execute(live).all():
        own = and_(blocks.c.source_id == one.source_id, blocks.c.epoch == one.id)
        rows = connection.execute(select(blocks).where(own).order_by(blocks.c.number)).all()
        monitors = {}
        for name in dict.fromkeys(row.monitor for row in rows):
            of_it = [row for row in rows if row.monitor == name]
            monitor = Monitor.of([row.value for row in of_it], json.loads(of_it[-1].evidence))
            monitors[name] = (monitor, of_it)
        evidence = combined([monitor for monitor, _ in monitors.values()]) if monitors else 0.0
        out.append(
            {
                "source": one.source,
                "product": one.product,
                "deployment": one.id,
                "blocks": max((len(of_it) for _, of_it in monitors.values()), default=0),
                "evidence": evidence,
                "level": level(evidence),
                "monitors": {name: _shown(*pair) for name, pair in monitors.items()},
            }
        )
    return out


def _shown(monitor: Monitor, rows: list[Any]) -> dict[str, Any]:
    last, began = rows[-1], rows[min(monitor.since, len(rows)) - 1]
    return {
        "evidence": monitor.evidence,
        "blocks": len(rows),
        "value": last.value,
        "rank_p": last.rank_p,
        "since": began.ended_at,
        "lag_one": lag_one([row.value for row in rows]),
    }
