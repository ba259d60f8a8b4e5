"""Defects made of the image itself: inside the mask only, seen, and each of its kind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from blemish.data.synthesis.cutpaste import KINDS, CutPaste
from blemish.data.synthesis.texture import Image, visible
from blemish.errors import ConfigError, DataError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pattern(size: tuple[int, int] = (64, 80)) -> Image:
    """Every place has its own colour, and there is noise to blur."""
    y, x = np.mgrid[: size[0], : size[1]]
    ramps = np.stack([60 + 120 * y / size[0], 60 + 120 * x / size[1], 120 + 0 * x], 2)
    return np.clip(ramps + rng().normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (48, 64), (96, 64)])
def test_a_defect_is_seen_inside_its_mask_and_nowhere_else(kind: str, size: tuple[int, int]) -> None:
    image, make = pattern(size), CutPaste((kind,))
    kept = image.copy()
    for seed in range(25):
        changed, mask = make(image, rng(seed))
        assert (changed.dtype, changed.shape, mask.dtype, mask.shape) == (np.uint8, image.shape, bool, size)
        assert mask.any()
        assert np.array_equal(changed[~mask], image[~mask])
        assert visible(image, changed, mask)
        again, same = make(image, rng(seed))
        assert np.array_equal(changed, again)
        assert np.array_equal(mask, same)
    assert np.array_equal(image, kept)


@pytest.mark.parametrize("level", [0, 3, 127, 255])
@pytest.mark.parametrize("kinds", [(kind,) for kind in KINDS] + [tuple(KINDS)])
def test_plain_images_get_one_too(level: int, kinds: tuple[str, ...]) -> None:
    image = np.full((40, 40, 3), level, np.uint8)
    for seed in range(10):
        changed, mask = CutPaste(kinds)(image, rng(seed))
        assert visible(image, changed, mask)


def test_no_global_state_is_read_or_changed() -> None:
    np.random.seed(3)
    cv2.setRNGSeed(3)
    before = np.random.get_state()[1].tolist()
    first = CutPaste()(pattern(), rng(5))[0]
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(4)
    cv2.setRNGSeed(4)
    assert np.array_equal(CutPaste()(pattern(), rng(5))[0], first)


def test_a_patch_is_a_piece_of_the_image() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., :] = [200, 40, 40]
    image[:, 32:] = [40, 40, 200]
    for seed in range(20):
        changed, mask = CutPaste(("patch",))(image, rng(seed))
        nearest = [np.abs(changed[mask].astype(int) - c).max(1) for c in ([200, 40, 40], [40, 40, 200])]
        assert np.minimum(*nearest).max() < 70
        assert 0.015 < mask.mean() < 0.16


def test_scars_are_thin_and_turned() -> None:
    sides = []
    for seed in range(60):
        _, mask = CutPaste(("scar",))(pattern((256, 256)), rng(seed))
        points = np.argwhere(mask).astype(np.float32)
        (_, _), size, angle = cv2.minAreaRect(points)
        sides.append((min(size), max(size), angle % 90))
    small, large, angles = np.array(sides).T
    assert large.max() <= 27
    assert small.max() <= 18
    assert np.mean((angles > 5) & (angles < 85)) > 0.6


def test_blur_takes_detail_and_keeps_the_mean() -> None:
    image = pattern((128, 128))
    for seed in range(10):
        changed, mask = CutPaste(("blur",))(image, rng(seed))
        step = np.diff(changed.astype(float), axis=1), np.diff(image.astype(float), axis=1)
        inner = (mask[:, 1:] & mask[:, :-1])[..., None].repeat(3, 2)
        assert np.abs(step[0][inner]).mean() < 0.8 * np.abs(step[1][inner]).mean()
        assert changed[mask].mean() == pytest.approx(image[mask].mean(), abs=3)


def test_a_shift_keeps_the_texture() -> None:
    image = pattern((128, 128))
    for seed in range(10):
        changed, mask = CutPaste(("shift",))(image, rng(seed))
        assert np.abs(changed[mask].astype(float) - image[mask]).max() >= 15
        step = np.diff(changed.astype(float), axis=1), np.diff(image.astype(float), axis=1)
        inner = (mask[:, 1:] & mask[:, :-1])[..., None].repeat(3, 2)
        assert np.corrcoef(step[0][inner], step[1][inner])[0, 1] > 0.9


def test_by_lot_all_kinds_come() -> None:
    image = pattern()
    marks = [{k: CutPaste((k,))(image, rng(9))[0].tobytes() for k in KINDS}]
    assert len(set(marks[0].values())) == len(KINDS)
    shares = [CutPaste()(image, rng(seed))[1].mean() for seed in range(60)]
    assert min(shares) < 0.006  # scars
    assert max(shares) > 0.09  # patches


@pytest.mark.parametrize("kinds", [(), ("scars",)])
def test_unknown_kinds_are_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="unknown kind"):
        CutPaste(kinds)


def test_other_images_are_refused() -> None:
    with pytest.raises(DataError, match="uint8"):
        CutPaste()(np.zeros((8, 8), np.uint8), rng())
