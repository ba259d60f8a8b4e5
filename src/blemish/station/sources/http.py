"""Pictures that machines send: taken in once for each key, durable before anybody is told.

The process that holds this object is the only one that takes from sources of this kind; what a kill has left of them is
swept when it is made, and keys of waiting claims are read again.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from blemish.errors import BlemishError, DataError
from blemish.station import disk
from blemish.station.audit import Actor
from blemish.station.config import Config
from blemish.station.disk import Level
from blemish.station.ids import now_ms
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import health, inspections, sources
from blemish.station.lots import lot_named, open_lot
from blemish.station.place import Place, digest
from blemish.station.spool import Spool
from blemish.station.wake import ring
from blemish.station.worker import bell_of

log = logging.getLogger("blemish.station.web")

SILENT_MS = 5000  # after which a worker that says nothing is taken for gone
KEYS = 4096  # of claims that are kept in memory


class NotReady(BlemishError):
    """Nothing can be taken in just now."""


class Unknown(BlemishError):
    """There is no such source, or it takes nothing by HTTP."""


class OtherBytes(BlemishError):
    """The key was used for another picture."""


FORMATS = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"II+\0", ".tif"),
    (b"MM\0+", ".tif"),
    (b"BM", ".bmp"),
)


def suffix_of(first: bytes) -> str | None:
    """The format that the first bytes of a picture tell; None where it is none that is taken."""
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in FORMATS if first.startswith(magic)), None)


@dataclass(frozen=True)
class Told:
    """What a request says of its picture."""

    name: str
    part_id: str | None = None
    lot: str | None = None
    key: str | None = None


def beat(connection: Any) -> tuple[int | None, dict[str, Any]]:
    """Milliseconds since the worker has last said that it lives, and what it said; None where it never has."""
    row = connection.execute(select(health).where(health.c.process == "worker")).first()
    return (None, {}) if row is None else (abs(now_ms() - row.at), json.loads(row.value))


class Intake:
    """See the module."""

    def __init__(self, place: Place, config: Config, ledger: Ledger) -> None:
        self.place, self.config, self.ledger = place, config, ledger
        self.durable = config.durability == "full"
        self.spool = Spool(place, ledger, durable=self.durable)
        self._lock = threading.Lock()
        self._keys: dict[tuple[int, str], tuple[str, str]] = {}  # of claims that may have no row yet: id, sha256
        with ledger.read() as connection:
            own = connection.scalars(select(sources.c.id).where(sources.c.kind == "http")).all()
        self.spool.sweep(own)
        for picture, source_id in self.spool.ids():
            if source_id in own:
                self._remember(source_id, picture)

    def _remember(self, source_id: int, picture: str) -> None:
        try:
            claim = self.spool.read(source_id, picture)
            if claim is not None and claim.source_key is not None:
                sha256 = digest(claim.picture(self.place).read_bytes())
                self._keys[source_id, claim.source_key] = claim.id, sha256
        except FileNotFoundError:  # judged just now: its row is there
            return
        except DataError as error:  # `verify` names it
            log.error("%s", error)

    def source(self, name: str) -> int:
        """The number of a source that pictures can be sent to. Unknown, NotReady."""
        with self.ledger.read() as connection:
            row = connection.execute(select(sources).where(sources.c.name == name)).first()
            silent, says = beat(connection)
        if row is None or row.kind != "http":
            raise Unknown(f"there is no source '{name}' that takes pictures by HTTP", hint="GET /api/v1/sources")
        if not row.active:
            raise NotReady(f"source '{name}' is switched off")
        if silent is None or silent > SILENT_MS:
            raise NotReady("nothing is judged: the worker does not answer", hint="is `blemish station serve` running?")
        if row.id not in says.get("live", ()):
            raise NotReady(f"no model is live for source '{name}'", hint="POST /api/v1/deployments")
        if max(Level(says.get("level", 0)), disk.level(self.place)[0]) >= Level.STOP:
            raise NotReady("the disk is full", hint="free some space")
        if self.spool.count() >= self.config.limits.spool_files:
            raise NotReady("too many pictures wait to be judged")
        return int(row.id)

    def take(self, actor: Actor, source_id: int, picture: Path, sha256: str, suffix: str, told: Told) -> str:
        """The id of a picture that is durable already, claimed when this returns; of the claim that its key has made
        before, where it has. OtherBytes."""
        if told.lot is None:
            lot_id = open_lot(self.ledger, source_id)
        else:
            lot_id = lot_named(self.ledger, actor, source_id, told.lot)
        with self._lock:
            there = self._known(source_id, told.key)
            if there is not None:
                if there[1] != sha256:
                    raise OtherBytes("this Idempotency-Key was used for another picture", hint="a key for each part")
                return there[0]
            claim = self.spool.claim(
                source_id,
                picture,
                name=told.name,
                part_id=told.part_id,
                lot_id=lot_id,
                source_key=told.key,
                suffix=suffix,
                synced_already=True,
            )
            if told.key is not None:
                self._keys[source_id, told.key] = claim.id, sha256
        ring(bell_of(self.place))
        return claim.id

    def _known(self, source_id: int, key: str | None) -> tuple[str, str] | None:
        if key is None:
            return None
        there = self._keys.get((source_id, key))
        if there is not None:
            return there
        if len(self._keys) >= KEYS:
            waiting = {picture for picture, _ in self.spool.ids()}
            self._keys = {name: each for name, each in self._keys.items() if each[0] in waiting}
        with self.ledger.read() as connection:
            row = connection.execute(
                select(inspections.c.id, inspections.c.sha256).where(
                    inspections.c.source_id == source_id, inspections.c.source_key == key
                )
            ).first()
        return None if row is None else (row.id, row.sha256)
