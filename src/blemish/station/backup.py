"""A copy of a station, made while it runs, and a station made of such a copy.

The ledger is copied as it stood at one moment (SQLite's own online backup); what it refers to is copied after it, and
what waits in the spool before it, so that nothing falls between.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

import blemish
from blemish.errors import ConfigError, DataError
from blemish.station import audit
from blemish.station.config import Config
from blemish.station.ids import now_ms
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import inspections
from blemish.station.place import CONFIG, Place, digest, synced, write_synced
from blemish.station.setup import opened
from blemish.station.verify import Report, verify

NOTE = "backup.json"
LEDGER = "ledger.db"
MANY = 500


def backup(place: Place, config: Config, out: Path, *, pictures: bool = True) -> dict[str, Any]:
    """Write a copy of a station into a new folder, whole or not at all; the note that lies in it.

    ConfigError where the folder exists, or the ledger is not SQLite.
    """
    if config.database:
        hint = "copy it with its own tool (pg_dump), and station.toml, secret.key, models/ and store/ after it"
        raise ConfigError("the ledger of this station does not lie in its folder", hint=hint)
    _refuse_existing(out)
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True, mode=0o700)
    try:
        for name in ("spool", *(("quarantine",) if pictures else ())):
            _copied(place.root / name, beside / name)
        _copy_ledger(place.root / LEDGER, beside / LEDGER)
        for name in ("models", *(("store", "thumbs", "maps", "quarantine") if pictures else ())):
            _copied(place.root / name, beside / name)
        (beside / CONFIG).write_bytes(place.config.read_bytes())
        handle = os.open(beside / place.secret.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(place.secret.read_bytes())
        ledger = Ledger(f"sqlite:///{beside / LEDGER}")
        with ledger.read() as connection:
            seq, head = audit.head(connection)
            rows = connection.scalar(select(func.count()).select_from(inspections)) or 0
        ledger.close()
        note = {"schema": 1, "blemish": blemish.__version__, "at": now_ms(), "pictures": pictures, "inspections": rows}
        note |= {"audit": {"seq": seq, "hash": head}, "ledger": digest((beside / LEDGER).read_bytes())}
        write_synced(beside / NOTE, (json.dumps(note, indent=1) + "\n").encode())
        beside.rename(out)
        synced(out.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return note


def restore(source: Path, folder: Path) -> tuple[dict[str, Any], Report]:
    """Make a station of a backup, in a new folder, and verify it: the backup's note, and what was found.

    Pictures that the backup does not hold are recorded as not kept. ConfigError where the folder exists, DataError
    where the backup is none, or is damaged.
    """
    try:
        note: dict[str, Any] = json.loads((source / NOTE).read_bytes())
    except (OSError, ValueError):
        raise DataError("is no backup of a station", path=source, hint="blemish station backup makes one") from None
    if digest((source / LEDGER).read_bytes()) != note["ledger"]:
        raise DataError("is damaged: its ledger is not the one that was written", path=source, hint="take another one")
    _refuse_existing(folder)
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(source, beside)
        (beside / NOTE).unlink()
        for path in Place(beside).folders:
            path.mkdir(exist_ok=True)
        place, config, ledger = opened(beside)
        with ledger.read() as connection:
            if audit.head(connection) != (note["audit"]["seq"], note["audit"]["hash"]):
                raise DataError("is damaged: its audit trail ends elsewhere", path=source, hint="take another one")
        absent = _mark_absent(place, ledger)
        with ledger.write() as connection:
            after = {"backup": note["audit"], "pictures_not_kept": absent}
            audit.append(connection, audit.SYSTEM, "station.restore", folder.name, after=after)
        report = verify(place, config, ledger)
        ledger.close()
        beside.rename(folder)
        synced(folder.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return note, report


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise ConfigError(f"{folder} exists", hint="give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)


def _copy_ledger(path: Path, to: Path) -> None:
    source, copy = sqlite3.connect(path), sqlite3.connect(to)
    try:
        source.backup(copy, pages=1000, sleep=0.01)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file
    finally:
        source.close()
        copy.close()
    os.chmod(to, 0o600)


def _copied(source: Path, to: Path) -> None:
    """A folder's files; those that go while it is copied have been moved on, and are copied from there or not kept."""
    for path in sorted(source.rglob("*"), key=lambda one: one.suffix != ".json"):  # never a picture without its note
        if path.is_file() and not path.name.endswith(".partial"):
            into = to / path.relative_to(source)
            into.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy2(path, into)
            except FileNotFoundError:
                continue


def _mark_absent(place: Place, ledger: Ledger) -> int:
    """Record that pictures that are not there are not kept; how many."""
    c, last, count = inspections.c, 0, 0
    while True:
        with ledger.write() as connection:
            asked = select(c.seq, c.id, c.source_id, c.suffix, c.state).where(c.seq > last, c.purged_at.is_(None))
            rows = list(connection.execute(asked.order_by(c.seq).limit(MANY)))
            absent = [
                row.seq
                for row in rows
                if not place.kept(row.id, row.suffix, row.state).exists()
                and not (place.spool / str(row.source_id) / f"{row.id}{row.suffix}").exists()
            ]
            connection.execute(update(inspections).where(c.seq.in_(absent)).values(purged_at=now_ms()))
        if not rows:
            return count
        count, last = count + len(absent), rows[-1].seq
