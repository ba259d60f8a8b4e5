"""Real-IAD: realiad_jsons/<category>.json lists the images under realiad_<resolution>/<category>/; five views each.

Wang et al., Real-IAD: a real-world multi-view dataset for benchmarking versatile industrial anomaly detection,
CVPR 2024. A list is {"meta": {"normal_class", "prefix"}, "train": [{"category", "anomaly_class", "image_path",
"mask_path"}], "test": [...]}; paths start at the category's folder. unit = the folder of one sample (its views).
split="<name>" takes the lists in realiad_jsons_<name>; anomalous training images in those (noisy ones) are held.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from blemish.data.layouts._common import Query, default_split_only, existing, fair, plain_name, read_json, relative
from blemish.data.layouts._folders import folders_in
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 30
MODALITY = "image"
_LISTS = "realiad_jsons"
_VIEW = re.compile(r"_(C\d+)_")
_SPLITS: tuple[Split, ...] = ("train", "test")


def detect(root: Path) -> bool:
    return bool(_lists(root))


def index(root: Path, query: Query) -> list[Record]:
    """The smallest resolution that is unpacked; DataError where a listed file is missing."""
    default_split_only(query.split, "real_iad", set(_lists(root)) - {""})
    folder = _lists(root).get(query.split or "")
    records: list[Record] = []
    for path in sorted(folder.glob("*.json")) if folder else []:
        content = read_json(path)
        normal = content.get("meta", {}).get("normal_class", "OK")
        base = _base(root, path, str(content.get("meta", {}).get("prefix", "")))
        if base is None:
            continue  # the archives of the categories are unpacked one by one
        for split_name in _SPLITS:
            records += [_record(root, base, path, split_name, normal, entry) for entry in content.get(split_name, [])]
    return records


def _lists(root: Path) -> dict[str, Path]:
    """Folders with lists by the name of their split; the archive holds a folder of its own name, or not."""
    found = {}
    for folder in [*folders_in(root), *folders_in(root / _LISTS)]:
        if folder.name.startswith(_LISTS) and any(folder.glob("*.json")):
            found[folder.name.removeprefix(_LISTS).removeprefix("_")] = folder
    return found


def _base(root: Path, path: Path, prefix: str) -> Path | None:
    """The folder that the paths of a list start at; of `prefix`, its authors' place for it, only the end counts."""
    sizes = [folder for folder in folders_in(root) if folder.name.startswith("realiad_") and _LISTS not in folder.name]
    sizes.sort(key=lambda folder: (len(folder.name), folder.name))
    for folder in (*sizes, root):
        for name in (path.stem, Path(prefix).name):
            if name and (folder / name).is_dir():
                return folder / name
    return None


def _record(root: Path, base: Path, path: Path, split: Split, normal: str, entry: dict[str, Any]) -> Record:
    try:
        defect, image, mask = entry["anomaly_class"], entry["image_path"], entry.get("mask_path")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"has an entry without {error} in '{split}'", path=path, hint="copy the list again") from None
    try:
        group = plain_name(str(entry.get("category", path.stem)), "category")
    except ValueError as error:
        raise DataError(f"{error}, in '{split}'", path=path, hint="categories name folders") from None
    label = int(defect != normal)
    file = existing(base / image, path)
    view = _VIEW.search(file.name)
    return Record(
        relative(file, root),
        file,
        fair(split, label),
        label,
        mask=existing(base / mask, path) if mask and label else None,
        defect=defect if label else None,
        group=group,
        unit=relative(file.parent, base),
        view=view.group(1) if view else None,
    )
