"""What is kept how long, and what goes first where the disk is full."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, insert, select, update

from blemish.station import disk
from blemish.station.config import Config, Keep
from blemish.station.ids import now_ms
from blemish.station.ledger.schema import audit, inspections, metadata, outbox, queue, sessions, sinks, users
from blemish.station.retention import DAY, HOUR, Retention, forecast
from blemish.station.setup import url_of
from blemish.station.verify import verify
from tests.fakes import good_image
from tests.unit.station.conftest import Station, put


@pytest.fixture
def filled(station: Station) -> Station:
    """Four good parts and a bad one, judged."""
    spotted = good_image(5)
    spotted[10:30, 10:40] = 255
    for number in range(4):
        put(station.hot, f"{number}.png", good_image(number))
    put(station.hot, "bad.png", spotted)
    with station.running():
        station.until(lambda: len(station.rows()) == 5)
    return station


def aged(station: Station, name: str, days: float, **values: Any) -> None:
    with station.ledger.write() as connection:
        at = now_ms() - int(days * DAY)
        connection.execute(update(inspections).where(inspections.c.name == name).values(judged_at=at, **values))


def kept(station: Station) -> set[str]:
    """Names of the parts whose picture is there; rows say the same as the files."""
    rows = station.rows()
    there = {row["name"] for row in rows if station.place.kept(row["id"], row["suffix"], row["state"]).exists()}
    assert there == {row["name"] for row in rows if row["purged_at"] is None}
    return there


def test_pictures_go_when_their_days_are_over_and_held_drawn_and_reviewed_ones_stay(filled: Station) -> None:
    aged(filled, "0.png", 8)
    aged(filled, "1.png", 8, drawn=True)
    aged(filled, "2.png", 8, hold=True)
    aged(filled, "3.png", 8)
    aged(filled, "bad.png", 700)
    three = next(row["seq"] for row in filled.rows() if row["name"] == "3.png")
    with filled.ledger.write() as connection:
        connection.execute(insert(queue).values(seq=three, lane="drawn", state="done"))
    removed = Retention(filled.place, filled.config, filled.ledger).once()
    assert kept(filled) == {"1.png", "2.png", "3.png", "bad.png"}
    assert removed["good"] == 1
    assert removed["bytes"] > 0
    entry = filled.rows(audit)[-1]
    assert (entry["action"], json.loads(entry["after"])) == ("retention", removed)
    assert Retention(filled.place, filled.config, filled.ledger).once() == {}  # and no entry without a removal
    assert filled.rows(audit)[-1]["seq"] == entry["seq"]

    for name in ("1.png", "2.png", "3.png", "bad.png"):
        aged(filled, name, 800)
    Retention(filled.place, filled.config, filled.ledger).once()
    assert kept(filled) == {"2.png"}
    assert verify(filled.place, filled.config, filled.ledger).wrong == []


def test_zero_days_are_for_ever(filled: Station) -> None:
    for row in filled.rows():
        aged(filled, row["name"], 5000)
    keep = Keep(ok_days=0, ng_days=0, drawn_days=0, thumb_days=0, row_days=0)
    assert Retention(filled.place, Config(keep=keep), filled.ledger).once() == {}
    assert len(kept(filled)) == 5


def test_old_rows_go_and_the_law_of_conservation_still_holds(filled: Station) -> None:
    for name in ("0.png", "1.png", "2.png"):
        aged(filled, name, 4000)
    retention = Retention(filled.place, filled.config, filled.ledger)
    assert retention.once()["rows"] == 3
    assert {row["name"] for row in filled.rows()} == {"3.png", "bad.png"}
    put(filled.hot, "next.png", good_image(9))
    with filled.running():
        filled.until(lambda: len(filled.rows()) == 3)
    report = verify(filled.place, filled.config, filled.ledger)
    assert report.wrong == []
    assert report.sources["cam1"]["removed"] == 3
    assert report.sources["cam1"]["claimed"] == 6


def test_thumbnails_sent_messages_and_sessions_go(filled: Station) -> None:
    now = now_ms()
    with filled.ledger.write() as connection:
        connection.execute(insert(sinks).values(id=1, name="file", kind="file"))
        connection.execute(insert(users).values(id=1, name="a", role="viewer", password_hash=""))
        for done in (now - 8 * DAY, None, now - 9 * DAY, now):
            since = {name: 0 for name in ("at", "next_at") if name in outbox.c}
            connection.execute(insert(outbox).values(sink_id=1, payload="", done_at=done, **since))
        for name, until in (("a", now - 1), ("b", now + HOUR)):
            connection.execute(insert(sessions).values(sha256=name, user_id=1, used_at=0, expires_at=until))
    thumbs = list((filled.place.root / "thumbs").rglob("*.jpg"))
    old = filled.place.root / "thumbs/2020/01/31/23/x.jpg"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    removed = Retention(filled.place, filled.config, filled.ledger).once()
    assert (removed["messages"], removed["sessions"], removed["thumbs"]) == (2, 1, 1)
    assert {row["done_at"] for row in filled.rows(outbox)} == {None, now}
    assert [row["sha256"] for row in filled.rows(sessions)] == ["b"]
    assert not (filled.place.root / "thumbs/2020").exists()
    assert all(path.exists() for path in thumbs)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def simulated(monkeypatch: pytest.MonkeyPatch, station: Station, total: int, other: int) -> None:
    """A disk of so many bytes, that holds the store and `other` bytes."""
    store = station.place.root / "store"

    def usage(_: Path) -> Usage:
        used = other + sum(path.stat().st_size for path in store.rglob("*.png"))
        return Usage(total, used, total - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_where_the_disk_is_nearly_full_the_oldest_good_pictures_go_first(
    filled: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        aged(filled, f"{number}.png", 4 - number)  # 0 is the oldest
    aged(filled, "bad.png", 6)
    sizes = {row["name"]: row["bytes"] for row in filled.rows()}
    total = 100 * sum(sizes.values())
    simulated(monkeypatch, filled, total, total - sum(sizes.values()) - total // 100)
    assert disk.level(filled.place)[0] == disk.Level.PURGE
    retention = Retention(filled.place, filled.config, filled.ledger)
    retention._many = 1
    assert retention.make_room() == 4  # of the good ones there are not enough
    assert kept(filled) == {"bad.png"}


def test_room_is_made_as_far_as_it_is_needed(filled: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        aged(filled, f"{number}.png", 4 - number)
    sizes = {row["name"]: row["bytes"] for row in filled.rows()}
    total = 20 * sizes["0.png"]
    simulated(monkeypatch, filled, total, total - sum(sizes.values()) - 10)
    retention = Retention(filled.place, filled.config, filled.ledger)
    retention._many = 1
    monkeypatch.setattr(retention, "_slices", lambda which: _ones(retention, which))
    assert retention.make_room() == 1
    assert kept(filled) == {"1.png", "2.png", "3.png", "bad.png"}


def _ones(retention: Retention, which: Any) -> Any:
    for rows in Retention._slices(retention, which):
        retention._many = 1
        yield rows
        retention._many = 1


def test_the_forecast_is_the_rate_of_the_week(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    now, free = now_ms(), [1000]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2000, 2000 - free[0], free[0]))
    retention = Retention(station.place, station.config, station.ledger)
    for day, left in enumerate((1000, 900, 800)):
        free[0] = left
        retention.once(now + day * DAY)
    with station.ledger.read() as connection:
        assert forecast(connection) == pytest.approx(7.8, abs=0.1)  # 100 a day, down to 1 % of 2000


def test_pictures_of_good_parts_are_not_kept_where_space_is_short_but_for_drawn_ones(station: Station) -> None:
    put(station.hot, "a.png", good_image(1))
    put(station.hot, "b.png", good_image(2))
    with station.running() as worker:
        worker._see_disk = lambda: setattr(worker, "level", disk.Level.NO_OK)  # type: ignore[method-assign]
        station.until(lambda: worker.level == disk.Level.NO_OK)
        worker.recorder.rates[station.source] = 1.0
        put(station.hot, "c.png", good_image(3))
        station.until(lambda: len(station.rows()) == 3)
    assert "c.png" in kept(station)
    assert verify(station.place, station.config, station.ledger).wrong == []


def test_the_tables_are_those_of_the_migrations(station: Station) -> None:
    engine = create_engine(url_of(station.place, station.config))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_oldest_kept_pictures_are_found_by_an_index(station: Station) -> None:
    asked = select(inspections.c.seq).where(
        inspections.c.purged_at.is_(None),
        inspections.c.hold.is_(False),
        inspections.c.drawn.is_(False),
        inspections.c.verdict == "good",
        inspections.c.judged_at < 5,
    )
    with station.ledger.read() as connection:
        own = {"dialect": connection.dialect, "compile_kwargs": {"literal_binds": True}}
        text = asked.order_by(inspections.c.judged_at).compile(**own)
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
    assert "ix_inspections_kept" in plan
    assert "TEMP B-TREE" not in plan
