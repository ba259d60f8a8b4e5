"""`blemish station ...`, from a new folder to an export."""

from __future__ import annotations

import http.server
import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blemish.station import audit
from blemish.station.auth import log_in
from blemish.station.ledger.schema import audit as trail
from blemish.station.ledger.schema import deployments, models, sources
from blemish.station.setup import opened
from tests.fakes import good_image, write_images
from tests.tiny import Done
from tests.unit.cli.conftest import run
from tests.unit.station.conftest import Station, put

__all__ = ["run"]


def entries(station: Station) -> list[tuple[str, str, str | None]]:
    with station.ledger.read() as connection:
        assert audit.broken(connection) is None
    return [(row["action"], row["object"], row["reason"]) for row in station.rows(trail)]


def test_from_a_new_folder_to_a_live_model_and_back(run: Any, tmp_path: Path, model: Path) -> None:
    folder, hot, good = tmp_path / "line 1", tmp_path / "in", tmp_path / "good"
    hot.mkdir()
    write_images(good, 2)
    assert run("station", "init", folder, "--root", hot, "--site", 'pl"ant', "--line", "3").code == 0
    assert run("station", "source", "add", folder, "cam1", "--path", hot, "--settle", 1, "--review-rate", 0.1).code == 0
    shown = run("station", "model", "import", folder, model, "--golden", good, "--name", "first").rows[0]
    assert (shown["golden"], shown["name"]) == (2, "first")
    asked = ("--source", "cam1", "--model", shown["digest"][:8], "--reason", "new line")
    assert run("station", "deploy", folder, *asked).rows[0]["golden_equal"] == 2
    assert run("station", "model", "list", folder).rows[0]["live"] == ["cam1"]
    done = run("station", "rollback", folder, "--source", "cam1", "--reason", "back")
    assert (done.code, "no other model" in done.err) == (2, True)
    done = run("station", "verify", folder, "--deep")
    assert done.code == 0, done.err
    assert done.rows[0]["sources"]["cam1"]["claimed"] == 0

    place, config, ledger = opened(folder)
    assert (config.site, config.line) == ('pl"ant', "3")
    with ledger.read() as connection:
        row = connection.execute(sources.select().where(sources.c.name == "cam1")).one()
        assert json.loads(row.config) == {"settle": 1.0, "review_rate": 0.1, "path": str(hot)}
        actions = list(connection.scalars(trail.select().with_only_columns(trail.c.action).order_by(trail.c.seq)))
    assert actions == ["station.init", "source.add", "model.import", "change.add", "deployment.add"]
    ledger.close()


def test_rolling_back_puts_the_model_before_live_again(run: Any, station: Station) -> None:
    with station.ledger.write() as connection:
        first = connection.execute(models.select()).one()
        other = {**first._mapping, "id": 2, "digest": "f" * 64, "name": "other"}
        connection.execute(models.insert().values(**other))
        connection.execute(deployments.update().values(until=5))
        values = {"source_id": station.source, "model_id": 2, "since": 5, "approved_by": "x", "reason": "y"}
        connection.execute(deployments.insert().values(**values))
    done = run("station", "rollback", station.place.root, "--source", "cam1", "--reason", "too strict")
    assert done.code == 0, done.err
    live = [row["model_id"] for row in station.rows(deployments) if row["until"] is None]
    assert live == [station.model]
    assert entries(station)[-1] == ("deployment.rollback", "cam1", "too strict")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("source", "add", "DIR", "x", "--path", "OUTSIDE"), "none of the roots"),
        (("source", "add", "DIR", "cam1"), "already"),
        (("source", "add", "DIR", "x", "--settle", "1"), "hot folders"),
        (("source", "add", "DIR", "x", "--path", "HOT", "--review-rate", "2"), "0 to 1"),
        (("deploy", "DIR", "--source", "cam1", "--model", "nope", "--reason", "r"), "0 models"),
        (("deploy", "DIR", "--source", "cam9", "--model", "m", "--reason", "r"), "no source 'cam9'"),
        (("init", "DIR"), "not empty"),
        (("verify", "OUTSIDE"), "is no station"),
        (("user", "disable", "DIR", "nobody"), "no user 'nobody'"),
        (("export", "DIR", "OUT.zip", "--from", "yesterday", "--to", "2026-12-01"), "--from 'yesterday'"),
        (("send", "ftp://x", "PICTURE", "--source", "http", "--token", "t"), "no address"),
    ],
)
def test_what_cannot_be_is_refused(run: Any, station: Station, tmp_path: Path, words: Any, says: str) -> None:
    (tmp_path / "outside").mkdir()
    names = {"DIR": station.place.root, "OUTSIDE": tmp_path / "outside", "HOT": station.hot, "OUT.zip": tmp_path / "o"}
    names["PICTURE"] = put(tmp_path, "p.png", good_image(1))
    before = station.rows(trail)
    done = run("station", *(names.get(word, word) for word in words))
    assert done.code == 2
    assert says in done.err
    assert station.rows(trail) == before


