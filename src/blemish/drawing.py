"""Pictures of verdicts: heat maps on a scale that all images of one model share, boxes, files.

The scale is the model's own, never the image's: a good part looks calm, and the same colour means the same everywhere.
The colour map is perceptually uniform and grows more opaque with the value, so that normal areas stay the plain image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError, DataError
from blemish.files import write_whole
from blemish.types import Region

Picture = NDArray[np.uint8]

BOX = (0, 229, 255)  # RGB; a hue that neither grey images nor the heat map have
TRUTH = (80, 250, 123)
MOST_OPAQUE = 0.75
# Inferno without its ends: its black would darken areas that are hardly unusual, its white vanish on bright parts.
_COLOURS = cv2.cvtColor(
    cv2.applyColorMap(np.linspace(60, 240, 256).round().astype(np.uint8)[None], cv2.COLORMAP_INFERNO),
    cv2.COLOR_BGR2RGB,
)[0]


class Scale(NamedTuple):
    """Map values that heat maps start and end at."""

    low: float
    high: float


def colours(values: NDArray[Any]) -> Picture:
    """RGB (..., 3) of values (...) in [0, 1]; anything beyond is clipped."""
    return cast(Picture, _COLOURS[(np.clip(values, 0, 1) * 255).round().astype(np.uint8)])


def display(image: NDArray[Any]) -> Picture:
    """A canonical image (H, W[, 3]) as uint8 RGB (H, W, 3) for people.

    uint8 stays; deeper ones are stretched between their 0.1 and 99.9 % quantiles.
    """
    if image.dtype != np.uint8:
        low, high = np.quantile(image, [0.001, 0.999])
        spread = max(float(high - low), 1e-12)
        image = (np.clip((image.astype(np.float32) - low) / spread, 0, 1) * 255).round().astype(np.uint8)
    if image.ndim == 2:
        return cast(Picture, np.repeat(image[:, :, None], 3, axis=2))
    return cast(Picture, np.ascontiguousarray(image[:, :, :3]))


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


def line_width(shape: tuple[int, ...]) -> int:
    """Pixels of a thin line that is still seen when (H, W) is shown on a screen."""
    return max(1, round(math.sqrt(shape[0] * shape[1]) / 300))


def side_by_side(*pictures: Picture, gap: int = 4) -> Picture:
    """RGB pictures of one size in a row, or below each other where they are much wider than high; the gap is white."""
    height, width = pictures[0].shape[:2]
    if any(p.shape != pictures[0].shape for p in pictures):
        raise ConfigError("pictures side by side have to be of one size")
    stacked = width > 1.6 * height
    space = np.full((gap, width, 3) if stacked else (height, gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (space, picture)][1:]
    return cast(Picture, np.concatenate(parts, axis=0 if stacked else 1))


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
    """The largest value within so many pixels, so that a small spot survives the shrinking."""
    if pixels < 2:
        return anomaly_map
    return cast(NDArray[np.float32], cv2.dilate(anomaly_map, np.ones((pixels, pixels), np.uint8)))


def _scaled(region: Region, factor: float, size: tuple[int, int]) -> Region:
    x0, y0, x1, y1 = (v * factor for v in region.bbox)
    box = (math.floor(x0), math.floor(y0), min(size[0], math.ceil(x1)), min(size[1], math.ceil(y1)))
    return Region(box, region.area_px, region.peak, region.score)


def encode(picture: NDArray[Any], suffix: str = ".png", quality: int = 85) -> bytes:
    """The bytes of an image file: ".png" (RGB or grey, 8 or 16 bits) or ".jpg" (8 bits, `quality` of 100)."""
    array = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    fine, data = cv2.imencode(suffix, array, [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else [])
    if not fine:
        raise DataError(f"an array of shape {picture.shape}, type {picture.dtype} cannot become a {suffix} file")
    return data.tobytes()


def write_png(path: str | Path, array: NDArray[Any]) -> None:
    """Write RGB (H, W, 3) or grey (H, W), 8 or 16 bits; whole or not at all. DataError where it cannot be."""
    write_whole(path, encode(array))
