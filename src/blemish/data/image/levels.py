"""Which values of good images become black and white, and which images are outside the learned range.

8-bit images are taken as they are. For deeper and real-valued ones no file states what its values mean: cameras
deliver 10 to 16 bits in 16, shifted or not, height maps any unit. So the range is learned from the good images, and an
image that does not fit into it is an error: scaled nevertheless it would be black or white all over, which may score
as good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError, OutOfRange

Kind = Literal["uint8", "uint16", "float"]
KINDS: tuple[Kind, ...] = ("uint8", "uint16", "float")
FULL = {"uint8": 255.0, "uint16": 65535.0, "float": 1.0}
"""What is white in a type that was not learned from, by convention."""
USED = 1 / 8  # share of a conventional range that images have to use for it to be chosen
MARGIN = 1 / 8  # of a learned range, beyond its ends: new good images exceed those that were seen a little
BULK = 4 / 255  # share of the range that all but the outermost values span at least
OUTSIDE = 0.1  # share of an image's pixels that may lie beyond the range
DARK = 1 / 4  # of the brightest value of the darkest good image: darker images are refused
UNLIKE = 2.0  # times that images of one type may be brighter than those of another in one set


class Measured(NamedTuple):
    """Statistics of the values of one image."""

    kind: Kind
    low: float
    high: float
    bulk: tuple[float, float]  # 1 % and 99 % quantile
    mean: float


def kind_of(dtype: np.dtype[Any]) -> Kind:
    """Of a canonical image; DataError for other types."""
    if dtype in (np.uint8, np.uint16):
        return "uint8" if dtype == np.uint8 else "uint16"
    if dtype.kind != "f":
        raise DataError(f"pixels of type {dtype}", hint="use uint8, uint16 or float32")
    return "float"


def measure(image: NDArray[Any]) -> Measured:
    """The values of a canonical image (H, W[, 3])."""
    thinned = image[:: max(image.shape[0] // 256, 1), :: max(image.shape[1] // 256, 1)]
    low, high = np.quantile(thinned, [0.01, 0.99])
    return Measured(
        kind_of(image.dtype), float(image.min()), float(image.max()), (float(low), float(high)), float(thinned.mean())
    )


@dataclass(frozen=True, slots=True)
class Levels:
    """Values that become 0 and 255 for each type, and how bright the darkest good image gets, of 255."""

    uint16: tuple[float, float] = (0.0, FULL["uint16"])
    real: tuple[float, float] = (0.0, FULL["float"])
    darkest: float = 0.0

    def of(self, kind: Kind) -> tuple[float, float]:
        """(black, white) of a type."""
        return {"uint8": (0.0, FULL["uint8"]), "uint16": self.uint16, "float": self.real}[kind]

    def grey(self, kind: Kind, value: float) -> float:
        """A value in grey levels, 0 to 255."""
        black, white = self.of(kind)
        return 255 * min(max((value - black) / (white - black), 0.0), 1.0)

    def check(self, image: NDArray[Any]) -> None:
        """OutOfRange where a canonical image is outside the learned range."""
        kind = kind_of(image.dtype)
        high = float(image.max())
        if kind != "uint8":
            self._check_range(image, kind, high)
        if self.grey(kind, high) < DARK * self.darkest:
            white = self.of(kind)[1]
            raise OutOfRange(
                f"its brightest value is {high:g} where {white:g} is white, and good images get {self.darkest:.0f} of "
                "255 bright",
                hint="is it of another bit depth or scale, or was there no light?",
            )

    def _check_range(self, image: NDArray[Any], kind: Kind, high: float) -> None:
        black, white = self.of(kind)
        span, low = white - black, float(image.min())
        hint = "scale it as the images that the model has learned from"
        if low < black - span or high > white + span:
            message = f"{_NAMES[kind]} from {low:g} to {high:g} where {white:g} is white"
            raise OutOfRange(message + (f" and {black:g} is black" if black else ""), hint=hint)
        if low < black - 0.02 * span or high > white + 0.02 * span:
            beyond = float(((image < black - 0.02 * span) | (image > white + 0.02 * span)).mean())
            if beyond > OUTSIDE:
                message = f"{beyond:.0%} of its {_NAMES[kind]} lie outside of {black:g} to {white:g}"
                raise OutOfRange(f"{message}, which good images keep to", hint=hint)


_NAMES = {"uint8": "8-bit values", "uint16": "16-bit values", "float": "real values"}


def learn(found: Sequence[Measured]) -> Levels:
    """The levels of good images, which may be of several types.

    uint16: from 0 to the smallest 2^k - 1, 8 <= k <= 16, that is no less than the largest value. Real values: from 0 to
    1, or from 0 to the largest value where that is more than 1. Where images use less than an eighth of that, or are
    negative, what they use is the range, and an eighth of it more at either end.

    DataError where images show nothing (one value all over), where single outlying values would leave a few grey levels
    for the others, and where images of two types would differ in brightness.
    """
    by_kind: dict[Kind, list[Measured]] = {kind: [m for m in found if m.kind == kind] for kind in KINDS}
    if found and all(m.low == m.high for m in found):
        raise DataError("the good images show nothing: each is of one value all over", hint="are they the right files?")
    levels = Levels(_range("uint16", by_kind["uint16"]), _range("float", by_kind["float"]))
    for kind, images in by_kind.items():
        _check_bulk(levels, kind, images)
    if not found:
        return levels
    means = {k: float(np.median([levels.grey(k, m.mean) for m in images])) for k, images in by_kind.items() if images}
    if min(means.values()) * UNLIKE < max(means.values()):
        kinds = ", ".join(f"{len(by_kind[k])} of {_NAMES[k]} (mean {mean:.0f} of 255)" for k, mean in means.items())
        message = f"good images of several kinds that do not fit together: {kinds}"
        raise DataError(message, hint="bring them to one kind")
    return Levels(levels.uint16, levels.real, min(levels.grey(m.kind, m.high) for m in found))


def _range(kind: Kind, found: Sequence[Measured]) -> tuple[float, float]:
    if not found:
        return 0.0, FULL[kind]
    low, high = min(m.low for m in found), max(m.high for m in found)
    white = max(high, 1.0) if kind == "float" else 2.0 ** max(8, int(high).bit_length()) - 1
    if low >= 0 and high - low >= USED * white:
        return 0.0, white
    margin = MARGIN * (high - low)
    return (low - margin, high + margin) if high > low else (0.0, white)


def _check_bulk(levels: Levels, kind: Kind, found: Sequence[Measured]) -> None:
    if not found or kind == "uint8":
        return
    (black, white), low, high = levels.of(kind), min(m.bulk[0] for m in found), max(m.bulk[1] for m in found)
    if high - low < BULK * (white - black):
        ends = min(m.low for m in found), max(m.high for m in found)
        raise DataError(
            f"98 % of the values of good images lie from {low:g} to {high:g}, and single ones from {ends[0]:g} to "
            f"{ends[1]:g}",
            hint="replace marks for missing values, such as -9999, and broken pixels",
        )
