"""Judgements of people, their lanes, and the promise that they are held against."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import betaln
from scipy.stats import binom

pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install 'blemish[station]'")

from sqlalchemy import insert, select, update

from blemish.station import auth
from blemish.station.audit import Actor
from blemish.station.auth import Identity
from blemish.station.ids import new_id, now_ms
from blemish.station.judgements import (
    LEASE_MS,
    Differs,
    Judgement,
    NotYours,
    judge_part,
    next_parts,
    standing,
    waiting,
    withdraw,
)
from blemish.station.judging import Judged
from blemish.station.ledger.record import Recorder
from blemish.station.ledger.schema import alarms, inspections, models, outbox, queue, reviews, sinks
from blemish.station.promise import counted, interval, promises, state
from blemish.station.spool import Claim
from tests.unit.station.conftest import both

SECRET = b"a key of the tests"
TEST = Actor("test", "system")


@pytest.fixture
def people(station: Any) -> dict[str, Identity]:
    out = {}
    with station.ledger.write() as connection:
        for name in ("anna", "ben"):
            number = auth.add_user(connection, TEST, name, "inspector", f"password of {name}")
            out[name] = Identity(name, "inspector", auth.ROLES["inspector"], user_id=number)
    return out


Filling = Callable[..., list[Any]]


@pytest.fixture
def filled(station: Any) -> Filling:
    """Rows of parts with these verdicts; all of them drawn, or none."""
    count = 0

    def fill(*verdicts: str, drawn: bool = False) -> list[Any]:
        nonlocal count
        group = []
        for verdict in verdicts:
            count += 1
            claim = Claim(new_id(), station.source, count, f"{count}.png", ".png", now_ms(), part_id=f"P{count}")
            said = {"pred_label": verdict, "regions": [{"bbox": [1, 2, 3, 4]}]}
            score = 2.0 if verdict == "anomalous" else 0.5
            group.append(
                Judged(
                    claim,
                    "judged",
                    verdict,
                    said,
                    f"{count:064d}",
                    10,
                    now_ms(),
                    station.deployment,
                    (8, 8),
                    score,
                    0.1,
                    1.0,
                )
            )
        with station.ledger.write() as connection:
            Recorder(SECRET, {station.source: 1.0 if drawn else 0.0}).write(connection, group)
            ids = [one.claim.id for one in group]
            rows = connection.execute(select(inspections).where(inspections.c.id.in_(ids)).order_by(inspections.c.seq))
            return list(rows)

    return fill


@pytest.fixture
def say(station: Any) -> Callable[..., int]:
    def judge(who: Identity, row: Any, truth: str, lane: str | None = "mixed", blind: bool = True) -> int:
        with station.ledger.write() as connection:
            if lane is not None:
                assert row.id in [item["id"] for item in next_parts(connection, SECRET, who, lane, 100)]
            return judge_part(connection, SECRET, who, new_id(), row.id, Judgement(truth, 900, blind))[0]

    return judge


def waits(station: Any, who: Identity) -> dict[str, int]:
    with station.ledger.read() as connection:
        return waiting(connection, who)


@both
def test_no_part_is_handed_to_two_people(station: Any, people: Any, filled: Filling) -> None:
    filled(*["anomalous"] * 5, drawn=True)
    with station.ledger.write() as connection:
        first = next_parts(connection, SECRET, people["anna"], "mixed", 3)
        second = next_parts(connection, SECRET, people["ben"], "drawn", 6)
        again = next_parts(connection, SECRET, people["anna"], "mixed", 3)
    assert len(first) == 3
    assert len(second) == 2
    assert not {item["id"] for item in first} & {item["id"] for item in second}
    assert [item["id"] for item in again] == [item["id"] for item in first]  # who loads the page again has the same
    assert waits(station, people["ben"])["mixed"] == 2
    with station.ledger.write() as connection:
        connection.execute(update(queue).values(claimed_at=queue.c.claimed_at - LEASE_MS - 1))
        assert len(next_parts(connection, SECRET, people["ben"], "mixed", 6)) == 5


def test_a_blind_lane_says_nothing_of_the_verdict(station: Any, people: Any, filled: Filling) -> None:
    filled("anomalous", "good", "unknown", "good", "anomalous", drawn=True)
    with station.ledger.write() as connection:
        blind = next_parts(connection, SECRET, people["anna"], "mixed", 10)
        seen = next_parts(connection, SECRET, people["anna"], "reject", 10)
    assert len(blind) == 5
    assert {frozenset(item) for item in blind} == {frozenset(blind[0])}
    assert not {"pred_label", "score", "threshold", "regions"} & set(blind[0])
    assert {item["lane"] for item in blind} == {"mixed"}
    assert [item["seq"] for item in blind] != sorted(item["seq"] for item in blind)
    assert [item["pred_label"] for item in seen] == ["anomalous", "anomalous"]


@both
def test_a_judgement_is_kept_once_and_superseded_not_changed(
    station: Any, people: Any, filled: Filling, say: Any
) -> None:
    (row,) = filled("anomalous")
    anna, key = people["anna"], new_id()
    said = Judgement("defect", 900, True, type="scratch", boxes=[[1, 2, 3, 4]])
    with station.ledger.write() as connection:
        next_parts(connection, SECRET, anna, "mixed", 1)
        assert judge_part(connection, SECRET, anna, key, row.id, said) == (1, True)
        assert judge_part(connection, SECRET, anna, key, row.id, said) == (1, False)
        with pytest.raises(Differs):
            judge_part(connection, SECRET, anna, key, row.id, Judgement("good", 900, True))
        with pytest.raises(KeyError):
            judge_part(connection, SECRET, anna, new_id(), new_id(), said)
    assert waits(station, anna)["mixed"] == 0
    say(anna, row, "good", lane=None)
    first, second = station.rows(reviews)
    assert (first["truth"], first["blind"], first["supersedes"]) == ("defect", True, None)
    assert (second["truth"], second["blind"], second["supersedes"]) == ("good", False, 1)  # no lease: not blind
    with station.ledger.read() as connection:
        assert [each.id for each in connection.execute(standing())] == [2]


@both
def test_undo_without_limit(station: Any, people: Any, filled: Filling, say: Any) -> None:
    rows = filled("anomalous", "good", "anomalous", drawn=True)
    anna, ben = people["anna"], people["ben"]
    numbers = [say(anna, row, "good") for row in rows]
    assert waits(station, anna)["mixed"] == 0
    with station.ledger.write() as connection:
        with pytest.raises(NotYours):
            withdraw(connection, ben, numbers[-1])
        for number in reversed(numbers):
            withdraw(connection, anna, number)
        with pytest.raises(NotYours):
            withdraw(connection, anna, numbers[0])
        with pytest.raises(KeyError):
            withdraw(connection, anna, 999)
    assert waits(station, anna)["mixed"] == 3
    assert waits(station, ben)["mixed"] == 0, "they are leased to who has taken them back"
    with station.ledger.read() as connection:
        assert connection.execute(standing()).all() == []
    say(anna, rows[0], "defect")
    assert len(station.rows(reviews)) == 7  # nothing was removed


def test_unsure_ones_and_drawn_defects_wait_for_somebody_else(
    station: Any, people: Any, filled: Filling, say: Any
) -> None:
    (unsure,) = filled("anomalous")
    (defect,) = filled("anomalous", drawn=True)
    anna, ben = people["anna"], people["ben"]
    say(anna, unsure, "unsure")
    number = say(anna, defect, "defect")
    assert waits(station, anna)["second"] == 0
    assert waits(station, ben)["second"] == 2
    with station.ledger.write() as connection:
        withdraw(connection, anna, number)
    assert waits(station, ben)["second"] == 1
    say(ben, unsure, "good", lane="second")
    assert waits(station, ben)["second"] == 0


def test_who_has_seen_the_verdict_does_not_answer_for_a_drawn_part(
    station: Any, people: Any, filled: Filling, say: Any
) -> None:
    (row,) = filled("anomalous", drawn=True)
    say(people["anna"], row, "good", lane="reject")
    assert [each["blind"] for each in station.rows(reviews)] == [False]
    assert waits(station, people["anna"])["drawn"] == 0
    assert waits(station, people["ben"])["drawn"] == 1
    assert waits(station, people["ben"])["reject"] == 0


def test_a_defect_that_was_called_good_is_an_alarm_and_a_message(
    station: Any, people: Any, filled: Filling, say: Any
) -> None:
    with station.ledger.write() as connection:
        connection.execute(insert(sinks).values(name="mes", kind="file", config="{}"))
    (row,) = filled("good", drawn=True)
    say(people["anna"], row, "defect", lane="drawn")
    (alarm,) = station.rows(alarms)
    assert (alarm["kind"], alarm["level"]) == ("escape", "red")
    assert "P1" in alarm["text"]
    message = json.loads(station.rows(outbox)[-1]["payload"])
    assert (message["event"], message["part_id"]) == ("escape", "P1")


# ---------------------------------------------------------------------------------------------------- the promise


@pytest.mark.parametrize(("x", "n"), [(0, 1), (1, 1), (0, 500), (500, 500), (18, 612), (360, 12_000), (1, 10**7)])
def test_the_interval_holds_what_its_inequality_says(x: int, n: int) -> None:
    lower, upper = interval(x, n)
    assert 0 <= lower <= x / n <= upper <= 1

    def weight(theta: float) -> float:  # log of the mixture over the likelihood
        rest = (x * math.log(theta) if x else 0) + ((n - x) * math.log1p(-theta) if n > x else 0)
        return float(betaln(0.5 + x, 0.5 + n - x) - betaln(0.5, 0.5)) - rest

    for theta in np.geomspace(1e-9, 1 - 1e-9, 400):
        outside = not lower <= theta <= upper
        if abs(weight(theta) - math.log(20)) > 1e-6:
            assert outside == (weight(theta) > math.log(20))


def test_intervals_of_the_literature() -> None:
    assert interval(0, 0) == (0, 1)
    assert [round(100 * each, 1) for each in interval(360, 12_000)] == [2.4, 3.7]
    assert [round(100 * each, 1) for each in interval(18, 612)] == [1.1, 6.1]
    with pytest.raises(ValueError, match="3 of 2"):
        interval(3, 2)


def test_the_interval_may_be_watched_all_day() -> None:
    """Of 300 streams of 2,000 parts it misses the truth at any time in no more than 5 %, with what chance allows."""
    draws = np.random.default_rng(0).random((300, 2000)) < 0.03
    bounds: dict[tuple[int, int], bool] = {}
    missed = 0
    for stream in draws.cumsum(1):
        for n in range(20, 2001, 20):
            key = int(stream[n - 1]), n
            if key not in bounds:
                lower, upper = interval(*key)
                bounds[key] = not lower <= 0.03 <= upper
            if bounds[key]:
                missed += 1
                break
    assert missed <= binom.ppf(0.999, 300, 0.05)


def test_states() -> None:
    from blemish.station.promise import Counted

    said = [
        state(Counted(x, n, "all"), 0.05) for x, n in [(0, 10), (2, 30), (0, 1000), (15, 1000), (50, 1000), (120, 1000)]
    ]
    assert said == ["too_early", "too_early", "kept", "kept", "open", "broken"]


@both
def test_all_parts_count_where_all_rejects_were_judged_blind(
    station: Any, people: Any, filled: Filling, say: Any
) -> None:
    with station.ledger.read() as connection:
        assert counted(connection, station.deployment) == (0, 0, "all")
    filled(*["good"] * 20)
    rejects = filled(*["anomalous"] * 4)
    filled(*["good"] * 10)
    with station.ledger.read() as connection:
        assert counted(connection, station.deployment) == (0, 0, "drawn")  # nobody has judged anything
    for row, truth in zip(rejects, ["good", "defect", "unsure", "defect"], strict=True):
        say(people["anna"], row, truth)
    with station.ledger.read() as connection:
        assert counted(connection, station.deployment) == (2, 32, "all")
    filled("anomalous", "good")  # the last ones wait: they count once they are judged
    with station.ledger.read() as connection:
        assert counted(connection, station.deployment) == (2, 22, "all")


def test_drawn_parts_count_alone_where_most_rejects_were_not_judged(
    station: Any, people: Any, filled: Filling, say: Any
) -> None:
    filled(*["anomalous"] * 10, *["good"] * 50)
    drawn = filled("good", "good", "anomalous", "anomalous", drawn=True)
    for row, truth in zip(drawn, ["good", "unsure", "good", "defect"], strict=True):
        say(people["anna"], row, truth, lane="drawn")
    with station.ledger.write() as connection:
        assert counted(connection, station.deployment) == (1, 3, "drawn")
        connection.execute(update(models).values(alpha=0.05, confidence=0.95, promise="at most 0.05"))
    with station.ledger.read() as connection:
        (said,) = promises(connection)
    assert (said["source"], said["x"], said["n"], said["state"]) == ("cam1", 1, 3, "too_early")
    assert said["lower"] < 1 / 3 < said["upper"]


def test_judgements_with_the_verdict_in_view_count_for_nothing(
    station: Any, people: Any, filled: Filling, say: Any
) -> None:
    rows = filled(*["anomalous"] * 4, *["good"] * 20)
    for row in rows[:4]:
        say(people["anna"], row, "good", lane="reject")
    with station.ledger.read() as connection:
        assert counted(connection, station.deployment) == (0, 0, "drawn")
