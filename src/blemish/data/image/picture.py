"""Images with their verdict drawn on them: heat map, boxes of regions, outline of a marked defect."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import BOX, TRUTH, Picture, Scale, colours, display, line_width, side_by_side
from blemish.errors import ConfigError
from blemish.types import Region

MOST_OPAQUE = 0.75


def overlay(
    image: NDArray[Any],
    anomaly_map: NDArray[np.float32],
    *,
    low: float,
    high: float,
    regions: Iterable[Region] = (),
) -> Picture:
    """The image with its heat map and boxes around regions: RGB uint8 (H, W, 3).

    `image` is canonical: (H, W[, 3]) uint8, uint16 or float32; `anomaly_map` (H, W) in the same pixels. Nothing is
    drawn at or below `low`; colour and opacity are full from `high` on. ConfigError where shapes differ or low >= high.
    """
    if image.shape[:2] != anomaly_map.shape:
        raise ConfigError(f"the image is {image.shape[:2]}, its map {anomaly_map.shape} (H, W)")
    if not low < high:
        raise ConfigError(f"a heat map's scale has to rise, not go from {low} to {high}")
    plain = display(image)
    value = np.clip((anomaly_map - low) / (high - low), 0, 1)
    alpha = (MOST_OPAQUE * np.sqrt(value))[..., None]
    out = np.ascontiguousarray((plain * (1 - alpha) + colours(value) * alpha).round().astype(np.uint8))
    width = line_width(out.shape[:2])
    for region in regions:
        x0, y0, x1, y1 = region.bbox
        cv2.rectangle(out, (x0, y0), (x1 - 1, y1 - 1), BOX, width, cv2.LINE_8)
    return out


def outline(picture: Picture, mask: NDArray[np.bool_]) -> Picture:
    """A copy of an RGB picture (H, W, 3) with the edge of a mask (H, W) drawn thin."""
    out = picture.copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, contours, -1, TRUTH, line_width(out.shape[:2]))
    return out


def thumbnail(
    image: NDArray[Any],
    anomaly_map: NDArray[np.float32],
    *,
    scale: Scale,
    regions: Iterable[Region] = (),
    mask: NDArray[np.bool_] | None = None,
    longest: int = 256,
) -> Picture:
    """Image (with the outline of `mask`, where there is one) beside its overlay, each side at most `longest` pixels.

    Both are resized before anything is drawn on them, so that lines stay thin; small spots keep their highest value.
    """
    h, w = anomaly_map.shape
    factor = longest / max(h, w)
    size = max(1, round(w * factor)), max(1, round(h * factor))
    small = cv2.resize(display(image), size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    values = cv2.resize(_spread(anomaly_map, round(1 / factor)), size, interpolation=cv2.INTER_LINEAR)
    boxes = [_scaled(region, factor, size) for region in regions]
    heat = overlay(small, cast(NDArray[np.float32], values), low=scale.low, high=scale.high, regions=boxes)
    left = cast(Picture, small)
    if mask is not None:
        # area averages above 0: a defect of one pixel is still outlined
        left = outline(left, cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0)
    return side_by_side(left, heat)


def _spread(anomaly_map: NDArray[np.float32], pixels: int) -> NDArray[np.float32]:
    """The largest value within this many pixels, so that a small spot survives the reduction."""
    if pixels < 2:
        return anomaly_map
    return cast(NDArray[np.float32], cv2.dilate(anomaly_map, np.ones((pixels, pixels), np.uint8)))


def _scaled(region: Region, factor: float, size: tuple[int, int]) -> Region:
    x0, y0, x1, y1 = (v * factor for v in region.bbox)
    box = (math.floor(x0), math.floor(y0), min(size[0], math.ceil(x1)), min(size[1], math.ceil(y1)))
    return Region(box, region.area_px, region.peak, region.score)
