"""What the parts of the application share, and who asks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import StringConstraints

from blemish.station import auth
from blemish.station.auth import Identity
from blemish.station.config import Config
from blemish.station.judging import as_text
from blemish.station.ledger.database import Ledger
from blemish.station.metrics import Metrics
from blemish.station.place import Place, digest
from blemish.station.reading import as_csv
from blemish.station.sources.http import Intake
from blemish.station.web.hub import Hub
from blemish.station.web.problems import Problem

COOKIE = "blemish"
WAITING = 64  # requests that wait for a verdict at the same time
STREAMS = 64

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
Number = Annotated[int, Query(ge=0, le=2**53)]
Time = Annotated[datetime | None, Query(description="ISO 8601; without a zone it is UTC")]


class Web:
    """One for each application."""

    def __init__(self, place: Place, config: Config, ledger: Ledger) -> None:
        self.place, self.config, self.ledger = place, config, ledger
        self.intake = Intake(place, config, ledger)
        self.spool = self.intake.spool
        self.metrics = Metrics(place, ledger, self.spool)
        self.hub = Hub(place, ledger, self.metrics.seen)
        self.waiting = 0
        self.streams = 0
        self.stopping: Callable[[], bool] = lambda: False  # what does not end by itself ends then


def web_of(request: Request) -> Web:
    """The application's own."""
    web: Web = request.app.state.web
    return web


Here = Annotated[Web, Depends(web_of)]


def ip_of(request: Request) -> str:
    """Where a request comes from; proxies are not asked."""
    return request.client.host if request.client else ""


Address = Annotated[str, Depends(ip_of)]


def identify(
    web: Here,
    ip: Address,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
    session: Annotated[str | None, Security(APIKeyCookie(name=COOKIE, auto_error=False))],
) -> Identity | None:
    """By a machine's token, else by a person's session; None where neither is known."""
    if bearer is not None:
        return auth.by_token(web.ledger, bearer.credentials, ip)
    return auth.by_session(web.ledger, session, ip) if session else None


Asking = Annotated[Identity | None, Depends(identify)]


def needs(right: str) -> Callable[..., Identity]:
    """A dependency: who asks, and may do that. 401, 403."""

    def allowed(who: Asking) -> Identity:
        if who is None:
            raise Problem(401, "log in, or send a token", headers={"WWW-Authenticate": "Bearer"})
        if right not in who.rights:
            raise Problem(403, f"{who.name} ({who.role}) may not do that", f"it needs the right '{right}'")
        return who

    return allowed


def etag(value: Any) -> str:
    """Of a resource as it is shown: another one where anything in it has changed."""
    return f'"{digest(as_text(value).encode())[:32]}"'


def shown(value: Any, status: int = 200) -> JSONResponse:
    """A resource with its ETag."""
    return JSONResponse(value, status, {"ETag": etag(value)})


def unchanged(value: Any, if_match: str | None) -> None:
    """428 without If-Match, 412 where the resource is no longer what the caller has seen."""
    if if_match is None:
        raise Problem(428, "say by If-Match what is to be changed", "its ETag is in the answer to GET")
    if if_match != "*" and etag(value) not in [each.strip() for each in if_match.split(",")]:
        raise Problem(412, "it was changed by somebody else meanwhile", "get it again")


def as_table(name: str, rows: list[dict[str, Any]], columns: list[str]) -> Response:
    """The CSV twin of a table."""
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(as_csv(rows, columns), media_type="text/csv; charset=utf-8", headers=headers)
