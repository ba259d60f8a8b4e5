"""MVTec AD 2: train/good, validation/good, test_public/{good,bad,ground_truth/bad}, test_private, test_private_mixed.

Heckler-Kram et al., The MVTec AD 2 dataset: advanced scenarios for unsupervised anomaly detection, arXiv:2503.21622,
2025; the folders as its public code (`MVTecAD2_public_code_utils`) reads them: `test_public/ground_truth/bad/
<stem>_mask.png`, and `test_private/<number>_regular.png`, `test_private_mixed/<number>_mixed.png`, whose labels its
evaluation server keeps.

validation/good is held, and so are the images without labels (`types.UNLABELLED`): neither learned from nor measured.
Usually all is indexed; split="test_public", "test_private" and "test_private_mixed" take that test set alone.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path

from blemish.data.layouts._common import Query, default_split_only, masks_for, records_of, unlabelled, warn_unmatched
from blemish.data.layouts._folders import (
    categories,
    child,
    defect_of,
    folders_in,
    good_records,
    warn_empty,
    warn_unused,
)
from blemish.data.layouts._names import counted
from blemish.data.listing import images_in
from blemish.errors import DataError
from blemish.types import Record

PRIORITY = 45
MODALITY = "image"
PUBLIC, TRUTH = "test_public", "ground_truth"
PRIVATE = ("test_private", "test_private_mixed")


def is_category(folder: Path) -> bool:
    """One with images in one of the three test sets, which no other data set has by these names."""
    public = child(folder, PUBLIC)
    return any(map(images_in, [*folders_in(public), *(child(folder, name) for name in PRIVATE)]))


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, query: Query) -> list[Record]:
    default_split_only(query.split, "mvtec2", (PUBLIC, *PRIVATE))
    warn_empty(root, ("train", PUBLIC, *PRIVATE), lambda one: any(map(images_in, (one, *folders_in(one)))))
    records: list[Record] = []
    for category in categories(root, is_category):
        records += good_records(category, images_in, partial(records_of, root, category))
        if query.split in (None, PUBLIC):
            records += _public(root, category)
        for name in PRIVATE:
            if query.split in (None, name):
                folder = child(category, name)
                records += unlabelled(root, category, folder)
                if sub_folders := [one for one in folders_in(folder) if images_in(one)]:
                    names = counted([one.name for one in sub_folders])
                    warnings.warn(f"{folder}: not used, since its images lie in no folders: {names}", stacklevel=3)
    return records


def _public(root: Path, category: Path) -> list[Record]:
    public = child(category, PUBLIC)
    truth = child(public, TRUTH)
    tested = [folder for folder in folders_in(public) if folder != truth and images_in(folder)]
    warn_unused(public, [*tested, truth], images_in)
    warn_unmatched(truth, tested)
    records: list[Record] = []
    for folder in tested:
        masks = masks_for(folder, child(truth, folder.name))
        records += records_of(root, category, folder, "test", defect=defect_of(folder), masks=masks)
    return records


def submitted(path: Path) -> str:
    """The name, without suffix, of a test image's maps in what the evaluation server takes: category, test set, image.

    DataError where it lies in no test set of a category.
    """
    parts = Path(os.path.abspath(path)).with_suffix("").parts[1:]
    at = max((i for i, part in enumerate(parts[:-1]) if part.casefold() in (PUBLIC, *PRIVATE)), default=0)
    if not at or TRUTH in map(str.casefold, parts[at + 1 :]):
        hint = "inspect images of <category>/test_private and the like"
        raise DataError("is no test image of MVTec AD 2, by its folders", path=path, hint=hint)
    return "/".join((parts[at - 1], parts[at].casefold(), *parts[at + 1 :]))
