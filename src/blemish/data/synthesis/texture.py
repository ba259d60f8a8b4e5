"""Textures that a defect is painted with, the painting, and whole synthetic scenes.

A source is `(shape, generator) -> image`: uint8 (H, W, 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.synthesis.masks import Mask, Masker, Shape, perlin_mask
from blemish.data.synthesis.perlin import fractal, perlin
from blemish.errors import ConfigError, DataError

Image = NDArray[np.uint8]
Source = Callable[[Shape, np.random.Generator], Image]
Synthesizer = Callable[[Image, np.random.Generator], tuple[Image, Mask]]
Pattern = NDArray[np.float32]

TRIES = 6
LEVELS = 8  # of 255: a smaller difference may not be visible


def checked(image: Image) -> Image:
    """The image itself. DataError unless it is uint8 (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"a defect needs uint8 (H, W, 3), got {image.dtype} {image.shape}", hint="convert it first")
    return image


def visible(before: Image, after: Image, mask: Mask, share: float = 0.1) -> bool:
    """Whether a `share` of the mask's pixels differs by `LEVELS` or more in a channel."""
    step = np.abs(after[mask].astype(np.int16) - before[mask]).max(1)
    return bool(np.count_nonzero(step >= LEVELS) >= share * step.size)


def jittered(image: Image, strength: float, generator: np.random.Generator) -> Image:
    """Other contrast, brightness, saturation and tint; each of them by up to a share `strength`, 0 to 1."""
    contrast, light, colour = 1 + generator.uniform(-strength, strength, 3)
    gains = contrast * light * (1 + generator.uniform(-strength, strength, 3) / 2)
    mean = float(image.mean())
    # all of it is one linear map of a pixel's colours: grey is the mean of the channels, kept apart from the colour
    mix = np.diag(np.full(3, colour)) + (1 - colour) / 3
    offset = gains * mean * (1 / contrast - 1)
    linear = np.concatenate([gains[:, None] * mix, offset[:, None]], 1).astype(np.float32)
    return np.asarray(cv2.transform(image, linear), np.uint8).reshape(image.shape)


# ------------------------------------------------------------------------------------------ drawn patterns, in [0, 1]
def _between(values: NDArray[Any]) -> Pattern:
    return np.asarray(np.clip(values, 0, 1), np.float32)


def _cloud(shape: Shape, generator: np.random.Generator) -> Pattern:
    cells, slim = 2 ** generator.uniform(0.5, 5), 2 ** generator.uniform(-1.5, 1.5)
    octaves = int(generator.integers(1, 5))
    noise = fractal(shape, [cells * slim, cells / slim], generator, octaves, generator.uniform(0.4, 0.9))
    if generator.random() < 0.25:
        noise = 1 - 2 * np.abs(noise)  # ridges
    return _between(np.float32(0.5) + noise * np.float32(generator.uniform(0.7, 2)))


def _phase(shape: Shape, generator: np.random.Generator, angle: float, cycles: float) -> Pattern:
    """Cycles counted across the image in a direction; warped now and then."""
    step = 2 * math.pi * cycles / max(shape)
    y = (np.arange(shape[0]) * (step * math.sin(angle)) + generator.uniform(0, 7)).astype(np.float32)[:, None]
    x = (np.arange(shape[1]) * (step * math.cos(angle))).astype(np.float32)[None]
    phase = y + x
    if generator.random() < 0.35:
        phase += np.float32(generator.uniform(1, 8)) * perlin(shape, generator.uniform(1, 6), generator)
    return phase


def _wave(phase: Pattern, generator: np.random.Generator) -> Pattern:
    """Anything from soft to hard edged, from thin lines to thin gaps."""
    edge, duty = 2 ** generator.uniform(-1, 4), generator.uniform(-0.8, 0.8)
    return _between(np.float32(0.5) + (np.sin(phase) - np.float32(duty)) * np.float32(edge / 2))


def _cycles(generator: np.random.Generator) -> float:
    return float(2 ** generator.uniform(0.5, 6))


def _stripes(shape: Shape, generator: np.random.Generator) -> Pattern:
    return _wave(_phase(shape, generator, generator.uniform(0, math.pi), _cycles(generator)), generator)


def _two_ways(shape: Shape, generator: np.random.Generator) -> tuple[Pattern, Pattern]:
    angle, cycles = generator.choice([0.0, generator.uniform(0, math.pi)]), _cycles(generator)
    other = angle + math.pi / 2 if generator.random() < 0.7 else angle + generator.uniform(0.5, 2)
    return _phase(shape, generator, angle, cycles), _phase(shape, generator, other, cycles)


