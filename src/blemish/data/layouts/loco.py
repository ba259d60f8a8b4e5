"""MVTec LOCO: test/{good,logical_anomalies,structural_anomalies}, one mask file per defect, saturation areas.

Bergmann et al., Beyond dents and scratches: logical constraints in unsupervised anomaly detection, IJCV 2022.
ground_truth/<kind>/<stem>/000.png, 001.png, ...: the grey value of a mask names the defect in defects_config.json.
validation/good is held.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish.data.image.decode import read_image, read_mask
from blemish.data.layouts._common import (
    Query,
    categories,
    child,
    default_split_only,
    defect_of,
    folders_in,
    good_in,
    records_of,
    say_unused,
)
from blemish.data.layouts._names import counted
from blemish.data.listing import images_in
from blemish.errors import DataError
from blemish.types import Record, Split

PRIORITY = 50
MODALITY = "image"
KINDS = ("logical_anomalies", "structural_anomalies")


@dataclass(frozen=True, slots=True)
class Saturation:
    """How much of a defect has to be found for it to count as found whole."""

    defect: str
    threshold: float  # pixels, or a share of the defect's area
    relative: bool

    def pixels(self, area: int) -> int:
        """The saturation area of a defect of `area` pixels; never more than that."""
        return min(int(self.threshold * area) if self.relative else int(self.threshold), area)


def saturations(category: str | Path) -> dict[int, Saturation]:
    """By grey value of the mask, from the category's defects_config.json; DataError where that is damaged."""
    path = Path(category) / "defects_config.json"
    try:
        return {
            int(entry["pixel_value"]): Saturation(
                str(entry["defect_name"]), float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            )
            for entry in json.loads(path.read_text(encoding="utf-8"))
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is no list of defects ({error!r})", path=path, hint="copy the data set again") from None


def has_saturation(record: Record) -> bool:
    """Whether the category that a record lies in says how much of each defect has to be found."""
    return len(record.path.parents) > 2 and (record.path.parents[2] / "defects_config.json").is_file()


def saturated_masks(record: Record, shape: tuple[int, int]) -> list[tuple[NDArray[np.bool_], int]]:
    """(mask, saturation in pixels) of each defect of one record; empty where its category has no defects_config.json.

    DataError where a mask cannot be read or its grey value is not in the list.
    """
    if not has_saturation(record) or not isinstance(record.mask, tuple):
        return []
    known, out = _cached_saturations(record.path.parents[2]), []
    for path in record.mask:
        values = read_image(path)
        mask = read_mask(path, shape)
        grey = int(values.max())
        if grey not in known:
            raise DataError(
                f"grey value {grey} is not in defects_config.json", path=path, hint="copy the data set again"
            )
        out.append((mask, max(known[grey].pixels(int(mask.sum())), 1)))
    return out


@lru_cache(maxsize=16)
def _cached_saturations(category: Path) -> dict[int, Saturation]:
    return saturations(category)


def is_category(folder: Path) -> bool:
    known = (folder / "defects_config.json").is_file() or any(child(child(folder, "test"), k).is_dir() for k in KINDS)
    return known and bool(good_in(child(folder, "train")))


def detect(root: Path) -> bool:
    return bool(categories(root, is_category))


def index(root: Path, query: Query) -> list[Record]:
    default_split_only(query.split, "loco")
    records: list[Record] = []
    sides: tuple[tuple[str, Split], ...] = (("train", "train"), ("validation", "held"))
    for category in categories(root, is_category):
        for name, side in sides:
            good = good_in(child(category, name))
            say_unused(child(category, name), good, images_in)
            for folder in good:
                records += records_of(root, category, folder, side)
        test = child(category, "test")
        say_unused(test, folders_in(test), images_in)
        for folder in filter(images_in, folders_in(test)):
            truth = child(child(category, "ground_truth"), folder.name)
            masks = {one.name: tuple(images_in(one)) for one in folders_in(truth) if images_in(one)}
            unmatched = sorted(set(masks) - {path.stem for path in images_in(folder)})
            if unmatched:
                names = counted(unmatched)
                warnings.warn(f"{truth}: masks of {len(unmatched)} images that are not there: {names}", stacklevel=3)
            records += records_of(root, category, folder, "test", defect=defect_of(folder), masks=masks)
    return records
