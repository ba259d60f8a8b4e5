"""Whether a station is whole: nothing lost, nothing doubled, nothing changed. Running or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, create_engine, func, select

from blemish.errors import BlemishError, ConfigError
from blemish.inspection import modelfile
from blemish.station import audit
from blemish.station.config import Config
from blemish.station.ids import is_id
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.migrate import pending
from blemish.station.ledger.schema import inspections, models, sources
from blemish.station.models import folder_of
from blemish.station.place import Place, digest
from blemish.station.retention import REMOVED, setting
from blemish.station.setup import url_of
from blemish.station.spool import Spool

STATES = ("judged", "unreadable", "failed", "repeat")
MANY = 500  # rows of one question
TRIES = 3  # to count claims
MOST = 20  # findings of a kind that are written out


@dataclass
class Report:
    """What was looked at, and what is wrong."""

    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    audit: tuple[int, str] = (0, audit.FIRST)
    pictures: int = 0
    models: int = 0
    strays: list[str] = field(default_factory=list)  # files without an owner
    swept: int = 0
    wrong: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"ok": not self.wrong, **vars(self), "audit": dict(zip(("seq", "hash"), self.audit, strict=True))}

    def lines(self) -> Iterator[str]:
        """For people."""
        for name, terms in self.sources.items():
            said = ", ".join(f"{count} {what}" for what, count in terms.items() if what != "claimed")
            yield f"source {name}: {terms['claimed']} claimed = {said}"
        yield f"audit trail: {self.audit[0]} entries, {self.audit[1][:16]}"
        yield f"{self.pictures} pictures and {self.models} models are where they belong" if not self.wrong else "wrong:"
        yield from self.wrong
        if self.strays:
            yield f"{len(self.strays)} files without an owner{', removed' if self.swept else ' (--sweep removes them)'}"


def verify(place: Place, config: Config, ledger: Ledger, *, deep: bool = False, sweep: bool = False) -> Report:
    """Look at everything. ConfigError where the ledger is older than this version.

    Args:
        deep: read every picture that is kept, and compare its sha256.
        sweep: remove files that no row owns.
    """
    engine = create_engine(url_of(place, config))
    try:
        if pending(engine):
            raise ConfigError(
                "the ledger is older than this version", hint="blemish station serve brings it up to date"
            )
    finally:
        engine.dispose()
    report, spool = Report(), Spool(place, ledger)
    with ledger.read() as connection:
        _ledger(connection, ledger.sqlite, report)
        known = connection.execute(select(sources.c.id, sources.c.name).order_by(sources.c.id)).all()
    for source in known:
        for _ in range(TRIES):  # while it runs, a claim may come between two looks; a loss stays one
            # before the rows: what is judged meanwhile has its row
            waiting = [picture for picture, source_id in spool.ids() if source_id == source.id]
            with ledger.read() as connection:
                wrong = _conserved(connection, spool, source, waiting, report)
            if not wrong:
                break
        report.wrong += wrong
    _pictures(place, ledger, report, deep)
    _models(place, ledger, report)
    _strays(place, ledger, report, sweep)
    return report


def _ledger(connection: Connection, sqlite: bool, report: Report) -> None:
    if sqlite:
        said = connection.exec_driver_sql("PRAGMA integrity_check(5)").scalars().all()
        report.wrong += [f"the ledger is damaged: {one}" for one in said if one != "ok"]
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        report.wrong += [f"the ledger is damaged: {len(broken)} rows refer to none"] if broken else []
    report.audit = audit.head(connection)
    entry = audit.broken(connection)
    if entry is not None:
        report.wrong.append(f"the audit trail is broken at entry {entry}")


def _conserved(connection: Connection, spool: Spool, source: Any, waiting: Sequence[str], report: Report) -> list[str]:
    """claimed = judged + unreadable + failed + repeats + waiting (+ rows removed by age)."""
    own = inspections.c.source_id == source.id
    numbers, wrong = {}, []
    for start in range(0, len(waiting), MANY):
        some = waiting[start : start + MANY]
        there = set(connection.scalars(select(inspections.c.id).where(inspections.c.id.in_(some))))
        for picture in set(some) - there:
            try:
                claim = spool.read(source.id, picture)
            except BlemishError as error:
                wrong.append(str(error))
                continue
            if claim is not None:
                numbers[picture] = claim.number
    by_state = select(inspections.c.state, func.count()).where(own).group_by(inspections.c.state)
    counted = Counter({row[0]: row[1] for row in connection.execute(by_state)})
    removed, cut = setting(connection, REMOVED, {}).get(str(source.id), (0, 0))
    largest = connection.scalar(select(func.max(inspections.c.claim)).where(own)) or 0
    claimed = max([largest, cut, *numbers.values()])
    terms = {"claimed": claimed, **{state: counted[state] for state in STATES}, "waiting": len(numbers)}
    if removed:
        terms["removed"] = removed
    report.sources[source.name] = terms
    missing = claimed - (sum(counted.values()) + len(numbers) + removed)
    if missing:
        gaps = ", ".join(_gaps(connection, own, cut, claimed, set(numbers.values())))
        wrong.append(f"source {source.name}: {missing} of {claimed} claims are lost: {gaps or f'before {cut}'}")
    return wrong


def _gaps(connection: Connection, own: Any, after: int, claimed: int, waiting: set[int]) -> Iterator[str]:
    """Numbers of claims that are nowhere, as ranges."""
    asked = select(inspections.c.claim).where(own, inspections.c.claim > after).order_by(inspections.c.claim)
    there = sorted({*connection.scalars(asked), *waiting, claimed + 1})
    ends = pairwise([after, *(number for number in there if number > after)])
    for before, number in islice(((low, high) for low, high in ends if high > low + 1), MOST):
        yield str(before + 1) if number == before + 2 else f"{before + 1} to {number - 1}"


def _rows(ledger: Ledger, asked: Select[Any], key: Any) -> Iterator[list[Any]]:
    """All rows of a question in blocks, by a key that grows; no transaction stays open meanwhile."""
    last: Any = 0
    while True:
        with ledger.read() as connection:
            rows = list(connection.execute(asked.where(key > last).order_by(key).limit(MANY)))
        if not rows:
            return
        yield rows
        last = rows[-1].seq


def _pictures(place: Place, ledger: Ledger, report: Report, deep: bool) -> None:
    """Every picture that the ledger says is kept lies in its place, or in the spool on its way there."""
    c = inspections.c
    asked = select(c.seq, c.id, c.source_id, c.suffix, c.state, c.sha256).where(c.purged_at.is_(None))
    lost = []
    for rows in _rows(ledger, asked, c.seq):
        for row in rows:
            found = _found(place, row)
            if found is None:
                with ledger.read() as connection:  # was it removed meanwhile?
                    gone = connection.scalar(select(c.purged_at).where(c.seq == row.seq))
                if gone is None:
                    lost.append(f"picture {row.id} (number {row.seq}) is not there")
            elif deep and digest(found.read_bytes()) != row.sha256:
                lost.append(f"picture {row.id} (number {row.seq}) is not what was judged")
            else:
                report.pictures += 1
    report.wrong += lost[:MOST]
    if len(lost) > MOST:
        report.wrong.append(f"and {len(lost) - MOST} more pictures")


def _found(place: Place, row: Any) -> Path | None:
    kept = place.kept(row.id, row.suffix, row.state)
    for path in (kept, place.spool / str(row.source_id) / f"{row.id}{row.suffix}", kept):
        if path.exists():
            return path
    return None


def _models(place: Place, ledger: Ledger, report: Report) -> None:
    with ledger.read() as connection:
        known = connection.scalars(select(models.c.digest)).all()
    for each in known:
        try:
            modelfile.load(folder_of(place, each))
            report.models += 1
        except BlemishError as error:
            report.wrong.append(str(error))


def _strays(place: Place, ledger: Ledger, report: Report, sweep: bool) -> None:
    """Files that no row owns: what a kill has left between a row's mark and its file's removal."""
    c = inspections.c
    for under in ("store", "quarantine", "thumbs", "maps"):
        files = (path for path in (place.root / under).rglob("*") if path.is_file())
        for some in _blocks(files):
            ids = [path.stem for path in some if is_id(path.stem)]
            with ledger.read() as connection:
                rows = connection.execute(select(c.id, c.purged_at).where(c.id.in_(ids))).all()
            drawn = under in ("thumbs", "maps")
            owned = {row.id for row in rows if drawn or row.purged_at is None}
            for path in some:
                if path.stem not in owned:
                    report.strays.append(str(path.relative_to(place.root)))
                    if sweep and is_id(path.stem):  # what is not the station's is not removed
                        path.unlink(missing_ok=True)
                        report.swept += 1


def _blocks(paths: Iterator[Path]) -> Iterator[list[Path]]:
    block: list[Path] = []
    for path in paths:
        block.append(path)
        if len(block) == MANY:
            yield block
            block = []
    if block:
        yield block
