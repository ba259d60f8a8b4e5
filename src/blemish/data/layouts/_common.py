"""What the layouts share: finding files, making records, and the checks that hold for every one of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blemish.config import nearest
from blemish.data._kinds import HEAD, SUFFIXES, kind_of, unread, unread_kind
from blemish.errors import ConfigError, DataError
from blemish.files import walk
from blemish.outputs import without_maps
from blemish.types import Record, Split


class Listing(NamedTuple):
    """What a folder holds: the files of the samples, what could be none and why, and how many other files there are by
    their suffix (`hidden` and `without suffix` are two of those)."""

    files: list[Path]
    unread: list[DataError]
    other: Counter[str]

    def told(self) -> str | None:
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

    An image is told by its suffix, and where that is none of an image by its first bytes. Pictures of kinds that are
    not read, and folders that cannot be looked into, are `unread`. Hidden files and the folders of systems and tools
    are not looked at, and counted. Maps that an earlier run has drawn there are no images of parts.
    """
    found = walk(folder, deep=deep)
    kept = without_maps(found.files)
    out = Listing([], [], Counter({"hidden": found.hidden} if found.hidden else {}))
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
    out.files.extend(filter(is_image, found.folders))  # named like an image: who reads it says that it is none
    out.files.sort()
    out.unread.extend(closed(path, reason) for path, reason in found.closed.items())
    return out


def closed(path: Path, reason: str) -> DataError:
    """The error for a folder that cannot be looked into."""
    return DataError(f"cannot be looked into ({reason})", path=path, hint="check the folder's owner and mode")


def reasons(errors: Iterable[DataError]) -> str:
    """Why files could not be used, with counts, in one line."""
    said = Counter(str(error).removeprefix(f"{error.path}: ") for error in errors)
    each = ", ".join(f"{n} x {what}" for what, n in said.most_common(5))
    return each + ("" if len(said) <= 5 else f" and {len(said) - 5} more reasons")


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


def folders_in(folder: Path) -> list[Path]:
    """Sorted sub-folders; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def masks_in(folder: Path) -> dict[str, Path]:
    """Mask files by the stem of their image: `<stem>_mask.png` or `<stem>.png`."""
    return {path.stem.removesuffix("_mask"): path for path in images_in(folder)}


def categories(root: Path, is_category: Callable[[Path], bool]) -> list[Path]:
    """`root` itself, or those of its folders that are categories."""
    return [root] if is_category(root) else [folder for folder in folders_in(root) if is_category(folder)]


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


def relative(path: Path, root: Path) -> str:
    """The id of a file: its path from the root, with forward slashes."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def existing(path: Path, source: str | Path) -> Path:
    """`path`, or DataError saying that the list `source` names a file that is not there."""
    if not path.is_file():
        raise DataError(f"names {path}, which is not there", path=source, hint="is the data set complete?")
    return path


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
    no leak: knowing the unit can only hide the defect, and some data sets have none but such samples.
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
                raise DataError(f"{what} is in train and in test", path=record.path, hint="mend the split")
