"""Jobs: `blemish fit`, `adapt`, `calibrate` and `power` beside the line, one at a time, on one core, at low priority.

A job makes a candidate, which nothing but an approval puts live. All that it needs and leaves lies in `jobs/<id>/`:
`good/` (pictures of inspections), `log`, `out/`. One that a kill has torn is begun again; what it had finished counts.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, dataclasses
from sqlalchemy import Connection, insert, select, update

from blemish.errors import BlemishError, ConfigError, DataError
from blemish.station import audit
from blemish.station.audit import SYSTEM, Actor
from blemish.station.config import Config
from blemish.station.ids import now_ms
from blemish.station.judging import as_text
from blemish.station.ledger.database import Full, Ledger, Locked
from blemish.station.ledger.schema import inspections, jobs, models
from blemish.station.models import GOLDEN, folder_of, import_model
from blemish.station.place import Place, digest
from blemish.station.spool import SUFFIXES

log = logging.getLogger("blemish.station.jobs")

PROMISE = ("false-alarm-rate", "confidence", "promise-per", "region-rate", "region-per")
KINDS: Mapping[str, tuple[str, ...]] = {  # and the options that each may be given: none that is a path
    "fit": (
        *PROMISE, "method", "backbone", "image-size", "locate", "tiles", "effort", "budget", "seed", "calibration",
        "held-out", "max-ms", "precision", "view",
    ),
    "adapt": ("share",),
    "calibrate": PROMISE,
    "power": ("images", "seed"),
}  # fmt: skip
MOST = 20_000  # inspections in a job
TENTH = 10
NICE = 10
LOOK = 0.5  # seconds between two looks at a job, and for a new one
GRACE = 5.0  # seconds that a job is given to stop
BLOCK, SAID = 1 << 16, 500  # bytes at the end of a log that are read, characters of an error that are kept
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Folder:
    """Good images below one of the station's roots."""

    folder: str
    part: Literal["all", "most", "rest"] = "all"  # the rest, a tenth, is what a model of most of them has not seen


@dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Inspected:
    """Good images that were inspected, by their ids; those that are not kept any more are left out, and counted."""

    inspections: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST)]


@dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Args:
    """What a job is told."""

    good: Folder | Inspected
    model: int | None = None  # that is adapted, calibrated or measured
    options: dict[str, str | int | float] = field(default_factory=dict)  # of the command, by their long names
    name: str = ""  # of the candidate


ARGS = TypeAdapter(Args)


def ask(connection: Connection, actor: Actor, kind: str, args: Mapping[str, Any]) -> int:
    """Ask for a job with the fields of `Args`: its number. ConfigError names what cannot be."""
    if kind not in KINDS:
        raise ConfigError(f"there is no job '{kind}'", hint=f"there are: {', '.join(KINDS)}")
    try:
        asked = ARGS.validate_python(dict(args))
    except ValidationError as error:
        said = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ConfigError(f"{kind}: {'; '.join(said)}") from None
    if (asked.model is None) != (kind == "fit"):
        raise ConfigError("fit learns anew" if kind == "fit" else f"{kind} needs a model")
    if asked.model is not None and connection.scalar(select(models.c.id).where(models.c.id == asked.model)) is None:
        raise ConfigError(f"there is no model {asked.model}")
    _options(kind, asked.options)
    told = ARGS.dump_python(asked, mode="json")
    row = {"kind": kind, "args": as_text(told), "by": actor.name, "asked_at": now_ms()}
    if isinstance(asked.good, Inspected):
        ids = asked.good.inspections
        known = set(connection.scalars(select(inspections.c.id).where(inspections.c.id.in_(ids))))
        if known != set(ids):
            raise ConfigError(f"there is no inspection {next(one for one in ids if one not in known)}")
        told["good"] = {"inspections": len(ids)}
    key = connection.execute(insert(jobs).values(**row)).inserted_primary_key
    assert key is not None
    audit.append(connection, actor, f"job.{kind}", f"job {key[0]}", after=told)
    return int(key[0])


def stop_job(connection: Connection, actor: Actor, job: int) -> None:
    """Stop a job that waits or runs. ConfigError where there is none."""
    open_one = (jobs.c.id == job, jobs.c.state.in_(("waiting", "running")))
    if not connection.execute(update(jobs).where(*open_one).values(state="stopped", ended_at=now_ms())).rowcount:
        raise ConfigError(f"there is no job {job} that waits or runs")
    audit.append(connection, actor, "job.stop", f"job {job}")


