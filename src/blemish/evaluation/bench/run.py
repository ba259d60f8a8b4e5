"""The driver: which cells are missing, each in a process of its own, so that time, memory and a crash are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from blemish.errors import BlemishError, DataError
from blemish.evaluation.bench import cell as cells
from blemish.evaluation.bench import store
from blemish.evaluation.bench.suite import Cell, Suite
from blemish.files import write_whole
from blemish.types import Track, no_track

JOB = "job.json"
ORPHANED = 3  # exit code of a cell whose driver has gone
FIGURES = ("overall", "by_category", "by_defect")


@dataclass(frozen=True)
class Job:
    """A cell, the digest of all it depends on, and its folder."""

    cell: Cell
    mark: str
    folder: Path


Engine = Callable[[list[Job]], Iterator[tuple[Job, str | None]]]
"""Runs jobs in any order; yields each with None, or with what went wrong."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run; `jobs` are all cells of the suite in its order."""

    jobs: tuple[Job, ...]
    ran: int
    failed: dict[str, str]  # title -> error
    changed: dict[str, str]  # title -> first figure that differed in a second run


def plan(suite: Suite, out: Path) -> list[Job]:
    """Every cell with its digest and folder."""
    jobs = []
    for cell in suite.cells():
        mark = cells.digest(cell, cell.records())
        jobs.append(Job(cell, mark, store.folder_of(out, cell, mark)))
    return jobs


def run(
    suite: Suite,
    out: Path,
    *,
    known: Collection[str] = (),
    engine: Engine | None = None,
    verify: bool = False,
    track: Track = no_track,
) -> Outcome:
    """Run the cells that are not finished, and with `verify` the finished ones a second time, to compare.

    `known` are digests of cells whose figures are at hand already.
    """
    cells.quiet_threads()
    jobs = plan(suite, out)
    missing = [job for job in jobs if not store.finished(job.folder) and job.mark not in known]
    done = [job for job in jobs if store.finished(job.folder)] if verify else []
    execute = engine or local
    failed: dict[str, str] = {}
    for job, error in track(execute(missing), "cells", len(missing)):
        if error is not None:
            failed[job.cell.title] = error
    changed: dict[str, str] = {}
    with TemporaryDirectory(prefix="blemish-verify-") as scratch:
        again = {Path(scratch) / str(i): job for i, job in enumerate(done)}
        copies = [Job(job.cell, job.mark, folder) for folder, job in again.items()]
        for job, error in track(execute(copies), "cells again", len(copies)):
            if error is not None:
                failed[job.cell.title] = error
            elif difference := compare(again[job.folder].folder, job.folder):
                changed[job.cell.title] = difference
    return Outcome(tuple(jobs), len(missing) + len(done) - len(failed), failed, changed)


def compare(first: Path, second: Path) -> str | None:
    """The first figure in which two runs of a cell differ, or None; every score counts, to the last bit."""
    a, b = store.record(first), store.record(second)
    for name in FIGURES:
        if a[name] != b[name]:
            return f"{name}: {a[name]} and {b[name]}"
    scores, again = store.images(first), store.images(second)
    if scores != again:
        return f"scores of {sum(x != y for x, y in zip(scores['score'], again['score'], strict=False))} images"
    return None


def local(jobs: list[Job], at_once: int = 1) -> Iterator[tuple[Job, str | None]]:
    """Each job in a process of its own on this machine, `at_once` side by side."""
    with ThreadPoolExecutor(at_once) as pool:
        try:
            yield from zip(jobs, pool.map(in_process, jobs), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def in_process(job: Job) -> str | None:
    """Run one job in a process of its own; None, or what went wrong."""
    job.folder.mkdir(parents=True, exist_ok=True)
    write_whole(job.folder / JOB, json.dumps({"cell": asdict(job.cell), "digest": job.mark}, indent=1).encode())
    with (job.folder / store.LOG).open("wb") as log:
        command = [sys.executable, "-m", "blemish.evaluation.bench.run", str(job.folder)]
        # nothing is ever written to its input: when it closes, the cell knows that its driver has gone
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log) as started:
            code = started.wait()
    return None if store.finished(job.folder) else _reason(job.folder / store.LOG, code)


def end_with_driver() -> None:
    """End this process at once when its standard input closes: its driver was stopped or killed, in whatever way."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # not the buffered stream, whose lock an ending interpreter waits for
        os._exit(ORPHANED)

    threading.Thread(target=wait, daemon=True).start()


def _reason(log: Path, code: int) -> str:
    """The `error:` line that ends a log, or how the process ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    error = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    return error or (f"the process was killed by signal {-code}" if code < 0 else f"exit code {code}, see {log}")


def main(folder: Path) -> None:
    """One cell, in this process: `job.json` says which; what is printed becomes its log."""
    cells.quiet_threads()
    warnings.simplefilter("default")
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    cell = Cell.from_json(job["cell"])
    try:
        store.write(folder, cells.work(cell, job["digest"], folder))
    except BlemishError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def finished_folders(jobs: Iterable[Job], *, needed: bool = True) -> list[Path]:
    """Folders of the cells that are there; DataError where there is none and one is needed."""
    found = [job.folder for job in jobs if store.finished(job.folder)]
    if needed and not found:
        raise DataError("no cell of this suite is finished", hint="see the log.txt of the cells that failed")
    return found


if __name__ == "__main__":
    end_with_driver()
    main(Path(sys.argv[1]))
