"""The queue of pictures that are claimed and not judged yet: files, in a folder for each source.

A claim is two files, `<id>.json` and `<id><suffix>`, the picture last: a picture in the spool is a claim, durable
before anybody is told, and everything else there is swept. Claims of a source are counted; the number of a claim that a
kill has torn is given again, so that a gap between rows and waiting claims is a loss (`verify`).
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import func, select

from blemish.errors import DataError
from blemish.station.ids import is_id, new_id, now_ms
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import inspections
from blemish.station.place import Place, digest, synced

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class Claim:
    """A picture that was taken in."""

    id: str
    source_id: int
    number: int
    name: str  # as the file was called, or the request said; data, never a path
    suffix: str
    at: int
    part_id: str | None = None
    lot_id: int | None = None
    source_key: str | None = None

    def picture(self, place: Place) -> Path:
        """Where it lies."""
        return place.spool / str(self.source_id) / f"{self.id}{self.suffix}"

    def note(self, place: Place) -> Path:
        """What is known of it."""
        return place.spool / str(self.source_id) / f"{self.id}.json"


class Spool:
    """The claims of a station; one object for each process, which numbers the sources that it takes from alone."""

    def __init__(self, place: Place, ledger: Ledger, *, durable: bool = True) -> None:
        self.place, self.ledger, self.durable = place, ledger, durable
        self._numbers: dict[int, int] = {}
        self._lock = threading.Lock()

    def folder(self, source_id: int) -> Path:
        """Where a source's claims lie; made where it is not there."""
        path = self.place.spool / str(source_id)
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            synced(path.parent)
        return path

    def partial(self, source_id: int) -> Path:
        """A new file on the spool's own disk, that is no claim yet."""
        return self.folder(source_id) / f".{new_id()}.partial"

    def claim(
        self,
        source_id: int,
        picture: Path,
        *,
        name: str,
        part_id: str | None = None,
        lot_id: int | None = None,
        source_key: str | None = None,
        suffix: str | None = None,
        synced_already: bool = False,
        exclusive: bool = True,
    ) -> Claim:
        """Take a picture in: it is durable, and counted, when this returns, and no longer where it was.

        The picture lies on the spool's disk; what its name ends in says its format, where `suffix` does not.
        FileNotFoundError where another one was faster.
        """
        suffix = suffix or Path(name).suffix.lower()
        suffix = suffix if suffix in SUFFIXES else ".bin"
        if not synced_already and self.durable:
            _fsync(picture)
        with self._lock:
            number = self._next(source_id)
            claim = Claim(new_id(), source_id, number, name, suffix, now_ms(), part_id, lot_id, source_key)
            note = claim.note(self.place)
            self._write(note, json.dumps(asdict(claim)).encode())
            try:
                os.rename(picture, claim.picture(self.place))
            except OSError:
                note.unlink(missing_ok=True)
                raise
            self._numbers[source_id] = number
            if self.durable:
                synced(note.parent)
                if exclusive and picture.parent != note.parent:
                    synced(picture.parent)
        return claim

    def _write(self, path: Path, data: bytes) -> None:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            if self.durable:
                os.fsync(file.fileno())

    def _next(self, source_id: int) -> int:
        if source_id not in self._numbers:
            waiting = [claim.number for claim in self.waiting(source_id)]  # first: from here they go to the ledger
            with self.ledger.read() as connection:
                known = connection.execute(
                    select(func.max(inspections.c.claim)).where(inspections.c.source_id == source_id)
                ).scalar()
            self._numbers[source_id] = max([known or 0, *waiting])
        self.folder(source_id)
        return self._numbers[source_id] + 1

    def waiting(self, source_id: int) -> list[Claim]:
        """The claims of a source, the oldest first."""
        found = []
        for name in _names(self.place.spool / str(source_id)):
            stem, suffix = os.path.splitext(name)
            if suffix != ".json" and is_id(stem):
                found.append((stem, source_id))
        return [claim for stem, _ in sorted(found) if (claim := self._read(source_id, stem)) is not None]

    def ids(self) -> list[tuple[str, int]]:
        """Id and source of all claims, the oldest first, without reading their notes."""
        found = []
        for folder in _names(self.place.spool):
            if folder.isdigit():
                for name in _names(self.place.spool / folder):
                    stem, suffix = os.path.splitext(name)
                    if suffix != ".json" and is_id(stem):
                        found.append((stem, int(folder)))
        return sorted(found)

    def read(self, source_id: int, picture: str) -> Claim | None:
        """A claim by its id; None where it is no longer there."""
        return self._read(source_id, picture)

    def _read(self, source_id: int, picture: str) -> Claim | None:
        path = self.place.spool / str(source_id) / f"{picture}.json"
        try:
            values: Mapping[str, object] = json.loads(path.read_bytes())
            return Claim(**values)  # type: ignore[arg-type]
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DataError(f"is no note of a claim ({error})", path=path, hint="blemish station verify") from None

    def done(self, claim: Claim, place: Path | None) -> None:
        """The ledger knows the claim: its picture goes where it is kept, or nowhere."""
        picture = claim.picture(self.place)
        if place is None:
            picture.unlink(missing_ok=True)
        elif picture.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(picture, place)
            if self.durable:
                synced(place.parent)
        claim.note(self.place).unlink(missing_ok=True)

    def sweep(self, source_ids: Iterable[int]) -> int:
        """Remove what a kill has left of sources that is no claim: parts of uploads, notes without a picture. How many.

        For the process that takes from these sources, before it does: what another one is writing looks the same.
        """
        count = 0
        for folder in map(str, source_ids):
            names = set(_names(self.place.spool / folder))
            pictures = {os.path.splitext(name)[0] for name in names if not name.endswith((".json", ".partial"))}
            for name in names:
                torn = name.endswith(".json") and name.removesuffix(".json") not in pictures
                if torn or name.endswith(".partial"):
                    (self.place.spool / folder / name).unlink(missing_ok=True)
                    count += 1
        return count

    def count(self) -> int:
        """Pictures that wait."""
        return len(self.ids())


def copied(source: Path, to: Path, *, durable: bool) -> str:
    """Copy a picture from another disk: the sha256 of what is there now."""
    with source.open("rb") as file, to.open("xb") as out:
        shutil.copyfileobj(file, out, 1 << 20)
        out.flush()
        if durable:
            os.fsync(out.fileno())
    return digest(to.read_bytes())


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from [entry.name for entry in entries]
    except FileNotFoundError:
        return
