"""Textures, their pasting and synthetic scenes: valid, varied, and only where the mask is."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest

from blemish.data.synthesis.masks import box_mask
from blemish.data.synthesis.scenes import procedural_scene
from blemish.data.synthesis.texture import (
    FromImages,
    Image,
    PasteTexture,
    Procedural,
    Source,
    blended,
    jittered,
    visible,
)
from blemish.errors import ConfigError, DataError

SOME = [
    np.random.default_rng(k).integers(0, 256, size).astype(np.uint8) for k, size in enumerate([(40, 90, 3), (8, 5)])
]
SOURCES = [Procedural(), FromImages(SOME), procedural_scene]
SHAPES = [(1, 1), (3, 50), (48, 64)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noisy(level: int, shape: tuple[int, int] = (48, 64)) -> Image:
    return np.clip(rng().normal(level, 4, (*shape, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("source", SOURCES, ids=["procedural", "images", "scene"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_source_gives_what_is_asked_and_the_same_again(source: Source, shape: tuple[int, int]) -> None:
    cv2.setRNGSeed(1)
    before = np.random.get_state()[1].tolist(), random.getstate()
    drawn = [source(shape, rng(seed)) for seed in range(30)]
    assert {(i.shape, i.dtype.name) for i in drawn} == {((*shape, 3), "uint8")}
    assert all(np.array_equal(i, source(shape, rng(seed))) for seed, i in enumerate(drawn))
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before
    after = cv2.randu(np.zeros(4, np.float32), 0, 1)
    cv2.setRNGSeed(1)
    assert np.array_equal(after, cv2.randu(np.zeros(4, np.float32), 0, 1))


@pytest.mark.parametrize("source", [Procedural(), procedural_scene], ids=["procedural", "scene"])
def test_what_is_drawn_is_varied(source: Source) -> None:
    drawn = np.stack([source((48, 48), rng(seed)) for seed in range(150)]).astype(float)
    means, spreads = drawn.mean((1, 2)), drawn.std((1, 2)).mean(1)
    assert means.std(0).min() > 35  # of 0 to 255: colours from dark to light in every channel
    grey = np.ptp(drawn, 3).max((1, 2)) < 3
    assert 0.1 < grey.mean() < 0.6
    assert np.quantile(spreads, 0.9) > 50
    assert np.quantile(spreads, 0.1) < 25
    fineness = np.abs(np.diff(drawn, axis=1)).mean((1, 2, 3)) / (spreads + 1)
    assert np.quantile(fineness, 0.9) > 3 * np.quantile(fineness, 0.1)


def test_crops_come_from_the_images_and_from_all_of_them() -> None:
    images = [np.full((20, 30, 3), v, np.uint8) for v in (40, 200)]
    means = [FromImages(images, jitter=0)((16, 16), rng(seed)).mean() for seed in range(40)]
    assert {round(m) for m in means} == {40, 200}


@pytest.mark.parametrize(
    "images", [[], [np.zeros((4, 4, 3), np.float32)], [np.zeros((4, 4, 4), np.uint8)], [np.zeros((0, 4, 3), np.uint8)]]
)
def test_what_is_no_texture_is_refused(images: list[Image]) -> None:
    with pytest.raises(DataError):
        FromImages(images)


@pytest.mark.parametrize("level", [0, 40, 128, 255])
@pytest.mark.parametrize("source", [Procedural(), FromImages(SOME)], ids=["procedural", "images"])
def test_a_defect_is_seen_inside_its_mask_and_nowhere_else(source: Source, level: int) -> None:
    paste, image = PasteTexture(source), noisy(level)
    kept = image.copy()
    for seed in range(25):
        changed, mask = paste(image, rng(seed))
        assert (changed.dtype, changed.shape, mask.dtype, mask.shape) == (np.uint8, image.shape, bool, image.shape[:2])
        assert mask.any()
        assert np.array_equal(changed[~mask], image[~mask])
        assert visible(image, changed, mask)
        again, same = paste(image, rng(seed))
        assert np.array_equal(changed, again)
        assert np.array_equal(mask, same)
    assert np.array_equal(image, kept)


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_texture_like_the_image_ends_as_its_negative(level: int) -> None:
    image = np.full((32, 32, 3), level, np.uint8)
    changed, mask = PasteTexture(lambda shape, _: np.full((*shape, 3), level, np.uint8))(image, rng())
    assert (np.abs(changed[mask].astype(int) - level) > 100).all()


def test_opacity_is_the_share_of_the_texture() -> None:
    image, texture = np.full((8, 8, 3), 50, np.uint8), np.full((8, 8, 3), 250, np.uint8)
    mask = np.eye(8, dtype=bool)
    for opacity in (0.2, 0.5, 1.0):
        assert (blended(image, texture, mask, opacity)[mask] == round(50 + 200 * opacity)).all()
    steps = []
    for seed in range(200):
        changed, mask = PasteTexture(lambda shape, _: np.full((*shape, 3), 250, np.uint8), mask=box_mask)(
            image, rng(seed)
        )
        steps.append((changed[mask].astype(float) - 50).mean() / 200)
    assert min(steps) == pytest.approx(0.2, abs=0.03)
    assert max(steps) == pytest.approx(1.0, abs=0.03)
    assert np.mean(steps) == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("opacity", [(0.0, 0.5), (0.8, 0.2), (0.5, 1.5)])
def test_opacities_are_checked(opacity: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="opacity"):
        PasteTexture(opacity=opacity)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)])  # fmt: skip  # noqa: E501
def test_other_images_are_refused(image: Image) -> None:
    with pytest.raises(DataError, match="uint8"):
        PasteTexture()(image, rng())


def test_jitter_changes_colours_and_no_more() -> None:
    image = noisy(120)
    assert np.array_equal(jittered(image, 0, rng()), image)
    strong = [jittered(image, 0.3, rng(seed)) for seed in range(20)]
    assert np.std([s.mean() for s in strong]) > 5
    for one in strong:  # an affine map of colours keeps what lies where
        assert abs(np.corrcoef(one.mean(2).ravel(), image.mean(2).ravel())[0, 1]) > 0.9
