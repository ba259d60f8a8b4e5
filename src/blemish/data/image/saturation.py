"""How much of a defect has to be found for it to count as found whole, where a data set says so in a JSON list.

Bergmann et al., Beyond dents and scratches: logical constraints in unsupervised anomaly detection, IJCV 2022.
The grey value of a mask names the entry of its defect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish.data.image.decode import read_image, read_mask
from blemish.errors import DataError
from blemish.types import Record


@dataclass(frozen=True, slots=True)
class Saturation:
    """How much of a defect has to be found for it to count as found whole."""

    defect: str
    threshold: float  # pixels, or a share of the defect's area
    relative: bool

    def pixels(self, area: int) -> int:
        """The saturation area of a defect of `area` pixels; never more than that."""
        return min(int(self.threshold * area) if self.relative else int(self.threshold), area)


def saturations(path: Path) -> dict[int, Saturation]:
    """By grey value of the mask, from a JSON list of defects; DataError where that is damaged."""
    try:
        return {
            int(entry["pixel_value"]): Saturation(
                str(entry["defect_name"]), float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            )
            for entry in json.loads(path.read_text(encoding="utf-8"))
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is no list of defects ({error!r})", path=path, hint="copy the data set again") from None


def saturated_masks(record: Record, shape: tuple[int, int]) -> list[tuple[NDArray[np.bool_], int]]:
    """(mask, saturation in pixels) of each defect of one record; empty where nothing says it (`Record.saturation`).

    DataError where a mask cannot be read or its grey value is not in the list.
    """
    if record.saturation is None or not isinstance(record.mask, tuple):
        return []
    known, out = _kept(record.saturation), []
    for path in record.mask:
        values = read_image(path)
        mask = read_mask(path, shape)
        grey = int(values.max())
        if grey not in known:
            message = f"grey value {grey} is not in {record.saturation.name}"
            raise DataError(message, path=path, hint="copy the data set again")
        out.append((mask, max(known[grey].pixels(int(mask.sum())), 1)))
    return out


_kept = lru_cache(maxsize=16)(saturations)
