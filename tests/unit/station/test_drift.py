"""The drift test, its blocks out of the ledger, and the rule for storms."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, kstest

pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install 'blemish[station]'")

from sqlalchemy import insert, update

from blemish.station import blocks as cutting
from blemish.station.blocks import Blocks, drifts
from blemish.station.drift import BETS, LIMITS, Monitor, bet, combined, lag_one, level
from blemish.station.ids import new_id, now_ms
from blemish.station.judging import Judged
from blemish.station.ledger.record import Recorder
from blemish.station.ledger.schema import alarms, blocks, lots
from blemish.station.models import deploy
from blemish.station.spool import Claim
from tests.unit.station.conftest import both

MINUTE = 60_000


@pytest.mark.parametrize("name", BETS)
def test_a_bet_pays_one_on_average(name: str) -> None:
    area = quad(lambda p: bet(name, p), 0, 0.5)[0] + quad(lambda p: bet(name, p), 0.5, 1)[0]
    assert area == pytest.approx(1, abs=1e-4)
    assert bet("up0.6", 0.01) > 1.3 > 1 > bet("up0.6", 0.9)
    assert bet("down0.6", 0.99) > 1.3 > 1 > bet("down0.6", 0.1)


def test_ranks_of_what_does_not_change_are_uniform_and_do_not_depend_on_ties() -> None:
    generator = np.random.default_rng(1)
    monitor = Monitor()
    ranks = [monitor.add(float(generator.integers(0, 4)), float(generator.random())) for _ in range(2000)]
    assert kstest(ranks, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(ranks[:-1], ranks[1:])[0, 1]) < 0.08


def test_sums_are_those_of_their_definition() -> None:
    generator, monitor = np.random.default_rng(2), Monitor()
    ranks = [monitor.add(*map(float, generator.normal(size=1)), float(generator.random())) for _ in range(60)]
    for name in BETS:
        total = sum(np.prod([bet(name, p) for p in ranks[start:]]) for start in range(60))
        assert monitor.sums[name].total == pytest.approx(total)
        best = max(range(60), key=lambda start: np.prod([bet(name, p) for p in ranks[start:]]))  # noqa: B023
        assert monitor.sums[name].start in (best + 1, 61) or np.prod([bet(name, p) for p in ranks[best:]]) <= 1


def test_false_alarms_are_no_more_than_promised() -> None:
    """40 lines of 1,000 blocks without any change: at most one alarm in 1,000 blocks, with what chance allows."""
    generator, alarmed = np.random.default_rng(3), 0
    for _ in range(40):
        monitors = [Monitor() for _ in range(3)]
        for values in generator.normal(size=(1000, 3)):
            for monitor, value in zip(monitors, values, strict=True):
                monitor.add(float(value), float(generator.random()))
            if combined(monitors) >= LIMITS["amber"]:
                alarmed += 1
                break
    assert alarmed <= binom.ppf(0.999, 40, 1 - np.exp(-1))


def test_a_shift_is_found_and_dated() -> None:
    generator, monitor = np.random.default_rng(4), Monitor()
    for number in range(1, 200):
        monitor.add(float(generator.normal() + (3 if number > 120 else 0)), float(generator.random()))
        if level(monitor.evidence) == "red":
            break
    assert 120 < number < 150
    assert 110 < monitor.since <= number
    assert Monitor.of(monitor.values, json.loads(json.dumps(monitor.state()))) == monitor


def test_lag_one() -> None:
    generator = np.random.default_rng(5)
    assert lag_one([1.0] * 5) is None
    assert lag_one([1.0] * 20) == 0
    assert abs(lag_one(list(generator.normal(size=500))) or 0) < 0.15
    assert (lag_one(list(np.cumsum(generator.normal(size=500)))) or 0) > 0.9


# ------------------------------------------------------------------------------------------ out of the ledger

Line = Callable[..., None]


@pytest.fixture
def line(station: Any) -> Line:
    """Parts of the line, two seconds apart; scores and brightness around a mean."""
    generator = np.random.default_rng(6)
    state = {"count": 0, "at": now_ms() - 10**9}

    def run(
        number: int, *, score: float = 0.5, brightness: float = 120.0, verdict: str = "good", lot: int | None = None
    ) -> None:
        group = []
        for _ in range(number):
            state["count"] += 1
            state["at"] += 2000
            i = state["count"]
            claim = Claim(new_id(), station.source, i, f"{i}.png", ".png", state["at"], lot_id=lot)
            health = {
                "brightness": float(brightness + generator.normal()),
                "contrast": 20.0,
                "focus": float(2 + 0.1 * generator.normal()),
                "colour": float(generator.normal()),
            }
            group.append(
                Judged(
                    claim, "judged", verdict, {}, f"{i:064d}", 10, state["at"], station.deployment, (8, 8),
                    float(score + 0.05 * generator.normal()), 0.3, 1.0, health,
                )
            )  # fmt: skip
        with station.ledger.write() as connection:
            Recorder(b"tests").write(connection, group)

    return run


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 10 parts and 20 seconds."""
    monkeypatch.setattr(cutting, "PARTS", 10)
    monkeypatch.setattr(cutting, "MINUTES", 1 / 3)


