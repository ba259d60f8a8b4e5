"""Models: taken in, checked by golden pictures, put live, and taken back."""

from __future__ import annotations

import json
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import Field, StringConstraints
from sqlalchemy import Connection, select

from blemish.station import auth
from blemish.station.auth import Identity
from blemish.station.changes import put_live, roll_back
from blemish.station.ids import new_id
from blemish.station.ledger.schema import deployments, inspections, models, sources
from blemish.station.models import GOLDEN, folder_of, import_model
from blemish.station.reading import iso
from blemish.station.wake import ring
from blemish.station.web.changing import Body, RowId, row_of
from blemish.station.web.intake import HUGE
from blemish.station.web.people import Password
from blemish.station.web.problems import Problem
from blemish.station.web.reading import Id
from blemish.station.web.state import Here, Name, Web, needs, shown
from blemish.station.worker import bell_of

router = APIRouter()

MODEL_MB = 2048  # of a model, packed or not
MEMBERS = re.compile(
    r"(?:[^/\\\x00]{1,200}/)?(model\.json|tensors\.safetensors|graph\.onnx|parity\.json|run\.json|heads/[^/\\\x00.][^/\\\x00]*\.onnx)"
)
CHUNK = 1 << 20
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=2000, pattern=r"^[^\x00]+$")]
Read = Annotated[Identity, Depends(needs("read"))]


def model_view(row: Any) -> dict[str, Any]:
    own = {name: row[name] for name in ("id", "digest", "name", "method", "promise", "alpha", "confidence")}
    rest = {name: row[name] for name in ("calibrated_on", "parent_id", "status")}
    return {**own, **rest, "golden": json.loads(row["golden"]), "added_at": iso(row["added_at"])}


@router.get("/models", tags=["models"])
def list_models(web: Here, _: Read) -> Any:
    """All of them, the newest first."""
    with web.ledger.read() as connection:
        rows = connection.execute(select(models).order_by(models.c.id.desc())).mappings()
        return JSONResponse({"models": [model_view(row) for row in rows]})


@router.get("/models/{id}", tags=["models"])
def get_model(web: Here, id: RowId, _: Read) -> Any:
    """One of them."""
    with web.ledger.read() as connection:
        return shown(model_view(row_of(connection, models, id)._mapping))