def test_users_and_tokens(run: Any, station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = station.place.root
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse battery\n"))
    assert run("station", "user", "add", folder, "anna", "--role", "engineer").code == 0
    assert log_in(station.ledger, "anna", "correct horse battery")[1].role == "engineer"
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    assert run("station", "user", "add", folder, "bob", "--role", "viewer").code == 2
    shown = run("station", "user", "list", folder)
    assert [(row["name"], row["active"]) for row in shown.rows] == [("anna", True)]
    assert "argon2" not in shown.out
    assert run("station", "user", "disable", folder, "anna").code == 0
    assert run("station", "user", "list", folder).rows[0]["active"] is False
    token = run("station", "token", "add", folder, "plc", "--scopes", "send", "--scopes", "read").rows[0]["token"]
    assert len(token) > 30
    actions = [action for action, _, _ in entries(station) if not action.startswith("session.")]
    assert actions[-3:] == ["user.add", "user.disable", "token.add"]
    assert token not in str(station.rows(trail))


def test_verify_says_what_is_lost_with_exit_1(run: Any, station: Station) -> None:
    put(station.hot, "a.png", good_image(1))
    with station.running():
        station.until(lambda: len(station.rows()) == 1)
    next((station.place.root / "store").rglob("*.png")).unlink()
    done: Done = run("station", "verify", station.place.root)
    assert (done.code, done.rows[0]["ok"]) == (1, False)
    assert "is not there" in done.err


def test_backup_and_restore(run: Any, station: Station, tmp_path: Path) -> None:
    assert run("station", "backup", station.place.root, tmp_path / "b").rows[0]["audit"]["seq"] == 1
    done = run("station", "restore", tmp_path / "b", tmp_path / "second")
    assert (done.code, done.rows[0]["ok"]) == (0, True)


def test_an_export_holds_rows_pictures_and_models_of_the_time(run: Any, station: Station, tmp_path: Path) -> None:
    put(station.hot, "a.png", good_image(1))
    with station.running():
        station.until(lambda: len(station.rows()) == 1)
    out = tmp_path / "e.zip"
    assert run("station", "export", station.place.root, out, "--from", "2020-01-01", "--to", "2100-01-01").code == 0
    names = zipfile.ZipFile(out).namelist()
    assert {"inspections.csv", f"pictures/{station.rows()[0]['id']}.png"} <= set(names)
    later = tmp_path / "later.zip"
    assert run("station", "export", station.place.root, later, "--from", "2099-01-01", "--to", "2100-01-01").code == 0
    assert not [name for name in zipfile.ZipFile(later).namelist() if name.startswith("pictures/")]


class Answering(http.server.BaseHTTPRequestHandler):
    """Refuses the first try of each picture, then answers; remembers what was asked."""

    asked: list[tuple[str, str, str]] = []

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Idempotency-Key"]
        again = any(each[1] == key for each in self.asked)
        self.asked.append((self.path, key, self.headers["Authorization"]))
        code, body = (200, {"pred_label": "good"}) if again else (503, {"detail": "not ready"})
        if data.startswith(b"bad"):
            code, body = 415, {"detail": "is no picture"}
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[str]:
    Answering.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_pictures_are_sent_until_they_are_answered_for(run: Any, answering: str, tmp_path: Path) -> None:
    put(tmp_path, "0815.png", good_image(1))
    put(tmp_path, "0816.png", good_image(2))
    (tmp_path / "note.txt").write_text("no picture")
    asked = ("--source", "http", "--token", "secret", "--part-id-from-name", "--wait")
    done: Done = run("station", "send", answering, tmp_path, *asked)
    assert done.code == 0, done.err
    assert [(Path(row["file"]).name, row["pred_label"]) for row in done.rows] == [
        ("0815.png", "good"),
        ("0816.png", "good"),
    ]
    paths = [path for path, _, _ in Answering.asked]
    assert paths[0] == paths[1] == "/api/v1/inspections?source=http&wait=verdict&part_id=0815"
    assert len({key for _, key, _ in Answering.asked}) == 2
    assert {token for _, _, token in Answering.asked} == {"Bearer secret"}


def test_a_refusal_is_told_and_the_rest_is_sent(run: Any, answering: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"bad")
    put(tmp_path, "b.png", good_image(2))
    done: Done = run("station", "send", answering, tmp_path, "--source", "http", "--token", "t")
    assert done.code == 1
    assert [row["status"] for row in done.rows] == [415, 200]
    assert done.rows[0]["error"] == "is no picture"
