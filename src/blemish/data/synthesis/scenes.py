"""Whole synthetic images, as varied as possible: a pool of inputs that depends on no data set."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.synthesis.masks import Shape
from blemish.data.synthesis.texture import Image, Procedural, colours, jittered


def _outline(shape: Shape, generator: np.random.Generator) -> list[NDArray[np.int32]]:
    """A rough, round, oblong, polygonal or toothed thing, with a hole now and then; contours in 1/16 pixel."""
    corners = int(generator.choice([3, 4, 4, 5, 6, 6, 8, 24, 64, 64]))
    angle = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    radius = np.full(corners, 1.0)
    if generator.random() < 0.3:
        radius *= generator.uniform(0.4, 1, corners) if corners < 24 else 1 - 0.15 * (np.arange(corners) // 2 % 2)
    size = max(shape) * 2 ** generator.uniform(-5.5, -1.5)
    slim, turn = 2 ** generator.uniform(-2.5, 0) if generator.random() < 0.5 else 1, generator.uniform(0, math.pi)
    x, y = radius * np.cos(angle) * size, radius * np.sin(angle) * size * slim
    c, s = math.cos(turn), math.sin(turn)
    ring = np.stack([c * x - s * y, s * x + c * y], 1)
    centre = generator.uniform(0, 1, 2) * shape[::-1]
    scales = [1, generator.uniform(0.2, 0.8)] if generator.random() < 0.35 else [1]
    return [np.rint((centre + k * ring) * 16).astype(np.int32) for k in scales]


def procedural_scene(shape: Shape, generator: np.random.Generator) -> Image:
    """A whole synthetic image, uint8 (H, W, 3), as varied as possible: a pool of inputs that depends on no data set.

    Textures, with flat and textured things before them that are lit from one side and cast shadows, lines, uneven
    light, any contrast, blur and noise; one in three is grey.
    """
    source = Procedural(mixed=0.3)
    image = source(shape, generator)
    reach = max(1, round(max(shape) * 2 ** generator.uniform(-7, -5)))
    shift = np.array([[1, 0, generator.choice([-1, 1]) * reach], [0, 1, generator.choice([-1, 1]) * reach]], np.float32)
    for _ in range(generator.integers(0, 4)):
        layer = np.zeros(shape, np.uint8)
        for _ in range(int(2 ** generator.uniform(0, 4))):
            cv2.fillPoly(layer, _outline(shape, generator), 255, cv2.LINE_AA, shift=4)
        soft = cv2.blur(layer, (reach | 1, reach | 1))
        moved = np.asarray(cv2.warpAffine(soft, shift, shape[::-1]), np.uint8)
        flat = np.full((*shape, 3), colours(1, generator)[0], np.uint8)
        front = flat if generator.random() < 0.4 else source(shape, generator)
        if generator.random() < 0.6:  # the shadow, and a light and a dark side
            shadow = cv2.cvtColor(moved // np.uint8(generator.integers(2, 6)), cv2.COLOR_GRAY2BGR)
            image = np.asarray(cv2.subtract(image, shadow), np.uint8)
            edge = cv2.subtract(soft, moved) // 2
            front = np.asarray(cv2.add(front, cv2.cvtColor(edge, cv2.COLOR_GRAY2BGR)), np.uint8)
        alpha = cv2.cvtColor(layer, cv2.COLOR_GRAY2BGR)
        behind = cv2.multiply(image, cv2.subtract(np.full_like(alpha, 255), alpha), scale=1 / 255)
        image = np.asarray(cv2.add(behind, cv2.multiply(front, alpha, scale=1 / 255)), np.uint8)
    for _ in range(max(0, int(generator.integers(-5, 8)))):
        ends = generator.uniform(-0.1, 1.1, 2) + generator.normal(0, 0.25, (int(generator.integers(2, 5)), 2))
        ends *= shape[::-1]
        wide, colour = max(1, int(2 ** generator.uniform(-1, 3))), colours(1, generator)[0].tolist()
        cv2.polylines(image, [np.rint(ends).astype(np.int32)], False, colour, wide, cv2.LINE_AA)
    return _photographed(image, generator)


def _photographed(image: Image, generator: np.random.Generator) -> Image:
    """Uneven light, contrast, blur, noise, and no colour: each of them now and then."""
    h, w = image.shape[:2]
    if generator.random() < 0.5:
        light = cv2.resize(generator.uniform(60, 255, (3, 3)).astype(np.uint8), (w, h), interpolation=cv2.INTER_LINEAR)
        image = np.asarray(cv2.multiply(image, cv2.cvtColor(light, cv2.COLOR_GRAY2BGR), scale=1 / 200), np.uint8)
    if generator.random() < 0.6:
        image = jittered(image, 0.6, generator)
    if generator.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), generator.uniform(0.5, max(h, w) / 100 + 0.6)), np.uint8)
    if generator.random() < 0.4:
        noise = np.frombuffer(generator.bytes(image.size), np.uint8).reshape(image.shape)
        image = np.asarray(cv2.addWeighted(image, 1, noise, (a := generator.uniform(0, 0.25)), -127.5 * a), np.uint8)
    if generator.random() < 0.3:
        image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    return image