def _options(kind: str, options: Mapping[str, str | int | float]) -> list[str]:
    """As the command line has them."""
    for name, value in options.items():
        if name not in KINDS[kind]:
            raise ConfigError(f"a job '{kind}' has no option '{name}'", hint=f"there are: {', '.join(KINDS[kind])}")
        if "/" in str(value):
            raise ConfigError(f"option '{name}' is a number or a name, not {value!r}")
    return [f"--{name}={value}" for name, value in options.items()]


@dataclass
class Jobs:
    """Does what is asked for, the oldest first. One object for each station; `run` returns when `stop` is set."""

    place: Place
    config: Config
    ledger: Ledger

    def run(self, stop: threading.Event) -> None:
        """Until told to stop: a job that runs then is begun again at the next start."""
        recovered = False
        while not stop.is_set():
            try:
                if not recovered:
                    self._recover()
                    recovered = True
                row = self._next()
                if row is not None:
                    self._do(row, stop)
                    continue
            except (Locked, Full) as error:
                log.warning("%s", error)
            stop.wait(LOOK)

    def _recover(self) -> None:
        """End what an earlier process has left running, and let its jobs wait again."""
        with self.ledger.read() as connection:
            left = list(connection.scalars(select(jobs.c.id).where(jobs.c.state == "running")))
        for job in left:
            _end_left(self.place.jobs / str(job))
        with self.ledger.write() as connection:
            connection.execute(update(jobs).where(jobs.c.state == "running").values(state="waiting", eta=None))

    def _next(self) -> Any:
        """The job that waits longest, marked as running."""
        with self.ledger.write() as connection:
            row = connection.execute(select(jobs).where(jobs.c.state == "waiting").order_by(jobs.c.id).limit(1)).first()
            if row is not None:
                values = {"state": "running", "started_at": now_ms(), "progress": None, "eta": None}
                connection.execute(update(jobs).where(jobs.c.id == row.id).values(**values))
        return row

    def _do(self, row: Any, stop: threading.Event) -> None:
        folder = self.place.jobs / str(row.id)
        try:
            result = self._done(row, ARGS.validate_json(row.args), folder, stop)
            state = "done" if result is not None else "waiting" if stop.is_set() else "stopped"
        except (Locked, Full):
            state, result = "waiting", None  # begun again: what is finished lies in its folder
        except (BlemishError, OSError) as error:
            state, result = "failed", {"error": str(error), "hint": getattr(error, "hint", None)}
        except Exception as error:
            log.exception("job %d", row.id)
            state, result = "failed", {"error": f"{type(error).__name__}: {error}"}
        if state in ("done", "failed"):
            shutil.rmtree(folder / "good", ignore_errors=True)
        values: dict[str, Any] = {"state": state, "eta": None, "result": None if result is None else as_text(result)}
        if state != "waiting":
            values |= {"ended_at": now_ms()}
        while True:
            try:
                with self.ledger.write() as connection:
                    mine = (jobs.c.id == row.id, jobs.c.state == "running")  # else somebody has stopped it
                    if connection.execute(update(jobs).where(*mine).values(**values)).rowcount and "ended_at" in values:
                        audit.append(connection, SYSTEM, f"job.{state}", f"job {row.id}", after=result)
                return
            except (Locked, Full) as error:
                log.warning("job %d: %s", row.id, error)
                if stop.wait(LOOK):
                    return  # it is running for the ledger, and waits at the next start

    def _done(self, row: Any, args: Args, folder: Path, stop: threading.Event) -> dict[str, Any] | None:
        """Do a job; what came out, None where it was stopped."""
        folder.mkdir(exist_ok=True)
        out = folder / "out"
        good, counted = self._good(args.good, folder)
        finished = out / ("power.json" if row.kind == "power" else "model.json")
        if not finished.exists():
            code = self._run(row.id, self._command(row.kind, args, good, out), folder, stop)
            if code is None:
                return None
            if code != 0:
                raise _said(folder / "log", code)
        if row.kind == "power":
            return {**counted, "power": json.loads(finished.read_bytes())}
        golden = sorted(one for one in good.rglob("*") if one.suffix.lower() in SUFFIXES)[:GOLDEN]
        name, parent = args.name or f"{row.kind} {row.id}", args.model
        return {**counted, "model": import_model(self.place, self.ledger, out, name=name, golden=golden, parent=parent)}

    def _good(self, good: Folder | Inspected, folder: Path) -> tuple[Path, dict[str, int]]:
        """The folder of good images; of inspections the pictures that are still kept, as further names of theirs."""
        to = folder / "good"
        shutil.rmtree(to, ignore_errors=True)
        if isinstance(good, Folder):
            whole = self.config.inside(good.folder)
            return (whole, {}) if good.part == "all" else (to, {"pictures": _parted(whole, to, good.part)})
        to.mkdir()
        with self.ledger.read() as connection:
            rows = connection.execute(
                select(inspections.c.id, inspections.c.suffix).where(inspections.c.id.in_(good.inspections))
            ).all()
        missing = 0
        for row in rows:
            try:
                _linked(self.place.stored(row.id, row.suffix), to / f"{row.id}{row.suffix}")
            except FileNotFoundError:
                missing += 1
        if missing == len(rows):
            raise DataError("none of the pictures is kept any more", hint="choose younger inspections")
        return to, {"pictures": len(rows) - missing, "missing": missing}

    def _command(self, kind: str, args: Args, good: Path, out: Path) -> list[str]:
        command = [sys.executable, "-m", "blemish", kind]
        if kind != "fit":
            with self.ledger.read() as connection:
                known = connection.scalar(select(models.c.digest).where(models.c.id == args.model))
            command.append(str(folder_of(self.place, str(known))))
        options = _options(kind, args.options)
        if kind == "power":
            out.mkdir(exist_ok=True)
            return [*command, str(good), "--json", str(out / "power.json"), "--threads", "1", *options]
        return [*command, str(good), "--out", str(out), *options]

    def _run(self, job: int, command: list[str], folder: Path, stop: threading.Event) -> int | None:
        """Run a command to its end; its exit status, None where it was stopped."""
        told = folder / "progress"
        told.unlink(missing_ok=True)
        one = {name: "1" for name in THREADS}
        with (folder / "log").open("ab") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **one, "BLEMISH_PROGRESS": str(told), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        try:
            (folder / "pid").write_text(f"{process.pid} {_born(process.pid)}")
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
            said = ""
            while True:
                try:
                    return process.wait(LOOK)
                except subprocess.TimeoutExpired:
                    said = self._tell(job, told, said)
                if stop.is_set() or self._stopped(job):
                    return None
        finally:
            _end(process)
            (folder / "pid").unlink(missing_ok=True)

    def _tell(self, job: int, told: Path, said: str) -> str:
        """Progress and time left of the step that a job is in, for the ledger."""
        try:
            text = told.read_text()
            if text == said:
                return said
            state = json.loads(text)
            done, total = state["done"], state["total"]
            values: dict[str, Any] = {"result": as_text({"step": state["step"]}), "progress": None, "eta": None}
            if total:
                values |= {"progress": done / total, "eta": state["seconds"] * (total - done) / done}
            with self.ledger.write() as connection:
                connection.execute(update(jobs).where(jobs.c.id == job, jobs.c.state == "running").values(**values))
            return text
        except (FileNotFoundError, Locked, Full):
            return said

    def _stopped(self, job: int) -> bool:
        try:
            with self.ledger.read() as connection:
                return connection.scalar(select(jobs.c.state).where(jobs.c.id == job)) != "running"
        except Locked:
            return False


