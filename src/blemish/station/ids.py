"""Ids that sort by time: UUID version 7 (RFC 9562), made without the clock ever going back."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

_LOCK = threading.Lock()
_last = 0  # milliseconds << 12 | counter, of this process


def new_id() -> str:
    """A UUIDv7 as text, larger than every earlier one of this process: 48 bits of milliseconds, 12 of a counter."""
    global _last
    with _LOCK:
        _last = max((time.time_ns() // 1_000_000) << 12, _last + 1)
        stamp, count = _last >> 12, _last & 0xFFF
    random = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return str(UUID(int=(stamp << 80) | (7 << 76) | (count << 64) | (2 << 62) | random))


def is_id(text: str) -> bool:
    """Whether a text has the form of such an id."""
    try:
        return str(UUID(text)) == text and UUID(text).version == 7
    except ValueError:
        return False


def time_of(text: str) -> int:
    """The milliseconds since 1970 in an id."""
    return UUID(text).int >> 80


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
