"""What a run of hours has found stays: the benchmarks that are no cells of the ledger keep their figures so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blemish.files import write_whole

Figures = dict[str, Any]


def kept(path: Path, make: Callable[[], Figures]) -> Figures:
    """The figures of an earlier run, or those of a new one, written whole."""
    if not path.is_file():
        write_whole(path, (json.dumps(make(), indent=1) + "\n").encode())
    return dict(json.loads(path.read_text(encoding="utf-8")))
