"""A station that is served, with parts to judge, and a browser in front of it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'blemish[station]'")

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from sqlalchemy import select

from blemish.station import auth
from blemish.station.audit import Actor
from blemish.station.ids import new_id, now_ms
from blemish.station.judging import Judged
from blemish.station.ledger.record import Recorder
from blemish.station.ledger.schema import inspections
from blemish.station.spool import Claim
from blemish.station.web.app import app
from tests.fakes import good_image
from tests.unit.station.conftest import model, postgres, station

__all__ = ["model", "postgres", "station"]
CHROMIUM = os.environ.get("BLEMISH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
PASSWORD = "a long password"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed: apt install chromium, or name one by BLEMISH_CHROMIUM")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield made
        made.close()


class Served:
    """A station's web process, that can be stopped and started again at its address."""

    def __init__(self, station: Any) -> None:
        self.station, self.port = station, 0
        self.start()

    def start(self) -> None:
        made = app(self.station.place, self.station.config, self.station.ledger)
        self.server = uvicorn.Server(
            uvicorn.Config(made, port=self.port, log_level="critical", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        self.station.until(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def served(station: Any) -> Iterator[Served]:
    with station.ledger.write() as connection:
        for name in ("anna", "ben"):
            auth.add_user(connection, Actor("test", "system"), name, "inspector", PASSWORD)
    made = Served(station)
    yield made
    made.stop()


@pytest.fixture
def parts(station: Any) -> Callable[..., list[Any]]:
    """Parts with their pictures: every third one rejected; drawn for a blind review or not."""
    count = 0

    def make(number: int, *, drawn_ones: bool = True, **named: str) -> list[Any]:
        nonlocal count
        group = []
        for _ in range(number):
            count += 1
            verdict = "anomalous" if count % 3 == 0 else "good"
            claim = Claim(
                new_id(),
                station.source,
                count,
                f"{count}.png",
                ".png",
                now_ms(),
                part_id=named.get("part", f"P{count}"),
            )
            picture = Image.fromarray(good_image(count)).resize((640, 480))
            for suffix, under in ((".png", "store"), (".jpg", "thumbs")):
                path = station.place.stored(claim.id, suffix, under)
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
            group.append(
                Judged(
                    claim,
                    "judged",
                    verdict,
                    {"regions": []},
                    f"{count:064d}",
                    10,
                    now_ms(),
                    station.deployment,
                    (640, 480),
                    1.4,
                    0.1,
                    1.0,
                )
            )
        with station.ledger.write() as connection:
            Recorder(b"tests", {station.source: float(drawn_ones)}).write(connection, group)
            ids = [one.claim.id for one in group]
            return list(connection.execute(select(inspections).where(inspections.c.id.in_(ids))))

    return make


class Seen:
    """What must not happen on a page: errors, refusals of the content policy, requests to other hosts."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.errors: list[str] = []
        self.hosts: list[str] = []
        context.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "blob:", "data:")) else self.hosts.append(asked.url),
        )


Opening = Callable[..., Page]


@pytest.fixture
def opening(browser: Browser, served: Served) -> Iterator[Opening]:
    """A page of somebody who has logged in."""
    contexts, seen = [], []

    def make(path: str, who: str = "anna", width: int = 1024, height: int = 768) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, has_touch=True)
        contexts.append(context)
        seen.append(Seen(context, served.address))
        page = context.new_page()
        page.goto(served.address + "/login")
        page.fill("input[name=name]", who)
        page.fill("input[name=password]", PASSWORD)
        page.click("main button")
        page.wait_for_url(served.address + "/")
        page.goto(served.address + path)
        page.seen = seen[-1]  # type: ignore[attr-defined]
        return page

    yield make
    for context in contexts:
        context.close()
