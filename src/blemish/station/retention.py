"""What is not kept any longer is removed: hourly, in short slices, the row marked first and the file removed second.

Held, drawn and reviewed parts are kept as long as `[keep]` says of them; where the disk is nearly full, pictures of
good parts go ahead of their time, the oldest first. A kill between mark and removal leaves a file without an owner,
which `verify` lists.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, not_, or_, select, update

from blemish.station import audit, disk
from blemish.station.config import Config
from blemish.station.disk import Level
from blemish.station.ids import now_ms
from blemish.station.judging import as_text
from blemish.station.ledger.database import Full, Ledger, Locked
from blemish.station.ledger.schema import inspections, outbox, queue, sessions, settings, sources
from blemish.station.place import Place

log = logging.getLogger("blemish.station.retention")

HOUR = 3_600_000
DAY = 24 * HOUR
SLICE = 0.05  # seconds
SENT_DAYS = 7  # that messages which were sent are kept
DISK = "disk"  # setting: free bytes at each run, and the forecast
REMOVED = "removed"  # setting: by source, how many rows were removed, and the largest claim of them
BETWEEN = 3600.0  # seconds between two runs
LOOK = 5.0  # seconds between two looks at the disk

_reviewed = exists(select(queue.c.seq).where(queue.c.seq == inspections.c.seq, queue.c.state == "done"))


@dataclass
class Retention:
    """See the module; `run` is a thread of the worker, `once` one round."""

    place: Place
    config: Config
    ledger: Ledger

    def __post_init__(self) -> None:
        self._many = 32  # rows of a slice, as many as its time allows
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        self._stop, due = stop, 0.0
        while not stop.wait(LOOK if due else 1.0):
            try:
                if disk.level(self.place)[0] >= Level.PURGE:
                    self.make_room()
                if monotonic() >= due:
                    due = monotonic() + BETWEEN
                    self.once()
            except (Locked, Full, OSError) as error:
                log.warning("retention goes on later: %s", error)

    def once(self, now: int | None = None) -> dict[str, int]:
        """One round; how many pictures (by verdict), bytes, thumbnails, rows and messages were removed."""
        now = now_ms() if now is None else now
        sums: Counter[str] = Counter()
        for name, which in self._due(now):
            for rows in self._slices(which):
                self._purge(rows, now, sums, name)
        for under in ("thumbs", "maps"):
            sums[under] += self._old_files(self.place.root / under, self.config.keep.thumb_days, now)
        self._old_files(self.place.root / "store", 2, now, only_empty=True)
        sums["rows"] = self._old_rows(now)
        sums["messages"] = self._sent(now)
        with self.ledger.write() as connection:
            sums["sessions"] = connection.execute(delete(sessions).where(sessions.c.expires_at < now)).rowcount
            found = {name: count for name, count in sums.items() if count}
            if found:
                audit.append(connection, audit.SYSTEM, "retention", "pictures", after=found)
            self._forecast(connection, now)
        return found

    def make_room(self, now: int | None = None) -> int:
        """Remove pictures of good parts ahead of their time, the oldest first, until there is room; how many."""
        now = now_ms() if now is None else now
        sums: Counter[str] = Counter()
        here = and_(inspections.c.drawn.is_(False), inspections.c.verdict == "good", not_(_reviewed))
        for rows in self._slices(here):
            self._purge(rows, now, sums, "good")
            if disk.level(self.place)[0] < Level.NO_OK:
                break
        if sums["good"]:
            with self.ledger.write() as connection:
                audit.append(connection, audit.SYSTEM, "retention.early", "pictures", after=dict(sums))
        return sums["good"]

    def _due(self, now: int) -> Iterator[tuple[str, ColumnElement[bool]]]:
        """Which pictures are not kept any longer, by verdict."""
        keep, at, verdict = self.config.keep, inspections.c.judged_at, inspections.c.verdict
        days = {"good": keep.ok_days, "anomalous": keep.ng_days, "unknown": keep.other_days, "error": keep.other_days}
        for name, of_verdict in days.items():
            drawn = max(of_verdict, keep.drawn_days) if of_verdict and keep.drawn_days else 0
            for is_drawn, many in ((False, of_verdict), (True, drawn)):
                if many:
                    old = and_(inspections.c.drawn.is_(is_drawn), verdict == name, at < now - int(many * DAY))
                    if drawn:
                        yield name, and_(old, or_(not_(_reviewed), at < now - int(drawn * DAY)))
                    else:
                        yield name, and_(old, not_(_reviewed))

    def _slices(self, which: ColumnElement[bool]) -> Iterator[list[Any]]:
        """Rows whose pictures are kept, the oldest first; each slice is gone before the next is asked for."""
        wanted = (inspections.c.seq, inspections.c.id, inspections.c.suffix, inspections.c.state, inspections.c.bytes)
        kept = and_(inspections.c.purged_at.is_(None), inspections.c.hold.is_(False), which)
        while not self._stop.is_set():
            start = monotonic()
            with self.ledger.read() as connection:
                asked = select(*wanted).where(kept).order_by(inspections.c.judged_at).limit(self._many)
                rows = list(connection.execute(asked))
            if not rows:
                return
            yield rows
            took = monotonic() - start
            self._many = max(8, self._many // 2) if took > SLICE else min(256, self._many + 8)
            self._stop.wait(min(took, 1.0))  # as long as it took: the line goes first

    def _purge(self, rows: list[Any], now: int, sums: Counter[str], name: str) -> None:
        with self.ledger.write() as connection:
            those = inspections.c.seq.in_([row.seq for row in rows])
            connection.execute(update(inspections).where(those).values(purged_at=now))
        for row in rows:
            self.place.kept(row.id, row.suffix, row.state).unlink(missing_ok=True)
        sums[name] += len(rows)
        sums["bytes"] += sum(row.bytes for row in rows)

    def _old_files(self, root: Path, days: float, now: int, *, only_empty: bool = False) -> int:
        """Remove folders of hours that are older, with what is in them; how many files."""
        count = 0
        limit = datetime.fromtimestamp((now - int(days * DAY)) / 1000, UTC).strftime("%Y/%m/%d/%H")
        for hour in _hours(root) if days else ():
            if hour >= limit or self._stop.is_set():
                break
            start = monotonic()
            for path in _files(root / hour) if not only_empty else ():
                path.unlink(missing_ok=True)
                count += 1
                if monotonic() - start > SLICE:
                    self._stop.wait(SLICE)
                    start = monotonic()
            _prune(root, hour)
        return count

    def _old_rows(self, now: int) -> int:
        """Remove rows whose time is over and whose picture is gone; their numbers stay counted."""
        keep, count = self.config.keep.row_days, 0
        if not keep:
            return 0
        with self.ledger.read() as connection:
            ids = connection.scalars(select(sources.c.id)).all()
            newest = [select(func.max(inspections.c.claim)).where(inspections.c.source_id == one) for one in ids]
            last = [connection.scalar(one) for one in newest]
        again = inspections.alias()
        old = and_(
            inspections.c.judged_at < now - int(keep * DAY),
            inspections.c.purged_at.is_not(None),
            inspections.c.hold.is_(False),
            inspections.c.claim.not_in([one for one in last if one is not None]),  # so that numbers go on
            not_(exists(select(again.c.seq).where(again.c.repeats == inspections.c.seq))),
        )
        wanted = select(inspections.c.seq, inspections.c.source_id, inspections.c.claim)
        while not self._stop.is_set():
            with self.ledger.write() as connection:
                asked = wanted.where(old).order_by(inspections.c.judged_at).limit(self._many)
                rows = list(connection.execute(asked))
                if not rows:
                    return count
                gone = setting(connection, REMOVED, {})
                for row in rows:
                    many, largest = gone.get(str(row.source_id), (0, 0))
                    gone[str(row.source_id)] = (many + 1, max(largest, row.claim))
                set_setting(connection, REMOVED, gone)
                those = [row.seq for row in rows]
                connection.execute(delete(queue).where(queue.c.seq.in_(those)))
                connection.execute(delete(inspections).where(inspections.c.seq.in_(those)))
            count += len(rows)
            self._stop.wait(SLICE)
        return count

    def _sent(self, now: int) -> int:
        """Remove messages that were sent long ago."""
        limit, last, count = now - SENT_DAYS * DAY, 0, 0
        while not self._stop.is_set():
            with self.ledger.write() as connection:
                asked = select(outbox.c.id, outbox.c.done_at).where(outbox.c.id > last).order_by(outbox.c.id).limit(256)
                rows = list(connection.execute(asked))
                due = [row.id for row in rows if row.done_at is not None and row.done_at < limit]
                connection.execute(delete(outbox).where(outbox.c.id.in_(due)))
            count += len(due)
            if not rows or any(row.done_at is not None and row.done_at >= limit for row in rows):
                return count
            last = rows[-1].id
            self._stop.wait(SLICE)
        return count

    def _forecast(self, connection: Connection, now: int) -> None:
        """How many days the disk lasts at the rate of the last week."""
        usage = shutil.disk_usage(self.place.root)
        known: list[list[int]] = setting(connection, DISK, {}).get("free", [])
        free = [*(each for each in known if now - 7 * DAY <= each[0] < now), [now, usage.free]]
        lost = (free[0][1] - usage.free) / max(now - free[0][0], 1)  # bytes a millisecond
        days = (usage.free - 0.01 * usage.total) / lost / DAY if lost > 0 else None
        said = None if days is None or now - free[0][0] < HOUR else round(max(days, 0.0), 1)
        set_setting(connection, DISK, {"free": free, "days": said})


def forecast(connection: Connection) -> float | None:
    """In how many days the disk is full at this rate; None where it does not fill, or that is not known yet."""
    days: float | None = setting(connection, DISK, {}).get("days")
    return days


def setting(connection: Connection, key: str, default: Any) -> Any:
    """A value of the settings, or the default."""
    value = connection.scalar(select(settings.c.value).where(settings.c.key == key))
    return default if value is None else json.loads(value)


def set_setting(connection: Connection, key: str, value: Any) -> None:
    """Keep a value."""
    changed = update(settings).where(settings.c.key == key)
    if not connection.execute(changed.values(value=as_text(value), version=settings.c.version + 1)).rowcount:
        connection.execute(insert(settings).values(key=key, value=as_text(value)))


def _hours(root: Path) -> Iterable[str]:
    """The folders of hours below a root, the oldest first, as YYYY/MM/DD/HH."""
    return sorted("/".join(path.relative_to(root).parts) for path in root.glob("*/*/*/*"))


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        yield from [Path(entry.path) for entry in entries]


def _prune(root: Path, hour: str) -> None:
    """Remove a folder of an hour, and those around it, as far as they are empty."""
    path = root / hour
    while path != root:
        try:
            path.rmdir()
        except OSError:  # not empty
            return
        path = path.parent
