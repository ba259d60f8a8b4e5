"""A station with a hot folder and a tiny model."""

# ruff: noqa: E402

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for name in ("sqlalchemy", "alembic"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'blemish[station]'")

from sqlalchemy import insert, select

from blemish.inspection import modelfile
from blemish.station.ledger.schema import inspections, sources
from blemish.station.models import deploy, import_model
from blemish.station.setup import init, opened, source_named
from blemish.station.worker import Worker
from tests.tiny import fit_tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    modelfile.save(fit_tiny(folder), folder / "m")
    return folder / "m"


class Station:
    """A station with a hot folder `in`, and a worker that runs in a thread while the block lasts."""

    def __init__(self, root: Path, model: Path) -> None:
        self.hot = root / "in"
        self.hot.mkdir(parents=True)
        self.place = init(root / "station", roots=(str(self.hot),))
        _, self.config, self.ledger = opened(self.place.root)
        options = json.dumps({"path": str(self.hot), "settle": 0.05, "scan": 0.02})
        with self.ledger.write() as connection:
            connection.execute(insert(sources).values(name="cam1", kind="folder", config=options, product_id=1))
        self.source = source_named(self.ledger, "cam1")
        self.model = import_model(self.place, self.ledger, model)
        with self.ledger.write() as connection:
            self.deployment = deploy(connection, self.source, self.model, "test", "first")

    def rows(self, table: Any = inspections) -> list[Any]:
        with self.ledger.read() as connection:
            return list(connection.execute(select(table)).mappings())

    def running(self) -> _Running:
        return _Running(Worker(self.place, self.config, self.ledger))

    def until(self, met: Callable[[], bool], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.02)


class _Running:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.thread = threading.Thread(target=worker.run)

    def __enter__(self) -> Worker:
        self.thread.start()
        return self.worker

    def __exit__(self, *_: object) -> None:
        self.worker.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def station(tmp_path: Path, model: Path) -> Iterator[Station]:
    made = Station(tmp_path, model)
    yield made
    made.ledger.close()


def put(folder: Path, name: str, image: Any) -> Path:
    Image.fromarray(np.asarray(image)).save(folder / name)
    return folder / name
