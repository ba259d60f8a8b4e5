"""The ledger on both databases: the tables are those of the steps, and a server that goes away loses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from blemish.station import audit
from blemish.station.ledger.database import Ledger, Locked
from blemish.station.ledger.migrate import upgrade
from blemish.station.ledger.schema import metadata, products, settings
from tests.fakes import good_image
from tests.unit.station.conftest import Postgres, Station, both, put


@both
def test_the_steps_make_the_tables_of_the_schema(station: Station) -> None:
    with station.ledger.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


@both
def test_writers_of_two_processes_wait_for_each_other_and_the_audit_trail_stays_one_chain(station: Station) -> None:
    others = [Ledger(station.ledger.url) for _ in range(3)]

    def write(ledger: Ledger, name: str) -> None:
        for index in range(10):
            with ledger.write(patience=30) as connection:
                audit.append(connection, audit.Actor(name, "engineer"), "test", str(index))

    threads = [threading.Thread(target=write, args=(ledger, str(at))) for at, ledger in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in others:
        ledger.close()
    with station.ledger.read() as connection:
        assert audit.broken(connection) is None
        assert connection.scalar(select(func.count()).select_from(audit.audit)) == 31


@both
def test_a_transaction_that_fails_leaves_nothing(station: Station) -> None:
    with pytest.raises(IntegrityError), station.ledger.write() as connection:
        connection.execute(insert(products), [{"name": "half"}, {"name": "part"}])
    assert [row["name"] for row in station.rows(products)] == ["part"]


def test_a_server_that_goes_away_and_comes_back_loses_no_verdict(
    postgres: Postgres, station_on: Callable[[str], Station]
) -> None:
    station = station_on(postgres.new())
    put(station.hot, "a.png", good_image(1))
    with station.running():
        station.until(lambda: len(station.rows()) == 1)
        postgres.stop()
        try:
            with pytest.raises(Locked, match="does not answer"), station.ledger.write() as connection:
                connection.execute(insert(settings).values(key="a", value="b"))
            for index in range(3):
                put(station.hot, f"b{index}.png", good_image(2 + index))
            time.sleep(1.0)  # the scan, the worker and the outbox all meet a ledger that is not there
        finally:
            postgres.start()
        station.until(lambda: len(station.rows()) == 4)
    assert sorted(row["claim"] for row in station.rows()) == [1, 2, 3, 4]
    assert not list(station.place.spool.glob("*/*.png"))


def test_processes_that_start_together_make_the_tables_once(postgres: Postgres) -> None:
    url = postgres.new()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, [url] * 4))


@both
def test_a_writer_that_holds_the_ledger_is_waited_for_and_then_said(station: Station) -> None:
    other = Ledger(station.ledger.url)
    with station.ledger.write() as connection:
        connection.execute(insert(settings).values(key="a", value="b"))
        with pytest.raises(Locked, match="another process"), other.write(patience=0.2):
            pytest.fail("two write at once")
    with other.write() as connection:
        connection.execute(insert(settings).values(key="c", value="d"))
    other.close()
    assert [row["key"] for row in station.rows(settings)] == ["a", "c"]
