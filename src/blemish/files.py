"""Files: read with clear errors, written whole or not at all, found in folders."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from blemish.errors import DataError

MAX_PIXELS = 100_000_000  # of an image, where nothing else is asked for
MOST_PIXELS = 178_956_970  # Pillow's own limit; the command line accepts no larger one


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file beside its place and rename it; makes its folder. Two writers of one path are safe.

    DataError where it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", path=path, hint="check folder and space") from None


def outputs(files: Iterable[Path], source: Path) -> list[tuple[Path, str]]:
    """Each file of `source`, a folder or the file itself, and the name of what is made of it: a/b.png becomes a_b.

    Names are used once: where two files would share one, the later ones carry their suffix or a number.
    """
    found: dict[str, Path] = {}
    for path in files:
        inside = path.relative_to(source) if path != source and path.is_relative_to(source) else Path(path.name)
        stem = "_".join(inside.with_suffix("").parts)
        names = chain((stem, f"{stem}_{path.suffix[1:]}"), (f"{stem}_{n}" for n in count(2)))
        found[next(name for name in names if name not in found)] = path
    return [(path, name) for name, path in found.items()]


def file_name(text: str) -> str:
    """A name that comes from data as the name of one file or folder: what could lead elsewhere, or is refused by some
    file system, is written as `%` and hex digits of its UTF-8. Different texts have different names.
    """
    unsafe = re.sub(r'[%/\\\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]|^[. ]|[. ]$', _percent, text)
    return unsafe or "%"


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


# folders that systems, archives and tools make, for files that were deleted or are kept twice
SYSTEM = frozenset(
    "__macosx @eadir @recycle @recently-snapshot $recycle.bin recycler recycled lost+found #recycle #snapshot "
    "system_volume_information __pycache__ node_modules".split()
)


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder is a hidden one, or one of a system's own folders."""
    return name.startswith(".") or name.casefold().replace(" ", "_") in SYSTEM


@dataclass
class Walk:
    """What lies in a folder: its files and its sub-folders, sorted, hidden ones and system folders, which were left
    alone, and the folders that could not be listed, with the reason."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    closed: dict[Path, str] = field(default_factory=dict)


def walk(folder: Path, *, deep: bool = True) -> Walk:
    """All that lies in a folder, with `deep` of its sub-folders too and of those that it links to.

    Each real file comes once: links that lead back, or to a file already found, add nothing. Broken links are listed
    as missing files. With `deep` off, files alone, and links to one file are two.
    """
    found = Walk()
    seen: set[str] = set()
    links: list[Path] = []  # visited last: a file found by its own name keeps that name
    waiting = [folder]
    while waiting or links:
        place = waiting.pop() if waiting else links.pop(0)
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        if not place.is_dir():
            found.files.append(place)
            continue
        if place != folder:
            found.folders.append(place)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            found.closed[place] = error.strerror or str(error)
            continue
        for entry in entries:
            path = place / entry.name
            if entry.name.startswith(".") or (is_hidden(entry.name) and entry.is_dir()):
                found.hidden.append(path)
            elif not deep:
                (found.folders if entry.is_dir() else found.files).append(path)
            elif entry.is_symlink():
                links.append(path)
            elif entry.is_dir():
                waiting.append(path)
            else:
                seen.add(os.path.join(real, entry.name))
                found.files.append(path)
    found.files.sort()
    found.folders.sort()
    return found


def as_path(value: str | os.PathLike[Any]) -> Path:
    """The path of a file that the caller names in any way; DataError where no file can have such a name."""
    name = os.fsdecode(value)
    if not name or "\0" in name:
        raise DataError(f"{name!r} is no name of a file", hint="is a variable not set?")
    return Path(name)


def read_file(path: str | os.PathLike[Any], *, max_bytes: int = 16 * MAX_PIXELS) -> bytes:
    """The file's bytes; DataError where it cannot be read, is empty or has more than `max_bytes`."""
    path = as_path(path)
    try:
        if path.is_dir():
            raise DataError("is a folder, not an image", path=path, hint="name a file inside it")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device would block, perhaps forever
            message = "is no regular file (a pipe, socket or device)"
            raise DataError(message, path=path, hint="name a file on disk; bytes can be handed over as a stream")
        if found.st_size > max_bytes:
            raise too_large(str(path), f"{found.st_size} bytes")
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError("no such file", path=path, hint="check the path") from None
    except PermissionError:
        raise DataError("no permission to read it", path=path, hint="check the file's owner and mode") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path, hint="check the disk") from None
    if not data:
        raise DataError("file is empty", path=path, hint="copy it again; it may still have been written to")
    return data


def content_id(data: bytes) -> str:
    """16 hex digits that tell a file by its bytes, wherever it lies."""
    return hashlib.sha256(data).hexdigest()[:16]


def too_large(name: str, detail: str) -> DataError:
    """The error for what would not fit into memory."""
    hint = "raise max_pixels (--max-pixels) if the file is trusted, or cut it into tiles"
    return DataError(f"image is too large: {detail}", path=name, hint=hint)
