"""A station's inspections as one zip, made while it is read: tables, pictures, and what the models are."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from blemish.errors import ModelFileError
from blemish.inspection import modelfile
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import inspections, models, sources
from blemish.station.models import folder_of
from blemish.station.place import Place
from blemish.station.reading import COLUMNS, all_inspections, as_csv, inspection

AT_ONCE = 500  # rows, between which the ledger is let go
CHUNK = 1 << 20


class _Pipe(io.RawIOBase):
    """What is written to it, to be taken from it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def exported(
    place: Place,
    ledger: Ledger,
    *,
    start: int | None = None,
    end: int | None = None,
    source: str | None = None,
    pictures: bool = True,
) -> Iterator[bytes]:
    """The bytes of the zip.

    Args:
        start, end: milliseconds, of verdicts; the end is not part of it.
        source: name of the only one that is wanted.
        pictures: whether those still kept are put in.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for name, suffix in (("inspections.csv", ".csv"), ("inspections.jsonl", ".jsonl")):
            with archive.open(name, "w", force_zip64=True) as file:
                if suffix == ".csv":
                    file.write(as_csv([], COLUMNS).encode())
                for rows in _groups(ledger, start, end, source):
                    if suffix == ".csv":
                        text = as_csv(rows, COLUMNS).split("\r\n", 1)[1]
                    else:
                        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                    file.write(text.encode())
                    yield pipe.taken()
        used = set()
        for rows in _groups(ledger, start, end, source):
            for row in rows:
                used.add(row["deployment"] and row["model"])
                if pictures and row["state"] == "judged":
                    yield from _picture(place, archive, pipe, row)
        for digest in sorted(filter(None, used)):
            archive.writestr(f"models/{digest.partition(':')[2]}.json", _card(place, ledger, digest.partition(":")[2]))
            yield pipe.taken()
    yield pipe.taken()


def _groups(ledger: Ledger, start: int | None, end: int | None, source: str | None) -> Iterator[list[dict[str, Any]]]:
    last = 0
    while True:
        asked = all_inspections().where(inspections.c.seq > last).order_by(inspections.c.seq).limit(AT_ONCE)
        if start is not None:
            asked = asked.where(inspections.c.judged_at >= start)
        if end is not None:
            asked = asked.where(inspections.c.judged_at < end)
        if source is not None:
            asked = asked.where(sources.c.name == source)
        with ledger.read() as connection:
            rows = [{**inspection(row), "suffix": row["suffix"]} for row in connection.execute(asked).mappings()]
        if not rows:
            return
        last = rows[-1]["seq"]
        yield rows


def _picture(place: Place, archive: zipfile.ZipFile, pipe: _Pipe, row: dict[str, Any]) -> Iterator[bytes]:
    path = place.stored(row["id"], row["suffix"])
    try:
        source = path.open("rb")
    except FileNotFoundError:  # removed as planned
        return
    member = zipfile.ZipInfo(f"pictures/{row['id']}{row['suffix']}")
    with source, archive.open(member, "w", force_zip64=True) as file:
        while data := source.read(CHUNK):
            file.write(data)
            yield pipe.taken()


def _card(place: Place, ledger: Ledger, digest: str) -> str:
    with ledger.read() as connection:
        row = connection.execute(select(models).where(models.c.digest == digest)).mappings().one()
    try:
        says = modelfile.load(folder_of(place, digest)).describe()
    except ModelFileError as error:
        says = {"error": str(error)}
    return json.dumps({"station": dict(row), "model": says}, indent=1, ensure_ascii=False, default=str)
