"""Where cells are stored: one folder each, complete once `cell.json` is there."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from blemish.errors import DataError
from blemish.evaluation.bench.suite import Cell
from blemish.evaluation.metrics.pixels import PixelCounts
from blemish.files import write_whole

RECORD = "cell.json"
LOG = "log.txt"
LEARNED, NOTE = "learned.blemish", "learned.json"  # of a cell that is not finished


def folder_of(out: Path, cell: Cell, mark: str) -> Path:
    """`OUT/cells/<readable>-<digest>`."""
    readable = re.sub(r"[^a-z0-9]+", "-", cell.title.lower()).strip("-")[:80]
    return out / "cells" / f"{readable}-{mark}"


def finished(folder: Path) -> bool:
    """Whether the cell has been run to its end."""
    return (folder / RECORD).is_file()


def write(folder: Path, files: dict[str, bytes]) -> None:
    """The record comes last: a kill before it leaves an unfinished cell, which goes on with what it has learned."""
    for name in sorted(files, key=lambda n: n == RECORD):
        write_whole(folder / name, files[name])
    shutil.rmtree(folder / LEARNED, ignore_errors=True)
    (folder / NOTE).unlink(missing_ok=True)


@contextmanager
def sound(file: Path, kind: str, hint: str = "remove the cell's folder") -> Iterator[None]:
    """DataError, naming the file, where what is read inside is missing, cut short or something else."""
    try:
        yield
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"is no sound {kind} ({error})", path=file, hint=hint) from None


def record(folder: Path) -> dict[str, Any]:
    """The cell's own record; DataError naming the file where it cannot be read, as of all files of a cell."""
    file = folder / RECORD
    with sound(file, "record"):
        value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return value


def images(folder: Path) -> dict[str, list[Any]]:
    """Columns of the cell's test images, in the order in which they were measured."""
    from pyarrow import parquet

    file = folder / "images.parquet"
    with sound(file, "table"):
        columns: dict[str, list[Any]] = parquet.read_table(file).to_pydict()
    return columns


def pixels(folder: Path) -> PixelCounts | None:
    """The counts behind the cell's pixel metrics."""
    file = folder / "pixels.npz"
    with sound(file, "archive"), np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
        return PixelCounts.from_arrays(arrays) if arrays.files else None
