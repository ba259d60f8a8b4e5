"""DAGM 2007, textures: Class1/{Train,Test}/*.PNG beside Label/Labels.txt and Label/<stem>_label.PNG.

Wieler and Hahn, Weakly supervised learning for industrial optical inspection, DAGM symposium 2007 (data and the shape
of its folders: doi.org/10.5281/zenodo.12750201). A line of Labels.txt is number, 0 or 1 (defective), image, 0, mask or
0, between tabs, below a line with the number 1 alone. The list is needed, since a mask that is missing would turn a
defective image into a good one. The archives hold a folder of their own name (Class1/Class1/Train). Masks are ellipses
drawn roughly around a defect, so pixel metrics ask for these and not for its outline. Half of the defective images lie
in Train: those are held.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts._common import Query, default_split_only, fair, relative
from blemish.data.layouts._folders import child, folders_in, warn_empty
from blemish.data.layouts._names import counted
from blemish.data.listing import images_in
from blemish.data.tables import decoded
from blemish.errors import DataError
from blemish.files import read_file
from blemish.types import Record, Split

PRIORITY = 55
MODALITY = "image"
LIST = "Labels.txt"
SIDES: tuple[tuple[str, Split], ...] = (("Train", "train"), ("Test", "test"))
_HINT = "copy the data set again"


def is_category(folder: Path) -> bool:
    """One with the list of Train or of Test."""
    return any((child(child(folder, name), "Label") / LIST).is_file() for name, _ in SIDES)


def detect(root: Path) -> bool:
    return root.is_dir() and bool(_categories(root))


def index(root: Path, query: Query) -> list[Record]:
    """DataError where a list is missing, or disagrees with the files beside it."""
    default_split_only(query.split, "dagm")
    for category in _categories(root):
        warn_empty(category, [name for name, _ in SIDES], images_in)
    return [
        record
        for category in _categories(root)
        for name, split in SIDES
        for record in _records(root, category, child(category, name), split)
    ]


def _categories(root: Path) -> list[Path]:
    """`root` itself, its folders, or what lies in one of them by the same name: an archive unpacked into a folder."""
    if is_category(root):
        return [root]
    each = (one if is_category(one) else child(one, one.name) for one in folders_in(root))
    found = [folder for folder in each if is_category(folder)]
    return found or [folder for folder in [child(root, root.name)] if is_category(folder)]


def _records(root: Path, category: Path, folder: Path, split: Split) -> list[Record]:
    images, truth = images_in(folder), child(folder, "Label")
    if not images:
        return []
    if not (truth / LIST).is_file():
        message = f"has images and no {truth.name}/{LIST}, so nothing says for sure which of them are defective"
        raise DataError(message, path=folder, hint=f"{_HINT}, or write a manifest")
    masks = {path.stem.removesuffix("_label"): path for path in images_in(truth)}
    defective = _listed(truth / LIST, {path.name for path in images})
    if wrong := sorted(set(masks) & {Path(name).stem for name, bad in defective.items() if not bad}):
        message = f"calls images good that have a mask: {counted(wrong)}"
        raise DataError(message, path=truth / LIST, hint=_HINT)
    if lost := sorted(set(masks) - {path.stem for path in images}):
        raise DataError(f"masks match no image: {counted(lost)}", path=truth, hint=_HINT)
    return [
        Record(
            relative(path, root),
            path,
            fair(split, label),
            label,
            mask=masks.get(path.stem) if label else None,
            defect="defect" if label else None,
            group=category.resolve().name,
        )
        for path in images
        for label in [int(defective[path.name])]
    ]


def _listed(path: Path, images: set[str]) -> dict[str, bool]:
    """Which images are defective, by their names; DataError where a line is not understood, or an image is missing in
    the list or beside it, or listed twice."""
    try:
        lines = decoded(read_file(path)).splitlines()
    except DataError as error:
        raise error.at(path) from None
    found: dict[str, bool] = {}
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells or (number == 1 and len(cells) == 1):  # the first line counts the data sets
            continue
        if len(cells) < 3 or cells[1] not in ("0", "1"):
            message = f"line {number} is not understood: {line.strip()[:60]!r}"
            raise DataError(message, path=path, hint="number, 0 or 1, and image between tabs")
        if cells[2] in found:
            raise DataError(f"line {number} lists '{cells[2]}' again", path=path, hint="each image is listed once")
        found[cells[2]] = cells[1] == "1"
    if missing := sorted(set(found) - images):
        raise DataError(f"names images that are not there: {counted(missing)}", path=path, hint=_HINT)
    if unlisted := sorted(images - set(found)):
        raise DataError(f"does not name images that are there: {counted(unlisted)}", path=path, hint=_HINT)
    return found
