"""Defects made of the image itself: nothing in them is foreign but their place, their sharpness or their colour.

Options of methods that train on `texture` are chosen with these, so that they are not chosen on what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from blemish.config import nearest
from blemish.data.synthesis.masks import Mask, Shape, blob_mask, box_mask
from blemish.data.synthesis.texture import LEVELS, TRIES, Image, checked, jittered, visible
from blemish.errors import ConfigError

Kind = Callable[[Image, np.random.Generator], tuple[Image, Mask]]

JITTER = 0.1  # of the colours of what is pasted, as in the paper


def _patch(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """A box from elsewhere in the image, 2 to 15 % of it, in slightly other colours."""
    mask = box_mask(_shape(image), generator)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    h, w = len(rows), len(columns)
    y, x = (int(generator.integers(n - s + 1)) for n, s in zip(_shape(image), (h, w), strict=True))
    out = image.copy()
    out[rows[0] : rows[0] + h, columns[0] : columns[0] + w] = jittered(image[y : y + h, x : x + w], JITTER, generator)
    return out, mask


def _scar(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """A thin bar from elsewhere, 2 to 16 by 10 to 25 pixels of an image of 256, turned by up to 45 degrees."""
    shape = _shape(image)
    unit = min(shape) / 256
    size = np.maximum(generator.uniform((2, 10), (16, 25)) * unit, 1)  # width, length
    angle = generator.uniform(-45, 45)
    to, source = generator.uniform(0, 1, (2, 2)) * (shape[1] - 1, shape[0] - 1)
    turned = cv2.boxPoints((to.tolist(), size.tolist(), angle))
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.rint(turned * 16).astype(np.int32)], 1, cv2.LINE_8, shift=4)
    mask = canvas.astype(bool)
    move = cv2.getRotationMatrix2D(source.tolist(), -angle, 1)
    move = move + np.concatenate([np.zeros((2, 2)), (to - source)[:, None]], 1)
    moved = cv2.warpAffine(image, move, shape[::-1], borderMode=cv2.BORDER_REFLECT_101)
    return np.where(mask[..., None], jittered(np.asarray(moved, np.uint8), JITTER, generator), image), mask


def _blur(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """An irregular area out of focus."""
    mask = blob_mask(_shape(image), generator, area=(0.01, 0.1))
    sigma = max(generator.uniform(0.008, 0.04) * min(_shape(image)), 0.8)
    return _faded(image, np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8), mask), mask


def _shift(image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
    """An irregular area in another colour, its texture kept; away from black where dark, from white where light."""
    mask = blob_mask(_shape(image), generator)
    step = generator.uniform(2 * LEVELS, 8 * LEVELS) * generator.choice([-1, 1])
    mean = float(image[mask].mean())
    if not abs(step) <= mean + step <= 255 - abs(step):
        step = abs(step) if mean < 128 else -abs(step)
    steps = step * (1 if generator.random() < 0.5 else generator.uniform(0, 1, 3))
    steps = np.where(np.arange(3) == generator.integers(3), step, steps)  # one channel in full, whatever the others
    moved = np.clip(image + steps, 0, 255).astype(np.uint8)
    return _faded(image, moved, mask), mask


KINDS: dict[str, Kind] = {"patch": _patch, "scar": _scar, "blur": _blur, "shift": _shift}


@dataclass(frozen=True)
class CutPaste:
    """A synthesizer of one of its `kinds` at random.

    patch   a box of the image pasted elsewhere; Li et al., CutPaste, CVPR 2021
    scar    a thin, turned one; same paper
    blur    an irregular area out of focus
    shift   an irregular area in another colour

    A defect that is hardly visible, such as blur on a plain surface, is drawn again with a new kind, and finally is a
    shift. ConfigError on an unknown kind, or none.
    """

    kinds: tuple[str, ...] = tuple(KINDS)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS] or ([""] if not self.kinds else [])
        if unknown:
            raise ConfigError(f"unknown kind of defect '{unknown[0]}'", hint=nearest(unknown[0], list(KINDS)))

    def __call__(self, image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
        """uint8 (H, W, 3) -> the same with the defect, and its mask. DataError for other images."""
        checked(image)
        for _ in range(TRIES):
            changed, mask = KINDS[self.kinds[int(generator.integers(len(self.kinds)))]](image, generator)
            if mask.any() and visible(image, changed, mask):
                return changed, mask
        return _shift(image, generator)


def _shape(image: Image) -> Shape:
    return image.shape[0], image.shape[1]


def _faded(image: Image, changed: Image, mask: Mask) -> Image:
    """`changed` inside the mask, less of it towards the mask's rim."""
    depth = np.asarray(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3), np.float32)[1:-1, 1:-1]
    weight = np.minimum(depth / max(math.sqrt(np.count_nonzero(mask)) / 8, 1), 1)[..., None]
    mixed = np.rint(image + weight * (changed.astype(np.float32) - image))
    return np.where(mask[..., None], mixed, image).astype(np.uint8)
