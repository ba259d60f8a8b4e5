"""The processes of a station, started, watched and stopped in order: the worker, and the web application; jobs beside.

`serve` runs them; `python -m blemish.station.serve worker DIR` is one of them. One that dies is started again, and they
die with the one that has started them.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import IO

from blemish.errors import BlemishError, ConfigError
from blemish.station.auth import check_bind
from blemish.station.place import Place
from blemish.station.setup import opened

Feed = Callable[[threading.Event], None]

log = logging.getLogger("blemish.station.serve")

PARENT = "BLEMISH_STATION_PARENT"  # variable: the process that a process dies with
PAUSES = (0.1, 30.0)  # seconds before a process is started again: at first, and the longest
LIVED = 10.0  # seconds after which a process has started well
GRACE = {"web": 10.0, "worker": 45.0}  # seconds to stop: the worker records what it has judged
NAMES = ("worker", "web")
LOG_BYTES, LOG_FILES = 10 << 20, 5


class JsonLines(logging.Formatter):
    """A record on one line, as JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"at": at, "level": record.levelname.lower(), "process": self.process, "from": record.name}
        line["text"] = record.getMessage()
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start_logging(place: Place, process: str) -> None:
    """To stderr, and to a file in logs/ that is exchanged when it is large."""
    file = place.root / "logs" / f"{process}.jsonl"
    rotating = logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    handlers: list[logging.Handler] = [logging.StreamHandler(), rotating]
    for handler in handlers:
        handler.setFormatter(JsonLines(process))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def locked(place: Place, name: str, patience: float = 0.0) -> Iterator[None]:
    """The only process of that name for a station. ConfigError where another one is there, and stays."""
    place.run.mkdir(exist_ok=True)
    path, until = place.run / f"{name}.lock", monotonic() + patience
    with path.open("a+") as file:
        while not _taken(file):
            if monotonic() > until:
                file.seek(0)
                other = f" by process {file.read().strip() or 'unknown'}"
                raise ConfigError(f"{place.root} is served already{other}", hint="stop that one first")
            time.sleep(0.05)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass
class _Process:
    """One of the processes, and what became of it."""

    name: str
    command: list[str]
    popen: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    pause: float = PAUSES[0]

    def start(self) -> None:
        environment = {**os.environ, PARENT: str(os.getpid())}
        # in a group of its own: Ctrl-C reaches the supervisor alone, which stops them in order
        self.popen = subprocess.Popen(self.command, env=environment, process_group=0)
        self.started = monotonic()
        log.info("%s started as process %d", self.name, self.popen.pid)

    def ended(self) -> None:
        """Plan the next start: at once after a kill from outside, ever later where it dies by itself."""
        assert self.popen is not None
        code, lived = self.popen.returncode, monotonic() - self.started
        by_itself = code not in (-signal.SIGKILL, -signal.SIGTERM)
        self.pause = min(2 * self.pause, PAUSES[1]) if by_itself and lived < LIVED else PAUSES[0]
        self.due, self.popen = monotonic() + self.pause, None
        log.error("%s ended with %d after %.1f s; it starts again in %.1f s", self.name, code, lived, self.pause)


class Supervisor:
    """Keeps the processes of a station running until `stop` is set.

    Args:
        names: which of them.
    """

    def __init__(
        self, place: Place, host: str | None = None, port: int | None = None, names: Sequence[str] = NAMES
    ) -> None:
        self.place, self.stop = place, threading.Event()
        address = [*(("--host", host) if host else ()), *(("--port", str(port)) if port else ())]
        base = [sys.executable, "-m", "blemish.station.serve"]
        self.processes = [
            _Process(name, [*base, name, str(place.root), *(address if name == "web" else [])]) for name in names
        ]

    def run(self) -> None:
        """Until told to stop; returns when all have ended."""
        try:
            while not self.stop.is_set():
                for each in self.processes:
                    if each.popen is not None and each.popen.poll() is not None:
                        each.ended()
                    if each.popen is None and monotonic() >= each.due:
                        each.start()
                self.stop.wait(0.1)
        finally:
            for each in sorted(self.processes, key=lambda one: one.name != "web"):  # intake first
                self._end(each)

    def _end(self, each: _Process) -> None:
        if each.popen is None or each.popen.poll() is not None:
            return
        each.popen.terminate()
        try:
            each.popen.wait(GRACE[each.name])
        except subprocess.TimeoutExpired:
            log.error("%s did not stop in %.0f s, and is killed", each.name, GRACE[each.name])
            each.popen.kill()
            each.popen.wait()
        log.info("%s stopped with %d", each.name, each.popen.returncode)


def on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT set an event.

    By another thread: this one may hold the event's lock where the signal comes.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=stop.set).start())


def wait_for_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT set an event, in a process that runs engines, before these start threads.

    The main thread runs no handler: on processors with large registers (AMX) an engine gives it so small a stack for
    signals that a handler overflows it. Threads that are there already may.
    """
    on_signals(stop)
    awaited = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)

    def waiting() -> None:
        signal.sigwait(awaited)
        stop.set()

    threading.Thread(target=waiting, name="signals", daemon=True).start()


def serve(folder: str | Path, host: str | None = None, port: int | None = None, *, feed: Feed | None = None) -> None:
    """Run a station until SIGTERM or SIGINT. ConfigError where it is served already, or must not be reached.

    Args:
        feed: a function that is given the event of the end, and runs beside.
    """
    from blemish.station.jobs import Jobs

    place, config, ledger = opened(folder)
    with closing(ledger), locked(place, "serve"):
        start_logging(place, "serve")
        host, port = host or config.web.host, port or config.web.port
        check_bind(ledger, host)
        print(f"{'https' if config.web.certificate else 'http'}://{host}:{port}/", flush=True)
        supervisor = Supervisor(place, host, port)
        on_signals(supervisor.stop)
        beside = [Jobs(place, config, ledger).run, *([feed] if feed is not None else [])]
        threads = [threading.Thread(target=each, args=(supervisor.stop,), daemon=True) for each in beside]
        try:
            for each in threads:
                each.start()
            supervisor.run()
        finally:
            supervisor.stop.set()
            for each in threads:
                each.join(10)


def _die_with_parent() -> None:
    """Be killed when the supervisor is: a station never runs without one that stops it."""
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        raise SystemExit("the supervisor has gone")


def _worker(folder: str) -> None:
    stop = threading.Event()
    wait_for_signals(stop)
    from blemish.station.worker import Worker

    place, config, ledger = opened(folder)
    start_logging(place, "worker")
    with locked(place, "worker", patience=60):
        Worker(place, config, ledger, stop).run()
    ledger.close()


def _web(folder: str, host: str | None, port: int | None) -> None:
    answer = import_module("blemish.station.web.app").serve
    place, config, ledger = opened(folder)
    start_logging(place, "web")
    with locked(place, "web", patience=60):
        answer(place, config, ledger, host, port)
    ledger.close()


def main(arguments: list[str]) -> int:
    """Of one process: `worker DIR`, or `web DIR [--host HOST] [--port PORT]`."""
    name, folder, *rest = arguments
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    _die_with_parent()
    try:
        if name == "worker":
            _worker(folder)
        else:
            port = options.get("--port")
            _web(folder, options.get("--host"), int(port) if port else None)
    except BlemishError as error:
        log.error("%s (%s)", error, error.hint)
        return 1
    except Exception:
        log.exception("%s ends", name)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