def _grid(shape: Shape, generator: np.random.Generator) -> Pattern:
    a, b = _two_ways(shape, generator)
    return np.maximum(_wave(a, generator), _wave(b, generator))


def _checks(shape: Shape, generator: np.random.Generator) -> Pattern:
    a, b = _two_ways(shape, generator)
    return _between(np.float32(0.5) + np.sin(a) * np.sin(b) * np.float32(2 ** generator.uniform(-1, 5)))


def _blobs(shape: Shape, generator: np.random.Generator) -> Pattern:
    canvas = np.zeros(shape, np.float32)
    count, size = int(2 ** generator.uniform(2, 8)), max(shape) * 2 ** generator.uniform(-7, -3)
    spots = generator.uniform((0, 0, 0.4, 0.2), (shape[1], shape[0], 1.6, 1), (count, 4))
    for x, y, scale, level in spots.tolist():
        cv2.circle(canvas, (int(x), int(y)), max(1, int(size * scale)), level, -1)
    sigma = size * generator.uniform(0, 0.8)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), sigma), np.float32) if 0.5 < sigma < 9 else canvas


def _speckle(shape: Shape, generator: np.random.Generator) -> Pattern:
    coarse = 2 ** generator.uniform(0, 3)
    h, w = (max(1, math.ceil(n / coarse)) for n in shape)
    noise = np.frombuffer(generator.bytes(h * w), np.uint8).reshape(h, w).astype(np.float32) / 255
    if generator.random() < 0.3:
        noise = (noise > generator.uniform(0.7, 0.99)).astype(np.float32)  # salt
    way = cv2.INTER_NEAREST if generator.random() < 0.3 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(noise, shape[::-1], interpolation=way), np.float32)


def _cobbles(shape: Shape, generator: np.random.Generator) -> Pattern:
    seeds = np.ones(shape, np.uint8)
    count = int(2 ** generator.uniform(3, 9))
    seeds[generator.integers(shape[0], size=count), generator.integers(shape[1], size=count)] = 0
    distance = np.asarray(cv2.distanceTransform(seeds, cv2.DIST_L2, 3), np.float32)
    return _between(distance / np.float32(math.sqrt(shape[0] * shape[1] / count) * generator.uniform(0.4, 1)))


def _rings(shape: Shape, generator: np.random.Generator) -> Pattern:
    y = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(generator.uniform(-0.5, 1.5) * shape[0])
    x = np.arange(shape[1], dtype=np.float32)[None] - np.float32(generator.uniform(-0.5, 1.5) * shape[1])
    distance = np.sqrt(x * x + y * y) * np.float32(2 * math.pi * _cycles(generator) / max(shape))
    return _wave(distance + np.float32(4) * perlin(shape, 3, generator), generator)


PATTERNS = (_cloud, _cloud, _stripes, _grid, _checks, _blobs, _speckle, _cobbles, _rings)


