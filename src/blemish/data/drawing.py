"""Pictures of verdicts: heat maps on a scale that all images of one model share, boxes, files.

The scale is the model's own, never the image's: a good part looks calm, and the same colour means the same everywhere.
The colour map is perceptually uniform and grows more opaque with the value, so that normal areas stay the plain image.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError, DataError
from blemish.files import write_whole

Picture = NDArray[np.uint8]

BOX = (0, 229, 255)  # RGB; a hue that neither grey images nor the heat map have
TRUTH = (80, 250, 123)
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
