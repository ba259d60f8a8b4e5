"""A threshold made anew from drawn parts: what is left open never lowers it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install 'blemish[station]'")

from sqlalchemy import select

from blemish import Detector
from blemish.errors import CalibrationError, ConfigError
from blemish.inspection import modelfile
from blemish.station import auth
from blemish.station.audit import Actor
from blemish.station.auth import Identity
from blemish.station.ids import new_id, now_ms
from blemish.station.judgements import Judgement, judge_part, next_parts
from blemish.station.judging import Judged
from blemish.station.ledger.record import Recorder
from blemish.station.ledger.schema import changes, deployments, inspections, models
from blemish.station.models import folder_of
from blemish.station.recalibrate import gathered, recalibrate
from blemish.station.spool import Claim
from blemish.types import Record
from tests.fakes import good_image

SECRET, TEST = b"a key of the tests", Actor("test", "system")
RATE = 0.1  # 22 parts are needed to be 90 % sure
SURE = 0.9


@pytest.fixture
def people(station: Any) -> list[Identity]:
    out = []
    with station.ledger.write() as connection:
        for name in ("anna", "ben"):
            number = auth.add_user(connection, TEST, name, "inspector", f"password of {name}")
            out.append(Identity(name, "inspector", auth.ROLES["inspector"], user_id=number))
    return out


@pytest.fixture
def drawn(station: Any) -> list[Any]:
    """Forty drawn parts with their pictures."""
    group = []
    for i in range(1, 41):
        claim = Claim(new_id(), station.source, i, f"{i}.png", ".png", now_ms())
        path = station.place.stored(claim.id, ".png", "store")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(good_image(500 + i)).save(path)
        group.append(
            Judged(claim, "judged", "good", {}, f"{i:064d}", 10, now_ms(), station.deployment, (8, 8), 0.5, 0.3, 1.0)
        )
    with station.ledger.write() as connection:
        Recorder(SECRET, {station.source: 1.0}).write(connection, group)
        return list(connection.execute(select(inspections).order_by(inspections.c.seq)))


def say(station: Any, who: Identity, rows: list[Any], truth: str, lane: str = "drawn") -> None:
    with station.ledger.write() as connection:
        while next_parts(connection, SECRET, who, lane, 100) and rows:
            for row in rows:
                judge_part(connection, SECRET, who, new_id(), row.id, Judgement(truth, 1200, True))
            break


def again(station: Any) -> Any:
    """The candidate's thresholds by number format, and the row of its change."""
    number = recalibrate(
        station.place, station.ledger, TEST, station.source, 0, now_ms() + 1, rate=RATE, confidence=SURE
    )
    with station.ledger.read() as connection:
        change = connection.execute(select(changes).where(changes.c.id == number)).one()
        digest = connection.scalar(select(models.c.digest).where(models.c.id == change.model_id))
    loaded = modelfile.load(folder_of(station.place, str(digest)))
    return {name: each.threshold for name, each in loaded.calibrators.items()}, change


def test_all_judged_is_what_calibrate_makes(station: Any, people: Any, drawn: Any) -> None:
    say(station, people[0], drawn, "good")
    found, change = again(station)
    with station.ledger.read() as connection:
        digest = connection.scalar(select(models.c.digest).where(models.c.id == station.model))
        live = connection.scalar(
            select(deployments.c.id).where(deployments.c.until.is_(None), deployments.c.source_id == station.source)
        )
    paths = [station.place.kept(row.id, row.suffix, row.state) for row in drawn]
    detector = Detector.load(folder_of(station.place, str(digest)))
    detector.calibrate([Record(p.stem, p) for p in paths], false_alarm_rate=RATE, confidence=SURE)
    assert found == {name: each.threshold for name, each in detector.model.calibrators.items()}
    assert (change.kind, change.state, change.made_by, change.before_id) == ("calibration", "open", "test", live)
    assert '"drawn":40' in change.effect
    assert '"unjudged":0' in change.effect
    parent = next(row["parent_id"] for row in station.rows(models) if row["id"] == change.model_id)
    assert parent == station.model


def test_what_is_open_never_lowers_the_threshold(station: Any, people: Any, drawn: Any) -> None:
    say(station, people[0], drawn[:39], "good")
    found, change = again(station)
    say(station, people[0], drawn[39:], "unsure")
    judged, _ = again(station)
    assert '"unjudged":1' in change.effect
    assert all(found[name] >= judged[name] for name in judged)


def test_a_defect_is_left_out_once_two_people_have_found_it(station: Any, people: Any, drawn: Any) -> None:
    say(station, people[0], drawn[:38], "good")
    say(station, people[0], drawn[38:], "defect")
    with station.ledger.read() as connection:
        assert len(gathered(connection, station.source, 0, now_ms() + 1).parts) == 40
    say(station, people[1], drawn[38:], "defect", lane="second")
    with station.ledger.read() as connection:
        window = gathered(connection, station.source, 0, now_ms() + 1)
    assert (len(window.parts), window.defects, window.unjudged) == (38, 2, frozenset())


def test_too_few_says_how_many_and_how_long(station: Any, people: Any, drawn: Any) -> None:
    say(station, people[0], drawn[:20], "good")
    with pytest.raises(CalibrationError, match="20 of 40 images are open") as told:
        again(station)
    assert "judge 19 more" in str(told.value.hint)
    assert "take about 24 s" in str(told.value.hint)
    with pytest.raises(CalibrationError, match="40 drawn parts are too few") as told:
        recalibrate(station.place, station.ledger, TEST, station.source, 0, now_ms() + 1, rate=0.01)
    assert "299 are needed: 259 more" in str(told.value.hint)
    assert list(station.place.jobs.iterdir()) == []
    with station.ledger.write() as connection:
        connection.execute(deployments.update().values(until=now_ms()))
    with pytest.raises(ConfigError, match="no model is live"):
        again(station)


def test_scores_are_given_to_what_is_open_by_name(model: Any, tmp_path: Any) -> None:
    records = []
    for i in range(30):
        Image.fromarray(good_image(700 + i)).save(tmp_path / f"{i}.png")
        records.append(Record(str(i), tmp_path / f"{i}.png"))
    plain, one = (
        Detector.load(model).calibrate(records, false_alarm_rate=0.1, highest=open_ones).model.calibrators["f32"]
        for open_ones in ((), ("3",))
    )
    assert one.scores[-1] == np.finfo(np.float32).max
    assert one.threshold >= plain.threshold
    with pytest.raises(CalibrationError, match="open"):
        Detector.load(model).calibrate(records, false_alarm_rate=0.1, highest=[str(i) for i in range(5)])
    with pytest.raises(ConfigError, match="given images"):
        Detector.load(model).calibrate(highest=["3"])