@router.post(
    "/models/import",
    tags=["models"],
    status_code=201,
    max_body_size=HUGE,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_zip(
    request: Request,
    web: Here,
    who: Annotated[Identity, Depends(needs("models"))],
    name: Annotated[Name, Query()] = "model",
) -> Any:
    """A zip of a model's folder. The model is a candidate: it is live for no source yet."""
    packed = web.place.jobs / f".{new_id()}.zip.partial"
    try:
        count = 0
        with packed.open("xb") as file:
            async for chunk in request.stream():
                count += len(chunk)
                if count > MODEL_MB << 20:
                    raise Problem(413, f"a model has {MODEL_MB} MB at most")
                file.write(chunk)
        return await run_in_threadpool(imported, web, packed, name, who)
    finally:
        packed.unlink(missing_ok=True)


def imported(web: Web, packed: Path, name: str, who: Identity) -> Any:
    folder = packed.with_suffix("")
    folder.mkdir()
    try:
        unpack(packed, folder)
        number = import_model(web.place, web.ledger, folder, name=name, actor=who.actor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with web.ledger.read() as connection:
        return shown(model_view(row_of(connection, models, number)._mapping), 201)


def unpack(packed: Path, folder: Path, limit: int = MODEL_MB << 20) -> None:
    """The files of a model out of a zip: only those that a model has, and no more bytes than one may have.

    422 where anything else is in it, 413 where it is larger than it says or may be.
    """
    left = limit
    try:
        with zipfile.ZipFile(packed) as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
            for member in members:
                match = MEMBERS.fullmatch(member.filename)
                link = stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG)
                if match is None or link or len(members) > 1000:
                    raise Problem(422, f"a model has no file {ascii(member.filename[:100])}", "zip its folder")
                to = folder / match[1]
                to.parent.mkdir(exist_ok=True)
                with archive.open(member) as source, to.open("xb") as file:
                    while data := source.read(CHUNK):
                        left -= len(data)
                        if left < 0:
                            raise Problem(413, f"a model has {limit >> 20} MB at most")
                        file.write(data)
    except FileExistsError:
        raise Problem(422, "a file is in it twice") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise Problem(422, f"this zip cannot be read ({error})") from None


class GoldenBody(Body):
    """Inspected parts whose pictures show whether a computer still computes as this one does now."""

    inspections: list[Id] = Field(min_length=1, max_length=GOLDEN)


@router.post("/models/{id}/golden", tags=["models"])
def set_golden(web: Here, id: RowId, body: GoldenBody, who: Annotated[Identity, Depends(needs("models"))]) -> Any:
    """Choose a model's golden pictures; what it says of them on this computer is kept."""
    with web.ledger.read() as connection:
        model = row_of(connection, models, id)
        rows = connection.execute(select(inspections).where(inspections.c.id.in_(body.inspections))).all()
    pictures = [web.place.stored(row.id, row.suffix) for row in rows]
    missing = [each for each in body.inspections if each not in {row.id for row in rows}]
    missing += [row.id for row, path in zip(rows, pictures, strict=True) if not path.is_file()]
    if missing:
        raise Problem(422, f"the picture of {missing[0]} is not kept")
    import_model(web.place, web.ledger, folder_of(web.place, model.digest), golden=pictures, actor=who.actor)
    with web.ledger.read() as connection:
        return shown(model_view(row_of(connection, models, id)._mapping))


class Deploying(Body):
    """Which model judges a source's pictures from now on, and why; a person signs by password."""

    source: Name
    model: Annotated[int, Field(ge=1, le=2**53)]
    reason: Reason
    password: Password | None = None
    lost_defects_accepted: bool = False


class RollingBack(Body):
    """The source whose former model is wanted back, and why."""

    source: Name
    reason: Reason


def deployment_view(row: Any) -> dict[str, Any]:
    own = {name: row[name] for name in ("id", "source", "model_id", "model", "approved_by", "reason")}
    return {**own, "since": iso(row["since"]), "until": iso(row["until"])}


def all_deployments() -> Any:
    return (
        select(deployments, sources.c.name.label("source"), models.c.digest.label("model"))
        .join(sources, sources.c.id == deployments.c.source_id)
        .join(models, models.c.id == deployments.c.model_id)
        .order_by(deployments.c.id.desc())
    )


@router.get("/deployments", tags=["deployments"])
def list_deployments(web: Here, _: Read) -> Any:
    """The latest thousand, the newest first."""
    with web.ledger.read() as connection:
        rows = connection.execute(all_deployments().limit(1000)).mappings()
        return JSONResponse({"deployments": [deployment_view(row) for row in rows]})


def source_id_of(connection: Connection, name: str) -> int:
    """The number of a source. 422."""
    found = connection.scalar(select(sources.c.id).where(sources.c.name == name))
    if found is None:
        raise Problem(422, f"there is no source '{name}'")
    return int(found)


def _now_live(web: Web, number: int) -> Any:
    ring(bell_of(web.place))
    with web.ledger.read() as connection:
        row = connection.execute(all_deployments().where(deployments.c.id == number)).mappings().one()
        return JSONResponse(deployment_view(row), 201)


@router.post("/deployments", tags=["deployments"], status_code=201)
def add_deployment(web: Here, body: Deploying, who: Annotated[Identity, Depends(needs("deploy"))]) -> Any:
    """Put a model live: a change that is made and approved at once. It is loaded and checked beside the line; one that
    fails leaves the former running, and an alarm says so."""
    auth.sign(web.ledger, who, body.password)
    with web.ledger.read() as connection:
        source_id = source_id_of(connection, body.source)
    accepted = body.lost_defects_accepted
    asked = (source_id, body.model, body.reason)
    number, _ = put_live(web.place, web.ledger, who.actor, *asked, lost_accepted=accepted, apart=True)
    return _now_live(web, number)


@router.post("/deployments/rollback", tags=["deployments"], status_code=201)
def back(web: Here, body: RollingBack, who: Annotated[Identity, Depends(needs("deploy"))]) -> Any:
    """Put the model live again that was so before. Past verdicts do not change."""
    with web.ledger.write() as connection:
        number = roll_back(connection, who.actor, source_id_of(connection, body.source), body.reason)
    return _now_live(web, number)
