"""`blemish bench`: a suite in, cells, tables and the ledger out."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from blemish.cli.about import emit
from blemish.cli.progress import track
from blemish.errors import ConfigError, DataError
from blemish.outputs import check_file, check_folder
from blemish.outputs import ledger as is_ledger


def run(
    data: list[str],
    out: Path,
    only: list[str],
    seeds: list[int],
    page: Path | None,
    known: Path | None,
    multi_class: bool,
    verify: bool,
    collect: bool,
    jobs: int,
    engine: str,
    address: str | None,
) -> int:
    """Prints one JSON line and returns the exit code: 1 where a cell failed or gave other figures than before."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is first imported
    from blemish.evaluation.bench import ledger, results, suite
    from blemish.evaluation.bench import run as bench

    methods = [name.strip() for text in only for name in text.split(",") if name.strip()]
    if len(data) == 1 and data[0].endswith(".toml"):
        chosen = suite.read(Path(data[0]), methods, seeds)
    else:
        chosen = suite.of_sources(data, methods, seeds, multi_class)
    _check_outputs(data, out, page, verify=verify)
    earlier = results.read(known) if known is not None else results.Tables()
    if known is not None and not earlier.cells:
        raise DataError("holds no tables of an earlier run", path=known, hint="a folder with cells.parquet in it")
    finished_marks = {cell.digest for cell in earlier.cells}
    if collect:
        outcome = bench.Outcome(tuple(bench.plan(chosen, out)), 0, {}, {})
    else:
        do = _engine(engine, jobs, address)
        outcome = bench.run(chosen, out, known=finished_marks, engine=do, verify=verify, track=track)
    marks = [job.mark for job in outcome.jobs]
    folders = bench.finished_folders(outcome.jobs, needed=not earlier.cells)
    finished = len(finished_marks.intersection(marks).union(job.mark for job in outcome.jobs if job.folder in folders))
    place = page or out / "ledger.md"
    if not verify:
        earlier = replace(earlier, pairs=(*earlier.pairs, *results.read(out).pairs))
        there = finished_marks | {job.mark for job in outcome.jobs if job.folder in folders}
        unfinished = {
            (job.cell.where, job.cell.method.label, job.cell.seed): number
            for number, job in enumerate(outcome.jobs)
            if job.mark not in there
        }
        tables = results.collect(folders, earlier, marks, unfinished)
        results.write(tables, out)
        if page is not None:
            results.write(tables, page.with_suffix(""))
        missing = len(outcome.jobs) - finished
        ledger.write(tables, place, command=_command(data, out, page), missing=missing)
    for title, error in outcome.failed.items():
        warnings.warn(f"{title}: {error}", stacklevel=2)
    for title, difference in outcome.changed.items():
        warnings.warn(f"{title}: a second run gave other figures: {difference}", stacklevel=2)
    emit(
        {
            "cells": len(outcome.jobs),
            "finished": finished,
            "ran": outcome.ran,
            "failed": len(outcome.failed),
            "changed": len(outcome.changed),
            "ledger": None if verify else str(place),
        }
    )
    return 1 if outcome.failed or outcome.changed else 0


def _check_outputs(data: list[str], out: Path, page: Path | None, *, verify: bool) -> None:
    """DataError where cells, tables or the page cannot be written, or would take the place of something else."""
    read = [source for source in data if not source.endswith(".toml")]

    def is_ours(folder: Path) -> bool:
        return (folder / "cells").is_dir() or (folder / "cells.parquet").is_file()

    check_folder(out, "--out", read=read, is_ours=is_ours)
    if page is not None and not verify:
        check_file(page, "--page", read=read, is_ours=is_ledger)
        check_folder(page.with_suffix(""), "--page", read=read, is_ours=is_ours)
    elif not verify and out.is_dir():
        check_file(out / "ledger.md", "--out", is_ours=is_ledger)


def _engine(name: str, jobs: int, address: str | None) -> Any:
    if name == "ray":
        from blemish.evaluation.bench.on_ray import engine

        return engine(address)
    if name != "local":
        raise ConfigError(f"no engine '{name}' for bench", hint="local or ray")
    from blemish.evaluation.bench.run import local

    return partial(local, at_once=jobs)


def _command(data: list[str], out: Path, page: Path | None) -> str:
    """The command that makes the page, as it is printed on it."""
    words = ["blemish bench", *data, f"--out {out}", *([f"--page {page}"] if page else [])]
    return " ".join(words)
