"""Errors as RFC 9457 problem+json: what is wrong, and what to do; never a traceback."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from blemish.errors import BlemishError
from blemish.station.auth import Refused
from blemish.station.changes import Refuses
from blemish.station.ledger.database import Full, Locked
from blemish.station.models import NotEqual
from blemish.station.sources.http import NotReady, OtherBytes, Unknown

log = logging.getLogger("blemish.station.web")

STATUS: tuple[tuple[type[BlemishError], int], ...] = (
    (NotReady, 503),
    (Locked, 503),
    (Full, 503),
    (OtherBytes, 409),
    (NotEqual, 409),
    (Refuses, 409),
    (Unknown, 422),
    (Refused, 401),
    (BlemishError, 422),
)


class Problem(HTTPException):
    """An answer other than the asked one."""

    def __init__(self, status: int, says: str, hint: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, says, headers)
        self.hint = hint


def answer(status: int, says: str, hint: str | None = None, headers: Any = None, **more: Any) -> JSONResponse:
    """A problem as a response."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": says, **more}
    if hint:
        body["hint"] = hint
    return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")


def of_error(error: BlemishError) -> JSONResponse:
    """An error that is raised on purpose."""
    status = next(code for kind, code in STATUS if isinstance(error, kind))
    headers = {"Retry-After": "1"} if status == 503 else {}
    if isinstance(error, Refused) and error.seconds:
        status, headers = 429, {"Retry-After": str(error.seconds)}
    return answer(status, str(error), error.hint, headers)


def install(app: FastAPI, headers: dict[str, str]) -> None:
    """Let every error of an application end so; unexpected ones with `headers`, which nothing else adds to them."""

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return answer(error.status_code, str(error.detail), getattr(error, "hint", None), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = [
            {"where": ".".join(str(part) for part in each["loc"]), "why": each["msg"]} for each in error.errors()[:20]
        ]
        says = "; ".join(f"{each['where']}: {each['why']}" for each in found[:3])
        return answer(422, says.encode("utf-8", "replace").decode(), errors=found)

    @app.exception_handler(BlemishError)
    async def known(_: Request, error: BlemishError) -> Response:
        return of_error(error)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("%s: %s", type(error).__name__, error)
        hint = "the station's log says more"
        return answer(500, "something went wrong that should not have", hint, headers=headers)
