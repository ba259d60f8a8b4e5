"""The one door: what a change would have done, who signs it, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert, select, update

from blemish.errors import DataError
from blemish.inspection import modelfile
from blemish.station import audit, auth, changes
from blemish.station.changes import Refuses
from blemish.station.ids import new_id
from blemish.station.ledger.schema import audit as trail
from blemish.station.ledger.schema import deployments, inspections, models, reviews, settings
from blemish.station.models import import_model
from blemish.station.web.app import app
from tests.fakes import good_image
from tests.tiny import fit_tiny
from tests.unit.station.conftest import Station, both, put

ANNA, BERT = audit.Actor("anna", "engineer"), audit.Actor("bert", "engineer")
PASSWORD = "a long password"
BASE = "http://127.0.0.1:8040"


@pytest.fixture(scope="module")
def stricter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with another threshold: 0.4 of good parts may be rejected."""
    made = modelfile.load(model)
    folder = tmp_path_factory.mktemp("stricter") / "m"
    modelfile.save(replace(made, calibrators={k: c.again(0.4) for k, c in made.calibrators.items()}), folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    modelfile.save(fit_tiny(folder, image_size="32x32"), folder / "m")
    return folder / "m"


def threshold_of(folder: Path) -> float:
    return next(iter(modelfile.load(folder).calibrators.values())).threshold


def known(station: Any, score: float, verdict: str, truth: str = "", by: int = 1) -> int:
    """A row of a part with a score, and what somebody says of it; its picture is not kept."""
    values = {
        "id": new_id(), "source_id": station.source, "claim": len(station.rows()) + 1, "at": 1, "judged_at": 1,
        "deployment_id": station.deployment, "state": "judged", "verdict": verdict, "score": score,
        "threshold": station.limit, "result": "{}",
        "bytes": 1, "suffix": ".png", "sha256": "0" * 64, "purged_at": 1,
    }  # fmt: skip
    with station.ledger.write() as connection:
        key = connection.execute(insert(inspections).values(**values)).inserted_primary_key
        assert key is not None
        if truth:
            judge(connection, key[0], truth, by)
        return int(key[0])


def judge(connection: Any, seq: int, truth: str, by: int = 1, supersedes: int | None = None) -> None:
    said = {"lane": "reject", "ms_shown": 500, "blind": True, "client_key": new_id(), "supersedes": supersedes}
    connection.execute(insert(reviews).values(seq=seq, user_id=by, at=1, truth=truth, **said))


@pytest.fixture(autouse=True)
def limit(station: Any, model: Path) -> None:
    station.limit = threshold_of(model)


def person(station: Station, name: str = "anna", role: str = "engineer") -> int:
    with station.ledger.write() as connection:
        return auth.add_user(connection, audit.SYSTEM, name, role, PASSWORD)


def proposed(station: Station, folder: Path, by: audit.Actor = ANNA, source: int | None = None) -> int:
    number, source = import_model(station.place, station.ledger, folder), source or station.source
    found = changes.effect(station.place, station.ledger, source, number)
    with station.ledger.write() as connection:
        return changes.add(connection, by, source, number, found)


def effect_of(station: Station, change: int) -> dict[str, Any]:
    with station.ledger.read() as connection:
        row = connection.execute(select(changes.changes).where(changes.changes.c.id == change)).one()
    found: dict[str, Any] = json.loads(row.effect)
    return found


@both
def test_another_threshold_is_compared_by_the_scores_of_the_ledger(
    station: Station, model: Path, stricter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "Line", None)  # no engine is opened
    person(station)
    old, new = threshold_of(model), threshold_of(stricter)
    assert new < old
    middle = (old + new) / 2
    for score, verdict in ((new - 1, "good"), (middle, "good"), (middle, "good"), (old + 1, "anomalous")):
        known(station, score, verdict)
    known(station, new - 0.5, "anomalous", "defect")  # as an older model has judged it
    found = effect_of(station, proposed(station, stricter))
    assert found["threshold"] == {"before": old, "after": new}
    assert found["parts"] == {"of": 5, "looked_at": 5, "to_ok": 1, "to_ng": 2}
    assert (found["by_score"], found["golden"]) == (5, {"equal": 0, "of": 0, "why": None})
    assert {name: found["defects"][name] for name in ("of", "lost", "unseen")} == {"of": 1, "lost": 1, "unseen": 0}
    assert found["promise"]["before"] != found["promise"]["after"]


def test_another_scorer_looks_at_kept_pictures_again_and_counts_what_it_cannot(station: Station, other: Path) -> None:
    person(station)
    for index in range(3):
        put(station.hot, f"{index}.png", good_image(100 + index))
    with station.running():
        station.until(lambda: len(station.rows()) == 3)
    known(station, 1.0, "good")
    gone = known(station, 99.0, "anomalous", "defect")
    change = proposed(station, other)
    found = effect_of(station, change)
    assert (found["threshold"], found["by_score"]) == (None, 0)
    assert (found["parts"]["of"], found["parts"]["looked_at"]) == (5, 3)
    assert {name: found["defects"][name] for name in ("of", "lost", "unseen")} == {"of": 1, "lost": 0, "unseen": 1}
    with pytest.raises(Refuses, match="1 could not be looked at"), station.ledger.write() as connection:
        changes.approve(connection, ANNA, change, "because")
    with station.ledger.write() as connection:
        judge(connection, gone, "withdrawn", supersedes=station.rows(reviews)[0]["id"])
    with station.ledger.read() as connection:
        assert changes.confirmed(connection, station.source) == []


def test_a_known_defect_that_would_be_lost_needs_its_own_word(station: Any, model: Path, stricter: Path) -> None:
    person(station)
    strict = import_model(station.place, station.ledger, stricter)  # it is live, and the laxer one is proposed
    with station.ledger.write() as connection:
        connection.execute(update(deployments).values(model_id=strict))
    middle, station.limit = (station.limit + threshold_of(stricter)) / 2, threshold_of(stricter)
    known(station, middle, "anomalous", "defect")
    change = proposed(station, model)
    assert effect_of(station, change)["defects"]["lost"] == 1
    with pytest.raises(Refuses, match="1 of 1 known defects would be lost"), station.ledger.write() as connection:
        changes.approve(connection, ANNA, change, "because")
    assert len(station.rows(deployments)) == 1
    with station.ledger.write() as connection:
        number = changes.approve(connection, ANNA, change, "a scratch below the limit", lost_accepted=True)
    row = station.rows(changes.changes)[0]
    assert (row["state"], row["decided_by"], row["after_id"]) == ("approved", "anna", number)
    said = json.loads(station.rows(trail)[-1]["after"])
    assert said["lost_defects_accepted"] is True
    with pytest.raises(Refuses, match="approved already"), station.ledger.write() as connection:
        changes.drop(connection, ANNA, change, "too late")


def test_an_effect_holds_for_what_was_live_and_known_when_it_was_measured(
    station: Station, model: Path, stricter: Path
) -> None:
    person(station)
    change = proposed(station, stricter)
    known(station, 99.0, "anomalous", "defect")
    with pytest.raises(Refuses, match="since it was measured"), station.ledger.write() as connection:
        changes.approve(connection, ANNA, change, "because")
    found = changes.effect(station.place, station.ledger, station.source, 2)
    with station.ledger.write() as connection:
        changes.measured(connection, ANNA, change, found)
        changes.approve(connection, ANNA, change, "because")
    assert [row["action"] for row in station.rows(trail)][-3:] == ["change.add", "change.measure", "deployment.add"]


def test_four_eyes_see_more_than_two(station: Station, stricter: Path) -> None:
    with station.ledger.write() as connection:
        connection.execute(insert(settings).values(key=changes.FOUR_EYES, value="true"))
    change = proposed(station, stricter, ANNA)
    with pytest.raises(Refuses, match="does not approve it"), station.ledger.write() as connection:
        changes.approve(connection, ANNA, change, "because")
    with station.ledger.write() as connection:
        changes.approve(connection, BERT, change, "I have looked")
    assert station.rows(deployments)[-1]["approved_by"] == "bert"


def test_golden_pictures_that_differ_keep_the_door_shut(station: Station, stricter: Path, tmp_path: Path) -> None:
    picture = put(tmp_path, "golden.png", good_image(7))
    number = import_model(station.place, station.ledger, stricter, golden=[picture])
    assert changes.effect(station.place, station.ledger, station.source, number)["golden"]["equal"] == 1
    with station.ledger.write() as connection:
        row = connection.execute(select(models.c.golden).where(models.c.id == number)).one()
        golden = [{**json.loads(row.golden)[0], "score": 1e3}]
        connection.execute(update(models).where(models.c.id == number).values(golden=json.dumps(golden)))
    change = proposed(station, stricter)
    assert effect_of(station, change)["golden"]["equal"] is None
    with pytest.raises(Refuses, match="computes differently"), station.ledger.write() as connection:
        changes.approve(connection, ANNA, change, "because", lost_accepted=True)
    assert len(station.rows(deployments)) == 1


def test_what_takes_an_engine_is_done_in_another_process(station: Station, other: Path, tmp_path: Path) -> None:
    picture = put(tmp_path, "golden.png", good_image(7))
    number = import_model(station.place, station.ledger, other, golden=[picture])
    apart = changes.effect_apart(station.place, station.ledger, station.source, number)
    here = changes.effect(station.place, station.ledger, station.source, number)
    assert {**apart, "measured_at": 0} == {**here, "measured_at": 0}
    golden = station.place.models / f"{station.rows(models)[-1]['digest']}.blemish" / "graph.onnx"
    golden.write_bytes(b"damaged")
    with pytest.raises(DataError, match="could not be measured"):
        changes.effect_apart(station.place, station.ledger, station.source, number)


# ------------------------------------------------------------------------------------------------ by HTTP


@pytest.fixture
def client(station: Station) -> Iterator[TestClient]:
    person(station)
    person(station, "vera", "viewer")
    with TestClient(app(station.place, station.config, station.ledger), base_url=BASE) as made:
        made.headers["Origin"] = BASE
        enter(made, "anna")
        yield made


def enter(client: TestClient, name: str) -> None:
    assert client.post("/api/v1/session", json={"name": name, "password": PASSWORD}).status_code == 201


def test_a_change_by_http_is_signed_by_password(station: Station, client: TestClient, stricter: Path) -> None:
    number = import_model(station.place, station.ledger, stricter)
    body = {"source": "cam1", "model": number, "reason": "fewer escapes"}
    made = client.post("/api/v1/changes", json=body).json()
    assert (made["state"], made["current"], made["effect"]["note"]) == ("open", True, "fewer escapes")
    path = f"/api/v1/changes/{made['id']}"
    signed = {"reason": "seen", "password": PASSWORD}
    assert client.post(f"{path}/approve", json={"reason": "seen"}).status_code == 401
    assert client.post(f"{path}/approve", json={**signed, "password": "wrong"}).status_code == 401
    assert client.post(f"{path}/approve", json={**signed, "reason": " "}).status_code == 422
    assert client.get(path).json()["state"] == "open"
    assert client.post(f"{path}/approve", json=signed).json()["state"] == "approved"
    assert client.post(f"{path}/drop", json={"reason": "late"}).status_code == 409
    assert client.post(f"{path}/measure").status_code == 409
    assert client.post("/api/v1/changes/99/approve", json=signed).status_code == 404
    assert client.post("/api/v1/deployments", json=body).status_code == 401  # a person signs here, too
    rows = client.get("/api/v1/changes.csv").text.splitlines()
    assert len(rows) == 1 + len(client.get("/api/v1/changes").json()["changes"])
    back = client.post("/api/v1/deployments/rollback", json={"source": "cam1", "reason": "it was not"})
    assert back.json()["model_id"] == station.model
    kinds = [(each["kind"], each["state"]) for each in client.get("/api/v1/changes").json()["changes"]]
    assert kinds == [("rollback", "approved"), ("model", "approved")]
    enter(client, "vera")
    assert client.post("/api/v1/changes", json=body).status_code == 403
    assert client.get(path).status_code == 200
    with station.ledger.read() as connection:
        assert audit.broken(connection) is None


def test_nothing_else_puts_a_model_live() -> None:
    root = Path(changes.__file__).parents[1]
    calls = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "insert(deployments)" in (text := path.read_text()) or " deploy(connection" in text
    }
    assert calls == {"station/models.py", "station/changes.py"}
