"""Progress on stderr, with time left: only at a terminal, and only for what takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

_PATIENCE = 2.0  # seconds


class Terminated(BaseException):
    """SIGTERM has come, and what was done so far is to be shown."""


def track(items: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
    """The same items; see `inspection.calibrate.Track`."""
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
