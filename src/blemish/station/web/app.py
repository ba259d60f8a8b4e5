"""The web application of a station, and its server."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles

import blemish
from blemish.station import auth
from blemish.station.config import Config
from blemish.station.ledger.database import Ledger
from blemish.station.place import Place
from blemish.station.web import (
    approving,
    changing,
    commission,
    deciding,
    drifting,
    intake,
    live,
    office,
    pages,
    people,
    problems,
    reading,
    reviewing,
    reviewpages,
    system,
    working,
)
from blemish.station.web.headers import HEADERS, Guard
from blemish.station.web.state import Web

HERE = Path(__file__).parent
BODY = 1 << 20  # bytes of a request other than a picture or a model
PROBLEM: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "what is wrong, and what to do (RFC 9457)",
        "content": {"application/problem+json": {"schema": {"type": "object"}}},
    }
}
GROUPS = (intake, reading, reviewing, drifting, live, changing, approving, deciding, people, working)


def app(place: Place, config: Config, ledger: Ledger) -> FastAPI:
    """The application. One process at a time may hold it: it numbers what it takes in."""

    @asynccontextmanager
    async def running(made: FastAPI) -> AsyncIterator[None]:
        made.state.web.hub.start()
        try:
            yield
        finally:
            made.state.web.hub.stop()

    made = FastAPI(
        title="Blemish station",
        version=blemish.__version__,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=running,
        max_body_size=BODY,
    )
    made.state.web = Web(place, config, ledger)
    problems.install(made, HEADERS)
    api = APIRouter(prefix="/api/v1", responses=PROBLEM)
    for group in GROUPS:
        api.include_router(group.router)
    made.include_router(api)
    made.include_router(system.router, responses=PROBLEM)
    for pages_of in (pages, reviewpages, office, commission):
        made.include_router(pages_of.router)
    made.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    made.add_middleware(Guard, config=config)
    return made


def serve(place: Place, config: Config, ledger: Ledger, host: str | None = None, port: int | None = None) -> None:
    """Answer until told to stop by SIGTERM or SIGINT.

    ConfigError where other machines would reach a station that nobody administers yet. A new station says how its
    administrator is made.
    """
    host, port = host or config.web.host, port or config.web.port
    auth.check_bind(ledger, host)
    scheme = "https" if config.web.certificate else "http"
    code = auth.first_code(place, ledger)
    if code is not None:
        print(f"open {scheme}://{host}:{port}/first?code={code} to make the first administrator", file=sys.stderr)
    if host not in ("127.0.0.1", "localhost", "::1") and scheme == "http":
        logging.getLogger("blemish.station.web").warning("passwords cross the network as they are: set up TLS")
    made = app(place, config, ledger)
    server = uvicorn.Server(
        uvicorn.Config(
            made,
            host=host,
            port=port,
            ssl_certfile=config.web.certificate,
            ssl_keyfile=config.web.key,
            log_config=None,  # the caller's
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            lifespan="on",
        )
    )
    made.state.web.stopping = lambda: server.should_exit
    server.run()
