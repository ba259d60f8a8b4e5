"""Drawn parts that lie at any place and angle on a dark background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.types import Record

ARROW = np.array([[-60, -9], [24, -9], [24, -24], [60, 0], [24, 24], [24, 9], [-60, 9]], float)
"""Corners; it has a long axis, and a head."""
HOUSE = np.array([[-36, -36], [36, -36], [36, 36], [0, 44], [-36, 36]], float)
"""Corners; hardly longer than wide."""
SIDE = 240  # pixels of a picture


def picture(parts: Sequence[tuple[Any, ...]], seed: int) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3): parts of (corners, x, y, angle[, colour]), with noise."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), 40, np.uint8)
    for corners, x, y, angle, *colour in parts:
        cv2.fillPoly(
            image, [_placed(corners, x, y, angle).round().astype(np.int32)], colour[0] if colour else (180, 170, 160)
        )
        mark = _placed(np.array([[-34.0, 0.0]]), x, y, angle)[0]
        if not colour:
            cv2.circle(image, (round(mark[0]), round(mark[1])), 6, (70, 80, 200), -1)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def at_any_angle(corners: NDArray[Any], seed: int) -> tuple[NDArray[np.uint8], float, float, float]:
    """A picture of one part, its centre and its angle in radians."""
    rng = np.random.default_rng(seed)
    angle, (x, y) = float(rng.uniform(0, 2 * math.pi)), rng.uniform(85, SIDE - 85, 2)
    return picture([(corners, x, y, angle)], seed), float(x), float(y), angle


def spotted(seed: int) -> NDArray[np.uint8]:
    """An arrow with a dark spot on its shaft."""
    image, x, y, angle = at_any_angle(ARROW, seed)
    at = _placed(np.array([[5.0, 0.0]]), x, y, angle)[0]
    cv2.circle(image, (round(at[0]), round(at[1])), 6, (20, 150, 20), -1)
    return image


def write(folder: Path, images: Sequence[NDArray[np.uint8]], **record: Any) -> list[Record]:
    """Images as files, and a record of each."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for i, image in enumerate(images):
        path = folder / f"{i:03}.png"
        cv2.imwrite(str(path), image[..., ::-1])  # it takes BGR
        out.append(Record(id=f"{folder.name}/{path.name}", path=path, **record))
    return out


def _placed(corners: NDArray[Any], x: float, y: float, angle: float) -> NDArray[Any]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(corners, float) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
