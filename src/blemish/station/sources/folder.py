"""A hot folder: what a camera or a share puts there is claimed once it is whole.

The scan is the truth; events of the file system are lost on shares, and are not needed. A file is whole where its size
and times are equal in two scans at least `settle` seconds apart, or where the file `NAME.done` lies beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import select

from blemish.errors import ConfigError
from blemish.station.ledger.schema import inspections
from blemish.station.lots import open_lot
from blemish.station.place import digest
from blemish.station.spool import SUFFIXES, Spool, copied

UNFINISHED = (".tmp", ".part", ".partial", ".filepart", ".crdownload")


@dataclass(frozen=True)
class Options:
    """What a source of this kind may be told; times in seconds."""

    path: str
    settle: float = 0.3
    scan: float = 0.2
    share: bool = False  # on the network: settles longer, and is scanned less often
    done: bool = False  # a picture is whole once NAME.done is there
    read_only: bool = False  # nothing can be moved out of it: pictures are copied, and known by name, size and time
    deep: bool = False  # folders in it too
    always_new: bool = False  # the same name and bytes within a day are a new part
    review_rate: float = 0.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Options:
        """ConfigError on an unknown name or a value that cannot be."""
        try:
            found = cls(**config)
        except TypeError as error:
            raise ConfigError(f"a hot folder has no such option ({error})", hint="docs/station/sources.md") from None
        if min(found.settle, found.scan) < 0 or not 0 <= found.review_rate <= 1:
            raise ConfigError("settle and scan cannot be negative, and review_rate lies in 0 to 1")
        if found.share:
            return cls(**{"settle": 2.0, "scan": 1.0, **config})
        return found


@dataclass(frozen=True)
class _State:
    size: int
    mtime: int
    ctime: int
    since: float  # monotonic, when it was first seen so


@dataclass
class HotFolder:
    """One source; `scan` is called again and again by one thread."""

    source_id: int
    path: Path
    options: Options
    spool: Spool
    unreachable: str | None = None  # why the folder cannot be read, where that is so
    _seen: dict[str, _State] = field(default_factory=dict)
    _ignored: set[str] = field(default_factory=set)  # of a read-only folder: claimed already

    def scan(self, most: int) -> int:
        """Claim what is whole, `most` at most; how many."""
        try:
            found = self._files()
            self.unreachable = None
        except OSError as error:
            self.unreachable = f"{self.path}: {error.strerror or error}"
            self._seen.clear()
            return 0
        now, claimed = monotonic(), 0
        for name, stat in sorted(found.items(), key=lambda item: (item[1].st_mtime_ns, item[0])):
            if claimed >= most:
                break
            known = self._seen.get(name)
            state = _State(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, now)
            same = known is not None and (known.size, known.mtime, known.ctime) == (
                state.size,
                state.mtime,
                state.ctime,
            )
            if not same:
                self._seen[name] = state
            rested = same and known is not None and now - known.since >= self.options.settle
            whole = f"{name}.done" in self._done if self.options.done else rested
            if whole and stat.st_size and self._claim(name, stat):
                claimed += 1
                self._seen.pop(name, None)
        for gone in self._seen.keys() - found.keys():
            del self._seen[gone]
        return claimed

    def _files(self) -> dict[str, os.stat_result]:
        self._done: set[str] = set()
        out: dict[str, os.stat_result] = {}
        waiting = [""]
        while waiting:
            inside = waiting.pop()
            with os.scandir(self.path / inside) as entries:
                for entry in entries:
                    name = os.path.join(inside, entry.name) if inside else entry.name
                    if entry.name.startswith((".", "~")) or entry.name.lower().endswith(UNFINISHED):
                        continue
                    if entry.is_symlink():
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting += [name] if self.options.deep else []
                    elif entry.name.endswith(".done"):
                        self._done.add(name)
                    elif entry.name.lower().endswith(SUFFIXES) and name not in self._ignored:
                        try:
                            out[name] = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
        return out

    def _claim(self, name: str, stat: os.stat_result) -> bool:
        path = self.path / name
        key = None
        if self.options.read_only:
            key = digest(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
            if self._known(key):
                self._ignored.add(name)
                return False
        try:
            if self.options.read_only or os.stat(self.spool.folder(self.source_id)).st_dev != stat.st_dev:
                claimed = self._from_another_disk(path, name, key)
            else:
                self.spool.claim(self.source_id, path, name=name, lot_id=open_lot(self.spool.ledger, self.source_id))
                claimed = True
        except FileNotFoundError:  # another one was faster
            return False
        except PermissionError as error:
            self.unreachable = f"{path}: {error.strerror}"
            return False
        if claimed and self.options.done:
            (self.path / f"{name}.done").unlink(missing_ok=True)
        if self.options.read_only:
            self._ignored.add(name)
        return claimed

    def _from_another_disk(self, path: Path, name: str, key: str | None) -> bool:
        """Copy, compare, claim the copy, and only then remove the original.

        A kill before the removal leaves both: the second claim is recorded as a repeat, by name and bytes.
        """
        partial = self.spool.partial(self.source_id)
        try:
            there = copied(path, partial, durable=self.spool.durable)
            if digest(path.read_bytes()) != there:  # it was still being written
                return False
            self.spool.claim(
                self.source_id,
                partial,
                name=name,
                lot_id=open_lot(self.spool.ledger, self.source_id),
                source_key=key,
                synced_already=True,
            )
        finally:
            partial.unlink(missing_ok=True)
        if not self.options.read_only:
            path.unlink(missing_ok=True)
        return True

    def _known(self, key: str) -> bool:
        with self.spool.ledger.read() as connection:
            rows = select(inspections.c.seq).where(
                inspections.c.source_id == self.source_id, inspections.c.source_key == key
            )
            if connection.execute(rows).first() is not None:
                return True
        return any(claim.source_key == key for claim in self.spool.waiting(self.source_id))