def colours(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(count, 3): grey ones, close ones, or any."""
    if generator.random() < 0.3:
        return np.repeat(generator.uniform(0, 255, (count, 1)), 3, 1)
    if generator.random() < 0.5:
        return np.clip(generator.uniform(0, 255, 3) + generator.normal(0, 40, (count, 3)), 0, 255)
    return generator.uniform(0, 255, (count, 3))


def _painted(pattern: Pattern, generator: np.random.Generator) -> Image:
    """Levels to colours along a random scale, in steps or smooth."""
    scale = colours(int(generator.integers(2, 6)), generator)
    place = np.linspace(0, len(scale) - 1, 256)
    if generator.random() < 0.2:
        place = np.rint(place)
    table = np.stack([np.interp(place, range(len(scale)), c) for c in scale.T], 1).astype(np.uint8)
    return np.asarray(cv2.applyColorMap((pattern * 255).astype(np.uint8), table[:, None]), np.uint8)


@dataclass(frozen=True)
class Procedural:
    """A source that draws: clouds, stripes, grids, checks, blobs, speckle, cobbles, rings, and mixtures of two.

    No image is needed. Any scale from two cycles over the image to single pixels; one in five is grey.
    """

    mixed: float = 0.5  # share of textures that are mixtures

    def __call__(self, shape: Shape, generator: np.random.Generator) -> Image:
        image = self._one(shape, generator)
        if generator.random() >= self.mixed:
            return image
        other, way = self._one(shape, generator), generator.integers(3)
        if way == 0:
            mask = perlin(shape, 2 ** generator.uniform(0.5, 4), generator) > generator.uniform(-0.3, 0.3)
            np.copyto(image, other, where=mask[..., None])
            return image
        if way == 1:
            share = float(generator.uniform(0.3, 0.7))
            return np.asarray(cv2.addWeighted(image, share, other, 1 - share, 0), np.uint8)
        return np.asarray(cv2.multiply(image, other, scale=1 / 170), np.uint8)

    def _one(self, shape: Shape, generator: np.random.Generator) -> Image:
        return _painted(PATTERNS[generator.integers(len(PATTERNS))](shape, generator), generator)


@dataclass(frozen=True, eq=False)
class FromImages:
    """A source that cuts from images: a crop at a random zoom, mirrored, turned by quarters, in jittered colours.

    images   uint8 (H, W) or (H, W, 3) of any sizes; DataError where there is none, or one is of another kind
    """

    images: Sequence[Image] = field(repr=False)
    jitter: float = 0.3  # see `jittered`
    zoom: tuple[float, float] = (0.5, 3.0)  # 1 = the largest crop of the asked shape, 2 = half its sides, < 1 = tiled

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError("there is no image to take textures from", hint="give at least one")
        whole = [np.repeat(i[..., None], 3, 2) if i.ndim == 2 else i for i in self.images]
        object.__setattr__(self, "images", tuple(checked(i) for i in whole))

    def __call__(self, shape: Shape, generator: np.random.Generator) -> Image:
        image = self.images[int(generator.integers(len(self.images)))]
        if generator.random() < 0.5:
            image = image.transpose(1, 0, 2)
        image = image[:: generator.choice([-1, 1]), :: generator.choice([-1, 1])]
        h, w = image.shape[:2]
        scale = min(h / shape[0], w / shape[1]) / math.exp(generator.uniform(*np.log(self.zoom)))
        side = [max(1, round(n * scale)) for n in shape]
        rows, columns = (
            int(generator.integers(max(n - s, 0) + 1)) + np.arange(s) for n, s in zip((h, w), side, strict=True)
        )
        # mirrored where the crop is larger than the image
        rows, columns = (np.abs((i + n) % (2 * n) - n + 0.5).astype(int) for n, i in ((h, rows), (w, columns)))
        way = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
        crop = cv2.resize(np.ascontiguousarray(image[rows[:, None], columns]), shape[::-1], interpolation=way)
        return jittered(np.asarray(crop, np.uint8), self.jitter, generator)


@dataclass(frozen=True)
class PasteTexture:
    """A synthesizer: a texture blended into the image where the mask is, (1 - m) x + m (o t + (1 - o) x).

    Zavrtanik et al., DRAEM, ICCV 2021 (there 1 - o is beta, from U(0, 0.8)). A texture that is hardly seen is drawn
    again, with more opacity from try to try; finally it is the image's own negative.
    """

    source: Source = Procedural()
    opacity: tuple[float, float] = (0.2, 1.0)  # o, uniform
    mask: Masker = perlin_mask

    def __post_init__(self) -> None:
        if not 0 < self.opacity[0] <= self.opacity[1] <= 1:
            raise ConfigError(f"opacity {self.opacity} is not within (0, 1]", hint="two numbers, the smaller first")

    def __call__(self, image: Image, generator: np.random.Generator) -> tuple[Image, Mask]:
        """uint8 (H, W, 3) -> the same with the defect, and its mask. DataError for other images."""
        shape = checked(image).shape[:2]
        mask = self.mask((shape[0], shape[1]), generator)
        for k in range(TRIES):
            texture = self.source((shape[0], shape[1]), generator)
            opacity = max(generator.uniform(*self.opacity), k / TRIES)
            changed = blended(image, texture, mask, opacity)
            if visible(image, changed, mask):
                return changed, mask
        negative = np.where(image < 128, 255, 0).astype(np.uint8)
        return blended(image, negative, mask, self.opacity[1]), mask


def blended(image: Image, texture: Image, mask: Mask, opacity: float) -> Image:
    """The image with so much of the texture inside the mask."""
    mixed = cv2.addWeighted(texture, opacity, image, 1 - opacity, 0)
    return np.where(mask[..., None], mixed, image).astype(np.uint8)
