"""Point clouds in MVTec AD's layout, as `synthesize surface3d` writes them and as MVTec 3D-AD has them: train/good,
test/<defect>, ground_truth/<defect>/<stem>_labels.npy, for one or many categories.

Bergmann et al., The MVTec 3D-AD dataset for unsupervised 3D anomaly detection and localization, VISAPP 2022: there
clouds lie in `xyz` and masks in `gt` of each folder. Where there is no file of labels, a field `label` of the cloud
itself is taken.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from blemish.data.cloud.formats import HOLDS_FIELDS, is_cloud
from blemish.data.layouts._common import Query, default_split_only, masks_in, relative
from blemish.data.layouts._folders import categories, child, defect_of, folders_in, good_folders, good_records
from blemish.types import Record, Split

PRIORITY = 119
MODALITY = "cloud"


def is_category(folder: Path) -> bool:
    return any(map(_clouds, (good for split in ("train", "test") for good in good_folders(child(folder, split)))))


def detect(root: Path) -> bool:
    return root.is_dir() and bool(categories(root, is_category))


def index(root: Path, query: Query) -> list[Record]:
    default_split_only(query.split, "surfaces")
    records: list[Record] = []
    for category in categories(root, is_category):
        of = partial(_records, root, category)
        records += good_records(category, _clouds, of)
        for folder in filter(_clouds, folders_in(child(category, "test"))):
            records += of(folder, "test", defect_of(folder))
    return records


def _records(root: Path, category: Path, folder: Path, split: Split, defect: str | None = None) -> list[Record]:
    truth, pictures = child(child(category, "ground_truth"), folder.name), masks_in(folder / "gt")
    group = category.resolve().name
    return [
        Record(
            relative(path, root),
            path,
            split,
            int(defect is not None),
            mask=_mask(path, truth, pictures) if defect else None,
            defect=defect,
            group=group,
        )
        for path in _clouds(folder)
    ]


def _clouds(folder: Path) -> list[Path]:
    """Clouds of a folder, or of its folder `xyz`."""
    cloud_folder = folder / "xyz" if (folder / "xyz").is_dir() else folder
    return sorted(path for path in cloud_folder.iterdir() if is_cloud(path)) if cloud_folder.is_dir() else []


def _mask(path: Path, truth: Path, pictures: dict[str, Path]) -> Path | None:
    labels = truth / f"{path.stem}_labels.npy"
    if labels.is_file():
        return labels
    return pictures.get(path.stem) or (path if path.suffix.lower() in HOLDS_FIELDS else None)
