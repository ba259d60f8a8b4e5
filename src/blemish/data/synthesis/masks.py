"""Where a synthetic defect lies. Every mask is bool (H, W) and never empty."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.synthesis.perlin import perlin
from blemish.errors import ConfigError

Mask = NDArray[np.bool_]
Shape = tuple[int, int]
Masker = Callable[[Shape, np.random.Generator], Mask]

DRAWS = 4  # of a Perlin mask, before its threshold gives way


def perlin_mask(
    shape: Shape,
    generator: np.random.Generator,
    *,
    least: float = 0.002,
    most: float = 0.25,
    threshold: float = 0.5,
    finest: int = 5,
) -> Mask:
    """Islands of Perlin noise above `threshold`, 2^0 to 2^`finest` cells along each axis, turned by any angle.

    Zavrtanik et al., DRAEM, ICCV 2021; Zhang et al., DeSTSeg, CVPR 2023. There a mask may be empty or nearly full. Here
    its share of the pixels is in [least, most], and it has a pixel at least: other masks are drawn again, and after a
    few draws the last one keeps its highest `least` or `most` of pixels. ConfigError on bounds out of order.
    """
    low, high = _counts(shape, least, most)
    centre = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    for _ in range(DRAWS):
        cells = 2.0 ** generator.integers(0, finest + 1, 2)
        noise = perlin(shape, list(cells), generator)
        turn = cv2.getRotationMatrix2D(centre, generator.uniform(-90, 90), 1)
        # reflected: what is turned in from outside is noise as well
        noise = np.asarray(cv2.warpAffine(noise, turn, shape[::-1], borderMode=cv2.BORDER_REFLECT_101), np.float32)
        mask = noise > threshold
        count = int(np.count_nonzero(mask))
        if low <= count <= high:
            return mask
    return highest(noise, low if count < low else high)


def box_mask(
    shape: Shape,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.02, 0.15),
    aspect: tuple[float, float] = (0.3, 3.3),
) -> Mask:
    """An upright box with a share `area` of the pixels and a height of `aspect` times its width, log-uniform."""
    pixels = generator.uniform(*area) * shape[0] * shape[1]
    ratio = math.exp(generator.uniform(*np.log(aspect)))
    h = min(max(round(math.sqrt(pixels * ratio)), 1), shape[0])
    w = min(max(round(math.sqrt(pixels / ratio)), 1), shape[1])
    y, x = int(generator.integers(shape[0] - h + 1)), int(generator.integers(shape[1] - w + 1))
    mask = np.zeros(shape, bool)
    mask[y : y + h, x : x + w] = True
    return mask


def blob_mask(shape: Shape, generator: np.random.Generator, *, area: tuple[float, float] = (0.005, 0.08)) -> Mask:
    """One irregular area with small islands, of exactly the drawn share `area` of the pixels."""
    low, high = _counts(shape, *area)
    count = int(generator.integers(low, high + 1))
    slim, angle = generator.uniform(0.4, 1), generator.uniform(0, math.pi)
    y = (np.arange(shape[0], dtype=np.float32) - generator.uniform(0.1, 0.9) * shape[0])[:, None]
    x = (np.arange(shape[1], dtype=np.float32) - generator.uniform(0.1, 0.9) * shape[1])[None]
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    radius = math.sqrt(count / math.pi)
    distance = np.hypot(slim * (c * x + s * y), (c * y - s * x) / slim) / np.float32(radius)
    # lumps of about the blob's own size, wherever it lies
    cells = [min(max(n / radius * generator.uniform(0.4, 1.2), 0.5), n / 2 + 0.5) for n in shape]
    lumpy = perlin(shape, cells, generator) * np.float32(1.2) - distance
    return highest(lumpy.astype(np.float32), count)


def thread_mask(
    shape: Shape,
    generator: np.random.Generator,
    *,
    length: tuple[float, float] = (0.1, 0.5),
    width: tuple[float, float] = (0.004, 0.015),
) -> Mask:
    """A wandering line, now and then forked, as cracks, hairs and fibres are; shares of the image's shorter side."""
    side = min(shape)
    steps = 24
    canvas = np.zeros(shape, np.uint8)
    start = generator.uniform((0.15, 0.15), (0.85, 0.85)) * (shape[1], shape[0])
    heading = generator.uniform(0, 2 * math.pi)
    run = generator.uniform(*length) * side
    for branch in range(1 + int(generator.integers(3) == 0)):
        angles = heading + np.cumsum(generator.normal(0, 0.28, steps))
        walk = start + np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1), 0) * (run / steps)
        thick = max(1, round(generator.uniform(*width) * side * (1 - 0.5 * branch)))
        points = np.rint(np.concatenate([start[None], walk]) * 16).astype(np.int32)
        cv2.polylines(canvas, [points], False, 1, thick, cv2.LINE_8, shift=4)
        start, heading, run = walk[steps // 3], angles[steps // 3] + generator.choice([-0.8, 0.8]), run / 2
    if not canvas.any():  # an image of very few pixels
        canvas[shape[0] // 2, shape[1] // 2] = 1
    return canvas.astype(bool)


def highest(values: NDArray[np.float32], count: int) -> Mask:
    """The `count` highest of `values` (H, W); of equal ones the first."""
    flat = values.reshape(-1)
    level = np.partition(flat, flat.size - count)[flat.size - count]
    mask = flat > level
    mask[np.flatnonzero(flat == level)[: count - np.count_nonzero(mask)]] = True
    return np.asarray(mask.reshape(values.shape))


def _counts(shape: Shape, least: float, most: float) -> tuple[int, int]:
    """Bounds in pixels: at least one, however small the image."""
    if not 0 <= least <= most <= 1:
        raise ConfigError(f"a mask of {least:g} to {most:g} of the pixels", hint="0 <= least <= most <= 1")
    pixels = shape[0] * shape[1]
    low = max(math.ceil(least * pixels), 1)
    return low, max(math.floor(most * pixels), low)
