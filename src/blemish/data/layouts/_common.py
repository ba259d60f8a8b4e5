"""What the layouts share: making records of files, reading lists, and the checks that hold for every one of them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from blemish.config import nearest
from blemish.data.layouts._folders import folders_in
from blemish.data.layouts._names import counted
from blemish.data.listing import images_in
from blemish.data.modality import Cut, Modality
from blemish.errors import ConfigError, DataError
from blemish.types import UNLABELLED, Record, Split

LONGEST = 100  # bytes of a category's name: models and results lie in folders named after it


class Query(NamedTuple):
    """The request to a layout; it ignores fields that do not concern it."""

    split: str | None = None  # another one than the layout's usual split
    seed: int = 0  # of a split that is drawn at random
    cut: Cut | None = None  # how recordings become windows
    modality: type[Modality[Any]] | None = None  # of a folder of good samples, which says nothing of it; None = images


def masks_in(folder: Path) -> dict[str, Path]:
    """Mask files by the stem of their image: `<stem>_mask.png` or `<stem>.png`."""
    return {path.stem.removesuffix("_mask"): path for path in images_in(folder)}


def masks_for(folder: Path, truth: Path) -> dict[str, Path]:
    """The masks of `truth` by the stem of their image in `folder`; a warning names those that match none."""
    masks = masks_in(truth)
    if unmatched := sorted(set(masks) - {path.stem for path in images_in(folder)}):
        names = counted([masks[stem].name for stem in unmatched])
        warnings.warn(f"{truth}: {len(unmatched)} masks match no image of {folder.name}: {names}", stacklevel=4)
    return masks


def warn_unmatched(truth: Path, tested: Iterable[Path]) -> None:
    """A warning naming the folders of masks that belong to no folder of test samples."""
    known = {folder.name.casefold() for folder in tested}
    unmatched = [one.name for one in folders_in(truth) if one.name.casefold() not in known and any(one.iterdir())]
    if unmatched:
        warnings.warn(f"{truth}: masks that belong to no folder of test samples: {counted(unmatched)}", stacklevel=4)


def records_of(
    root: Path,
    category: Path,
    folder: Path,
    split: Split,
    *,
    defect: str | None = None,
    masks: Mapping[str, Path] | Mapping[str, tuple[Path, ...]] | None = None,
    view: str | None = None,
) -> list[Record]:
    """One record for each image of `folder`; anomalous where `defect` is named, good otherwise."""
    label = int(defect is not None)
    return [
        Record(
            relative(path, root),
            path,
            split,
            label,
            mask=masks.get(path.stem) if masks and label else None,
            defect=defect,
            group=category.resolve().name,
            view=view,
        )
        for path in images_in(folder)
    ]


def unlabelled(root: Path, category: Path, folder: Path) -> list[Record]:
    """One record for each image of a folder whose labels its publisher keeps: held, and good to nobody."""
    found = records_of(root, category, folder, "held")
    return [replace(record, label=1, defect=UNLABELLED) for record in found]


def relative(path: Path, root: Path) -> str:
    """The id of a file: its path from the root, with forward slashes."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def existing(path: Path, source: str | Path) -> Path:
    """`path`, or DataError saying that the list `source` names a file that is not there."""
    if not path.is_file():
        raise DataError(f"names {path}, which is not there", path=source, hint="is the data set complete?")
    return path


def plain_name(name: str, what: str) -> str:
    """`name`, which a list gives to a category, or ValueError where it could not name a folder on every system."""
    reserved = re.fullmatch(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", name.casefold())
    if not name.strip() or name != name.strip() or name.startswith(".") or name.endswith(".") or reserved:
        raise ValueError(f"{what} '{name}' is no plain name")
    if odd := sorted({c for c in name if c in '/\\:*?"<>|' or not c.isprintable()}):
        raise ValueError(f"{what} {name!r} is no plain name: it has {', '.join(map(repr, odd))}")
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST:
        raise ValueError(f"{what} '{name[:40]}...' is longer than {LONGEST} bytes")
    return name


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; DataError naming it otherwise."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"is no readable JSON ({error})", path=path, hint="copy the data set again") from None
    if not isinstance(value, dict):
        raise DataError("does not hold a JSON object", path=path, hint="copy the data set again")
    return value


def fair(split: Split, label: int) -> Split:
    """Published lists with anomalies among the training images (few-shot, noisy): those are kept apart."""
    return "held" if split == "train" and label else split


def default_split_only(split: str | None, layout: str, known: Iterable[str] = ()) -> None:
    """ConfigError where a split was asked for that this layout does not have."""
    if split is not None and split not in (names := sorted(known)):
        hint = nearest(split, names) if names else "leave the split out"
        raise ConfigError(f"layout '{layout}' has no split '{split}'", hint=hint)


def check_disjoint(records: Iterable[Record]) -> None:
    """DataError where ids repeat, a training record is anomalous, or a file or a unit is on both sides.

    Units are compared between the good records of both sides. An anomalous sample of a unit that was learned from is
    no leak: knowing the unit can only hide the defect, and some data sets have only such samples.
    """
    ids: set[str] = set()
    sides: dict[object, str] = {}
    for record in records:
        if record.id in ids:
            raise DataError("is listed twice", path=record.path, hint="each sample is listed once")
        ids.add(record.id)
        if record.split == "train" and record.label:
            raise DataError("is anomalous and in the training split", path=record.path, hint="only good images train")
        if record.split == "held":
            continue
        keys: list[object] = [record.path if record.span is None else (record.path, record.span)]
        if record.unit is not None and not record.label:
            keys.append((record.group, record.unit))
        for key in keys:
            if sides.setdefault(key, record.split) != record.split:
                what = "the file" if key == keys[0] else f"unit '{record.unit}'"
                raise DataError(f"{what} is in train and in test", path=record.path, hint="correct the split")
