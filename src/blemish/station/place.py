"""Where a station keeps what: one folder, and names that are made of ids alone."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blemish.errors import ConfigError
from blemish.station.ids import time_of

CONFIG = "station.toml"


@dataclass(frozen=True)
class Place:
    """A station's folder."""

    root: Path

    @classmethod
    def of(cls, folder: str | Path) -> Place:
        """An existing station. ConfigError where the folder is none."""
        root = Path(folder).resolve()
        if not (root / CONFIG).is_file():
            raise ConfigError(f"{root} is no station", hint=f"blemish station init {folder} makes one")
        return cls(root)

    @property
    def config(self) -> Path:
        return self.root / CONFIG

    @property
    def spool(self) -> Path:
        """Pictures that are claimed and not judged yet."""
        return self.root / "spool"

    @property
    def quarantine(self) -> Path:
        """Pictures that could not be read."""
        return self.root / "quarantine"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def run(self) -> Path:
        """Sockets and locks of running processes."""
        return self.root / "run"

    @property
    def reserve(self) -> Path:
        """Space that is set free where the disk is full."""
        return self.root / "reserve.bin"

    @property
    def secret(self) -> Path:
        """The station's own key: it draws samples and signs."""
        return self.root / "secret.key"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those that `init` makes."""
        names = ("store", "thumbs", "maps", "backups", "logs")
        own = (self.spool, self.quarantine, self.models, self.jobs, self.run)
        return (*own, *(self.root / name for name in names))

    def stored(self, picture: str, suffix: str, under: str = "store") -> Path:
        """Where the picture of an id lies once it is judged: by the hour of its id."""
        hour = datetime.fromtimestamp(time_of(picture) / 1000, UTC).strftime("%Y/%m/%d/%H")
        return self.root / under / hour / f"{picture}{suffix}"

    def kept(self, picture: str, suffix: str, state: str) -> Path:
        """Where the picture of a row is kept, by the row's state: in the store, or in quarantine."""
        if state in ("unreadable", "failed"):
            return self.quarantine / f"{picture}{suffix}"
        return self.stored(picture, suffix)


def synced(folder: Path) -> None:
    """What happened to the names in a folder survives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """A file of the station's own, durable when this returns, whole or not there."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    synced(path.parent)


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()
