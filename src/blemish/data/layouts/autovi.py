"""AutoVI, automotive assembly: train/good, test/{good,<defect>}, ground_truth/<defect>/<stem>/0000.png for each defect.

Carvalho et al., Detecting visual anomalies in an industrial environment: unsupervised methods put to the test on the
AutoVI dataset, Computers in Industry 2024 (data: doi.org/10.5281/zenodo.10459003). Masks and saturation areas
(`defects_config.json`) are those of MVTec LOCO, whose evaluation code its authors adapted, so `loco` does the work;
types of defect are named as they are (`unclipped`, `missing`), and there is no validation set.
"""

from __future__ import annotations

from pathlib import Path

from blemish.data.layouts import loco
from blemish.data.layouts._common import Query, default_split_only
from blemish.data.layouts._folders import categories, child, folders_in, good_folders, warn_empty
from blemish.data.listing import images_in
from blemish.types import Record

PRIORITY = 48
MODALITY = "image"


def is_category(folder: Path) -> bool:
    """One that is not of MVTec LOCO, with its list of defects or a folder of masks for an image."""
    known = (folder / loco.SATURATION).is_file() or any(
        images_in(one) for defect in folders_in(child(folder, "ground_truth")) for one in folders_in(defect)[:1]
    )
    kinds = any(child(child(folder, "test"), kind).is_dir() for kind in loco.KINDS)
    return known and not kinds and any(map(images_in, good_folders(child(folder, "train"))))


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, query: Query) -> list[Record]:
    """As `loco.index`, of the folders of this data set."""
    default_split_only(query.split, "autovi")
    warn_empty(root, ("train", "test"), lambda one: any(map(images_in, folders_in(one))))
    return [record for category in categories(root, is_category) for record in loco.category_records(root, category)]
