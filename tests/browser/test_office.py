"""Pages of those who look after a line, in a real browser: readable by everybody, at every size, and on paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from blemish.inspection import modelfile
from blemish.station import audit, auth
from blemish.station.alarms import raise_alarm
from blemish.station.ledger.schema import deployments
from blemish.station.models import import_model
from tests.browser.conftest import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PAGES = (
    "/setup", "/models", "/changes", "/changes/1", "/trend", "/alarms", "/maintenance", "/jobs", "/audit",
    "/audit/check", "/users",
)  # fmt: skip


@pytest.fixture
def candidate(served: Any, parts: Any, model: Path, tmp_path: Path) -> int:
    """Of a stricter threshold, at a station with parts, an alarm and an administrator."""
    made = modelfile.load(model)
    stricter = {name: each.again(0.4) for name, each in made.calibrators.items()}
    modelfile.save(replace(made, calibrators=stricter), tmp_path / "stricter")
    parts(9)
    with served.station.ledger.write() as connection:
        auth.add_user(connection, audit.SYSTEM, "eve", "admin", PASSWORD)
        raise_alarm(connection, "disk", "amber", "9 % of the disk is free")
    return import_model(served.station.place, served.station.ledger, tmp_path / "stricter", name="stricter")


def changed(page: Any, address: str, number: int) -> None:
    page.goto(address + "/models")
    form = page.locator("form[action='/changes']")
    form.locator("[name=source]").select_option("cam1")
    form.locator("[name=model]").select_option(str(number))
    form.locator("button").click()
    page.wait_for_url("**/changes/*")


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1024, 768), (360, 740)])
def test_every_page_can_be_read_by_everybody(
    served: Any, opening: Any, candidate: int, width: int, height: int
) -> None:
    page = opening("/", "eve", width, height)
    changed(page, served.address, candidate)
    for path in PAGES:
        page.goto(served.address + path)
        found = Axe().run(page).response["violations"]
        assert found == [], (path, [(each["id"], [node["target"] for node in each["nodes"]]) for each in found])
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, path
        page.emulate_media(media="print")
        assert not page.locator("nav").first.is_visible(), path
        assert page.locator("h1").first.is_visible(), path
        page.emulate_media(media="screen")
    assert page.seen.errors == []
    assert page.seen.hosts == []


def test_a_change_is_signed_and_rolled_back_on_pages(served: Any, opening: Any, candidate: int) -> None:
    page = opening("/", "eve")
    changed(page, served.address, candidate)
    form = page.locator("form[action$='/approve']")
    form.locator("[name=reason]").fill("fewer escapes")
    form.locator("[name=password]").fill(PASSWORD)
    form.locator("button").press("Enter")
    page.wait_for_selector("h1:has-text('approved')")
    page.goto(served.address + "/models")
    form = page.locator("form[action='/rollback']")
    form.locator("[name=reason]").fill("it was not better")
    form.locator("button").click()
    page.wait_for_selector("td:has-text('it was not better')")
    assert [row["model_id"] for row in served.station.rows(deployments)] == [1, candidate, 1]
    assert page.seen.errors == []
