"""Regions as label tools read them: COCO, YOLO and binary masks, of pictures, in their own pixels.

All come from the anomaly map above its threshold, as the regions of a result do, of every picture whatever its verdict.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.image.modality import Images
from blemish.data.outlines import outlines
from blemish.data.regions import find_regions
from blemish.errors import ConfigError, DataError
from blemish.files import write_whole
from blemish.inspection.inspector import Inspector
from blemish.types import AnomalyResult, Region

NAME = "anomaly"
_HEAD = b'{"info": {"description": "Regions that Blemish found"'


class Marked(NamedTuple):
    """What lies above the threshold of a map: everywhere, and region by region, highest peak first."""

    mask: NDArray[np.bool_]
    regions: tuple[Region, ...]


def check(line: Inspector) -> None:
    """ConfigError where a model finds no regions of pictures."""
    if not isinstance(line.kind, Images):
        message = f"--labels and --masks are of pictures, and this is a model of {line.kind.name}s"
        raise ConfigError(message, hint="the JSON lines have the regions of all models")
    locator = line.kind.preprocess.locate
    if locator is not None and locator.several:
        message = "--labels and --masks are of pictures, and this model judges several parts of one"
        raise ConfigError(message, hint="the JSON lines have the regions of every part")
    if line.calibrator is None and line.categories is None:
        message = "--labels and --masks need a threshold, and this model has none"
        raise ConfigError(message, hint="`blemish calibrate MODEL GOOD` makes one")


def marked(line: Inspector, result: AnomalyResult) -> Marked:
    """The mask and all regions of a result; DataError where its category has no threshold."""
    calibrator = line.calibrator
    if line.categories is not None:
        known = line.categories.known.get(line.engine.precision)
        calibrator = known.scores[line.categories.names.index(str(result.category))] if known else None
    if calibrator is None:
        message = f"the category '{result.category}' has no threshold, so nothing can be marked"
        raise DataError(message, path=result.image_path, hint="`blemish calibrate` with more good images of it")
    above = result.anomaly_map > calibrator.map_threshold
    return Marked(above, find_regions(result.anomaly_map, calibrator.map_threshold, most=above.size))


def mask_png(found: Marked) -> bytes:
    """The mask as a file: 255 above the threshold, 0 elsewhere."""
    return cv2.imencode(".png", found.mask.astype(np.uint8) * 255)[1].tobytes()


def yolo(found: Marked) -> bytes:
    """A line for each region: class, middle, width and height of its box, as shares of the picture's."""
    height, width = found.mask.shape
    lines = []
    for x0, y0, x1, y1 in (region.bbox for region in found.regions):
        shares = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        lines.append(" ".join(["0", *(f"{share:.8f}" for share in shares)]) + "\n")
    return "".join(lines).encode()


class Coco:
    """A COCO file of all pictures of a run. `total` is how many are to be inspected."""

    def __init__(self, path: Path, total: int) -> None:
        self.path, self.total = path, total
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    @staticmethod
    def is_ours(data: bytes) -> bool:
        """Whether a file is one that `write` wrote."""
        return data.startswith(_HEAD)

    def add(self, name: str, result: AnomalyResult, found: Marked) -> None:
        """A picture and its regions; `name` is its path below the folder that all inputs lie in."""
        height, width = found.mask.shape
        verdict = {"pred_score": result.score, "p_value": result.p_value, "pred_label": result.verdict}
        image = {"id": len(self.images) + 1, "file_name": name, "width": width, "height": height, **verdict}
        self.images.append(image)
        for region in found.regions:
            x0, y0, x1, y1 = region.bbox
            polygons = outlines(_alone(found.mask[y0:y1, x0:x1]))
            moved = [[v + (x0, y0)[i % 2] for i, v in enumerate(polygon)] for polygon in polygons]
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image["id"],
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": region.area_px,
                    "segmentation": moved,
                    "iscrowd": 0,
                    "score": region.score,
                    "peak": region.peak,
                }
            )

    def write(self) -> None:
        """The file, whole or not at all; how many pictures are in it, and how many were to be, stands in `info`."""
        info = {"description": "Regions that Blemish found", "pictures": len(self.images), "of": self.total}
        value = {
            "info": info,
            "licenses": [],
            "categories": [{"id": 1, "name": NAME, "supercategory": ""}],
            "images": self.images,
            "annotations": self.annotations,
        }
        write_whole(self.path, (json.dumps(value, allow_nan=False) + "\n").encode())


def _alone(window: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The one region whose box the window is: two that both reach all four sides would touch."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(window.astype(np.uint8), connectivity=8)
    whole = (0, 0, window.shape[1], window.shape[0])
    number = next(i for i in range(1, len(stats)) if tuple(stats[i][:4]) == whole)
    return np.asarray(labels == number)
