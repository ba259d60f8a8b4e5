"""A station with a hot folder and a tiny model, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install 'blemish[station]'")
pytest.importorskip("alembic", reason="alembic is not installed: pip install 'blemish[station]'")

from sqlalchemy import create_engine, insert, select

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

    def __init__(self, root: Path, model: Path, database: str = "") -> None:
        self.hot = root / "in"
        self.hot.mkdir(parents=True)
        self.place = init(root / "station", roots=(str(self.hot),), database=database)
        text = self.place.config.read_text().replace("[limits]", "[limits]\nreserve_mb = 1")  # of the computer's disk
        self.place.config.write_text(text)
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
            return list(connection.execute(select(table).order_by(*table.primary_key)).mappings())

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


class Postgres:
    """A server in a folder of its own, reached by a socket in it; it refuses to run as root, so nobody runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            os.chown(folder, 65534, 65534)
            self._user = {"user": 65534, "group": 65534, "extra_groups": []}
        self._run(_found("initdb"), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", str(folder / "data"))
        self.start()

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, **self._user)

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        log = str(self.folder / "log")
        self._run(_found("pg_ctl"), "-w", "-D", str(self.folder / "data"), "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self._run(_found("pg_ctl"), "-w", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def new(self) -> str:
        """The URL of an empty database."""
        self._count += 1
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE station{self._count}")
        engine.dispose()
        return self.url(f"station{self._count}")

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"


def _found(program: str) -> str:
    places = [*map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))), os.environ.get("PATH", "")]
    path = shutil.which(program, path=os.pathsep.join(places))
    if path is None:
        pytest.skip(f"{program} of PostgreSQL is not on this computer")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    _found("initdb")
    folder = Path(tempfile.mkdtemp(prefix="blemish-postgres-"))  # a short path, that the server's user may enter
    server = None
    try:
        server = Postgres(folder)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def station(request: pytest.FixtureRequest, tmp_path: Path, model: Path) -> Iterator[Station]:
    """With a ledger of SQLite; of PostgreSQL too in tests marked `both`."""
    database = "" if getattr(request, "param", "sqlite") == "sqlite" else request.getfixturevalue("postgres").new()
    made = Station(tmp_path, model, database)
    yield made
    made.ledger.close()


@pytest.fixture
def station_on(tmp_path: Path, model: Path) -> Iterator[Callable[[str], Station]]:
    """A station with the ledger of a URL."""
    made: list[Station] = []

    def make(database: str) -> Station:
        made.append(Station(tmp_path / str(len(made)), model, database))
        return made[-1]

    yield make
    for station in made:
        station.ledger.close()


both = pytest.mark.parametrize("station", ["sqlite", "postgresql"], indirect=True)


def put(folder: Path, name: str, image: Any) -> Path:
    Image.fromarray(np.asarray(image)).save(folder / name)
    return folder / name
