"""Pages of those who look after a line: by forms alone, with figures that are those of their twins."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert

from blemish.inspection import modelfile
from blemish.station import audit, auth, jobs
from blemish.station.alarms import raise_alarm
from blemish.station.jobs import Jobs
from blemish.station.ledger.schema import audit as trail
from blemish.station.ledger.schema import changes, deployments, products, settings, sources
from blemish.station.ledger.schema import jobs as job_rows
from blemish.station.models import import_model
from blemish.station.retention import setting
from blemish.station.setup import opened
from blemish.station.web.app import app
from blemish.station.web.commission import STATE, quality, stricter
from tests.fakes import good_image
from tests.unit.station.conftest import Station, put

PASSWORD = "a long password"
BASE = "http://127.0.0.1:8040"
PAGES = (
    "/setup",
    "/models",
    "/changes",
    "/trend",
    "/alarms",
    "/maintenance",
    "/jobs",
    "/audit",
    "/audit/check",
    "/users",
)


class Browser:
    """A person without a script: follows links, fills in forms that are on the page."""

    def __init__(self, client: TestClient, name: str) -> None:
        self.client, self.text, self.path = client, "", ""
        client.headers["Origin"] = BASE
        self._took(client.post("/login", data={"name": name, "password": PASSWORD}))

    def _took(self, answer: Any) -> Any:
        self.text, self.path, self.status = answer.text, answer.url.path, answer.status_code
        return answer

    def get(self, path: str) -> str:
        assert self._took(self.client.get(path)).status_code == 200, (path, self.text)
        return self.text

    def send(self, action: str, nth: int = 0, files: Any = None, **values: Any) -> int:
        """Send the form of that action with its hidden fields and first choices, and these values."""
        forms = re.findall(rf'<form[^>]*action="{re.escape(action)}"[^>]*>(.*?)</form>', self.text, re.S)
        assert len(forms) > nth, (action, self.text)
        filled: dict[str, str] = {}
        for tag in re.findall(r"<input[^>]*>", forms[nth]):
            name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
            if name and 'type="checkbox"' not in tag and 'type="file"' not in tag:
                filled[name[1]] = unescape(value[1]) if value else ""
        for name, inner in re.findall(r'<select name="([^"]*)"[^>]*>(.*?)</select>', forms[nth], re.S):
            first = re.search(r"<option([^>]*)>([^<]*)", inner)
            assert first, (action, name)
            value = re.search(r'value="([^"]*)"', first[1])
            filled[name] = value[1] if value else unescape(first[2])
        told = self._took(self.client.post(action, data={**filled, **values}, files=files))
        return int(told.status_code)


def people(station: Any) -> None:
    with station.ledger.write() as connection:
        for role in auth.ROLES:
            auth.add_user(connection, audit.SYSTEM, role, role, PASSWORD)


@pytest.fixture
def client(station: Station) -> Iterator[TestClient]:
    people(station)
    with TestClient(app(station.place, station.config, station.ledger), base_url=BASE) as made:
        yield made


def test_every_page_says_what_its_twins_say(station: Station, client: TestClient) -> None:
    for index in range(6):
        put(station.hot, f"{index}.png", good_image(100 + index))
    with station.running():
        station.until(lambda: len(station.rows()) == 6)
    with station.ledger.write() as connection:
        raise_alarm(connection, "backlog", "amber", "<b>too fast</b>", station.source)
        connection.execute(
            insert(changes).values(
                kind="model", source_id=station.source, model_id=station.model, made_by="x", made_at=1
            )
        )
    browser = Browser(client, "admin")
    for path in (*PAGES, "/changes/1"):
        text = unescape(browser.get(path))
        figures = client.get(f"{path}.json").json()
        for row in next((value for value in figures.values() if isinstance(value, list)), []):
            for value in row.values() if isinstance(row, dict) else [row]:
                if isinstance(value, int) and not isinstance(value, bool):
                    assert re.search(rf"(?<![\d.]){value}(?![\d.])", text), (path, row, value)
        if f"{path}.csv" in text:
            told = client.get(f"{path}.csv")
            table = told.headers["content-disposition"].split('"')[1].removesuffix(".csv")
            rows = list(csv.DictReader(io.StringIO(told.text)))
            assert len(rows) == len(figures[table]), path
            for row, figure in zip(rows, figures[table], strict=True):
                for name, value in row.items():
                    if name in figure and isinstance(figure[name], int | float) and not isinstance(figure[name], bool):
                        assert float(value) == figure[name], (path, name)
    maintenance = client.get("/maintenance.json").json()
    law = next(row for row in maintenance["law"] if row["source"] == "cam1")
    assert (law["claimed"], law["judged"], law["missing"]) == (6, 6, 0)
    trend = client.get("/trend.json").json()
    assert sum(row["total"] for row in trend["hours"]) == 6
    assert "<polyline" in browser.get("/trend?source=cam1")
    assert "<b>too" not in browser.get("/alarms")


def test_who_may_not_is_told_so_on_a_page_and_who_is_nobody_logs_in(station: Station, client: TestClient) -> None:
    assert client.get("/models", follow_redirects=False).headers["location"] == "/login"
    assert client.get("/models.json").status_code == 401
    browser = Browser(client, "viewer")
    assert client.get("/audit").status_code == 403
    assert "Not done" in client.get("/users").text
    assert client.get("/users.json").headers["content-type"].startswith("application/problem+json")
    assert 'action="/rollback"' not in browser.get("/models")
    token = re.search(r'name="form_token" value="([^"]+)"', browser.text)
    assert token
    asked = {"source": "cam1", "reason": "because", "form_token": token[1]}
    assert client.post("/rollback", data=asked).status_code == 403
    Browser(client, "engineer")
    assert client.post("/rollback", data={**asked, "form_token": "x"}).status_code == 403
    assert client.post("/rollback", data=asked).status_code == 403  # of another session
    assert client.get("/changes/99").status_code == 404
    assert client.get("/changes/x").status_code == 422


def test_an_alarm_is_seen_with_a_note(station: Station, client: TestClient) -> None:
    with station.ledger.write() as connection:
        raise_alarm(connection, "failed", "red", "the engine has failed", station.source)
        raise_alarm(connection, "disk", "amber", "the disk fills")
    browser = Browser(client, "inspector")
    assert browser.get("/alarms").count('name="note"') == 2
    assert browser.send("/alarms/1/ack", note="new lamp") == 200
    assert "new lamp" in browser.text
    rows = client.get("/alarms.json").json()["alarms"]
    assert [row["id"] for row in rows] == [2, 1]  # open ones first
    assert station.rows(trail)[-1]["action"] == "alarm.ack"


def test_users_are_made_and_changed(station: Station, client: TestClient) -> None:
    browser = Browser(client, "admin")
    browser.get("/users")
    assert browser.send("/users", name="berta", role="inspector", password="short") == 422
    browser.get("/users")
    assert browser.send("/users", name="berta", role="inspector", password=PASSWORD) == 200
    number = next(row["id"] for row in client.get("/users.json").json()["users"] if row["name"] == "berta")
    stale = browser.text
    assert browser.send(f"/users/{number}", role="engineer", active="true") == 200
    browser.text = stale
    assert browser.send(f"/users/{number}", role="viewer", active="true") == 412
    row = next(row for row in client.get("/users.json").json()["users"] if row["name"] == "berta")
    assert (row["role"], row["active"]) == ("engineer", True)


def test_a_change_that_loses_defects_is_signed_in_so_many_words(
    station: Station, client: TestClient, model: Path
) -> None:
    from tests.unit.station.test_changes import judge

    made = modelfile.load(model)
    lax = station.place.root.parent / "lax"
    modelfile.save(replace(made, calibrators={k: c.again(0.4) for k, c in made.calibrators.items()}), lax)
    number = import_model(station.place, station.ledger, lax)
    put(station.hot, "0.png", good_image(1))
    with station.running():
        station.until(lambda: len(station.rows()) == 1)
    row = station.rows()[0]
    with station.ledger.write() as connection:  # it was rejected, and is a defect; the candidate accepts it
        connection.exec_driver_sql("UPDATE inspections SET verdict = 'anomalous', score = 0")
        judge(connection, row["seq"], "defect")
    browser = Browser(client, "engineer")
    browser.get("/models")
    assert browser.send("/changes", source="cam1", model=str(number)) == 200
    assert "/changes/1" in browser.path
    assert "accepted that known defects" in browser.text
    signed = {"reason": "a shadow", "password": PASSWORD}
    page = browser.text
    assert browser.send("/changes/1/approve", **signed) == 409
    assert "1 of 1 known defects would be lost" in browser.text
    browser.text = page
    assert browser.send("/changes/1/approve", **signed, lost_defects_accepted="true") == 200
    assert "approved" in browser.text
    assert len(station.rows(deployments)) == 2


def test_what_strikes_one_about_pictures(tmp_path: Path) -> None:
    for index in range(12):
        put(tmp_path, f"{index:02}.png", good_image(index))
    (tmp_path / "copy.png").write_bytes((tmp_path / "03.png").read_bytes())
    put(tmp_path, "dark.png", good_image(50) // 8)
    put(tmp_path, "other.png", good_image(51)[:20])
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = quality(tmp_path)
    assert (found["pictures"], found["looked_at"], found["unreadable"]) == (16, 16, ["torn.png"])
    assert found["copies"] == [["03.png", "copy.png"]]
    assert "dark.png" in found["light"]
    assert len(found["sizes"]) == 2
    rows = {row["rate"]: row for row in stricter(100, 0.95)}
    assert (rows[0.05]["needed"], rows[0.05]["missing"], rows[0.01]["missing"]) == (59, 0, 199)


def test_from_an_empty_station_to_a_live_model_and_back_by_forms_alone(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blemish.station.setup import init

    monkeypatch.setattr(jobs, "LOOK", 0.05)
    good = tmp_path / "pictures" / "good"
    good.mkdir(parents=True)
    (tmp_path / "pictures" / "in").mkdir()
    for index in range(24):
        put(good, f"{index:02}.png", good_image(100 + index))
    place = init(tmp_path / "station", roots=(str(tmp_path / "pictures"),))
    _, config, ledger = opened(place.root)
    stop = threading.Event()
    working = threading.Thread(target=Jobs(place, config, ledger).run, args=(stop,))
    working.start()
    try:
        with TestClient(app(place, config, ledger), base_url=BASE) as client:
            client.headers["Origin"] = BASE
            code = auth.first_code(place, ledger)
            assert client.post("/first", data={"code": code, "name": "admin", "password": PASSWORD}).status_code == 200
            browser = Browser(client, "admin")
            _commission(browser, ledger)
            _rolled_back(browser, model)
    finally:
        stop.set()
        working.join(60)
        ledger.close()


def _rows(ledger: Any, table: Any) -> list[Any]:
    with ledger.read() as connection:
        return list(connection.execute(table.select().order_by(table.c.id)).mappings())


def _done(browser: Browser, ledger: Any) -> None:
    """Look again until no job runs."""
    from time import monotonic, sleep

    end = monotonic() + 300
    while {row["state"] for row in _rows(ledger, job_rows)} & {"waiting", "running"}:
        assert monotonic() < end
        sleep(0.1)
    browser.get("/setup")


def _commission(browser: Browser, ledger: Any) -> None:
    browser.get("/setup")
    assert browser.send("/setup/product", name="bracket") == 200
    assert browser.send("/setup/folder", folder="0" * 16) == 422
    browser.get("/setup")
    assert browser.send("/setup/folder") == 200
    assert "24 of 24" in browser.text
    browser.get("/setup")  # as after a kill: it is where it was
    assert browser.send("/setup/quality") == 200
    assert browser.send("/setup/learn", method="padim", rate="0.2", confidence="mean", image_size="64") == 200
    assert "data-again" in browser.text
    _done(browser, ledger)
    assert browser.send("/setup/promise") == 200
    assert browser.send("/setup/power", images="1") == 200
    _done(browser, ledger)
    assert "found from" in browser.text, _rows(ledger, job_rows)[-1]
    assert browser.send("/setup/power", nth=-1) == 200
    assert "8 good pictures" in browser.text
    assert browser.send("/setup/golden") == 200
    folder = re.search(r'value="([0-9a-f]{16})">[^<]*/in<', browser.text)
    assert folder
    page, learned = browser.text, re.search(r'value="([0-9a-f]{16})">[^<]*/good<', browser.text)
    assert learned
    assert browser.send("/setup/source", nth=1, source="cam1", folder=learned[1]) == 422
    assert "learned would be taken out" in browser.text
    browser.text = page
    assert browser.send("/setup/source", nth=1, source="cam1", folder=folder[1]) == 200
    assert browser.send("/setup/live") == 200
    assert browser.path == "/changes/1"
    assert "8 of 8" in browser.text
    page = browser.text
    assert browser.send("/changes/1/approve", reason="commissioned", password="wrong") == 401
    browser.text = page
    assert browser.send("/changes/1/approve", reason="commissioned", password=PASSWORD) == 200
    assert "It is live" in browser.get("/setup")
    row = next(row for row in _rows(ledger, sources) if row["name"] == "cam1")
    assert json.loads(row["config"])["path"].endswith("/in")
    assert row["product_id"] == next(row["id"] for row in _rows(ledger, products) if row["name"] == "bracket")
    with ledger.read() as connection:
        assert setting(connection, STATE, {})["change"] == 1
        assert connection.execute(settings.select()).first() is not None
        assert audit.broken(connection) is None


def _rolled_back(browser: Browser, model: Path) -> None:
    """Another model comes in as a zip, goes live, and the one before it comes back."""
    from tests.unit.station.test_web import zipped

    browser.get("/models")
    files = {"zip": ("m.zip", zipped(model), "application/zip")}
    assert browser.send("/models/import", files=files, name="other") == 200
    assert browser.send("/changes", source="cam1", model="2", reason="to compare") == 200
    assert browser.send("/changes/2/approve", reason="to compare", password=PASSWORD) == 200
    browser.get("/models")
    assert browser.send("/rollback", reason="it was not better") == 200
    live = [row for row in browser.client.get("/models.json").json()["deployments"] if row["until"] is None]
    assert [(row["source"], row["model_id"], row["reason"]) for row in live] == [("cam1", 1, "it was not better")]
