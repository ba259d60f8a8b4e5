"""Data sets as they lie on disk become lists of records. One module of this folder is one layout.

Each has `PRIORITY` (smaller = more specific, asked first), `detect(root) -> bool` and
`index(root, query) -> list[Record]`, which ignores the fields of the `Query` that do not concern it; one whose data
come as a package has `locate() -> Path` too. `MODALITY` names what its samples are, None where its files say so: the
same folder may hold pictures to one method and points to another. A folder of good samples needs no layout of its own,
whatever the modality: `folder` asks that for its files.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from blemish.config import nearest
from blemish.data import registry
from blemish.data.layouts import folder
from blemish.data.layouts._common import Query, check_disjoint
from blemish.data.layouts._names import meaning_of
from blemish.data.listing import reasons
from blemish.data.modality import Cut, Modality
from blemish.errors import ConfigError, DataError
from blemish.files import is_hidden
from blemish.types import Record

__all__ = ["Cut", "Query", "by_folder", "check_disjoint", "check_named", "folders", "index", "names", "select"]


class Layout(Protocol):
    """What a module of this folder offers."""

    PRIORITY: int
    MODALITY: str | None

    def detect(self, root: Path) -> bool: ...

    def index(self, root: Path, query: Query) -> list[Record]: ...


def names() -> list[str]:
    """The layouts there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def index(
    source: str | Path,
    layout: str | None = None,
    split: str | None = None,
    *,
    seed: int = 0,
    cut: Cut | None = None,
    kind: str | None = None,
) -> list[Record]:
    """The records of a data set, sorted by id; `layout` is detected where it is None.

    `source` is a folder, a manifest file, or the name of a layout whose data come as a package. `split` names one of
    the layout's other splits, `seed` draws the split again where the layout draws it, `cut` says how long the windows
    of recordings are and which lightings images have, `kind` which modality is wanted ("cloud" or another; None = any)
    where the layout is detected.
    Raises ConfigError on an unknown layout or split, DataError where there is nothing to index or a check of
    `check_disjoint` fails.
    """
    if layout is not None and layout not in names():
        raise ConfigError(f"no layout '{layout}'", hint=nearest(layout, names()))
    root = Path(source)
    if not root.exists():
        packaged = getattr(_load(str(source)), "locate", None) if str(source) in names() else None
        if packaged is None:
            raise DataError("no such file or folder", path=root, hint="check the path")
        root, layout = packaged(), layout or str(source)
    module = _load(layout) if layout is not None else _detected(root, kind, cut)
    of_any = module is cast(Layout, folder)  # a folder of good samples is one of any modality
    modality = registry.get((kind if of_any else module.MODALITY) or kind or registry.DEFAULT)
    found = modality.completed(module.index(root, Query(split, seed, cut, modality)), cut)
    records = sorted(found, key=lambda record: record.id)
    if not records:
        raise DataError(f"no {modality.samples} found", path=root, hint=f"{_wanted(modality)}, or name its layout")
    check_disjoint(records)
    for group in {record.group for record in records}:
        if group is not None and (group in ("", ".", "..") or set(group) & {"/", "\\", "\0"}):
            raise DataError(
                f"category {group!r} is no plain name", path=root, hint="models lie in folders of these names"
            )
    if root.is_dir() and (unread := modality.listing(root).unread):
        warnings.warn(f"{root}: left out, which may be {modality.samples}: {reasons(unread)}", stacklevel=2)
    return records


def select(records: Sequence[Record], categories: Sequence[str]) -> list[Record]:
    """The records of some categories (`Record.group`), all where `categories` is empty; ConfigError on an unknown."""
    known = sorted({record.group for record in records if record.group is not None})
    for category in categories:
        if category not in known:
            raise ConfigError(f"no category '{category}'", hint=nearest(category, known))
    return [record for record in records if not categories or record.group in categories]


def by_folder(records: Sequence[Record]) -> list[Record]:
    """The records with their first folder, below the one that all lie in, as their category; as they are where one of
    them has a category.

    What a user means who puts the images of each product into a folder of its own, in a folder of good images.
    DataError where some lie beside those folders, or have no category where others have one.
    """
    named = [record for record in records if record.group is not None]
    if named and len(named) < len(records):
        first = next(record for record in records if record.group is None)
        message = f"{len(records) - len(named)} good images have no category, and {len(named)} have one"
        raise DataError(message, path=first.path, hint="give each its category (group)")
    if not records or named:
        return list(records)
    folders = [record.path.absolute().parent for record in records]
    root = Path(os.path.commonpath(folders))
    first_parts = [folder.relative_to(root).parts[:1] for folder in folders]
    if (stray := first_parts.count(())) not in (0, len(records)):
        message = (
            f"{stray} images lie beside the folders of the products, first {_first(records, first_parts).path.name}"
        )
        raise DataError(message, path=root, hint="put each into the folder of its product")
    return [replace(record, group=part[0] if part else None) for record, part in zip(records, first_parts, strict=True)]


def _first(records: Sequence[Record], parts: Sequence[tuple[str, ...]]) -> Record:
    return next(record for record, part in zip(records, parts, strict=True) if not part)


def check_named(paths: Sequence[Path]) -> None:
    """DataError where the folders of files that a caller has listed as good ones are called bad, or are hidden."""
    if not paths:
        return
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    for path in paths:
        for part in path.absolute().relative_to(root).parts[:-1]:
            if meaning_of(part).bad or is_hidden(part):
                hint = "leave it out, or give a Record, which says what it is"
                raise DataError(f"lies in a folder '{part}' and is listed as a good one", path=path, hint=hint)


def folders(records: Sequence[Record], most: int = 8) -> str:
    """What is learned from, for people: the folders of the good training records and how many lie in each."""
    good = [record for record in records if record.split == "train" and not record.label]
    if not good:
        return "nothing"
    parents = [record.path.absolute().parent for record in good]
    root = Path(os.path.commonpath(parents))
    counts = Counter("/".join(parent.relative_to(root).parts) or root.name for parent in parents)
    shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items())[:most])
    not_shown = f" and {len(counts) - most} more" if len(counts) > most else ""
    return f"{shown}{not_shown}" if len(counts) == 1 else f"{len(counts)} folders: {shown}{not_shown}"


def _load(name: str) -> Layout:
    return cast(Layout, importlib.import_module(f"{__name__}.{name}"))


def _detected(root: Path, kind: str | None, cut: Cut | None = None) -> Layout:
    for module in sorted(map(_load, names()), key=lambda module: module.PRIORITY):
        if (kind is None or module.MODALITY in (None, kind)) and module.detect(root):
            return module
    modality = registry.get(kind or registry.DEFAULT)
    if folder.detect(root, modality, cut):
        return _load("folder")
    if root.is_dir() and (unread := modality.listing(root).unread):
        found = f"no {modality.samples} found that are read: {reasons(unread)}"
        raise DataError(found, path=root, hint=unread[0].hint)
    what = f"no {modality.samples} found" if root.is_dir() else f"not a data set of {modality.samples}"
    raise DataError(what, path=root, hint=_wanted(modality))


def _wanted(modality: type[Modality[Any]]) -> str:
    return f"give a folder of {modality.samples} ({modality.hint}), a data set or a manifest (.csv, .jsonl)"
