"""From an anomaly map to the places that a person should look at."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.types import Region


def find_regions(anomaly_map: NDArray[np.float32], threshold: float, most: int = 50) -> tuple[Region, ...]:
    """8-connected areas of (H, W) above `threshold`, highest peak first, at most `most` of them.

    Boxes are in the map's own pixels, x1 and y1 exclusive.
    """
    found = [region for region, _ in cut(anomaly_map, threshold)]
    return tuple(sorted(found, key=lambda r: -r.peak)[:most])


def cut(anomaly_map: NDArray[np.float32], threshold: float) -> Iterator[tuple[Region, NDArray[np.bool_]]]:
    """Every such area, with its mask inside its box."""
    above = (anomaly_map > threshold).view(np.uint8)
    if not above.any():
        return
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    for i in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[i])
        window = slice(y, y + h), slice(x, x + w)
        mask = labels[window] == i
        values = anomaly_map[window][mask]
        yield Region((x, y, x + w, y + h), area, float(values.max()), float(values.mean())), mask
