"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path

from blemish.errors import DataError


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
