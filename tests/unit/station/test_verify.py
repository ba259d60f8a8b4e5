"""What is lost, changed or owned by nobody is found."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from sqlalchemy import delete, update

from blemish.station.ids import new_id
from blemish.station.ledger.schema import inspections, queue
from blemish.station.models import folder_of
from blemish.station.verify import Report, verify
from tests.fakes import good_image
from tests.unit.station.conftest import Station, put


@pytest.fixture
def filled(station: Station) -> Station:
    for number in range(3):
        put(station.hot, f"{number}.png", good_image(number))
    with station.running():
        station.until(lambda: len(station.rows()) == 3)
    return station


def looked(station: Station, **options: bool) -> Report:
    return verify(station.place, station.config, station.ledger, **options)


def test_a_whole_station_is_said_to_be_whole(filled: Station) -> None:
    report = looked(filled, deep=True)
    assert (report.wrong, report.strays, report.pictures, report.models) == ([], [], 3, 1)
    terms = {"claimed": 3, "judged": 3, "unreadable": 0, "failed": 0, "repeat": 0, "waiting": 0}
    assert report.sources["cam1"] == terms
    assert json.loads(json.dumps(report.to_json()))["ok"] is True
    assert any("cam1: 3 claimed = 3 judged" in line for line in report.lines())


def test_what_waits_is_counted(filled: Station) -> None:
    spool = filled.running().worker.spool
    spool.claim(filled.source, put(filled.hot, "w.png", good_image(7)), name="w.png")
    report = looked(filled)
    assert (report.wrong, report.sources["cam1"]["waiting"], report.sources["cam1"]["claimed"]) == ([], 1, 4)


def _row(station: Station) -> None:
    with station.ledger.write() as connection:
        connection.execute(delete(queue))
        connection.execute(delete(inspections).where(inspections.c.claim == 2))


def _waiting(station: Station) -> None:
    spool = station.running().worker.spool
    for name in ("w.png", "x.png"):
        claim = spool.claim(station.source, put(station.hot, name, good_image(7)), name=name)
        if name == "w.png":
            claim.picture(station.place).unlink()


def _picture(station: Station) -> None:
    next((station.place.root / "store").rglob("*.png")).unlink()


def _bytes(station: Station) -> None:
    path = next((station.place.root / "store").rglob("*.png"))
    path.write_bytes(path.read_bytes() + b"0")


def _trail(station: Station) -> None:
    with station.ledger.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        connection.exec_driver_sql("UPDATE audit SET actor = 'mallory'")


def _model(station: Station) -> None:
    path = next(folder_of(station.place, next(station.place.models.glob("*.blemish")).stem).glob("*.onnx"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def _sum(station: Station) -> None:
    with station.ledger.write() as connection:
        connection.execute(update(inspections).where(inspections.c.claim == 1).values(sha256="0"))


@pytest.mark.parametrize(
    ("harm", "says", "deep"),
    [
        (_row, "1 of 3 claims are lost: 2", False),
        (_waiting, "1 of 5 claims are lost: 4", False),
        (_picture, "is not there", False),
        (_bytes, "is not what was judged", True),
        (_sum, "is not what was judged", True),
        (_trail, "broken at entry 1", False),
        (_model, ".onnx", False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_harm_is_found(filled: Station, harm: Callable[[Station], None], says: str, deep: bool) -> None:
    harm(filled)
    report = looked(filled, deep=deep)
    assert len(report.wrong) == 1
    assert says in report.wrong[0]
    assert report.to_json()["ok"] is False


def test_files_without_an_owner_are_listed_and_swept_when_asked(filled: Station) -> None:
    row = filled.rows()[0]
    with filled.ledger.write() as connection:  # killed between the mark and the removal
        connection.execute(update(inspections).where(inspections.c.seq == row["seq"]).values(purged_at=1))
    for under in ("thumbs", "quarantine"):
        (filled.place.root / under / f"{new_id()}.jpg").write_bytes(b"x")
    mine = filled.place.root / "store" / "mine.txt"
    mine.write_bytes(b"x")
    report = looked(filled)
    assert (report.wrong, len(report.strays), report.swept) == ([], 4, 0)
    assert mine.exists()
    assert looked(filled, sweep=True).swept == 3
    assert looked(filled).strays == ["store/mine.txt"]  # which is not the station's
    assert len(list((filled.place.root / "store").rglob("*.png"))) == 2
