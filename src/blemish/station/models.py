"""Models of a station: imported whole, checked on this computer, swapped between two pictures.

A model lies in `models/<digest>.blemish`, never changed. Golden pictures, with the scores that they had where the model
was approved, lie beside it: a computer that gives others computes differently, and no such model goes live on it.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import Connection, and_, insert, select, update

from blemish.errors import BlemishError, ConfigError, DataError, ModelFileError
from blemish.files import read_file
from blemish.inspection import modelfile
from blemish.inspection.modelfile import Model
from blemish.station import audit
from blemish.station.durations import Durations
from blemish.station.ids import now_ms
from blemish.station.judging import Line, as_text
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import deployments, models, sources
from blemish.station.place import Place, digest, synced

GOLDEN = 8  # pictures
CLOSE = 1e-4  # of the threshold, that a golden picture's score may differ by between number formats of one kind


class NotEqual(BlemishError):
    """This computer gives golden pictures other scores than the one that the model was approved on."""


@dataclass(frozen=True)
class Golden:
    """A picture that shows whether a computer still gives the scores that it gave."""

    sha256: str
    suffix: str
    score: float


@dataclass(frozen=True)
class Live:
    """What judges the pictures of a source."""

    deployment_id: int
    model_id: int
    digest: str
    line: Line


def folder_of(place: Place, name: str) -> Path:
    """Where the model of a digest lies."""
    return place.models / f"{name}.blemish"


def import_model(
    place: Place,
    ledger: Ledger,
    folder: Path,
    *,
    name: str = "",
    golden: Sequence[Path] = (),
    parent: int | None = None,
    actor: audit.Actor | None = None,
) -> int:
    """Take a model folder in: checked, copied, durable; its number. The same model again has the same number.

    `golden` are pictures, whose scores on this computer are kept. It is audited where `actor` is named.
    ModelFileError where the folder is damaged,
    ConfigError for a model of anything but images, DataError for a picture that cannot be read.
    """
    model = modelfile.load(folder)
    if model.meta.kind != "image":
        raise ConfigError(f"a station inspects images, and this is a model of {model.meta.kind}s")
    known = str(json.loads((folder / "model.json").read_text(encoding="utf-8"))["digest"])
    to = folder_of(place, known)
    if not to.exists():
        beside = place.models / f".{known}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        modelfile.save(model, beside)
        beside.rename(to)
        synced(place.models)
    kept = [_keep(place, known, path) for path in golden[:GOLDEN]]
    scored = _scored(place, known, model, kept)
    promise = next(iter(model.calibrators.values()), None)
    with ledger.write() as connection:
        there = connection.execute(select(models).where(models.c.digest == known)).first()
        if there is not None:
            if scored:
                values = {"golden": as_text([vars(each) for each in scored])}
                connection.execute(update(models).where(models.c.id == there.id).values(**values))
                if actor is not None:
                    audit.append(connection, actor, "model.golden", known, before=there.golden, after=values["golden"])
            return int(there.id)
        key = connection.execute(
            insert(models).values(
                digest=known,
                name=name or folder.stem,
                method=model.meta.method,
                promise=model.promise,
                alpha=promise.alpha if promise is not None else None,
                confidence=model.confidence,
                calibrated_on=len(promise.scores) if promise is not None else None,
                parent_id=parent,
                golden=as_text([vars(each) for each in scored]),
                added_at=now_ms(),
            )
        ).inserted_primary_key
        assert key is not None
        if actor is not None:
            audit.append(connection, actor, "model.import", known, after={"method": model.meta.method})
        return int(key[0])


def _keep(place: Place, known: str, path: Path) -> tuple[str, str]:
    data = read_file(path)
    name, suffix = digest(data), path.suffix.lower()
    to = place.models / f"{known}.golden" / f"{name}{suffix}"
    if not to.exists():
        to.parent.mkdir(exist_ok=True)
        to.write_bytes(data)
        synced(to.parent)
    return name, suffix


def _scored(place: Place, known: str, model: Model, pictures: Sequence[tuple[str, str]]) -> list[Golden]:
    if not pictures:
        return []
    line = Line(model, threads=1)
    out = []
    for name, suffix in pictures:
        data = (place.models / f"{known}.golden" / f"{name}{suffix}").read_bytes()
        out.append(Golden(name, suffix, line.inspect(data).score))
    return out


def check_golden(place: Place, row: Any, line: Line) -> int:
    """How many golden pictures of a model (a row of `models`) were judged as they once were, which is all of them.

    NotEqual otherwise, DataError where one is gone.
    """
    golden = [Golden(**each) for each in json.loads(row.golden)]
    for each in golden:
        path = place.models / f"{row.digest}.golden" / f"{each.sha256}{each.suffix}"
        result = line.inspect(read_file(path))
        limit = CLOSE * abs(result.threshold if result.threshold is not None else each.score)
        if abs(result.score - each.score) > limit:
            raise NotEqual(
                f"this computer computes differently: a golden picture of {row.name} has {result.score:.6g}, and had "
                f"{each.score:.6g}",
                hint="run it on the computer that it was approved on, or approve it here again",
            )
    return len(golden)


def deploy(connection: Connection, source_id: int, model_id: int, by: str, reason: str) -> int:
    """Put a model live for a source from the next picture on: the number of the deployment.

    ConfigError where there is no such model or source.
    """
    model = connection.execute(select(models).where(models.c.id == model_id)).first()
    if model is None or connection.execute(select(sources.c.id).where(sources.c.id == source_id)).first() is None:
        raise ConfigError(f"there is no model {model_id}, or no source {source_id}")
    now = now_ms()
    open_ones = and_(deployments.c.source_id == source_id, deployments.c.until.is_(None))
    connection.execute(update(deployments).where(open_ones).values(until=now))
    connection.execute(update(models).where(models.c.id == model_id).values(status="approved"))
    key = connection.execute(
        insert(deployments).values(source_id=source_id, model_id=model_id, since=now, approved_by=by, reason=reason)
    ).inserted_primary_key
    assert key is not None
    return int(key[0])


def rollback(connection: Connection, source_id: int, by: str, reason: str) -> int:
    """Put the model live again that was so before the one that is: the number of the new deployment.

    ConfigError where there is none.
    """
    rows = connection.execute(
        select(deployments.c.model_id).where(deployments.c.source_id == source_id).order_by(deployments.c.id.desc())
    ).scalars()
    now = next(rows, None)
    before = next((model for model in rows if model != now), None)
    if before is None:
        raise ConfigError("no other model was live for this source before")
    return deploy(connection, source_id, before, by, reason)


class Deployments:
    """What is live, by source: read from the ledger, loaded and checked beside the line, then exchanged.

    A model that does not load, or computes differently here, leaves the one before running: `failed` says why.
    """

    def __init__(self, place: Place, ledger: Ledger, threads: int) -> None:
        self.place, self.ledger, self.threads = place, ledger, threads
        self._live: dict[int, Live] = {}
        self._lines: dict[int, Line] = {}  # by model
        self._lock = threading.Lock()
        self.failed: dict[int, str] = {}  # by source
        self.swaps = Durations()  # from the ledger's row to the pointer

    def of(self, source_id: int) -> Live | None:
        """What judges the next picture of a source; None where nothing is deployed, or nothing could be loaded."""
        return self._live.get(source_id)

    def sources(self) -> list[int]:
        """Those whose pictures can be judged."""
        return sorted(self._live)

    def refresh(self) -> list[tuple[int, str]]:
        """Load what the ledger says is live; what failed that had not failed before, as (source, why)."""
        with self._lock:
            with self.ledger.read() as connection:
                rows = connection.execute(
                    select(
                        deployments.c.id,
                        deployments.c.source_id,
                        deployments.c.model_id,
                        models.c.digest,
                        models.c.golden,
                        models.c.name,
                    )
                    .join(models, models.c.id == deployments.c.model_id)
                    .where(deployments.c.until.is_(None))
                ).all()
            new = []
            for row in rows:
                live = self._live.get(row.source_id)
                if live is not None and live.deployment_id == row.id:
                    continue
                begun = monotonic()
                try:
                    line = self._loaded(row)
                except (ModelFileError, NotEqual, DataError, ConfigError, BlemishError) as error:
                    if self.failed.get(row.source_id) != str(error):
                        new.append((row.source_id, str(error)))
                    self.failed[row.source_id] = str(error)
                    continue
                self.failed.pop(row.source_id, None)
                self._live[row.source_id] = Live(row.id, row.model_id, row.digest, line)  # one pointer
                self.swaps.add(monotonic() - begun)
            for source_id in set(self._live) - {row.source_id for row in rows}:
                del self._live[source_id]
            used = {live.model_id for live in self._live.values()}
            self._lines = {key: line for key, line in self._lines.items() if key in used}
            return new

    def _loaded(self, row: Any) -> Line:
        if row.model_id not in self._lines:
            line = Line(modelfile.load(folder_of(self.place, row.digest)), threads=self.threads)
            check_golden(self.place, row, line)
            self._lines[row.model_id] = line
        return self._lines[row.model_id]
