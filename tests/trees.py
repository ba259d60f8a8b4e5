"""Trees of files for tests of layouts, and what was found in them at a glance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from blemish.types import Record


def put(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), 9, np.uint8)).save(path)


def put_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def by_id(records: list[Record]) -> dict[str, Record]:
    return {record.id: record for record in records}


def sides(records: list[Record]) -> dict[tuple[str, int], int]:
    return dict(Counter((record.split, record.label) for record in records))
