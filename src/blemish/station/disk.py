"""How full the disk is, and what the station still does then: it never judges what it cannot record."""

from __future__ import annotations

import os
import shutil
from enum import IntEnum

from blemish.station.place import Place


class Level(IntEnum):
    """By the share of the disk that is free."""

    FINE = 0
    AMBER = 1  # below 10 %
    NO_OK = 2  # below 5 %: pictures of good parts are not kept
    PURGE = 3  # below 2 %: pictures are removed ahead of their time
    STOP = 4  # below 1 %: nothing is taken in


LIMITS = ((0.01, Level.STOP), (0.02, Level.PURGE), (0.05, Level.NO_OK), (0.10, Level.AMBER))


def level(place: Place) -> tuple[Level, float]:
    """The level, and the free share."""
    usage = shutil.disk_usage(place.root)
    share = usage.free / usage.total
    return next((found for limit, found in LIMITS if share < limit), Level.FINE), share


def keep_reserve(place: Place, megabytes: int) -> None:
    """Space that can be set free where the disk is full, so that alarms and audit can still be written."""
    size = megabytes << 20
    path = place.reserve
    if path.exists() and path.stat().st_size == size:
        return
    free = shutil.disk_usage(place.root).free
    if free < 2 * size:
        return
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def free_reserve(place: Place) -> bool:
    """Whether there was some."""
    there = place.reserve.exists()
    place.reserve.unlink(missing_ok=True)
    return there
