"""Defects of graded sizes, made of what the picture itself shows: to compare methods and options with.

A foreign texture or colour is found by every method, so the order of methods on it is chance. Here sizes are
log-uniform from a thousandth of the picture, tones are the picture's own (a grey picture stays grey), and a third of
the kinds add no tone at all: a piece is gone, lies elsewhere, or is out of shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.config import nearest
from blemish.data.synthesis.masks import Mask, Shape, blob_mask, highest, thread_mask
from blemish.data.synthesis.perlin import perlin
from blemish.data.synthesis.texture import LEVELS, TRIES, Image, checked
from blemish.errors import ConfigError

Region = Callable[[Shape, np.random.Generator, float], Mask]
Change = Callable[[Image, Mask, np.random.Generator], NDArray[Any]]

AREA = (0.001, 0.1)  # share of the picture, log-uniform
WIDE = 5.0  # an uneven area is so many times larger: it has no rim that would show a small one
MOST = 0.5  # share that an uneven area covers at most
STRENGTH = (0.2, 1.0)  # of a tone, log-uniform
TONES = 24  # pixels of the picture that a tone is taken from
LEAST = 4  # pixels of a defect, where the picture has them


# ---------------------------------------------------------------------------------------------------- where it lies
def _blob(shape: Shape, generator: np.random.Generator, area: float) -> Mask:
    return blob_mask(shape, generator, area=(area, area))


def _thread(shape: Shape, generator: np.random.Generator, area: float) -> Mask:
    """As long as the root of the area says, and thin: a defect of this kind covers a tenth of `area`."""
    length = min(3 * math.sqrt(area), 1.2)
    return thread_mask(shape, generator, length=(length / 1.5, length), width=(0.004, 0.004 + 0.01 * length))


def _border(shape: Shape, generator: np.random.Generator, area: float) -> Mask:
    """What lies outermost in a direction, behind a line that is not quite straight: an edge, or a corner."""
    angle = generator.uniform(0, 2 * math.pi) if generator.random() < 0.5 else generator.integers(4) * math.pi / 2
    y, x = (np.linspace(-n / 2, n / 2, n, dtype=np.float32) for n in shape)
    along = y[:, None] * np.float32(math.sin(angle)) + x[None] * np.float32(math.cos(angle))
    across = y[:, None] * np.float32(math.cos(angle)) - x[None] * np.float32(math.sin(angle))
    side = math.sqrt(area * shape[0] * shape[1])
    middle = generator.uniform(-0.3, 0.3) * min(shape)
    bowl = (across - np.float32(middle)) ** 2 / np.float32(2 * max(side, 1))  # not along the whole edge
    rough = perlin(shape, [min(max(n / max(side, 1), 0.5), n / 2 + 0.5) for n in shape], generator)
    values = along - bowl + rough * np.float32(side / 4)
    return highest(np.ascontiguousarray(values, np.float32), max(round(area * shape[0] * shape[1]), 1))


# ----------------------------------------------------------------------------------------------------- what it shows
def _tone(image: Image, mask: Mask, generator: np.random.Generator) -> NDArray[Any]:
    """Another tone of the picture, more or less of it."""
    weight = np.float32(_log_uniform(*STRENGTH, generator))
    return image + weight * _softened(mask, generator)[..., None] * (_other_tone(image, mask, generator) - image)


def _gap(image: Image, mask: Mask, generator: np.random.Generator) -> NDArray[Any]:
    """What lies around goes on inside: a piece is gone, and so is all fine structure."""
    return _around(image, mask)


def _moved(image: Image, mask: Mask, generator: np.random.Generator) -> NDArray[Any]:
    """The piece that lies beside it, as far away as it is wide up to three times that."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    reach = max(len(rows), len(columns)) * generator.uniform(1, 3)
    angle = generator.uniform(0, 2 * math.pi)
    step = round(reach * math.sin(angle)), round(reach * math.cos(angle))
    y, x = (_mirrored(np.arange(n) + s, n) for n, s in zip(mask.shape, step, strict=True))
    return np.asarray(image[y[:, None], x[None]])


