"""A drawn cloth whose every defect has a clean twin: what a repaint should have come to is known, pixel by pixel."""

from __future__ import annotations

import numpy as np

from blemish.data.synthesis.masks import Mask, Shape, blob_mask, box_mask, thread_mask
from blemish.data.synthesis.texture import Image

from .parts import known

PERIOD = 8  # pixels of a thread
FLAWS = ("blob", "line", "moved")


def weave(generator: np.random.Generator, size: Shape = (64, 64), kind: str = "good") -> tuple[Image, Mask]:
    """A plain weave, uint8 (H, W, 3), and the mask of its flaw; `kind` "good", or one of `FLAWS`.

    blob    an irregular stain in another colour, part of the texture still seen
    line    a thin dark or light thread
    moved   a box of the cloth itself, half a thread off

    The flaw is drawn last: a generator of the same seed gives the same cloth without it as "good".
    """
    known(kind, ("good", *FLAWS))
    rows, columns = (np.arange(n)[..., None] + generator.uniform(0, PERIOD) for n in size)
    columns = columns.T
    over = (rows // PERIOD + columns // PERIOD) % 2 == 0
    height = np.abs(np.sin(np.pi * np.where(over, columns + 0 * rows, rows + 0 * columns) / PERIOD))
    tint = np.array([150, 130, 100]) + generator.uniform(-6, 6, 3)
    clean = tint * (0.55 + 0.45 * height[..., None]) + generator.normal(0, 3, (*size, 3))
    image, mask = clean, np.zeros(size, bool)
    if kind == "blob":
        mask = blob_mask(size, generator, area=(0.02, 0.08))
        stain = tint + generator.choice([-1, 1]) * generator.uniform(30, 70, 3)
        image = np.where(mask[..., None], 0.35 * clean + 0.65 * stain, clean)
    elif kind == "line":
        mask = thread_mask(size, generator, length=(0.3, 0.7), width=(0.03, 0.05))
        image = np.where(mask[..., None], generator.choice([40.0, 215.0]) + 0.1 * clean, clean)
    elif kind == "moved":
        mask = box_mask(size, generator, area=(0.03, 0.1))
        image = np.where(mask[..., None], np.roll(clean, (PERIOD // 2, PERIOD // 2), (0, 1)), clean)
    return np.clip(image, 0, 255).astype(np.uint8), mask
