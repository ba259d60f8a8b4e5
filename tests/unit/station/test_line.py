"""From a hot folder to rows: nothing lost, nothing doubled, and the scores of `blemish inspect`."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert

from blemish.inspection import modelfile
from blemish.inspection.inspector import Inspector
from blemish.station import audit
from blemish.station.ledger.schema import alarms, outbox, queue, sinks
from blemish.station.models import deploy
from tests.fakes import good_image
from tests.unit.station.conftest import Station, both, put


@both
def test_pictures_become_rows_with_the_scores_of_inspect_and_lie_in_the_store(station: Station, model: Path) -> None:
    spotted = good_image(5)
    spotted[10:30, 10:40] = 255
    expected = {}
    line = Inspector(modelfile.load(model), threads=1)
    for name, image in (("a.png", good_image(1)), ("b.png", good_image(2)), ("spot.png", spotted)):
        expected[name] = line.inspect(put(station.hot, name, image)).score
    with station.running():
        station.until(lambda: len(station.rows()) == 3)
    rows = station.rows()
    assert {row["name"]: row["score"] for row in rows} == expected  # to the bit
    assert {row["state"] for row in rows} == {"judged"}
    assert sorted(row["claim"] for row in rows) == [1, 2, 3]
    assert {row["deployment_id"] for row in rows} == {station.deployment}
    bad = next(row for row in rows if row["name"] == "spot.png")
    assert bad["verdict"] == "anomalous"
    assert [(row["seq"], row["lane"]) for row in station.rows(queue)] == [(bad["seq"], "reject")]
    for row in rows:
        assert station.place.stored(row["id"], ".png").is_file()
        assert station.place.stored(row["id"], ".jpg", "thumbs").is_file()
        assert station.place.stored(row["id"], ".png", "maps").is_file()
    assert not list(station.hot.iterdir())
    assert station.place.stored(bad["id"], ".png").read_bytes()[:4] == b"\x89PNG"


@both
def test_the_same_name_and_bytes_within_a_day_is_a_repeat_and_is_counted(station: Station) -> None:
    picture = put(station.hot, "a.png", good_image(1))
    data = picture.read_bytes()
    with station.running():
        station.until(lambda: len(station.rows()) == 1)
        (station.hot / "a.png").write_bytes(data)
        station.until(lambda: len(station.rows()) == 2)
        (station.hot / "b.png").write_bytes(data)  # another name is another part
        station.until(lambda: len(station.rows()) == 3)
    rows = sorted(station.rows(), key=lambda row: row["seq"])
    assert [row["state"] for row in rows] == ["judged", "repeat", "judged"]
    assert rows[1]["repeats"] == rows[0]["seq"]


@both
def test_what_cannot_be_read_is_a_reject_in_quarantine_and_does_not_hold_up_the_line(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blemish.station import worker

    monkeypatch.setattr(worker, "CUT_OFF", 0.5)
    (station.hot / "broken.png").write_bytes(put(station.hot, "x.png", good_image(3)).read_bytes()[:300])
    put(station.hot, "tiny.png", np.zeros((48, 64, 3), np.uint8))  # can be decoded, and is far darker than good ones
    with station.running():
        station.until(lambda: len(station.rows()) == 3)
    states = {row["name"]: (row["state"], row["verdict"]) for row in station.rows()}
    assert states["x.png"] == ("judged", "good")
    assert states["broken.png"] == ("unreadable", "error")
    assert states["tiny.png"] == ("unreadable", "error")
    broken = next(row for row in station.rows() if row["name"] == "broken.png")
    assert (station.place.quarantine / f"{broken['id']}.png").stat().st_size == 300
    assert {row["lane"] for row in station.rows(queue)} == {"error"}
    assert [row["kind"] for row in station.rows(alarms)] == ["unreadable"]


@both
def test_a_picture_that_is_still_written_is_judged_once_it_is_whole(station: Station) -> None:
    whole = put(station.hot, "x.png", good_image(3)).read_bytes()
    (station.hot / "x.png").unlink()
    file = (station.hot / "slow.png").open("wb")
    file.write(whole[: len(whole) // 2])
    file.flush()
    with station.running() as worker:
        station.until(lambda: worker.spool.count() == 1)  # it rested long enough to be taken for whole
        time.sleep(0.1)
        file.write(whole[len(whole) // 2 :])
        file.close()
        station.until(lambda: len(station.rows()) == 1)
    assert station.rows()[0]["state"] == "judged"


@both
def test_a_claim_whose_row_is_there_is_put_away_and_a_torn_claim_is_swept(station: Station) -> None:
    put(station.hot, "a.png", good_image(1))
    with station.running():
        station.until(lambda: len(station.rows()) == 1)
    row = station.rows()[0]
    stored = station.place.stored(row["id"], ".png")
    folder = station.place.spool / str(station.source)
    shutil.copy(stored, folder / f"{row['id']}.png")  # killed between commit and move
    note = {"id": row["id"], "source_id": station.source, "number": 1, "name": "a.png", "suffix": ".png", "at": 1}
    (folder / f"{row['id']}.json").write_text(json.dumps(note))
    (folder / ".upload.partial").write_bytes(b"half")
    (folder / "0198c5a0-0000-7000-8000-000000000000.json").write_text("{}")
    stored.unlink()
    put(station.hot, "b.png", good_image(2))
    with station.running():
        station.until(lambda: len(station.rows()) == 2)
    assert stored.is_file()
    assert sorted(one["claim"] for one in station.rows()) == [1, 2]
    assert not list(folder.iterdir())


@both
def test_sinks_get_a_message_for_each_verdict_in_its_transaction(station: Station) -> None:
    with station.ledger.write() as connection:
        connection.execute(insert(sinks).values(name="file", kind="file", config="{}"))
    put(station.hot, "a.png", good_image(1))
    with station.running():
        station.until(lambda: len(station.rows()) == 1)
    (message,) = station.rows(outbox)
    told = json.loads(message["payload"])
    row = station.rows()[0]
    assert (told["inspection_id"], told["seq"], told["line"]) == (row["id"], row["seq"], "OK")


@both
def test_without_a_model_pictures_stay_where_they_are(station: Station) -> None:
    with station.ledger.write() as connection:
        connection.exec_driver_sql("UPDATE deployments SET until = 1")
    put(station.hot, "a.png", good_image(1))
    with station.running():
        time.sleep(1.0)
        assert (station.hot / "a.png").exists()
        with station.ledger.write() as connection:
            deploy(connection, station.source, station.model, "test", "back")
        station.until(lambda: len(station.rows()) == 1)


@both
def test_the_audit_trail_cannot_be_changed_and_a_break_is_found(station: Station) -> None:
    with station.ledger.write() as connection:
        audit.append(connection, audit.Actor("anna", "engineer"), "lot.start", "4711", after={"lot": "4711"})
    for change in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit"):
        with pytest.raises(Exception, match="append-only"), station.ledger.write() as connection:
            connection.exec_driver_sql(change)
    with station.ledger.read() as connection:
        assert audit.broken(connection) is None
        assert audit.head(connection)[0] == 2
    drop = "DROP TRIGGER audit_no_update" if station.ledger.sqlite else "DROP TRIGGER audit_append_only ON audit"
    with station.ledger.write() as connection:
        connection.exec_driver_sql(drop)
        connection.exec_driver_sql("UPDATE audit SET actor = 'mallory' WHERE seq = 2")
    with station.ledger.read() as connection:
        assert audit.broken(connection) == 2
