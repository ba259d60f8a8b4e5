"""The web side of a station, with a real worker behind it."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import insert, select, update

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'blemish[station]'")
pytest.importorskip("httpx", reason="httpx is not installed: pip install httpx")
pytest.importorskip("httpx2", reason="httpx2 is not installed: pip install httpx2")

import httpx
import uvicorn
from fastapi.testclient import TestClient

from blemish.inspection import modelfile
from blemish.station import audit, auth, disk
from blemish.station.config import Config, Limits
from blemish.station.disk import Level
from blemish.station.ledger.schema import alarms, deployments, health, outbox, sources, users
from blemish.station.models import deploy
from blemish.station.setup import source_named
from blemish.station.sinks import HIDDEN
from blemish.station.web.app import app
from tests.fakes import good_image
from tests.tiny import fit_tiny

BASE = "http://127.0.0.1:8040"
TEST = audit.Actor("test", "system")


def encoded(seed: int, kind: str = "png") -> bytes:
    out = io.BytesIO()
    Image.fromarray(good_image(seed)).save(out, kind)
    return out.getvalue()


@pytest.fixture
def web(station: Any) -> Any:
    """The station, whose source `http` has a model; with tokens."""
    station.http = source_named(station.ledger, "http")
    with station.ledger.write() as connection:
        deploy(connection, station.http, station.model, "test", "first")
        station.tokens = {
            scope: {"Authorization": f"Bearer {auth.add_token(connection, TEST, scope, [scope])[1]}"}
            for scope in auth.SCOPES
        }
    return station


Opening = Callable[..., TestClient]


@pytest.fixture
def opening(web: Any) -> Iterator[Opening]:
    """A new application each time, as after a kill."""
    clients = []

    def make(scope: str | None = "admin", config: Config | None = None) -> TestClient:
        made = TestClient(app(web.place, config or web.config, web.ledger), base_url=BASE, raise_server_exceptions=True)
        made.__enter__()
        clients.append(made)
        if scope is not None:
            made.headers.update(web.tokens[scope])
        return made

    yield make
    for each in clients:
        each.__exit__(None, None, None)


@contextmanager
def served(web: Any) -> Iterator[str]:
    """A real server's address."""
    server = uvicorn.Server(uvicorn.Config(app(web.place, web.config, web.ledger), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        web.until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def lives(web: Any) -> None:
    """Until the worker says that it judges for `http`."""

    def met() -> bool:
        with web.ledger.read() as connection:
            value = connection.scalar(select(health.c.value).where(health.c.process == "worker"))
        return value is not None and web.http in json.loads(value)["live"]

    web.until(met)


def said(web: Any, level: int = 0) -> None:
    """What a worker would say that lives, and judges nothing."""
    from blemish.station.ids import now_ms

    value = json.dumps({"waiting": 0, "level": level, "live": [web.http]})
    with web.ledger.write() as connection:
        connection.execute(health.delete())
        connection.execute(insert(health).values(process="worker", at=now_ms(), pid=1, value=value))


def send(client: TestClient, data: bytes, key: str | None = None, **asked: Any) -> Any:
    params = {"source": "http", **asked}
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/api/v1/inspections", params=params, content=data, headers=headers)


# ---------------------------------------------------------------------------------------------------- intake


def test_a_picture_that_is_sent_is_answered_with_its_row(web: Any, opening: Opening) -> None:
    client = opening()
    with web.running():
        lives(web)
        told = send(client, encoded(1), part_id="008812", lot="4711")
        assert told.status_code == 200, told.text
        row = told.json()
        assert (row["part_id"], row["lot"], row["line"], row["state"]) == ("008812", "4711", "OK", "judged")
        assert row["model"] == f"sha256:{Path(row['model'].partition(':')[2]).name}"
        (kept,) = web.rows()
        assert (row["id"], row["seq"], row["score"]) == (kept["id"], kept["seq"], kept["score"])
        assert kept["lot_id"] is not None
        web.until(lambda: web.place.stored(row["id"], ".png").is_file())
        assert client.get(f"/api/v1/inspections/{row['id']}/image").content == encoded(1)
        assert client.get(f"/api/v1/inspections/{row['id']}/thumb").headers["content-type"] == "image/jpeg"
        assert client.get(f"/api/v1/inspections/{row['id']}/map").content[:4] == b"\x89PNG"
        assert client.get(f"/api/v1/inspections/{row['id']}").json() == row
        assert client.get("/api/v1/parts/008812").json()["inspections"] == [row]
        jpeg = send(client, encoded(2, "jpeg"), wait="accepted", name="../../etc/passwd.png")
        assert jpeg.status_code == 202
        web.until(lambda: len(web.rows()) == 2)
    last = client.get(jpeg.headers["location"]).json()
    assert last["name"] == "../../etc/passwd.png"  # data, never a path
    assert web.place.stored(last["id"], ".jpg").is_file()


def test_a_key_stands_for_one_picture_also_after_a_kill(web: Any, opening: Opening) -> None:
    said(web)
    first = send(opening(), encoded(1), "part-1", wait="accepted")
    assert first.status_code == 202
    (web.place.spool / str(web.http) / ".half.partial").write_bytes(b"half")
    client = opening()  # the first was killed between claim and answer
    assert not (web.place.spool / str(web.http) / ".half.partial").exists()
    assert client.get(first.headers["location"]).status_code == 202
    again = send(client, encoded(1), "part-1", wait="accepted")
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert send(client, encoded(2), "part-1", wait="accepted").status_code == 409
    with web.running():
        lives(web)
        row = send(client, encoded(1), "part-1")
        assert (row.status_code, row.json()["id"]) == (200, first.json()["id"])
        assert send(opening(), encoded(1), "part-1").json() == row.json()  # by its row alone
        assert send(opening(), encoded(2), "part-1").status_code == 409
        assert send(client, encoded(2), "part-2").status_code == 200
    assert [row["claim"] for row in web.rows()] == [1, 2]
    assert not [path for path in (web.place.spool / str(web.http)).iterdir()]


def test_a_claim_that_is_judged_while_claims_are_numbered_keeps_its_number(
    web: Any, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(web)
    assert send(opening(), encoded(1), wait="accepted").status_code == 202
    client = opening()
    spool = client.app.state.web.spool  # type: ignore[attr-defined]
    listed = spool.waiting

    def late(source_id: int) -> Any:
        with web.running():
            web.until(lambda: len(web.rows()) == 1)
        said(web)
        return listed(source_id)

    monkeypatch.setattr(spool, "waiting", late)
    assert send(client, encoded(2), wait="accepted").status_code == 202
    with web.running():
        web.until(lambda: len(web.rows()) == 2)
    assert [row["claim"] for row in web.rows()] == [1, 2]


def test_two_requests_with_one_key_at_the_same_time_are_one_part(web: Any, opening: Opening) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client = opening()
    with web.running():
        lives(web)
        with ThreadPoolExecutor(4) as pool:
            told = [each.result() for each in [pool.submit(send, client, encoded(1), "one") for _ in range(4)]]
    assert {each.status_code for each in told} == {200}
    assert len({each.json()["id"] for each in told}) == len(web.rows()) == 1


def test_a_restart_of_the_worker_leaves_what_the_web_process_is_writing(web: Any, opening: Opening) -> None:
    opening()
    half = web.place.spool / str(web.http)
    half.mkdir(exist_ok=True)
    (half / ".upload.partial").write_bytes(b"half")
    with web.running():
        lives(web)
    assert (half / ".upload.partial").exists()


def test_what_cannot_be_taken_in_is_refused_with_the_reason(
    web: Any, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(upload_mb=1, megapixels=1, spool_files=2)
    client = opening(config=Config(roots=web.config.roots, limits=limits))

    def status(data: bytes = encoded(1), **asked: Any) -> int:
        told = send(client, data, **asked)
        assert told.headers["content-type"] == "application/problem+json"
        assert told.json()["status"] == told.status_code
        return int(told.status_code)

    assert send(client, encoded(1)).json()["detail"] == "nothing is judged: the worker does not answer"
    said(web)
    assert status(b"\x89PNG\r\n\x1a\n" + bytes(1 << 20)) == 413
    chunked = client.post(
        "/api/v1/inspections", params={"source": "http"}, content=iter([encoded(1), bytes(1 << 20), b"x"])
    )
    assert chunked.status_code == 413  # without a Content-Length
    wide = io.BytesIO()
    Image.new("1", (2000, 1000)).save(wide, "png")
    assert status(wide.getvalue()) == 413
    assert status(b"GIF89a" + bytes(100)) == 415
    assert status(b"BA") == 415
    assert status(b"") == 422
    assert status(source="nowhere") == 422
    assert status(source="cam1") == 422  # a folder
    assert status(part_id="a\0b") == 422
    assert status(wait="for ever") == 422
    assert send(client, encoded(1), "k" * 300).status_code == 422
    said(web, level=int(Level.STOP))
    assert status() == 503
    said(web)
    monkeypatch.setattr(disk, "level", lambda place: (Level.STOP, 0.001))
    assert status() == 503
    monkeypatch.undo()
    monkeypatch.setattr("blemish.station.web.intake.WAITING", 0)
    told = send(client, encoded(1))
    assert (told.status_code, told.headers["retry-after"]) == (429, "1")
    for seed in (1, 2):
        assert send(client, encoded(seed), wait="accepted").status_code == 202
    assert status(wait="accepted") == 503  # as many as may wait
    with web.ledger.write() as connection:
        connection.execute(update(health).values(at=health.c.at - 6000))
    told = send(client, encoded(1))
    assert (told.status_code, told.headers["retry-after"]) == (503, "1")
    with web.ledger.write() as connection:
        connection.execute(update(health).values(at=health.c.at + 6000, value='{"live": []}'))
    assert "no model is live" in send(client, encoded(1)).json()["detail"]
    left = [path.name for path in (web.place.spool / str(web.http)).iterdir() if "partial" in path.name]
    assert not left
    assert 'blemish_refused_total{reason="413"} 3.0' in client.get("/metrics").text


# ---------------------------------------------------------------------------------------------------- reading


def test_lists_can_be_filtered_and_have_twins_in_csv(web: Any, opening: Opening) -> None:
    client = opening()
    with web.running():
        lives(web)
        for seed in range(1, 5):
            assert send(client, encoded(seed), part_id=f"={seed}").status_code == 200
    every = client.get("/api/v1/inspections").json()["inspections"]
    assert [row["seq"] for row in every] == [4, 3, 2, 1]
    after = client.get("/api/v1/inspections", params={"after_seq": 1, "limit": 2, "fields": "seq,part_id"}).json()
    assert after == {"inspections": [{"seq": 2, "part_id": "=2"}, {"seq": 3, "part_id": "=3"}]}
    bad = [row["seq"] for row in every if row["verdict"] == "anomalous"]
    told = client.get("/api/v1/inspections", params={"verdict": "anomalous"}).json()["inspections"]
    assert [row["seq"] for row in told] == bad
    for params in ({"source": "cam1"}, {"lot": "x"}, {"to": "2020-01-01T00:00:00"}, {"from": "2200-01-01T00:00:00Z"}):
        assert client.get("/api/v1/inspections", params=params).json() == {"inspections": []}, params
    assert len(client.get("/api/v1/inspections", params={"part_id": "=2"}).json()["inspections"]) == 1
    table = list(csv.DictReader(io.StringIO(client.get("/api/v1/inspections.csv").text)))
    assert [float(row["score"]) for row in table] == [row["score"] for row in every]
    assert table[0]["part_id"] == "'=4"  # no formula
    trend = client.get("/api/v1/trend").json()["rows"]
    assert sum(row["total"] for row in trend) == 4
    assert sum(sum(row["scores"]) for row in trend) == 4
    assert client.get("/api/v1/trend.csv").text.startswith("hour,source,product")
    for path in ("alarms", "audit", "sources", "sinks", "products"):
        assert client.get(f"/api/v1/{path}.csv").headers["content-type"].startswith("text/csv"), path


def test_live_tells_what_is_new_and_a_stream_resumes(web: Any, opening: Opening) -> None:
    client = opening()
    with web.running():
        lives(web)
        for seed in range(1, 4):
            send(client, encoded(seed), part_id=str(seed))
        told = client.get("/api/v1/live", params={"after_seq": 1}).json()
        assert [row["seq"] for row in told["inspections"]] == [2, 3]
        assert (told["seq"], told["counters"]["total"], told["heartbeat"]["lives"]) == (3, 3, True)
        assert {each["source"] for each in told["deployments"]} == {"cam1", "http"}
    events: list[tuple[str, str]] = []
    with served(web) as url:
        head = {**web.tokens["read"], "Last-Event-ID": "1"}
        with httpx.stream("GET", f"{url}/api/v1/stream", headers=head, timeout=20) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field in ("data", "id"):
                    events.append((name if field == "data" else "id", value))
                if name == "heartbeat" and field == "data":
                    break
    assert [value for kind, value in events if kind == "id"] == ["2", "3"]
    assert {kind for kind, _ in events} == {"inspection", "id", "alarm", "deployment", "counters", "heartbeat"}


def test_an_export_holds_tables_pictures_and_models(web: Any, opening: Opening) -> None:
    client = opening()
    with web.running():
        lives(web)
        row = send(client, encoded(1), part_id="1").json()
        web.until(lambda: web.place.stored(row["id"], ".png").is_file())
    packed = zipfile.ZipFile(io.BytesIO(client.get("/api/v1/export").content))
    assert packed.testzip() is None
    assert packed.read(f"pictures/{row['id']}.png") == encoded(1)
    assert json.loads(packed.read("inspections.jsonl"))["id"] == row["id"]
    assert len(packed.read("inspections.csv").decode().splitlines()) == 2
    assert [name for name in packed.namelist() if name.startswith("models/")]
    none = zipfile.ZipFile(io.BytesIO(client.get("/api/v1/export", params={"to": "2020-01-01T00:00:00Z"}).content))
    assert none.namelist() == ["inspections.csv", "inspections.jsonl"]


def test_health_readiness_and_the_law_in_figures(web: Any, opening: Opening) -> None:
    client = opening("read")
    assert client.get("/healthz", headers={"Authorization": ""}).status_code == 200
    assert client.get("/readyz").json()["why"] == [
        "the worker does not answer",
        "no model is live",
        "models of 2 sources are not loaded",
    ]
    sender = opening("send")
    with web.running():
        lives(web)
        assert client.get("/readyz").json() == {"ready": True, "why": []}
        for seed in (1, 2, 2):
            send(sender, encoded(seed), part_id=str(seed))

        def told() -> str:
            return client.get("/metrics").text  # type: ignore[no-any-return]

        web.until(lambda: "blemish_ledger_commit_seconds_sum" in told())
        web.until(lambda: 'blemish_ledger_commit_seconds_bucket{le="+Inf"} 0.0' not in told())
        assert 'blemish_model_swap_seconds_bucket{le="+Inf"} 2.0' in told()
        assert 'blemish_golden_equal{source="http"} 1.0' in told()
        assert 'blemish_far_upper{source="http"}' in told()
    said(web)
    send(sender, encoded(4), wait="accepted")
    figures = {}
    for line in client.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            figures[name] = float(value)
    ended = sum(value for name, value in figures.items() if name.startswith('blemish_ended_total{source="http"'))
    assert figures['blemish_claimed_total{source="http"}'] == 4
    assert ended + figures['blemish_waiting{source="http"}'] == 4
    assert figures['blemish_ended_total{source="http",state="repeat"}'] == 1
    assert sum(value for name, value in figures.items() if name.startswith("blemish_inspections_total")) == 2
    assert any(name.startswith("blemish_deployment_info") for name in figures)


# ---------------------------------------------------------------------------------------------------- changing


def test_a_change_names_what_it_changes_and_is_audited(web: Any, opening: Opening) -> None:
    client = opening()
    inside = web.hot / "more"
    inside.mkdir()
    body = {"name": "cam2", "kind": "folder", "config": {"path": str(inside), "settle": 0.1}, "product": "part"}
    made = client.post("/api/v1/sources", json=body)
    assert made.status_code == 201, made.text
    url = f"/api/v1/sources/{made.json()['id']}"
    tag = client.get(url).headers["etag"]
    assert client.put(url, json=body).status_code == 428
    changed = client.put(url, json={**body, "active": False}, headers={"If-Match": tag})
    assert (changed.status_code, changed.json()["active"], changed.json()["version"]) == (200, False, 2)
    assert client.put(url, json=body, headers={"If-Match": tag}).status_code == 412
    assert client.post("/api/v1/sources", json=body).status_code == 409
    said_of = client.get("/api/v1/audit").json()["audit"]
    assert [each["action"] for each in said_of if each["action"].startswith("source")] == [
        "source.add",
        "source.change",
    ]
    assert json.loads(said_of[-1]["before"])["active"] is True
    assert client.get("/api/v1/audit/check").json()["broken"] is None


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"path": "/etc"},
        {"path": "in/../../.."},
        {"path": "a\0b"},
        {"path": 5},
        {"path": "HOT", "settle": "soon"},
        {"path": "HOT", "settle": -1},
        {"path": "HOT", "colour": "blue"},
        {"path": "HOT", "review_rate": 2},
        {"path": "HOT/link"},
    ],
)
def test_a_folder_lies_below_a_root_and_has_the_options_of_one(web: Any, opening: Opening, config: Any) -> None:
    (web.hot / "link").symlink_to("/usr")
    config = {k: v.replace("HOT", str(web.hot)) if isinstance(v, str) else v for k, v in config.items()}
    told = opening().post("/api/v1/sources", json={"name": "x", "kind": "folder", "config": config})
    assert told.status_code == 422, told.text
    assert len(web.rows(sources)) == 2


def test_a_sink_sends_where_the_file_allows_and_its_secret_is_not_shown(web: Any, opening: Opening) -> None:
    client = opening(config=Config(allow=("https://mes.plant:8443",)))
    body: dict[str, Any] = {"name": "mes", "kind": "webhook"}
    for url in ("https://mes.plant:8444/x", "http://mes.plant:8443/", "https://mes.plant:8443@evil/", "http://[", 5):
        assert (
            client.post("/api/v1/sinks", json={**body, "config": {"url": url, "secret": "s" * 20}}).status_code == 422
        ), url
    config = {"url": "https://mes.plant:8443/x", "secret": "a secret, long enough"}
    made = client.post("/api/v1/sinks", json={**body, "config": config})
    assert made.status_code == 201
    assert made.json()["config"]["secret"] == HIDDEN
    url = f"/api/v1/sinks/{made.json()['id']}"
    told = client.put(url, json={**body, "config": made.json()["config"]}, headers={"If-Match": made.headers["etag"]})
    assert told.status_code == 200
    from blemish.station.ledger.schema import sinks

    assert json.loads(web.rows(sinks)[0]["config"]) == config
    assert "long enough" not in client.get("/api/v1/audit").text + client.get("/api/v1/sinks.csv").text


def test_lots_settings_products_and_alarms(web: Any, opening: Opening) -> None:
    client = opening()
    first = client.post("/api/v1/lots", json={"source": "http", "name": "1"})
    second = client.post("/api/v1/lots", json={"source": "http", "name": "2"})
    one = client.get(f"/api/v1/lots/{first.json()['id']}")
    assert one.json()["ended_at"] is not None
    two = f"/api/v1/lots/{second.json()['id']}"
    assert client.put(two, json={"name": "2", "ended": True}).status_code == 428
    ended = client.put(two, json={"name": "2", "ended": True}, headers={"If-Match": second.headers["etag"]})
    assert ended.json()["ended_at"] is not None
    head = {"If-Match": ended.headers["etag"]}
    assert client.put(two, json={"name": "2", "ended": False}, headers=head).status_code == 409
    setting = client.put("/api/v1/settings/shift.starts", json={"value": ["06:00", "14:00"]})
    assert setting.status_code == 200
    assert client.put("/api/v1/settings/shift.starts", json={"value": 1}).status_code == 428
    head = {"If-Match": setting.headers["etag"]}
    assert client.put("/api/v1/settings/shift.starts", json={"value": 1}, headers=head).json()["version"] == 2
    broken = client.put("/api/v1/settings/x", content=b'{"value": NaN}', headers={"Content-Type": "application/json"})
    assert broken.status_code == 422
    assert client.post("/api/v1/products", json={"name": "bracket"}).status_code == 201
    with web.ledger.write() as connection:
        connection.execute(insert(alarms).values(kind="disk", level="red", raised_at=1, text="full"))
    (alarm,) = client.get("/api/v1/alarms", params={"open": True}).json()["alarms"]
    told = client.post(f"/api/v1/alarms/{alarm['id']}/ack", json={"note": "seen"})
    assert told.json()["acked_by"] == "token:admin"
    assert told.json()["cleared_at"] is None
    assert client.post(f"/api/v1/alarms/{alarm['id']}/ack", json={}).status_code == 409
    with web.ledger.write() as connection:
        connection.execute(insert(alarms).values(kind="unreadable", level="amber", raised_at=1, text="x.png"))
    assert client.post(f"/api/v1/alarms/{alarm['id'] + 1}/ack", json={}).json()["cleared_at"] is not None


def test_jobs_are_asked_for_and_stopped_and_refused_messages_go_again(web: Any, opening: Opening) -> None:
    client = opening()
    body: dict[str, Any] = {"kind": "calibrate", "args": {"model": web.model, "good": {"folder": str(web.hot)}}}
    made = client.post("/api/v1/jobs", json=body)
    assert made.status_code == 201, made.text
    url = f"/api/v1/jobs/{made.json()['id']}"
    assert (made.json()["state"], client.get(url).json()["by"]) == ("waiting", "token:admin")
    assert client.get(f"{url}/log").status_code == 404
    assert client.post("/api/v1/jobs", json={**body, "args": {**body["args"], "model": 2**70}}).status_code == 422
    assert client.post(f"{url}/stop").json()["state"] == "stopped"
    assert client.post(f"{url}/stop").status_code == 422
    assert client.get("/api/v1/jobs").json()["jobs"] == [client.get(url).json()]
    assert opening("read").post("/api/v1/jobs", json=body).status_code == 403
    sink = client.post("/api/v1/sinks", json={"name": "lines", "kind": "file"}).json()
    with web.ledger.write() as connection:
        connection.execute(insert(outbox).values(sink_id=sink["id"], payload="{}", at=1, failed_at=1))
    assert client.post(f"/api/v1/sinks/{sink['id']}/again").json() == {"messages": 1}
    assert client.post("/api/v1/sinks/99/again").status_code == 404


def zipped(folder: Path, **more: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
        for name, data in more.items():
            archive.writestr(name.replace("__", "/"), data)
    return out.getvalue()


def test_a_model_comes_in_goes_live_and_is_taken_back(web: Any, opening: Opening, tmp_path: Path) -> None:
    client = opening()
    modelfile.save(fit_tiny(tmp_path, image_size="32x32"), tmp_path / "other")
    made = client.post("/api/v1/models/import", content=zipped(tmp_path / "other"), params={"name": "other"})
    assert made.status_code == 201, made.text
    assert (made.json()["status"], made.json()["name"]) == ("candidate", "other")
    with web.running():
        lives(web)
        row = send(client, encoded(1), part_id="1").json()
        web.until(lambda: web.place.stored(row["id"], ".png").is_file())
        golden = client.post(f"/api/v1/models/{made.json()['id']}/golden", json={"inspections": [row["id"]]})
        assert [set(each) for each in golden.json()["golden"]] == [{"score", "sha256", "suffix"}]
        body = {"source": "http", "model": made.json()["id"], "reason": "a better one"}
        assert client.post("/api/v1/deployments", json={**body, "reason": "  "}).status_code == 422
        assert client.post("/api/v1/deployments", json={**body, "model": 99}).status_code == 422
        live = client.post("/api/v1/deployments", json=body)
        assert live.status_code == 201
        back = client.post("/api/v1/deployments/rollback", json={"source": "http", "reason": "it was not"})
        assert (back.status_code, back.json()["model_id"]) == (201, web.model)
    assert client.post("/api/v1/deployments/rollback", json={"source": "cam1", "reason": "no other"}).status_code == 422
    actions = [row["action"] for row in client.get("/api/v1/audit").json()["audit"]]
    for action in ("model.import", "model.golden", "deployment.add", "deployment.rollback"):
        assert action in actions
    assert [row["until"] is None for row in web.rows(deployments)].count(True) == 2
    assert not list(web.place.jobs.iterdir())


def test_a_zip_with_anything_else_or_too_much_in_it_is_no_model(
    web: Any, opening: Opening, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opening()

    def status(data: bytes) -> int:
        return int(client.post("/api/v1/models/import", content=data).status_code)

    assert status(b"PK no zip") == 422
    assert status(zipped(model, **{"..__..__evil.txt": b"x"})) == 422
    assert status(zipped(model, **{"a__..__model.json": b"x"})) == 422
    assert status(zipped(model, **{"heads__..__x.onnx": b"x"})) == 422
    assert status(zipped(model, **{"readme.pkl": b"x"})) == 422
    assert status(zipped(model, **{"x__model.json": b"x"})) == 422  # twice
    link = zipfile.ZipInfo("graph.onnx")
    link.external_attr = 0o120777 << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert status(out.getvalue()) == 422
    whole = zipped(model)
    assert status(whole[: len(whole) // 2]) == 422
    changed = tmp_path / "changed"
    modelfile.save(modelfile.load(model), changed)
    (changed / "graph.onnx").write_bytes(b"other bytes")
    assert status(zipped(changed)) == 422
    from blemish.station.web import approving
    from blemish.station.web.problems import Problem

    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tensors.safetensors", bytes(50 << 20))
    assert bomb.stat().st_size < 1 << 20
    (tmp_path / "out").mkdir()
    with pytest.raises(Problem) as error:
        approving.unpack(bomb, tmp_path / "out", limit=10 << 20)
    assert error.value.status_code == 413
    monkeypatch.setattr(approving, "MODEL_MB", 0)
    assert status(whole) == 413
    assert not list(web.place.jobs.iterdir())


# ---------------------------------------------------------------------------------------------------- security


def test_every_path_but_the_few_asks_who_it_is_and_what_may_be_done(web: Any, opening: Opening) -> None:
    client = opening(None)
    free = {"/healthz", "/readyz", "/api/v1/session"}
    spec = client.get("/api/v1/openapi.json").json()
    count = 0
    for path, methods in spec["paths"].items():
        for method in methods:
            if path in free:
                continue
            told = client.request(method, path.replace("{id}", "1" * 36 if "inspections" in path else "1"), json={})
            assert told.status_code in (401, 422), (method, path)
            if told.status_code == 422:  # a body that is none is said before; nothing was done
                assert method in ("post", "put"), (method, path)
            count += 1
    assert count > 50
    sender, reader = opening("send"), opening("read")
    assert sender.get("/api/v1/inspections").status_code == 403
    assert send(reader, encoded(1)).status_code == 403
    assert reader.get("/api/v1/audit").status_code == 403
    assert reader.post("/api/v1/products", json={"name": "x"}).status_code == 403
    wrong = {"Authorization": "Bearer " + "x" * 43}
    assert client.get("/api/v1/inspections", headers=wrong).status_code == 401


def test_roles_have_their_rights_and_no_others(web: Any, opening: Opening) -> None:
    with web.ledger.write() as connection:
        for role in auth.ROLES:
            auth.add_user(connection, TEST, role, role, f"password of {role}")
    allowed = {
        ("/api/v1/products", "products"): {"engineer", "admin"},
        ("/api/v1/sources", "sources"): {"maintenance", "admin"},
        ("/api/v1/lots", "lots"): {"inspector", "engineer", "admin"},
        ("/api/v1/users", "users"): {"admin"},
        ("/api/v1/deployments", "deploy"): {"engineer", "admin"},
    }
    bodies = {
        "products": lambda role: {"name": f"product of {role}"},
        "sources": lambda role: {"name": f"source of {role}", "kind": "http"},
        "lots": lambda role: {"source": "http", "name": role},
        "users": lambda role: {"name": f"friend of {role}", "role": "viewer", "password": "long enough"},
        "deploy": lambda role: {
            "source": "http",
            "model": web.model,
            "reason": "because",
            "password": f"password of {role}",
        },
    }
    for role in auth.ROLES:
        client = opening(None)
        head = {"Origin": BASE}
        login = client.post("/api/v1/session", json={"name": role, "password": f"password of {role}"}, headers=head)
        assert login.status_code == 201
        for (path, right), roles in allowed.items():
            told = client.post(path, json=bodies[right](role), headers=head)
            assert (told.status_code == 201) == (role in roles), (role, path, told.text)
        assert (client.get("/api/v1/audit").status_code == 200) == (role in ("auditor", "admin"))
        assert client.get("/api/v1/inspections").status_code == 200


def test_sessions(web: Any, opening: Opening) -> None:
    with web.ledger.write() as connection:
        number = auth.add_user(connection, TEST, "anna", "inspector", "a long password")
    client = opening(None)
    head = {"Origin": BASE}
    told = client.post("/api/v1/session", json={"name": "anna", "password": "a long password"}, headers=head)
    cookie = told.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    text = client.cookies["blemish"]
    from blemish.station.ledger.schema import sessions

    assert text not in str(web.rows(sessions))  # only its hash is kept
    client.post("/api/v1/session", json={"name": "anna", "password": "a long password"}, headers=head)
    assert client.cookies["blemish"] != text
    assert len(web.rows(sessions)) == 1
    assert client.get("/api/v1/session").json()["role"] == "inspector"
    with web.ledger.write() as connection:
        connection.execute(update(sessions).values(used_at=sessions.c.used_at - 7 * 3600_000))
    assert client.get("/api/v1/session").status_code == 200  # inspectors have a shift
    with web.ledger.write() as connection:
        connection.execute(update(sessions).values(used_at=sessions.c.used_at - 9 * 3600_000))
    assert client.get("/api/v1/session").status_code == 401
    client.post("/api/v1/session", json={"name": "anna", "password": "a long password"}, headers=head)
    admin = opening()
    tag = admin.get(f"/api/v1/users/{number}").headers["etag"]
    change = {"role": "viewer", "active": False}
    assert admin.put(f"/api/v1/users/{number}", json=change, headers={"If-Match": tag}).status_code == 409  # no admin
    with web.ledger.write() as connection:
        auth.add_user(connection, TEST, "root", "admin", "another password")
    assert admin.put(f"/api/v1/users/{number}", json=change, headers={"If-Match": tag}).status_code == 200
    assert client.get("/api/v1/session").status_code == 401


def test_wrong_passwords_lock_for_longer_and_longer(web: Any) -> None:
    with web.ledger.write() as connection:
        auth.add_user(connection, TEST, "anna", "viewer", "a long password")
    seconds = []
    for attempt in range(8):
        with pytest.raises(auth.Refused):
            auth.log_in(web.ledger, "anna", "wrong")
        row = web.rows(users)[0]
        if attempt >= 4:
            with pytest.raises(auth.Refused, match="locked"):
                auth.log_in(web.ledger, "anna", "a long password")
            from blemish.station.ids import now_ms

            seconds.append(round((row["locked_until"] - now_ms()) / 1000, -1))
            with web.ledger.write() as connection:
                connection.execute(update(users).values(locked_until=0))
    assert seconds == [30, 60, 120, 240]
    assert auth.log_in(web.ledger, "anna", "a long password")[1].role == "viewer"
    assert web.rows(users)[0]["failed"] == 0
    with pytest.raises(auth.Refused, match="wrong"):
        auth.log_in(web.ledger, "nobody", "a long password")


def test_foreign_names_and_foreign_pages_are_refused(web: Any, opening: Opening) -> None:
    client = opening()
    for host in ("evil.example", "127.0.0.1.evil.example:8040", "x@127.0.0.1", "[", ""):
        assert client.get("/api/v1/inspections", headers={"Host": host}).status_code == 421, host
    for host in ("localhost:8040", "127.0.0.1", "[::1]:8040"):
        assert client.get("/api/v1/inspections", headers={"Host": host}).status_code == 200, host
    for head in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert client.post("/api/v1/products", json={"name": "x"}, headers=head).status_code == 403, head
    browser = opening(None)
    browser.cookies["blemish"] = "x"
    assert browser.post("/api/v1/products", json={"name": "x"}).status_code == 403  # a cookie, and no origin
    assert client.post("/api/v1/products", json={"name": "x"}, headers={"Origin": BASE}).status_code == 201
    form = {
        "Origin": "null",
        "Sec-Fetch-Site": "same-origin",
    }  # what browsers send with a form of a page without referrer
    assert client.post("/api/v1/products", json={"name": "y"}, headers=form).status_code == 201
    assert client.get("/healthz").headers["Referrer-Policy"] == "same-origin"


def test_every_answer_has_the_headers_and_no_page_has_inline_code(
    web: Any, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opening(None)
    for path in ("/login", "/static/live.js", "/api/v1/inspections", "/nowhere", "/healthz"):
        told = client.get(path)
        assert told.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'"), path
        assert told.headers["x-content-type-options"] == "nosniff"
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/api/v1/inspections/..%2f..%2fstation.toml/image"):
        assert client.get(path).status_code in (401, 404), path
    from blemish.station.web import system

    silent = TestClient(client.app, base_url=BASE, raise_server_exceptions=False)
    monkeypatch.setattr(system.disk, "level", lambda _: 1 / 0)
    told = silent.get("/readyz")
    assert told.status_code == 500
    assert "ZeroDivision" not in told.text
    assert "content-security-policy" in told.headers
    for template in (Path(system.__file__).parent / "templates").glob("*.html"):
        text = template.read_text()
        assert "style=" not in text
        assert "<style" not in text
        assert " on" + "click" not in text
        assert text.count("<script") == len(re.findall(r'<script (type="module" )?src="/static/', text))
        assert "http://" not in text
        assert "https://" not in text


def test_the_first_administrator_is_made_once_and_then_other_machines_may_come(web: Any, opening: Opening) -> None:
    from blemish.errors import ConfigError

    client = opening(None)
    head = {"Origin": BASE}
    auth.check_bind(web.ledger, "127.0.0.1")
    auth.check_bind(web.ledger, "localhost")
    for host in ("0.0.0.0", "192.168.1.5", "station.plant", "::"):
        with pytest.raises(ConfigError, match="administrator"):
            auth.check_bind(web.ledger, host)
    code = auth.first_code(web.place, web.ledger)
    form = {"name": "root", "password": "a long password"}
    assert client.get("/first", params={"code": code}).status_code == 200
    assert client.post("/first", data={**form, "code": "x" * 40}, headers=head).status_code == 401
    assert client.post("/first", data={**form, "code": code, "password": "short"}, headers=head).status_code == 422
    assert client.post("/first", data={**form, "code": code}, headers=head, follow_redirects=False).status_code == 303
    assert client.post("/first", data={**form, "code": code, "name": "me too"}, headers=head).status_code == 404
    with pytest.raises(auth.Refused):
        auth.make_first(web.place, web.ledger, str(code), "me too", "a long password")
    assert auth.first_code(web.place, web.ledger) is None
    auth.check_bind(web.ledger, "0.0.0.0")


def test_the_server_says_how_the_first_administrator_is_made_and_stops_with_streams_open(web: Any) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    code = (
        "import sys; from blemish.station.setup import opened; from blemish.station.web.app import serve;"
        "serve(*opened(sys.argv[1]), None, int(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(web.place.root), str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert f"http://127.0.0.1:{port}/first?code={auth.first_code(web.place, web.ledger)}" in first
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/healthz").status_code == 200
            except httpx.TransportError:
                return False

        web.until(answers)
        with httpx.stream("GET", f"{url}/api/v1/stream", headers=web.tokens["read"], timeout=20) as answer:
            assert next(answer.iter_lines()).startswith("event: ")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()


def test_pages(web: Any, opening: Opening) -> None:
    with web.ledger.write() as connection:
        auth.add_user(connection, TEST, "<b>anna</b>", "viewer", "a long password")
    sender, client = opening("send"), opening(None)
    with web.running():
        lives(web)
        row = send(sender, encoded(1), part_id="<script>alert(1)</script>").json()
    head = {"Origin": BASE}
    assert client.get("/", follow_redirects=False).headers["location"] == "/login"
    wrong = client.post("/login", data={"name": "<b>anna</b>", "password": "wrong"}, headers=head)
    assert wrong.status_code == 401
    assert "<b>" not in wrong.text
    assert (
        client.post("/login", data={"name": "<b>anna</b>", "password": "a long password"}, headers=head).url.path == "/"
    )
    assert 'src="/static/live.js"' in client.get("/").text
    shown = client.get(f"/inspections/{row['id']}").text
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert client.post("/logout", data={"form_token": "x"}, headers=head).status_code == 403
    token = client.get("/").text.partition('name="form_token" value="')[2].partition('"')[0]
    client.post("/logout", data={"form_token": token}, headers=head)
    assert client.get("/", follow_redirects=False).status_code == 303


def test_what_the_description_of_the_api_allows_never_ends_in_a_500(web: Any) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    import hypothesis

    quick = hypothesis.settings(
        max_examples=6, deadline=None, database=None, derandomize=True, suppress_health_check=[*hypothesis.HealthCheck]
    )
    failed: list[str] = []
    count = 0
    with served(web) as url, web.running():
        lives(web)
        schema = schemathesis.openapi.from_url(f"{url}/api/v1/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path == "/api/v1/stream":  # it does not end
                continue

            more = {"source": "http"} if operation.label == "POST /api/v1/inspections" else {}

            def tried(case: Any, more: dict[str, str]) -> None:
                case.query = {**(case.query or {}), **more}
                if case.call(headers=web.tokens["admin"]).status_code == 500:
                    failed.append(case.as_curl_command())

            quick(hypothesis.given(case=operation.as_strategy(), more=hypothesis.strategies.just(more))(tried))()
            count += 1
    assert count > 50
    assert not failed


# ---------------------------------------------------------------------------------------------------- judging


def test_people_judge_parts_and_machines_do_not(web: Any, opening: Opening) -> None:
    from blemish.station.ledger.schema import queue

    with web.ledger.write() as connection:
        auth.add_user(connection, TEST, "anna", "inspector", "a long password")
        auth.add_user(connection, TEST, "eve", "viewer", "a long password")
    machine, client, viewer = opening(), opening(None), opening(None)
    head = {"Origin": BASE}
    client.headers.update(head)
    viewer.headers.update(head)
    for each, name in ((client, "anna"), (viewer, "eve")):
        body = {"name": name, "password": "a long password"}
        assert each.post("/api/v1/session", json=body).status_code == 201
    with web.running():
        lives(web)
        row = send(machine, encoded(1), part_id="008812").json()
    with web.ledger.write() as connection:
        connection.execute(insert(queue).values(seq=row["seq"], lane="drawn", state="waiting"))
    assert machine.get("/api/v1/review/next").status_code == 403
    assert viewer.get("/api/v1/review/next").status_code == 403
    assert viewer.get("/review").status_code == 403
    assert opening(None).get("/review", follow_redirects=False).headers["location"] == "/login"
    assert client.get("/api/v1/review/next", params={"lane": "nonsense"}).status_code == 422
    told = client.get("/api/v1/review/next").json()
    assert [item["part_id"] for item in told["items"]] == ["008812"]
    assert told["waiting"]["mixed"] == 1
    said = {"id": row["id"], "truth": "defect", "type": "scratch", "ms_shown": 900, "blind": True}
    assert client.put("/api/v1/reviews/key-1", json={**said, "ms_shown": 10}).status_code == 422
    assert client.put("/api/v1/reviews/key", json=said).status_code == 422  # too short to be one of its own
    assert client.put("/api/v1/reviews/key-0001", json={**said, "id": "0" * 36}).status_code == 404
    first = client.put("/api/v1/reviews/key-0001", json=said)
    assert first.status_code == 201, first.text
    again = client.put("/api/v1/reviews/key-0001", json=said)
    assert (again.status_code, again.json()) == (200, first.json())
    assert client.put("/api/v1/reviews/key-0001", json={**said, "truth": "good"}).status_code == 409
    table = client.get("/api/v1/reviews.csv").text.splitlines()
    assert len(table) == 2
    assert client.get("/api/v1/reviews", params={"id": row["id"]}).json()["reviews"] == [first.json()]
    assert [alarm["kind"] for alarm in client.get("/api/v1/alarms").json()["alarms"]][:1] == ["escape"]
    assert client.delete("/api/v1/reviews/1").json()["truth"] == "withdrawn"
    assert client.delete("/api/v1/reviews/1").status_code == 409
    assert client.delete("/api/v1/reviews/77").status_code == 404
    assert client.get("/api/v1/review/next").json()["waiting"]["mixed"] == 1
    promised = client.get("/api/v1/promise").json()["promises"]
    assert {each["source"] for each in promised} == {"cam1", "http"}
    assert client.get("/api/v1/promise.csv").text.splitlines()[0].startswith("source,product,deployment")
    assert client.get("/api/v1/drift").json()["limits"] == {"amber": 1000.0, "red": 10000.0}
    assert client.get("/api/v1/drift.csv").text.startswith("source,product,deployment,monitor")
