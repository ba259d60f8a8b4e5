"""Resources of a process: free memory, and forks that interrupt no critical section."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from blemish.errors import BlemishError, ResourceError


class Gate:
    """`with gate:` around code that a fork must not interrupt, such as a library's call that holds locks.

    A forked child has the thread that forked and no other: a lock that another one held stays locked in it forever.
    So a fork waits until all threads have left; threads that enter meanwhile wait for the fork. Reentrant.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._thread = threading.local()
        self._inside = 0
        self._closed = False

    def _depth(self) -> int:
        return getattr(self._thread, "depth", 0)

    def __enter__(self) -> None:
        if not self._depth():
            with self._changed:
                self._changed.wait_for(lambda: not self._closed)
                self._inside += 1
        self._thread.depth = self._depth() + 1

    def __exit__(self, *_: object) -> None:
        self._thread.depth -= 1
        if not self._thread.depth:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._inside == (1 if self._depth() else 0))

    def _open(self) -> None:
        with self._changed:
            self._closed = False
            self._changed.notify_all()


undisturbed = Gate()
"""Around every call into a library that holds locks or runs threads of its own."""

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def forked() -> bool:
    """Whether this process is the child of one that had loaded Blemish before it forked."""
    return _forked


def never_free(thing: object) -> None:
    """Never free it: destructors of a library's objects wait in a forked child for threads that are not there."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Free(NamedTuple):
    """Bytes that this process may still take, and what sets the limit, for people."""

    bytes: int
    limit: str


def free_memory() -> Free | None:
    """The tightest of the process's own limit (`ulimit -v`), its control group's, and the machine's.

    None where nothing is known, as on other systems than Linux.
    """
    found = [*_own_limits(), *_group_limits(), *_machine()]
    return min(found, default=None)


def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:  # another system, or not readable for this user: then nothing is known
        return None


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdecimal() else None


def _own_limits() -> Iterator[Free]:
    statm = (_text("/proc/self/statm") or "").split()
    if len(statm) < 6:
        return
    import resource  # not on every system

    page = os.sysconf("SC_PAGE_SIZE")
    for limit, field, name in ((resource.RLIMIT_AS, 0, "-v"), (resource.RLIMIT_DATA, 5, "-d")):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            yield Free(max(0, most - int(statm[field]) * page), f"of the process's limit (ulimit {name})")


def _group_limits(root: Path = Path("/sys/fs/cgroup"), membership: str = "/proc/self/cgroup") -> Iterator[Free]:
    """Of control groups, version 2 and 1, the process's own and those above it."""
    for line in (_text(membership) or "").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers not in ("", "memory"):
            continue
        top = root / "memory" if controllers else root
        names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            most, used = (_number(folder / f"memory.{name}") for name in names)
            if most is not None and used is not None:
                yield Free(max(0, most - used + _reclaimable(folder)), "of the control group's limit")
            if folder == top:
                break


def _reclaimable(folder: Path) -> int:
    """Bytes of files that the group's figure counts and that are dropped when memory is asked for."""
    lines = (line.split() for line in (_text(folder / "memory.stat") or "").splitlines())
    known = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}
    return known.get("total_inactive_file", known.get("inactive_file", 0))


def _machine() -> Iterator[Free]:
    lines = (line.split() for line in (_text("/proc/meminfo") or "").splitlines())
    known = {line[0]: int(line[1]) * 1024 for line in lines if len(line) > 1 and line[1].isdecimal()}
    if "MemAvailable:" in known:
        yield Free(known["MemAvailable:"] + known.get("SwapFree:", 0), "of the machine's memory")


def size_text(count: float) -> str:
    """Bytes for people: 1.4 GiB, 300 MiB."""
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MiB"


def check_memory(needed: int, what: str, hint: str) -> None:
    """ResourceError where `what` needs more bytes than are free; nothing where it is not known what is free."""
    free = free_memory()
    if free is not None and needed > free.bytes:
        message = f"{what} needs at least {size_text(needed)}, and {size_text(free.bytes)} {free.limit} is free"
        raise ResourceError(message, hint=hint)


_LITTLE = 2**30  # bytes
_SIGNS = (
    "bad_alloc", "can't alloc", "cannot allocate memory", "insufficient memory", "out of memory", "failed to allocate",
    "failed to map segment", "can't start new thread", "not enough memory", "unable to allocate",
    "resource temporarily unavailable",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that memory ran out; libraries have no common class for it."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError | ImportError) or type(error).__module__.partition(".")[0] == "cv2":
        message = " ".join(str(error).lower().split())
        if any(sign in message for sign in _SIGNS):
            return True
        if "could not create a primitive" in message:  # oneDNN says no more than that, for any reason
            free = free_memory()
            return free is not None and free.bytes < _LITTLE
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


@contextmanager
def memory_for(what: str, hint: str) -> Iterator[None]:
    """Any error inside that reports exhausted memory becomes a ResourceError with this hint."""
    try:
        yield
    except BlemishError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(what, hint, error) from error


def out_of_memory(what: str, hint: str, error: Any) -> ResourceError:
    """The error for memory that ran out during the work."""
    free = free_memory()
    left = "" if free is None else f"; {size_text(free.bytes)} {free.limit} is free"
    detail = (" ".join(str(error).split()) or type(error).__name__)[:160]
    return ResourceError(f"out of memory in {what} ({detail}{left})", hint=hint)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def release_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it (glibc)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