def caught_up(station: Any) -> Blocks:
    made = Blocks(station.place, station.ledger)
    while made.step():
        pass
    return made


@both
def test_blocks_are_the_same_however_often_it_is_started(station: Any, line: Line, short: None) -> None:
    line(47)
    caught_up(station)
    first = station.rows(blocks)
    assert {row["monitor"] for row in first} == {"score", "brightness", "focus", "colour", "rejected", "unknown"}
    assert max(row["number"] for row in first) == 4
    line(60)
    many = caught_up(station)
    line(40)
    many.step()
    split = station.rows(blocks)
    with station.ledger.write() as connection:
        connection.execute(blocks.delete())
    caught_up(station)
    assert station.rows(blocks) == split
    for row in split:
        if row["monitor"] == "score":
            assert (row["n"], row["to_seq"] - row["from_seq"]) == (11, 10)  # 20 seconds take eleven parts


def test_a_block_is_of_one_lot(station: Any, line: Line, short: None) -> None:
    with station.ledger.write() as connection:
        for name in ("A", "B"):
            connection.execute(insert(lots).values(name=name, source_id=station.source, started_at=0))
    line(17, lot=1)  # eleven, and six that are no block
    line(5, lot=2)
    line(30, lot=1)
    caught_up(station)
    rows = [row for row in station.rows(blocks) if row["monitor"] == "score"]
    assert [(row["lot_id"], row["from_seq"], row["to_seq"]) for row in rows] == [(1, 1, 11), (1, 23, 33), (1, 34, 44)]


def test_a_lamp_that_fails_is_an_alarm_with_a_date_and_a_remedy(station: Any, line: Line, short: None) -> None:
    line(11 * 40)
    watching = caught_up(station)
    assert station.rows(alarms) == []
    line(11 * 15, brightness=110)
    while watching.step():
        pass
    kinds = {row["kind"]: row for row in station.rows(alarms)}
    drift = kinds["drift"]
    assert drift["level"] == "red"
    assert "brightness" in drift["text"]
    assert drift["remedy"].startswith("clean or replace the lamp")
    assert drift["evidence"] > LIMITS["red"]
    ends = {row["number"]: row["ended_at"] for row in station.rows(blocks) if row["monitor"] == "brightness"}
    (number,) = [number for number, at in ends.items() if at == drift["about_at"]]
    assert 39 <= number <= 43
    with station.ledger.read() as connection:
        (told,) = drifts(connection)
    assert (told["source"], told["level"], told["blocks"]) == ("cam1", "red", 55)
    assert told["evidence"] == pytest.approx(drift["evidence"])
    assert told["monitors"]["brightness"]["evidence"] > told["monitors"]["focus"]["evidence"]


def test_what_goes_live_starts_anew(station: Any, line: Line, short: None) -> None:
    line(11 * 12)
    watching = caught_up(station)
    with station.ledger.write() as connection:
        station.deployment = deploy(connection, station.source, station.model, "test", "again")
    line(11 * 3, score=0.9)
    while watching.step():
        pass
    rows = [row for row in station.rows(blocks) if row["monitor"] == "score"]
    assert [row["number"] for row in rows if row["epoch"] == station.deployment] == [1, 2, 3]
    assert station.rows(alarms) == []


def test_a_storm_is_said_at_once_and_ends(station: Any, line: Line) -> None:
    line(30)
    watching = caught_up(station)
    line(8, verdict="anomalous", score=2.0)
    watching.step()
    (storm,) = station.rows(alarms)
    assert (storm["kind"], storm["level"], storm["cleared_at"]) == ("storm", "red", None)
    line(7)
    watching.step()
    assert station.rows(alarms)[0]["cleared_at"] is None  # three of the last ten
    line(3)
    watching.step()
    assert station.rows(alarms)[0]["cleared_at"] is not None
    line(120)
    watching.step()
    line(5, brightness=30)
    watching.step()
    assert "look like none" in station.rows(alarms)[-1]["text"]


def test_lines_are_as_long_as_a_product_says(station: Any, line: Line) -> None:
    from blemish.station.ledger.schema import products

    with station.ledger.write() as connection:
        connection.execute(update(products).values(config=json.dumps({"block_parts": 5, "block_minutes": 0.1})))
    line(20)
    caught_up(station)
    assert max(row["number"] for row in station.rows(blocks)) == 4
