"""The worker: claims, judges, records. A process of its own; killed at any moment, it loses and doubles nothing.

    folder, HTTP -> spool -> judge (threads) -> one commit for a group -> store, thumbs, bell, outbox

Nothing leaves before its row is durable: pictures are moved and sinks are told after the commit.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

from sqlalchemy import delete, insert, select

from blemish.data.image.decode import decode_image
from blemish.errors import BlemishError, DataError
from blemish.files import MOST_PIXELS
from blemish.station import audit, disk
from blemish.station.alarms import clear_alarm, raise_alarm
from blemish.station.blocks import Blocks
from blemish.station.clock import Clock
from blemish.station.config import Config
from blemish.station.disk import Level
from blemish.station.durations import Durations
from blemish.station.ids import now_ms
from blemish.station.judging import Judged, judge, unjudged
from blemish.station.ledger.database import Full, Ledger, Locked
from blemish.station.ledger.record import Recorder
from blemish.station.ledger.schema import alarms, health, inspections, sources
from blemish.station.models import Deployments
from blemish.station.outbox import Outbox
from blemish.station.place import Place
from blemish.station.retention import Retention
from blemish.station.sources.folder import HotFolder, Options
from blemish.station.spool import Claim, Spool
from blemish.station.wake import Bell, ring

log = logging.getLogger("blemish.station.worker")

CUT_OFF = 30.0  # seconds that a picture which ends early may still be written
TRIES = 3  # of the engine on one picture
SOON = 0.05  # seconds between two looks into the spool, where no bell rings
SLOW = 1.0  # between two looks at what seldom changes
LOCKED = (5.0, 30.0)  # seconds that the ledger is locked: amber, red
PAUSES = (0.1, 2.0)  # between attempts to write, the first and the longest


def bell_of(place: Place) -> Path:
    """Rung where a claim lies in the spool, or a deployment or source has changed."""
    return place.run / "worker.sock"


def web_bell(place: Place) -> Path:
    """Rung by the worker after each commit."""
    return place.run / "web.sock"


@dataclass
class _Waiting:
    """A claim on its way."""

    claim: Claim
    first: float  # monotonic, when it was first tried
    tries: int = 0
    again: float = 0.0  # not before


@dataclass
class Worker:
    """See the module. `run` returns when `stop` is set, after what is being judged is recorded."""

    place: Place
    config: Config
    ledger: Ledger
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.spool = Spool(self.place, self.ledger, durable=self.config.durability == "full")
        self.deployments = Deployments(self.place, self.ledger, self.config.limits.threads)
        self.recorder = Recorder(self.place.secret.read_bytes(), site=self.config.site, line=self.config.line)
        self.outbox = Outbox(self.place, self.config, self.ledger)
        self.retention = Retention(self.place, self.config, self.ledger)
        self.folders: dict[int, HotFolder] = {}
        self.level = Level.FINE
        self._taken: dict[str, _Waiting] = {}  # claims that are being judged, or wait for another try
        self._flight: deque[tuple[_Waiting, bytes, Future[Judged]]] = deque()
        self.commits = Durations()
        self._looked = 0.0
        self._back = 0  # milliseconds that the clock went back, not recorded yet
        self._damaged: set[str] = set()  # claims whose notes cannot be read
        with self.ledger.read() as connection:
            last = connection.scalar(select(health.c.at).where(health.c.process == "worker"))
            raised = connection.execute(select(alarms.c.kind, alarms.c.source_id).where(alarms.c.cleared_at.is_(None)))
            self._alarms = {(row.kind, row.source_id) for row in raised}
        self._clock = Clock(last or 0)

    def run(self) -> None:
        """Until told to stop."""
        self._recover()
        bell = Bell(bell_of(self.place))
        scanner = threading.Thread(target=self._scan, name="scan", daemon=True)
        scanner.start()
        sender = threading.Thread(target=self.outbox.run, args=(self.stop,), name="outbox", daemon=True)
        sender.start()
        retention = threading.Thread(target=self.retention.run, args=(self.stop,), name="retention", daemon=True)
        retention.start()
        watching = threading.Thread(
            target=Blocks(self.place, self.ledger).run, args=(self.stop,), name="blocks", daemon=True
        )
        watching.start()
        try:
            with ThreadPoolExecutor(self.config.limits.threads, "judge") as pool:
                while not (self.stop.is_set() and not self._flight):
                    if monotonic() - self._looked > SLOW:
                        self._look()
                    if not self.stop.is_set():
                        self._submit(pool)
                    group = self._finished(bell)
                    if group:
                        self._record(group)
        finally:
            scanner.join(5)
            sender.join(6)
            retention.join(5)
            watching.join(5)
            bell.close()

    def _recover(self) -> None:
        """Finish what a kill has torn: what is recorded is moved, what is no claim is swept."""
        with self.ledger.read() as connection:
            swept = self.spool.sweep(connection.scalars(select(sources.c.id).where(sources.c.kind == "folder")).all())
            for picture, source_id in self.spool.ids():
                row = connection.execute(select(inspections).where(inspections.c.id == picture)).first()
                claim = self.spool.read(source_id, picture) if row is not None else None
                if row is not None and claim is not None:
                    self._put_away(claim, row.state, row.purged_at is None)
        if swept:
            log.info("swept %d torn files of the spool", swept)

    def _look(self) -> None:
        """At what changes seldom: sources, deployments, disk; and say that the worker lives."""
        self._looked = monotonic()
        try:
            self._see_sources()
            for source_id, why in self.deployments.refresh():
                self._alarm("unequal" if "differently" in why else "no_model", "red", why, source_id)
            for kind, source in list(self._alarms):
                if kind in ("unequal", "no_model") and source not in self.deployments.failed:
                    self._clear(kind, source)
            self._see_disk()
            self._see_clock()
            for source_id, folder in self.folders.items():
                if folder.unreachable:
                    self._alarm("unreachable", "amber", folder.unreachable, source_id)
                else:
                    self._clear("unreachable", source_id)
            self._beat()
        except (Locked, Full) as error:
            log.warning("%s", error)

    def _see_sources(self) -> None:
        with self.ledger.read() as connection:
            rows = connection.execute(select(sources).where(sources.c.active, sources.c.kind == "folder")).all()
        found: dict[int, HotFolder] = {}
        for row in rows:
            config = json.loads(row.config)
            known = self.folders.get(row.id)
            try:
                options = Options.of(config)
                if known is not None and known.options == options:
                    found[row.id] = known
                    continue
                found[row.id] = HotFolder(row.id, self.config.inside(options.path), options, self.spool)
            except BlemishError as error:
                self._alarm("unreachable", "red", str(error), row.id)
        self.folders = found

    def _see_disk(self) -> None:
        self.level, share = disk.level(self.place)
        if self.level >= Level.STOP:
            disk.free_reserve(self.place)
        elif self.level <= Level.AMBER:
            disk.keep_reserve(self.place, self.config.limits.reserve_mb)
        if self.level > Level.FINE:
            says = {
                Level.AMBER: "pictures are kept as planned",
                Level.NO_OK: "pictures of good parts are not kept any more",
                Level.PURGE: "pictures are removed ahead of their time",
                Level.STOP: "nothing is taken in",
            }[self.level]
            self._alarm(
                "disk", "red" if self.level >= Level.PURGE else "amber", f"{share:.1%} of the disk is free: {says}"
            )
        else:
            self._clear("disk")

    def _see_clock(self) -> None:
        self._back += self._clock.stepped(monotonic_ns() // 1_000_000)
        if self._back:
            text = f"the clock went back by {self._back / 1000:.0f} s: order is that of the ledger's numbers"
            with self.ledger.write() as connection:
                audit.append(connection, audit.SYSTEM, "clock.back", "clock", after={"seconds": self._back / 1000})
            self._back = 0
            self._alarm("clock", "amber", text)
        elif self._clock.caught_up():
            self._clear("clock")

    def _beat(self) -> None:
        says = {"waiting": self.spool.count(), "level": int(self.level), "live": self.deployments.sources()}
        says["commits"], says["swaps"] = self.commits.state(), self.deployments.swaps.state()
        says["unequal"] = [source for source, why in self.deployments.failed.items() if "differently" in why]
        value = json.dumps(says)
        with self.ledger.write() as connection:
            connection.execute(delete(health).where(health.c.process == "worker"))
            connection.execute(insert(health).values(process="worker", at=now_ms(), pid=os.getpid(), value=value))

    def _scan(self) -> None:
        """The hot folders, by a thread of its own: a share that hangs holds up nothing else."""
        due: dict[int, float] = {}
        while not self.stop.is_set():
            for source_id, folder in list(self.folders.items()):
                if due.get(source_id, 0.0) > monotonic():
                    continue
                due[source_id] = monotonic() + folder.options.scan
                room = self.config.limits.spool_files - self.spool.count()
                if self.level >= Level.STOP or room <= 0 or self.deployments.of(source_id) is None:
                    continue  # files stay where they are
                try:
                    if folder.scan(room):
                        ring(bell_of(self.place))
                except (Locked, Full, OSError, DataError) as error:
                    log.warning("source %d: %s", source_id, error)
                    due[source_id] = monotonic() + SLOW
            self.stop.wait(0.02)

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        """Hand claims to the judges, the oldest first, a few more than can be judged at once."""
        room = 2 * self.config.limits.threads + self.config.limits.group - len(self._flight)
        if room <= 0:
            return
        now = monotonic()
        flying = {waiting.claim.id for waiting, _, _ in self._flight}
        for picture, source_id in self.spool.ids():
            if room <= 0:
                break
            if picture in flying:
                continue
            waiting = self._taken.get(picture)
            if waiting is None:
                claim = self._noted(source_id, picture)
                if claim is None:
                    continue
                waiting = self._taken[picture] = _Waiting(claim, now)
            live = self.deployments.of(source_id)
            if waiting.again > now or live is None:
                continue
            try:
                data = waiting.claim.picture(self.place).read_bytes()
            except FileNotFoundError:
                self._taken.pop(picture, None)
                continue
            future = pool.submit(judge, waiting.claim, data, live.line, live.deployment_id)
            self._flight.append((waiting, data, future))
            room -= 1

    def _noted(self, source_id: int, picture: str) -> Claim | None:
        """A claim; None where it is gone, or its note is damaged, which is said and holds up no other."""
        if picture in self._damaged:
            return None
        try:
            return self.spool.read(source_id, picture)
        except DataError as error:
            self._damaged.add(picture)
            log.error("%s", error)
            self._alarm("failed", "red", str(error), source_id)
            return None

    def _finished(self, bell: Bell) -> list[Judged]:
        """What is judged, in the order of claims, as one group; waits for the first."""
        if not self._flight:
            bell.wait(SOON)
            return []
        group: list[Judged] = []
        until = None
        while self._flight and len(group) < self.config.limits.group:
            waiting, data, future = self._flight[0]
            if group and not future.done() and until is not None and monotonic() > until:
                break
            if not _wait(future, None if not group else max(0.0, (until or 0) - monotonic())):
                break
            self._flight.popleft()
            judged = self._outcome(waiting, data, future)
            if judged is not None:
                group.append(judged)
                until = until or monotonic() + self.config.limits.group_ms / 1000
        return group

    def _outcome(self, waiting: _Waiting, data: bytes, future: Future[Judged]) -> Judged | None:
        """What was judged, or a reject; None where it is tried again."""
        try:
            return future.result()
        except DataError as error:
            waiting.tries += 1
            age = (now_ms() - waiting.claim.at) / 1000
            if waiting.claim.source_id in self.folders and age < CUT_OFF and not _whole(data):
                waiting.again = monotonic() + 1.0
                return None
            return unjudged(waiting.claim, data, "unreadable", str(error), error.hint)
        except Exception as error:  # of the engine: whatever it is, the part is rejected and the line goes on
            waiting.tries += 1
            log.exception("picture %s", waiting.claim.id)
            if waiting.tries < TRIES:
                waiting.again = monotonic() + 0.2
                return None
            return unjudged(waiting.claim, data, "failed", f"{type(error).__name__}: {error}")

    def _record(self, group: Sequence[Judged]) -> None:
        """Write a group, however long that takes; nothing else is judged meanwhile, and nothing is lost."""
        start, pause, said = monotonic(), PAUSES[0], 0
        while True:
            try:
                begun = monotonic()
                with self.ledger.write() as connection:
                    kept = self.recorder.write(connection, group, keep_good=self.level < Level.NO_OK)
                    for one in group:
                        if one.state != "judged":
                            text = f"{one.claim.name}: {one.error}"
                            raise_alarm(connection, one.state, "amber", text, one.claim.source_id)
                self.commits.add(monotonic() - begun)
                break
            except Full:
                disk.free_reserve(self.place)
                self.level = Level.STOP
                log.error("the disk is full: verdicts wait")
            except Locked:
                held = monotonic() - start
                if said < len(LOCKED) and held > LOCKED[said]:
                    log.warning("the ledger has been locked for %.0f s", held)
                    said += 1
            if self.stop.wait(pause) and monotonic() - start > LOCKED[1]:
                log.error("stopped with %d verdicts that could not be recorded: they are judged again", len(group))
                return
            pause = min(2 * pause, PAUSES[1])
        if said:
            self._alarm(
                "locked", "amber" if said == 1 else "red", f"the ledger was locked for {monotonic() - start:.0f} s"
            )
        for one in group:
            self._taken.pop(one.claim.id, None)
            self._put_away(one.claim, one.state, kept[one.claim.id], one)
        ring(web_bell(self.place))
        self.outbox.wake()

    def _put_away(self, claim: Claim, state: str, kept: bool, judged: Judged | None = None) -> None:
        """After the commit: the picture where it is kept, with its thumbnail and map, or away."""
        to = self.place.kept(claim.id, claim.suffix, state) if kept else None
        try:
            if judged is not None and to is not None and judged.thumb:
                for under, suffix, data in (("thumbs", ".jpg", judged.thumb), ("maps", ".png", judged.map)):
                    if data:
                        path = self.place.stored(claim.id, suffix, under)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(data)
            self.spool.done(claim, to)
        except OSError as error:  # the row is there; the next start moves it
            log.warning("picture %s stays in the spool: %s", claim.id, error)

    def _alarm(self, kind: str, level: str, text: str, source_id: int | None = None) -> None:
        with self.ledger.write() as connection:
            raise_alarm(connection, kind, level, text, source_id)
        self._alarms.add((kind, source_id))

    def _clear(self, kind: str, source_id: int | None = None) -> None:
        if (kind, source_id) in self._alarms:
            with self.ledger.write() as connection:
                clear_alarm(connection, kind, source_id)
            self._alarms.discard((kind, source_id))


def _wait(future: Future[Any], seconds: float | None) -> bool:
    try:
        future.exception(seconds)
    except TimeoutError:
        return False
    return True


def _whole(data: bytes) -> bool:
    """Whether a picture can be decoded to its end: what ends early may still be written, all else is what it is."""
    try:
        decode_image(data, "picture", max_pixels=MOST_PIXELS)
    except DataError:
        return False
    return True
