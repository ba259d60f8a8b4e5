"""Ray's workers below this process, and no others: the machine may run more clusters than one."""

from __future__ import annotations

import os
from pathlib import Path


def workers(root: int | None = None) -> list[int]:
    """Processes below `root` (this process) that run steps of Ray Data."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, left = [], [root or os.getpid()]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return [pid for pid in found if _name(pid).startswith("ray::MapWorker")]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
