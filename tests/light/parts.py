"""Pictures and a model for the tests of what the light core does by itself: numpy and Pillow draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MODEL = Path(__file__).with_name("bracket.blemish")
"""A tiny model, learned by `python -m tests.light.make_model` from `good(0)` to `good(29)`."""
RATE = 0.2
SIZE = (48, 64)


def good(seed: int) -> NDArray[np.uint8]:
    """(H, W, 3): stripes with noise; every seed another one."""
    rows = 120 + 40 * np.sin(np.arange(SIZE[0]) / 3)[:, None, None]
    return (rows + np.random.default_rng(seed).normal(0, 6, (*SIZE, 3))).clip(0, 255).astype(np.uint8)


def defective(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The same with a bright spot, and its mask."""
    image, mask = good(seed), np.zeros(SIZE, bool)
    mask[12:21, 32:42] = True
    image[mask] = 255
    return image, mask


def write(path: Path, image: NDArray[np.uint8]) -> Path:
    """The picture as a file; its suffix names the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def write_good(folder: Path, count: int, first: int) -> Path:
    """`count` good PNGs in a folder."""
    for seed in range(first, first + count):
        write(folder / f"{seed:04}.png", good(seed))
    return folder


def write_data_set(root: Path) -> Path:
    """A category in MVTec AD's layout: two kinds of test images, and masks."""
    write_good(root / "train" / "good", 2, first=100)
    write_good(root / "test" / "good", 4, first=200)
    for seed in range(4):
        image, mask = defective(300 + seed)
        write(root / "test" / "spot" / f"{seed:03}.png", image)
        write(root / "ground_truth" / "spot" / f"{seed:03}_mask.png", mask.astype(np.uint8) * 255)
    return root
