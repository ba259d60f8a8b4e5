"""Parts in two lightings, for tests: a defect shows in one of them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

SIDES = ("left", "right")
SIZE = (48, 64)
ASKED: dict[str, Any] = {"image_size": "64x48", "false_alarm_rate": 0.2, "cache": False, "lightings": SIDES}


def part(seed: int, defect: int | None = None) -> np.ndarray[Any, Any]:
    """(H, W, 2): a part in two lightings; a defect shows in one of them."""
    values = np.full((*SIZE, 2), 90.0) + np.random.default_rng(seed).normal(0, 4, (*SIZE, 2))
    values[8:40, 12:52] += (60, 30)
    if defect is not None:
        values[20:30, 24:44, defect] = 10
    return np.clip(values, 0, 255).astype(np.uint8)


def write(folder: Path, name: str, sample: np.ndarray[Any, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, side in enumerate(SIDES):
        cv2.imwrite(str(folder / f"{name}_{side}.png"), sample[..., k])
    return folder / f"{name}_{SIDES[0]}.png"


def pages(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    first, *others = (Image.fromarray(np.ascontiguousarray(array[..., k])) for k in range(array.shape[2]))
    out = BytesIO()
    first.save(out, format="TIFF", save_all=True, append_images=others, **options)
    return out.getvalue()
