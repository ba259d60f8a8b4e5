"""The cells of a suite as Ray tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from blemish.evaluation.bench import store
from blemish.evaluation.bench.run import Engine, Job, in_process
from blemish.evaluation.bench.suite import Cell
from blemish.inspection.ray_session import session


def engine(address: str | None, workers: int | None = None) -> Engine:
    """Runs jobs on the cluster at `address`, or on one started here.

    A worker runs its cell in a process of its own, as the local engine does, and sends the cell's files back; the
    driver alone writes the folder. A cell whose worker is killed is run again elsewhere. Data and cache have to lie
    under the same paths on all machines.
    """

    def execute(jobs: list[Job]) -> Iterator[tuple[Job, str | None]]:
        if not jobs:
            return
        with session(address, workers) as ray:
            task = ray.remote(num_cpus=1, max_retries=-1)(_run)
            where = os.getcwd()  # a suite's sources may be relative to it
            waiting = {task.remote(json.dumps(asdict(job.cell)), job.mark, where): job for job in jobs}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(done)
                yield job, _kept(job, *ray.get(done))

    return execute


def _kept(job: Job, files: dict[str, bytes], error: str | None) -> str | None:
    store.write(job.folder, files)
    return error


def _run(cell: str, mark: str, where: str) -> tuple[dict[str, bytes], str | None]:
    """One cell on a worker: (its files, what went wrong)."""
    os.chdir(where)
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own setting; the local engine has none
    values: dict[str, Any] = json.loads(cell)
    with TemporaryDirectory(prefix="blemish-cell-") as folder:
        error = in_process(Job(Cell.from_json(values), mark, Path(folder)))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}, error
