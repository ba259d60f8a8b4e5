"""Jobs learn beside the line: candidates come out, nothing goes live, and a kill costs time alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blemish.errors import ConfigError
from blemish.station import audit, jobs
from blemish.station.jobs import Jobs, ask, stop_job
from blemish.station.ledger.schema import audit as trail
from blemish.station.ledger.schema import deployments, models
from blemish.station.ledger.schema import jobs as table
from tests.fakes import good_image
from tests.unit.station.conftest import Station, both, put

ANNA = audit.Actor("anna", "engineer")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK", 0.05)


@contextmanager
def working(station: Station) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=Jobs(station.place, station.config, station.ledger).run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def asked(station: Station, kind: str, **args: Any) -> int:
    with station.ledger.write() as connection:
        return ask(connection, ANNA, kind, args)


def states(station: Station) -> list[str]:
    return [row["state"] for row in station.rows(table)]


@both
def test_each_kind_does_its_command_and_makes_a_candidate_of_its_parent(station: Station) -> None:
    for index in range(24):
        put(station.hot, f"{index:02}.png", good_image(100 + index))
    good = {"folder": str(station.hot)}
    for kind, options in (("calibrate", {"false-alarm-rate": 0.2}), ("power", {"images": 2, "seed": 1})):
        asked(station, kind, good=good, model=station.model, options=options)
    asked(station, "fit", good=good, options={"method": "padim", "image-size": "64", "seed": 3}, name="new")
    with working(station):
        station.until(lambda: not {"waiting", "running"} & set(states(station)), 300)
    rows = station.rows(table)
    assert states(station) == ["done", "done", "done"], [row["result"] for row in rows]
    results = [json.loads(row["result"]) for row in rows]
    made = {row["id"]: row for row in station.rows(models)}
    calibrated, fitted = made[results[0]["model"]], made[results[2]["model"]]
    assert (calibrated["parent_id"], calibrated["alpha"], calibrated["status"]) == (station.model, 0.2, "candidate")
    assert (fitted["parent_id"], fitted["method"], fitted["name"]) == (None, "padim", "new")
    assert len(json.loads(fitted["golden"])) == 8
    assert results[1]["power"]
    assert len(station.rows(deployments)) == 1  # nothing goes live
    assert [row["action"] for row in station.rows(trail)][1:] == [
        "job.calibrate", "job.power", "job.fit", "job.done", "job.done", "job.done",
    ]  # fmt: skip
    for row in rows:
        assert (station.place.jobs / str(row["id"]) / "log").is_file()
        assert row["started_at"] <= row["ended_at"]


def test_good_images_may_be_those_of_inspections(station: Station) -> None:
    for index in range(20):
        put(station.hot, f"{index:02}.png", good_image(100 + index))
    with station.running():
        station.until(lambda: len(station.rows()) == 20, 60)
    rows = station.rows()
    station.place.stored(rows[0]["id"], ".png").unlink()  # retention has removed it
    ids = [row["id"] for row in rows]
    asked(station, "fit", good={"inspections": ids[:12]}, options={"method": "padim", "image-size": 64})
    with working(station):
        station.until(lambda: states(station)[0] not in ("waiting", "running"), 120)
        assert states(station) == ["done"], station.rows(table)[0]["result"]
        fitted = json.loads(station.rows(table)[0]["result"])["model"]
        asked(station, "adapt", good={"inspections": ids[12:]}, model=fitted)
        station.until(lambda: states(station)[1] not in ("waiting", "running"), 120)
    counted = []
    for row in station.rows(table):
        assert row["state"] == "done", row["result"]
        result = json.loads(row["result"])
        counted.append((result["pictures"], result["missing"]))
        assert not (station.place.jobs / str(row["id"]) / "good").exists()
    assert counted == [(11, 1), (8, 0)]
    assert station.rows(models)[-1]["parent_id"] == fitted
    assert station.place.stored(rows[1]["id"], ".png").is_file()


def test_a_job_that_fails_says_what_the_command_said_and_the_next_goes(station: Station) -> None:
    (station.hot / "empty").mkdir()
    asked(station, "fit", good={"folder": str(station.hot / "empty")})
    asked(station, "fit", good={"folder": "/etc"})
    with working(station):
        station.until(lambda: states(station) == ["failed", "failed"], 120)
    first, second = (json.loads(row["result"]) for row in station.rows(table))
    assert "empty" in first["error"]
    assert first["hint"]
    assert "roots" in second["error"]


@pytest.mark.parametrize(
    ("kind", "args", "says"),
    [
        ("rm", {}, "no job 'rm'"),
        ("fit", {"good": {"folder": "/x"}, "model": 1}, "learns anew"),
        ("adapt", {"good": {"folder": "/x"}}, "needs a model"),
        ("adapt", {"good": {"folder": "/x"}, "model": 77}, "no model 77"),
        ("fit", {}, "fit: good: Field required"),
        ("fit", {"good": {"inspections": []}}, "at least 1"),
        ("fit", {"good": {"folder": "/x", "inspections": ["y"]}}, "good"),
        ("fit", {"good": {"inspections": [["y"]]}}, "good"),
        ("adapt", {"good": {"folder": "/x"}, "model": "m"}, "model"),
        ("fit", {"good": {"inspections": ["0198c5a0-0000-7000-8000-000000000000"]}}, "no inspection 0198"),
        ("fit", {"good": {"folder": "/x"}, "options": {"out": "y"}}, "no option 'out'"),
        ("fit", {"good": {"folder": "/x"}, "options": {"weights": "y"}}, "no option 'weights'"),
        ("fit", {"good": {"folder": "/x"}, "options": {"backbone": "/etc/passwd"}}, "number or a name"),
        ("fit", {"good": {"folder": "/x"}, "options": {"seed": [1]}}, "options.seed"),
        ("fit", {"good": {"folder": "/x"}, "shell": "y"}, "shell"),
    ],
)
def test_what_cannot_be_is_said_when_it_is_asked_for(
    station: Station, kind: str, args: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        asked(station, kind, **args)
    assert station.rows(table) == []


def sleeping(self: Jobs, *_: object) -> list[str]:
    return ["sh", "-c", "sleep 600; true"]  # which has a child of its own


def started(note: Path) -> list[int]:
    """The processes of the job that a note names: its own, then those that it has started."""
    try:
        leader = int(note.read_text().split()[0])
    except (OSError, IndexError):
        return []
    return sorted(members(leader), key=lambda one: one != leader)


def members(leader: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


@both
def test_one_job_runs_at_a_time_with_low_priority_on_one_core_and_can_be_stopped(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jobs, "_command", sleeping)
    first, second = (asked(station, "fit", good={"folder": str(station.hot)}) for _ in range(2))
    pid = station.place.jobs / str(first) / "pid"
    with working(station):
        station.until(lambda: len(started(pid)) == 2)
        one = started(pid)[0]
        assert states(station) == ["running", "waiting"]
        assert os.getpriority(os.PRIO_PROCESS, one) >= jobs.NICE
        assert len(os.sched_getaffinity(one)) == 1
        with station.ledger.write() as connection:
            stop_job(connection, ANNA, first)
        station.until(lambda: states(station) == ["stopped", "running"])
        assert not members(one)  # with what it had started
        with station.ledger.write() as connection:
            stop_job(connection, ANNA, second)
            with pytest.raises(ConfigError, match="no job"):
                stop_job(connection, ANNA, first)
    assert states(station) == ["stopped", "stopped"]


def test_a_job_that_runs_when_the_station_stops_waits_for_the_next_start(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jobs, "_command", sleeping)
    job = asked(station, "fit", good={"folder": str(station.hot)})
    pid = station.place.jobs / str(job) / "pid"
    with working(station):
        station.until(lambda: bool(started(pid)))
        one = started(pid)[0]
    assert states(station) == ["waiting"]
    assert not members(one)


CHILD = """
import sys, threading
from blemish.station.jobs import Jobs
from blemish.station.setup import opened
Jobs._command = lambda self, *_: [sys.executable, "-c", "import time; time.sleep(600)"]
Jobs(*opened(sys.argv[1])).run(threading.Event())
"""


def test_after_a_kill_of_the_station_its_job_is_ended_and_begun_again(station: Station) -> None:
    for index in range(12):
        put(station.hot, f"{index:02}.png", good_image(100 + index))
    good = {"folder": str(station.hot)}
    job = asked(station, "calibrate", good=good, model=station.model, options={"false-alarm-rate": 0.2})
    pid = station.place.jobs / str(job) / "pid"
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(station.place.root)])
    try:
        station.until(lambda: bool(started(pid)), 60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = int(pid.read_text().split()[0])
    assert states(station) == ["running"]
    assert members(left)
    with working(station):
        station.until(lambda: states(station)[0] not in ("waiting", "running"), 120)
    assert states(station) == ["done"], station.rows(table)[0]["result"]
    assert not members(left)
    assert len(station.rows(models)) == 2


def test_another_process_of_the_same_number_is_left_alone(station: Station) -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        (station.place.jobs / "1").mkdir()
        (station.place.jobs / "1" / "pid").write_text(f"{other.pid} 1")
        jobs._end_left(station.place.jobs / "1")
        time.sleep(0.1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_progress_and_time_left_of_the_step_are_told(station: Station) -> None:
    job = asked(station, "fit", good={"folder": str(station.hot)})
    told = station.place.jobs / "progress"
    told.write_text(json.dumps({"step": "learn", "done": 25, "total": 100, "seconds": 10.0}))
    one = Jobs(station.place, station.config, station.ledger)
    assert one._next().id == job
    said = one._tell(job, told, "")
    (row,) = station.rows(table)
    assert (row["progress"], row["eta"], json.loads(row["result"])) == (0.25, 30.0, {"step": "learn"})
    assert one._tell(job, told, said) == said
