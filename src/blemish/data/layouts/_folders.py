"""What the layouts share about folders: which there are, and what their names say of the samples in them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from blemish.data.layouts._names import counted, meaning_of
from blemish.errors import DataError
from blemish.files import is_hidden
from blemish.types import Record, Split


def folders_in(folder: Path) -> list[Path]:
    """Sorted sub-folders; none where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def child(folder: Path, *names: str) -> Path:
    """The sub-folder of the first of these names that exists, in any case; the first name where none exists.

    DataError where two folders differ in case alone.
    """
    sub_folders = folders_in(folder)
    for name in names:
        found = [one for one in sub_folders if one.name.casefold() == name.casefold()]
        if len(found) > 1:
            raise DataError(f"has folders {counted([f.name for f in found])}", path=folder, hint="which one is meant?")
        if found:
            return found[0]
    return folder / names[0]


def good_folders(folder: Path) -> list[Path]:
    """The sub-folders whose names say that good samples are in them and nothing else: good, OK, normal, i.O."""
    return [one for one in folders_in(folder) if meaning_of(one.name).alone]


def defect_of(folder: Path) -> str | None:
    """The type of defect that a folder of test samples is named for; None where it is one of good samples.

    DataError where the name is ambiguous.
    """
    meaning = meaning_of(folder.name)
    if meaning.good and not meaning.alone:
        hint = "name it good, or after the defect"
        raise DataError("may hold good samples or defective ones, by its name", path=folder, hint=hint)
    return None if meaning.good else folder.name


def categories(root: Path, is_category: Callable[[Path], bool]) -> list[Path]:
    """`root` itself, or those of its folders that are categories."""
    return [root] if is_category(root) else [folder for folder in folders_in(root) if is_category(folder)]


def warn_unused(folder: Path, used: Iterable[Path], holds: Callable[[Path], object]) -> None:
    """A warning naming what a folder of samples holds beside the sub-folders that are used."""
    unused = [f"folder '{one.name}'" for one in folders_in(folder) if one not in set(used) and holds(one)]
    if folder.is_dir() and holds(folder):
        unused.append("files that lie in no folder of their own")
    if unused:
        warnings.warn(f"{folder}: not used, since no name says what it is: {', '.join(unused)}", stacklevel=4)


def warn_empty(root: Path, names: Iterable[str], holds: Callable[[Path], object]) -> None:
    """A warning naming the folders of these names, of `root` or of one of its folders, in which no samples lie: a copy
    that broke off, which leaves a category out or has nothing to learn from."""
    found = [child(one, name) for one in (root, *folders_in(root)) for name in names]
    empty = [folder.relative_to(root).as_posix() for folder in found if folder.is_dir() and not holds(folder)]
    if empty:
        warnings.warn(f"{root}: no samples in {counted(empty)}", stacklevel=4)


def good_records(
    category: Path, holds: Callable[[Path], object], records: Callable[[Path, Split], list[Record]]
) -> list[Record]:
    """The good samples of train, which are learned from, and those of validation, which are held.

    `holds` tells whether samples lie in a folder, `records` makes them. A warning names what is not used.
    """
    out: list[Record] = []
    sides: tuple[tuple[str, Split], ...] = (("train", "train"), ("validation", "held"))
    for name, split in sides:
        good = good_folders(child(category, name))
        warn_unused(child(category, name), good, holds)
        for folder in good:
            out += records(folder, split)
    return out
