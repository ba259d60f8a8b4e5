"""The demo: a station made once, and pictures that come in by themselves."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from blemish.data.layouts import elpv
from blemish.errors import ConfigError, DataError
from blemish.station import demo
from blemish.station.auth import log_in
from blemish.station.ledger.schema import inspections
from blemish.station.setup import opened
from blemish.station.worker import Worker
from blemish.types import no_track
from tests.fakes import write_images
from tests.unit.station.conftest import _Running


@pytest.mark.slow
def test_the_demo_makes_a_station_once_and_feeds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SIDE", 64)
    good = write_images(tmp_path / "pictures", 60)
    test = [replace(record, split="test", label=number % 2) for number, record in enumerate(good[:4])]
    folder = tmp_path / "demo"
    place = demo.make(folder, [*good, *test], "padim", no_track)
    login = json.loads((folder / demo.LOGIN).read_text())
    config = (place.config).read_bytes()
    assert demo.make(folder, [], "padim", no_track) == place  # the second time it is there
    assert place.config.read_bytes() == config
    with pytest.raises(ConfigError, match="not empty"):
        demo.make(tmp_path / "pictures", good, "padim", no_track)

    place, settings, ledger = opened(place.root)
    assert log_in(ledger, login["user"], login["password"])[1].role == "admin"
    worker, stop = Worker(place, settings, ledger), threading.Event()
    feeding = threading.Thread(target=demo.feed, args=(folder / "in", test, 20.0, stop))
    with _Running(worker):
        feeding.start()
        for _ in range(400):
            with ledger.read() as connection:
                names = list(connection.scalars(select(inspections.c.name).where(inspections.c.state == "judged")))
            if len(names) >= 5:
                break
            stop.wait(0.05)
        stop.set()
        feeding.join()
    assert len(names) >= 5
    assert len(set(names)) == len(names)
    ledger.close()


def test_without_its_data_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elpv, "find_spec", lambda _: None)
    with pytest.raises(DataError) as raised:
        demo.cells()
    assert "pip install" in str(raised.value.hint)
