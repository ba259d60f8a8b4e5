"""How long and how wide a region is, in pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

CURVED = 1.15  # times as long as its rectangle, from which a region is measured along itself

FULL = 0.75  # share of its rectangle that a region fills which is not curved


class Measure(NamedTuple):
    """Of one region; `centre` is x, y from the upper left corner of what was measured."""

    length: float
    width: float
    centre: tuple[float, float]


def measure(mask: NDArray[np.bool_]) -> Measure:
    """The region that is True in a mask (H, W), 8-connected and not empty.

    Length and width are the sides of the smallest rectangle around it, turned as it lies. A curved, hooked or branched
    one is longer than that: of a ribbon of length l and width w, area A = l w and perimeter P = 2 (l + w), so that
    l = (P + sqrt(P^2 - 16 A)) / 4. Where this l exceeds the rectangle's by CURVED, and the region fills less than FULL
    of the rectangle, it is the length, and the width is A / l, the mean one. The perimeter is that of the outer contour
    without its steps of one pixel; a hole is area.
    """
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=len)
    sides = cv2.minAreaRect(contour)[1]  # through the centres of pixels: half a pixel is missing on each side
    length, width = max(sides) + 1, min(sides) + 1
    if length * width < mask.sum():  # of a few pixels OpenCV's rectangle can be smaller than they are
        length, width = max(mask.shape), min(mask.shape)
    smooth = cv2.approxPolyDP(contour, 0.75, True)
    inner, around = cv2.contourArea(smooth), cv2.arcLength(smooth, True)
    along = (around + math.sqrt(max(around**2 - 16 * inner, 0.0))) / 4 + 1 if around**2 > 16 * inner else 0.0
    if along > CURVED * length and mask.sum() < FULL * length * width:
        length, width = along, (inner + around / 2 + 1) / along  # area by Pick's theorem: whole pixels
    y, x = np.nonzero(mask)
    return Measure(float(length), float(width), (float(x.mean() + 0.5), float(y.mean() + 0.5)))
