"""Probes: scratches, spots and stains of a known size and contrast, to measure what a model finds. No method

may ever learn from these: a figure of `blemish power` would then say how well it knows the probes. Methods
that train on synthetic defects have generators of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError

Opacity = NDArray[np.float32]
Shape = Callable[[float, np.random.Generator], Opacity]

FAINT = 0.05  # opacity below which nothing is drawn, so that a mask ends where the defect visibly ends
SLENDER = 24  # a scratch is this many times longer than wide, and at least one pixel wide
TRIES = 50


def scratch(size: float, generator: np.random.Generator) -> Opacity:
    """A thin, slightly bent stroke in any direction; `size` = distance of its ends in pixels."""
    angle, bend = generator.uniform(0, math.pi), generator.uniform(-0.15, 0.15)
    along = np.array([math.cos(angle), math.sin(angle)]) * size
    across = np.array([-along[1], along[0]])
    t = np.linspace(0, 1, 33)[:, None]
    line = t * along + (4 * bend * t * (1 - t)) * across
    width = max(1, round(size / SLENDER))
    line += width + 2 - line.min(0)
    w, h = np.ceil(line.max(0)).astype(int) + width + 2
    canvas = np.zeros((h, w), np.uint8)
    cv2.polylines(canvas, [np.rint(line * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, shift=4)
    return np.asarray(canvas / 255, np.float32)


def spot(size: float, generator: np.random.Generator) -> Opacity:
    """A roundish blob with an irregular outline and a soft edge; `size` = its mean diameter in pixels."""
    side = max(3, math.ceil(1.6 * size) + 2)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle = np.arctan2(y, x)
    waves = [(k, generator.uniform(0, 0.12) / k * 2, generator.uniform(0, 2 * math.pi)) for k in (2, 3, 5)]
    radius = size / 2 * (1 + sum(a * np.cos(k * angle + phase) for k, a, phase in waves))
    edge = max(0.15 * size, 1.0)
    return np.asarray(np.clip((radius - np.hypot(x, y)) / edge + 0.5, 0, 1), np.float32)


def stain(size: float, generator: np.random.Generator) -> Opacity:
    """A cloud that fades towards its rim, longer than wide; `size` = its length in pixels at half of its contrast."""
    side = max(3, math.ceil(1.8 * size) + 2)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle, slim = generator.uniform(0, math.pi), generator.uniform(0.6, 1.0)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    squared = (u**2 + (v / slim) ** 2) / (size / 2) ** 2
    cells = generator.uniform(0.75, 1.0, (5, 5)).astype(np.float32)
    cloud = cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC)
    opacity = np.exp2(-(squared**2)) * cloud
    return np.asarray(opacity / opacity.max(), np.float32)


KINDS: dict[str, Shape] = {"scratch": scratch, "spot": spot, "stain": stain}


@dataclass(frozen=True)
class Probe:
    """A synthesizer of one kind of probe.

    kind      one of `KINDS`
    size      pixels of the image; what it measures is the kind's own
    contrast  difference at the core, as a share of the range from `black` to `white`; the mean over the core is what
              the image then shows
    white     the largest value of the image's type, or of what a camera delivers in it
    black     the least one
    """

    kind: str
    size: float
    contrast: float
    white: float
    black: float = 0.0

    def __call__(
        self, image: NDArray[Any], generator: np.random.Generator, inside: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(H, W[, 3]) of any type -> the same with the probe, and its mask (H, W).

        It lies within the image and, for nine tenths of its area, within `inside` (H, W). Lighter or darker at random,
        but never towards a side that has too little room for the contrast while the other has more. DataError where it
        does not fit.
        """
        opacity = self._place(image.shape[:2], generator, inside)
        values = image.astype(np.float32)
        core = values[opacity > 0.5] if (opacity > 0.5).any() else values[opacity > 0]
        rooms = self.white - core.mean(), core.mean() - self.black
        contrast = self.contrast * (self.white - self.black)
        light = generator.random() < 0.5
        if min(rooms) < contrast:
            light = rooms[0] >= rooms[1]
        step = contrast * (1 if light else -1)
        weight = opacity[..., None] if image.ndim == 3 else opacity
        changed = np.clip(
            values + step * weight, min(self.black, float(values.min())), max(self.white, float(values.max()))
        )
        mask = opacity > 0
        out = changed if image.dtype.kind == "f" else np.rint(changed)
        whole = mask[..., None] if image.ndim == 3 else mask
        return np.where(whole, out.astype(image.dtype), image), mask

    def _place(
        self, shape: tuple[int, ...], generator: np.random.Generator, inside: NDArray[np.bool_] | None
    ) -> Opacity:
        """The probe's opacity over the whole image."""
        for _ in range(TRIES):
            small = KINDS[self.kind](self.size, generator)
            small[small < FAINT] = 0
            rows, columns = np.flatnonzero(small.any(1)), np.flatnonzero(small.any(0))
            small = small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            top, left = shape[0] - small.shape[0], shape[1] - small.shape[1]
            if top < 0 or left < 0:
                continue
            y, x = int(generator.integers(top + 1)), int(generator.integers(left + 1))
            window = slice(y, y + small.shape[0]), slice(x, x + small.shape[1])
            if inside is None or inside[window][small > 0].mean() >= 0.9:
                out = np.zeros(shape, np.float32)
                out[window] = small
                return out
        raise DataError(
            f"a {self.kind} of {self.size:g} pixels does not fit into an image of {shape[1]} x {shape[0]}",
            hint="ask for smaller ones",
        )
