"""Masks: never empty, within their bounds, and the same for the same state."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.data.synthesis.masks import Masker, blob_mask, box_mask, highest, perlin_mask, thread_mask
from blemish.errors import ConfigError

MASKERS = [perlin_mask, box_mask, blob_mask, thread_mask]
SHAPES = [(1, 1), (1, 9), (7, 3), (48, 64), (65, 40)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("masker", MASKERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_of_any_size_is_never_empty(masker: Masker, shape: tuple[int, int]) -> None:
    for seed in range(25):
        mask = masker(shape, rng(seed))
        assert (mask.dtype, mask.shape) == (bool, shape)
        assert mask.any()


@pytest.mark.parametrize("masker", MASKERS)
def test_the_same_state_gives_the_same_mask_and_others_differ(masker: Masker) -> None:
    masks = [masker((64, 64), rng(seed)).tobytes() for seed in range(20)]
    assert masks == [masker((64, 64), rng(seed)).tobytes() for seed in range(20)]
    assert len(set(masks)) == 20


@pytest.mark.parametrize("bounds", [(0.002, 0.25), (0.03, 0.06), (0.1, 0.1)])
def test_perlin_masks_keep_to_their_bounds(bounds: tuple[float, float]) -> None:
    for seed in range(300):
        share = perlin_mask((64, 80), rng(seed), least=bounds[0], most=bounds[1]).mean()
        assert bounds[0] <= share <= bounds[1] + 1e-9


def test_perlin_masks_come_in_all_sizes_and_grains() -> None:
    masks = [perlin_mask((64, 64), rng(seed)) for seed in range(200)]
    shares = np.array([m.mean() for m in masks])
    assert np.quantile(shares, 0.1) < 0.03
    assert np.quantile(shares, 0.9) > 0.07
    assert np.mean((shares < 0.0025) | (shares > 0.2495)) < 0.05  # the bounds are no habit
    borders = np.array([np.diff(m, axis=0).sum() + np.diff(m, axis=1).sum() for m in masks])
    assert np.quantile(borders, 0.9) > 3 * np.quantile(borders, 0.1)
    covered = np.mean(masks, 0)
    assert covered.min() > 0  # no place is spared, and corners of turned noise are not empty
    assert covered[:8, :8].mean() > 0.02


def test_boxes_are_full_and_of_their_size() -> None:
    for seed in range(100):
        mask = box_mask((100, 100), rng(seed), area=(0.04, 0.09), aspect=(0.5, 2))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.035 <= mask.mean() <= 0.095
        assert 0.45 <= len(rows) / len(columns) <= 2.2


def test_blobs_are_of_their_size_and_lumped() -> None:
    for seed in range(100):
        mask = blob_mask((64, 64), rng(seed), area=(0.02, 0.06))
        assert 0.02 <= mask.mean() <= 0.06
        assert np.hypot(*(np.argwhere(mask).std(0))) < 18  # pixels anywhere would give 26


def test_threads_are_long_and_thin() -> None:
    for seed in range(50):
        mask = thread_mask((128, 128), rng(seed), length=(0.4, 0.5))
        assert mask.mean() < 0.02
        assert mask.sum() >= 20


def test_the_highest_are_counted_exactly_ties_too() -> None:
    values = np.array([[1, 3, 3], [3, 0, 2]], np.float32)
    assert highest(values, 2).tolist() == [[False, True, True], [False, False, False]]
    assert highest(np.zeros((4, 4), np.float32), 5).sum() == 5


def test_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="of the pixels"):
        perlin_mask((8, 8), rng(), least=0.5, most=0.2)
