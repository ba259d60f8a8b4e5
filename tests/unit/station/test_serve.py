"""The processes of a station: started again, stopped in order, one of each; and killed at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from blemish.errors import ConfigError
from blemish.inspection import modelfile
from blemish.inspection.inspector import Inspector
from blemish.station.clock import Clock
from blemish.station.ledger.schema import alarms, audit, health
from blemish.station.serve import Supervisor, _Process, locked
from blemish.station.verify import verify
from tests.fakes import good_image
from tests.unit.station.conftest import Station, put


@contextmanager
def served(station: Station) -> Iterator[Supervisor]:
    """The worker, in a process of its own, watched."""
    supervisor = Supervisor(station.place, names=("worker",))
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor
    finally:
        supervisor.stop.set()
        thread.join(60)
        assert not thread.is_alive()


def worker_of(station: Station) -> int:
    rows = [row for row in station.rows(health) if row["process"] == "worker"]
    return rows[0]["pid"] if rows else 0


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_and_stops_with_what_it_judged_recorded(station: Station) -> None:
    put(station.hot, "a.png", good_image(1))
    with served(station) as supervisor:
        station.until(lambda: len(station.rows()) == 1, 60)
        station.until(lambda: worker_of(station) != 0)
        first = worker_of(station)
        os.kill(first, signal.SIGKILL)
        put(station.hot, "b.png", good_image(2))
        station.until(lambda: len(station.rows()) == 2, 60)
        station.until(lambda: worker_of(station) != first, 60)
        second = worker_of(station)
    assert gone(second)
    assert [each.popen.returncode for each in supervisor.processes if each.popen] == [0]
    assert (station.place.run / "worker.sock").exists() is False  # by its own end, not by a kill
    lines = (station.place.root / "logs" / "worker.jsonl").read_text().splitlines()
    assert all({"at", "level", "process", "from", "text"} <= json.loads(line).keys() for line in lines)
    assert verify(station.place, station.config, station.ledger, deep=True).wrong == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_worker_dies_with_its_supervisor(station: Station) -> None:
    code = (
        "import sys; from blemish.station.serve import Supervisor; from blemish.station.place import Place; "
        "Supervisor(Place.of(sys.argv[1]), names=('worker',)).run()"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code, str(station.place.root)])
    station.until(lambda: worker_of(station) != 0, 60)
    worker = worker_of(station)
    supervisor.kill()
    supervisor.wait()
    station.until(lambda: gone(worker))


def test_only_one_of_a_name_runs_and_the_other_is_named(station: Station) -> None:
    with locked(station.place, "serve"):
        with (
            pytest.raises(ConfigError, match=f"is served already by process {os.getpid()}"),
            locked(station.place, "serve"),
        ):
            pass
        with locked(station.place, "worker"):
            pass
    with locked(station.place, "serve"):
        pass


def test_what_dies_by_itself_waits_ever_longer_and_what_is_killed_does_not() -> None:
    def dies(*arguments: str) -> float:
        process.command = [sys.executable, "-S", "-c", *arguments]
        process.start()
        assert process.popen is not None
        process.popen.wait()
        process.ended()
        return process.pause

    process = _Process("worker", [])
    assert [dies("raise SystemExit(1)") for _ in range(3)] == pytest.approx([0.2, 0.4, 0.8])
    process.pause = 25.0
    assert dies("raise SystemExit(1)") == 30.0
    assert dies("import os; os.kill(os.getpid(), 9)") == 0.1


def test_a_step_back_of_the_clock_is_told_from_its_going_on() -> None:
    clock = Clock(last=1_000_000)
    assert clock.stepped(5_000, 1_000_500) == 0  # the first look
    assert clock.stepped(6_000, 1_001_400) == 0  # slower by a tenth of a second
    assert clock.caught_up()
    assert clock.stepped(7_000, 997_000) == 5_400
    assert not clock.caught_up()
    assert clock.stepped(8_000, 998_000) == 0  # once
    assert clock.stepped(12_000, 1_002_000) == 0
    assert clock.caught_up()
    assert Clock(last=1_000_000).stepped(1, 900_000) == 100_000  # while nothing ran


def test_a_clock_that_is_set_back_is_an_alarm_and_an_entry(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    from blemish.station import clock, ids

    with station.running():
        station.until(lambda: worker_of(station) != 0)
        monkeypatch.setattr(clock, "now_ms", lambda: ids.now_ms() - 3_600_000)
        station.until(lambda: bool(station.rows(alarms)))
        assert [row["kind"] for row in station.rows(alarms)] == ["clock"]
        monkeypatch.undo()
        station.until(lambda: station.rows(alarms)[0]["cleared_at"] is not None)
    assert [row["action"] for row in station.rows(audit)].count("clock.back") == 1
    assert json.loads(station.rows(audit)[-1]["after"])["seconds"] == pytest.approx(3600, abs=5)


@pytest.mark.slow
def test_pictures_survive_ten_kills_each_once_and_with_the_scores_of_inspect(station: Station, model: Path) -> None:
    """The worker is killed at random moments while 200 pictures come in."""
    count, draw = 200, random.Random(0)
    expected = {}
    line = Inspector(modelfile.load(model), threads=1)
    folder = station.hot.parent / "pictures"
    folder.mkdir()
    for number in range(count):
        image = good_image(number)
        if number % 7 == 3:
            image[10:30, 10:40] = 255
        image = np.clip(image.astype(int) + number % 5, 0, 255).astype(np.uint8)
        expected[f"{number}.png"] = line.inspect(put(folder, f"{number}.png", image)).score

    names, kills = iter(expected), 0
    with served(station):
        last = 0
        while kills < 10:
            for _ in range(15):
                if (name := next(names, None)) is not None:
                    (folder / name).rename(station.hot / name)
            station.until(lambda: worker_of(station) not in (0, last), 60)  # noqa: B023
            last = worker_of(station)
            time.sleep(draw.uniform(0, 0.6))
            os.kill(last, signal.SIGKILL)
            kills += 1
        for name in names:
            (folder / name).rename(station.hot / name)
        station.until(lambda: len(station.rows()) >= count, 120)
        station.until(lambda: not any(station.hot.iterdir()))
    rows = station.rows()
    assert sorted(row["name"] for row in rows) == sorted(expected)  # none lost, none twice
    assert {row["name"]: row["score"] for row in rows} == expected  # to the bit
    report = verify(station.place, station.config, station.ledger, deep=True)
    assert report.wrong == []
    assert report.sources["cam1"]["claimed"] == count
    assert report.strays == []
