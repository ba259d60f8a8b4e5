"""Make a station's folder, and open one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sqlalchemy import insert, select

from blemish.errors import ConfigError
from blemish.station import audit
from blemish.station.config import TEMPLATE, Config, read
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.migrate import upgrade
from blemish.station.ledger.schema import products, sources
from blemish.station.place import CONFIG, Place, write_synced


def init(
    folder: str | Path, *, site: str = "site", line: str = "line", roots: tuple[str, ...] = (), database: str = ""
) -> Place:
    """A new station; `database` is the URL of an empty one, where it is not to be a file in the folder.

    ConfigError where the folder holds anything, or lies on a network share with SQLite.
    """
    root = Path(folder).resolve()
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty", hint="give a new folder")
    root.mkdir(parents=True, exist_ok=True)
    place = Place(root)
    for one in place.folders:
        one.mkdir(exist_ok=True)
    handle = os.open(place.secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(32))
    quoted = ", ".join(f'"{_escaped(str(Path(one).resolve()))}"' for one in roots)
    text = TEMPLATE.format(site=_escaped(site), line=_escaped(line), roots=quoted, database=_escaped(database))
    write_synced(root / CONFIG, text.encode())
    config = read(place.config)
    upgrade(url_of(place, config))
    ledger = Ledger.of(place, config)
    try:
        with ledger.write() as connection:
            key = connection.execute(insert(products).values(name="part")).inserted_primary_key
            connection.execute(insert(sources).values(name="http", kind="http", product_id=key[0] if key else None))
            audit.append(connection, audit.SYSTEM, "station.init", str(root))
    finally:
        ledger.close()
    return place


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def url_of(place: Place, config: Config) -> str:
    """Of the ledger."""
    return config.database or f"sqlite:///{place.root / 'ledger.db'}"


def opened(folder: str | Path) -> tuple[Place, Config, Ledger]:
    """A station's folder, its settings, and its ledger brought up to date."""
    place = Place.of(folder)
    config = read(place.config)
    upgrade(url_of(place, config))
    return place, config, Ledger.of(place, config)


def source_named(ledger: Ledger, name: str) -> int:
    """The number of a source; ConfigError where there is none of that name."""
    with ledger.read() as connection:
        found = connection.scalar(select(sources.c.id).where(sources.c.name == name))
    if found is None:
        raise ConfigError(f"there is no source '{name}'")
    return int(found)
