"""Pictures come in."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import warnings
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from PIL import Image, UnidentifiedImageError
from pydantic import StringConstraints

from blemish.errors import BlemishError
from blemish.station.auth import Identity
from blemish.station.ledger.schema import inspections
from blemish.station.reading import all_inspections, inspection
from blemish.station.sources.http import NotReady, Told, suffix_of
from blemish.station.web.problems import Problem
from blemish.station.web.state import WAITING, Here, Name, Web, needs

router = APIRouter(tags=["inspections"])

PATIENCE = 30.0  # seconds that an answer waits for its verdict; afterwards it says where to look
HUGE = 1 << 40  # the picture's own limit counts
FIRST = 64 << 10  # bytes that a picture's size is read from
FORMATS = ("image/png", "image/jpeg", "image/tiff", "image/bmp", "image/webp")
PICTURE = {"schema": {"type": "string", "format": "binary"}}
Key = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


@router.post(
    "/inspections",
    max_body_size=HUGE,
    openapi_extra={"requestBody": {"required": True, "content": {name: PICTURE for name in FORMATS}}},
    responses={202: {"description": "taken in, and not judged yet"}},
)
async def inspect(
    request: Request,
    web: Here,
    who: Annotated[Identity, Depends(needs("send"))],
    source: Name,
    part_id: Name | None = None,
    lot: Name | None = None,
    name: Name | None = None,
    wait: Literal["verdict", "accepted"] = "verdict",
    idempotency_key: Annotated[Key | None, Header()] = None,
) -> JSONResponse:
    """Have a picture judged. It is durable, and judged whatever happens, once this is answered with 200 or 202."""
    try:
        source_id = await run_in_threadpool(web.intake.source, source)
        if wait == "verdict" and web.waiting >= WAITING:
            raise Problem(429, "too many requests wait for a verdict", "wait=accepted", {"Retry-After": "1"})
        partial = web.spool.partial(source_id)
        try:
            sha256, suffix = await _received(request, partial, web)
            told = Told(name or f"picture{suffix}", part_id, lot, idempotency_key)
            picture = await run_in_threadpool(web.intake.take, who.actor, source_id, partial, sha256, suffix, told)
        finally:
            partial.unlink(missing_ok=True)
    except (Problem, BlemishError) as error:
        reason = str(error.status_code) if isinstance(error, Problem) else type(error).__name__
        web.metrics.refused.labels(reason).inc()
        raise
    except OSError as error:
        raise NotReady(f"the picture could not be stored ({error.strerror})", hint="is the disk full?") from error
    row = await _row(web, picture, wait == "verdict")
    if row is None:
        where = f"/api/v1/inspections/{picture}"
        return JSONResponse({"id": picture, "state": "waiting"}, 202, {"Location": where})
    return JSONResponse(row)


async def _received(request: Request, partial: Path, web: Web) -> tuple[str, str]:
    """The picture's sha256 and suffix, once it lies in a file, durable."""
    limit = web.config.limits.upload_mb << 20
    length = request.headers.get("content-length", "0")
    too_large = Problem(413, f"a picture has {web.config.limits.upload_mb} MB at most")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    known, count, first = hashlib.sha256(), 0, b""
    suffix: str | None = None
    with partial.open("xb") as file:
        async for chunk in request.stream():
            count += len(chunk)
            if count > limit:
                raise too_large
            if len(first) < FIRST:
                first += chunk[: FIRST - len(first)]
            if suffix is None and len(first) >= 12:
                suffix = suffix_of(first) or _refuse(first)
            known.update(chunk)
            file.write(chunk)
        suffix = suffix or suffix_of(first) or _refuse(first)
        _check_size(first, web.config.limits.megapixels)
        file.flush()
        if web.intake.durable:
            await run_in_threadpool(os.fsync, file.fileno())
    return known.hexdigest(), suffix


def _refuse(first: bytes) -> Any:
    if not first:
        raise Problem(422, "there is no picture in the request's body")
    raise Problem(415, "this is none of PNG, JPEG, TIFF, BMP and WebP")


def _check_size(first: bytes, megapixels: int) -> None:
    """What the first bytes say of a picture's size; where they do not, the worker finds out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(first)) as picture:
                width, height = picture.size
    except Image.DecompressionBombError:
        width = height = 1 << 20
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, OverflowError):
        return
    if width * height > megapixels * 1_000_000:
        raise Problem(413, f"a picture has {megapixels} megapixels at most")


async def _row(web: Web, picture: str, wait: bool) -> dict[str, Any] | None:
    """The row of a claim, if it is there, or comes while it is waited for."""
    future = web.hub.expect(picture)
    web.waiting += wait
    try:
        row = await run_in_threadpool(found, web, picture)  # of an earlier request with the same key
        if row is None and wait:
            until = monotonic() + PATIENCE
            while not (future.done() or web.stopping() or monotonic() > until):
                await asyncio.wait([future], timeout=0.5)
            row = await run_in_threadpool(found, web, picture)
        return row
    finally:
        web.waiting -= wait
        web.hub.forget(picture, future)


def found(web: Web, picture: str) -> dict[str, Any] | None:
    """What the ledger knows of an id."""
    with web.ledger.read() as connection:
        row = connection.execute(all_inspections().where(inspections.c.id == picture)).mappings().first()
    return None if row is None else inspection(row)