def _bent(image: Image, mask: Mask, generator: np.random.Generator) -> NDArray[Any]:
    """The same structure, pushed aside by half to all of the area's radius."""
    depth = np.asarray(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3), np.float32)[1:-1, 1:-1]
    radius, angle = max(float(depth.max()), 1.0), generator.uniform(0, 2 * math.pi)
    push = np.sin(depth * np.float32(math.pi / 2 / radius)) * np.float32(radius * generator.uniform(0.5, 1.0))
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    moved_y, moved_x = y + push * np.float32(math.sin(angle)), x + push * np.float32(math.cos(angle))
    return np.asarray(cv2.remap(image, moved_x, moved_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def _uneven(image: Image, mask: Mask, generator: np.random.Generator) -> NDArray[Any]:
    """Lighter or darker towards the middle of a large area, without an edge."""
    depth = np.asarray(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3), np.float32)[1:-1, 1:-1]
    weight = depth / max(float(depth.max()), 1e-6)
    gain = _log_uniform(0.15, 0.6, generator) * (-1 if generator.random() < 0.5 else 1)
    mean = float(image[mask].mean())
    if mean * (1 + gain) > 235 or mean < 32:  # nearly white gets darker, nearly black lighter
        gain = -abs(gain) if mean > 128 else abs(gain)
    return image + weight[..., None] * np.float32(gain) * np.maximum(image, np.float32(mean / 2 + 16))


@dataclass(frozen=True)
class _Kind:
    region: Region
    change: Change
    wide: float = 1.0


KINDS: dict[str, _Kind] = {
    "spot": _Kind(_blob, _tone),
    "crack": _Kind(_thread, _tone),
    "chip": _Kind(_border, _tone),
    "gap": _Kind(_blob, _gap),
    "moved": _Kind(_blob, _moved),
    "bent": _Kind(_blob, _bent),
    "uneven": _Kind(_blob, _uneven, WIDE),
}


@dataclass(frozen=True)
class Graded:
    """A synthesizer of one of its `kinds` at random.

    spot    an irregular area in another tone of the picture
    crack   a thin wandering line in another tone
    chip    the same as a spot, at the picture's border or in a corner
    gap     what lies around goes on inside
    moved   the piece that lies beside it
    bent    the same structure, pushed aside
    uneven  a large area, lighter or darker without an edge

    kinds  those that are drawn from, with equal chance
    area   least and most share of the picture, log-uniform; a crack covers less, an uneven area `WIDE` times as much

    The mask is where the picture changed. A defect that is hardly visible, such as a gap in a plain surface, is drawn
    again elsewhere, then with a new kind, then as a spot; in a plain picture it is a step in brightness. ConfigError on
    an unknown kind, none, or bad bounds.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    area: tuple[float, float] = AREA

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS] or ([""] if not self.kinds else [])
        if unknown:
            raise ConfigError(f"unknown kind of defect '{unknown[0]}'", hint=nearest(unknown[0], list(KINDS)))
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"option 'area': {self.area} are no shares of an image", hint="0 < least <= most <= 1")

    def __call__(self, image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
        """uint8 (H, W, 3) -> the same with the defect, and its mask. DataError for other images."""
        shape = checked(image).shape[0], image.shape[1]
        least = min(LEAST / (shape[0] * shape[1]), 1)
        area = min(max(_log_uniform(*self.area, generator), least), 1)
        first, second = (self.kinds[int(i)] for i in generator.integers(len(self.kinds), size=2))
        for name in [first] * TRIES + [second] * TRIES + ["spot"] * TRIES:
            kind = KINDS[name]
            region = kind.region(shape, generator, min(area * kind.wide, max(area, MOST)))
            painted = _painted(image, region, kind.change, generator)
            if painted is not None:
                return painted
        return _stepped(image, _blob(shape, generator, area))


def _painted(image: Image, region: Mask, change: Change, generator: np.random.Generator) -> tuple[Image, Mask] | None:
    """The change inside the region, and where it shows; None where a third of the region or more looks as before."""
    after = np.clip(np.rint(change(image, region, generator)), 0, 255).astype(np.uint8)
    after = np.where(region[..., None], after, image)
    step = cv2.absdiff(after, image).reshape(*region.shape, 3).max(2)
    seen = np.count_nonzero(step >= LEVELS)
    if seen < max(np.count_nonzero(region) / 3, 1):
        return None
    return after, step > 0


def _stepped(image: Image, region: Mask) -> tuple[Image, Mask]:
    """Twice as much as has to be seen, away from black where dark and from white where light."""
    step = 4 * LEVELS * (1 if float(image[region].mean()) < 128 else -1)
    after = np.where(region[..., None], np.clip(image.astype(np.int16) + step, 0, 255), image).astype(np.uint8)
    return after, (after != image).any(2)


def _other_tone(image: Image, mask: Mask, generator: np.random.Generator) -> NDArray[np.float32]:
    """(3,): of some pixels of the picture, one that differs from the mean under the mask more than most do."""
    y, x = (generator.integers(n, size=TONES) for n in mask.shape)
    tones = image[y, x].astype(np.float32)
    away = np.abs(tones - image[mask].mean(0)).max(1)
    order = np.argsort(away, kind="stable")
    return np.asarray(tones[order[int(generator.integers(TONES // 2, TONES))]], np.float32)


def _softened(mask: Mask, generator: np.random.Generator) -> NDArray[np.float32]:
    """1 inside; in every other defect less towards the rim."""
    if generator.random() < 0.5:
        return mask.astype(np.float32)
    depth = np.asarray(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3), np.float32)[1:-1, 1:-1]
    return np.asarray(np.minimum(depth / max(float(depth.max()) / 2, 1), 1), np.float32)


def _around(image: Image, mask: Mask) -> NDArray[np.float32]:
    """Weighted means of what lies outside the mask, near it: a box as wide as the mask is deep, twice."""
    depth = float(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3).max())
    box = (2 * math.ceil(depth) + 3,) * 2
    outside = (~mask).astype(np.float32)
    total: NDArray[Any] = image * outside[..., None]
    weight: NDArray[Any] = outside
    for _ in range(2):
        total, weight = (np.asarray(cv2.blur(v, box, borderType=cv2.BORDER_REPLICATE)) for v in (total, weight))
    return np.asarray(total / np.maximum(weight, 1e-6)[..., None], np.float32)


def _mirrored(index: NDArray[Any], count: int) -> NDArray[Any]:
    """Indices outside of 0 .. count - 1 are mirrored at its ends."""
    return np.abs((index + count) % (2 * count) - count + 0.5).astype(int)


def _log_uniform(low: float, high: float, generator: np.random.Generator) -> float:
    return math.exp(generator.uniform(math.log(low), math.log(high)))
