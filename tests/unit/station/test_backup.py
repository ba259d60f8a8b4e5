"""A copy of a running station is a station."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import update

from blemish.errors import ConfigError, DataError
from blemish.station.backup import backup, restore
from blemish.station.config import Config
from blemish.station.ledger.schema import audit, inspections
from blemish.station.setup import opened
from blemish.station.verify import verify
from blemish.station.worker import Worker
from tests.fakes import good_image
from tests.unit.station.conftest import Station, _Running, put


@pytest.fixture
def busy(station: Station) -> Station:
    """Three parts judged, one that waits."""
    for number in range(3):
        put(station.hot, f"{number}.png", good_image(number))
    with station.running():
        station.until(lambda: len(station.rows()) == 3)
    station.running().worker.spool.claim(station.source, put(station.hot, "w.png", good_image(8)), name="w.png")
    return station


def test_a_backup_of_a_running_station_is_restored_whole_and_goes_on(busy: Station, tmp_path: Path) -> None:
    with busy.running():  # while it judges
        note = backup(busy.place, busy.config, tmp_path / "copy")
        busy.until(lambda: len(busy.rows()) == 4)
    assert note == json.loads((tmp_path / "copy" / "backup.json").read_text())
    assert (tmp_path / "copy" / "secret.key").stat().st_mode & 0o077 == 0
    _, report = restore(tmp_path / "copy", tmp_path / "second")
    assert report.wrong == []
    place, config, ledger = opened(tmp_path / "second")

    def scores() -> dict[str, float]:
        with ledger.read() as connection:
            return {row.name: row.score for row in connection.execute(inspections.select())}

    with _Running(Worker(place, config, ledger)):
        busy.until(lambda: len(scores()) == 4)
    assert verify(place, config, ledger, deep=True).wrong == []
    assert scores() == {row["name"]: row["score"] for row in busy.rows()}
    ledger.close()


def test_pictures_that_a_backup_leaves_out_are_recorded_as_not_kept(busy: Station, tmp_path: Path) -> None:
    backup(busy.place, busy.config, tmp_path / "copy", pictures=False)
    assert not (tmp_path / "copy" / "store").exists()
    _, report = restore(tmp_path / "copy", tmp_path / "second")
    assert report.wrong == []
    assert report.sources["cam1"]["waiting"] == 1  # what has no verdict yet is always in it
    _, _, ledger = opened(tmp_path / "second")
    with ledger.read() as connection:
        assert all(row.purged_at for row in connection.execute(inspections.select()))
        last = connection.execute(audit.select().order_by(audit.c.seq.desc())).first()
        assert last is not None
        assert json.loads(last.after)["pictures_not_kept"] == 3
    ledger.close()


def test_nothing_is_overwritten_and_a_damaged_backup_is_refused(busy: Station, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    backup(busy.place, busy.config, out, pictures=False)
    with pytest.raises(ConfigError, match="exists"):
        backup(busy.place, busy.config, out)
    with pytest.raises(ConfigError, match="exists"):
        restore(out, busy.place.root)
    with pytest.raises(DataError, match="is no backup"):
        restore(busy.place.root, tmp_path / "second")
    data = bytearray((out / "ledger.db").read_bytes())
    data[-1] ^= 1
    (out / "ledger.db").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        restore(out, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    with pytest.raises(ConfigError, match="does not lie in its folder") as raised:
        backup(busy.place, Config(database="postgresql://x/y"), tmp_path / "third")
    assert "pg_dump" in str(raised.value.hint)


def test_the_harm_that_a_backup_holds_is_told(busy: Station, tmp_path: Path) -> None:
    with busy.ledger.write() as connection:
        connection.execute(update(inspections).where(inspections.c.claim == 3).values(claim=9))
    backup(busy.place, busy.config, tmp_path / "copy")
    _, report = restore(tmp_path / "copy", tmp_path / "second")
    assert "claims are lost: 3, 5 to 8" in report.wrong[0]