def _parted(whole: Path, to: Path, part: str) -> int:
    """Another name of each picture in one part of a folder, the same part at any time; how many."""
    to.mkdir()
    every = sorted(
        (digest(os.fsencode(path.name)), path) for path in whole.iterdir() if path.suffix.lower() in SUFFIXES
    )
    chosen = [path for index, (_, path) in enumerate(every) if (index % TENTH == 0) == (part == "rest")]
    for path in chosen:
        _linked(path, to / path.name)
    return len(chosen)


def _linked(source: Path, to: Path) -> None:
    """Another name of a picture, which outlasts retention while the job needs it."""
    try:
        os.link(source, to)
    except FileNotFoundError:
        raise
    except OSError:  # of another disk, or one that has no links
        shutil.copyfile(source, to)


def _born(pid: int) -> str:
    """When a process has started, which tells it from a later one of the same number; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _end_left(folder: Path) -> None:
    """End the process of a job whose station was killed."""
    try:
        pid, born = (folder / "pid").read_text().split()
    except (OSError, ValueError):
        return
    if born == _born(int(pid)):
        try:
            os.killpg(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    (folder / "pid").unlink(missing_ok=True)


def _said(path: Path, code: int) -> DataError:
    """What a command that has failed said last."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - BLOCK))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if not errors:
        return DataError((lines or [f"the command ended with status {code}"])[-1][-SAID:])
    text, after = lines[errors[-1]].removeprefix("error: "), lines[errors[-1] + 1 :]
    hints = [line.removeprefix("hint: ")[:SAID] for line in after if line.startswith("hint: ")]
    return DataError(text[:SAID], hint=next(iter(hints), None))
