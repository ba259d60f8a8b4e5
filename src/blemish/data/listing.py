"""What a folder holds: the files of the samples, and what is left out, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from blemish.data.image.formats import HEAD, SUFFIXES, kind_of, unread, unread_kind
from blemish.errors import DataError
from blemish.files import walk
from blemish.outputs import without_maps


class Listing(NamedTuple):
    """What a folder holds: the files of the samples, what could be none and why, and how many other files there are by
    their suffix (`hidden` and `without suffix` are two of those)."""

    files: list[Path]
    unread: list[DataError]
    other: Counter[str]

    def not_inspected(self) -> str | None:
        """The other files in one line; None where there are none."""
        count = sum(self.other.values())
        if not count:
            return None
        each = ", ".join(f"{n} {what}" for what, n in self.other.most_common(8))
        more = "" if len(self.other) <= 8 else f" and {len(self.other) - 8} more kinds"
        files, were = ("file", "was") if count == 1 else ("files", "were")
        return f"{count} other {files} {were} not inspected: {each}{more}"


def is_image(path: Path) -> bool:
    """By its name; hidden files, such as those that a Mac leaves behind, are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path, *, deep: bool = True) -> Listing:
    """The images of a folder, with `deep` of its sub-folders and of those that it links to; see `files.walk`.

    An image is recognised by its suffix, and without an image suffix by its first bytes. Pictures of kinds that are
    not read, and folders that cannot be listed, are `unread`. Hidden files and the folders of systems and tools
    are not inspected, but counted. Maps that an earlier run has drawn there are no images of parts.
    """
    found = walk(folder, deep=deep)
    kept = without_maps(found.files)
    out = Listing([], [], Counter({"hidden": len(found.hidden)} if found.hidden else {}))
    for path in kept:
        if is_image(path):
            out.files.append(path)
            continue
        head = _head(path)
        if (other := unread_kind(path, head)) is not None:
            out.unread.append(unread(path, *other))
        elif kind_of(head) is not None:
            out.files.append(path)
        else:
            out.other[path.suffix.lower() or "without suffix"] += 1
    out.files.extend(filter(is_image, found.folders))  # named like an image: reading it raises the error
    out.files.sort()
    out.unread.extend(closed(path, reason) for path, reason in found.closed.items())
    return out


def closed(path: Path, reason: str) -> DataError:
    """The error for a folder that cannot be listed."""
    return DataError(f"cannot be listed ({reason})", path=path, hint="check the folder's owner and mode")


def reasons(errors: Iterable[DataError]) -> str:
    """Why files could not be used, with counts, in one line."""
    counts = Counter(str(error).removeprefix(f"{error.path}: ") for error in errors)
    each = ", ".join(f"{n} x {what}" for what, n in counts.most_common(5))
    return each + ("" if len(counts) <= 5 else f" and {len(counts) - 5} more reasons")


def _head(path: Path) -> bytes:
    """The first bytes of a file, none of what is no file (a pipe would be waited for) or cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def images_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """Sorted images of a folder, with `deep` of its sub-folders too; none where there is no such folder."""
    return list_images(folder, deep=deep).files if folder.is_dir() else []
