"""Progress on stderr, with time left: only at a terminal, and only for what takes longer than two seconds.

Where the environment variable BLEMISH_PROGRESS names a file, the state of the step goes there as JSON, for programs
that run `blemish` and show it themselves.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PATIENCE = 2.0  # seconds
_OFTEN = 0.5  # seconds between two states that are told to a program


class Terminated(BaseException):
    """SIGTERM has come, and what was done so far is to be shown."""


def track(items: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
    """The same items; see `inspection.calibrate.Track`."""
    if told := os.environ.get("BLEMISH_PROGRESS"):
        yield from _told(items, description, total, Path(told))
        return
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=total)
    start, shown = time.monotonic(), False
    try:
        for item in items:
            yield item
            bar.advance(task)
            if not shown and time.monotonic() - start > _PATIENCE:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()


def _told(items: Iterable[Any], description: str, total: int | None, path: Path) -> Iterable[Any]:
    start = written = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - written > _OFTEN or done == total:
            written = now
            state = {"step": description, "done": done, "total": total, "seconds": now - start}
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(state))
            os.replace(partial, path)
