from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import ConfigError, DataError
from blemish.evaluation.metrics import SaturatedRegion, aupro, spro
from blemish.evaluation.metrics.aupro import label_regions

MASK = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]], np.uint8)


def test_by_hand() -> None:
    """Regions of 2 and 1 pixels, 9 normal ones; PRO is 3/4 below the first false positive, 1 above the second."""
    scores = np.array([[9.0, 5.0, 6.0, 5.5], [0, 0, 0, 0], [0, 0, 0, 8.0]])
    limit = 4 / 9
    assert aupro([scores], [MASK], limit) == pytest.approx((2 * 0.75 + 2 * 1.0) / 4)
    assert aupro([scores], [MASK], 1 / 9) == pytest.approx(0.75)


def test_all_scores_equal_is_the_diagonal() -> None:
    assert aupro([np.ones((3, 4))], [MASK], 0.3) == pytest.approx(0.15)


def test_perfect_and_inverted_maps() -> None:
    assert aupro([MASK.astype(np.float32)], [MASK]) == pytest.approx(1.0)
    assert aupro([-MASK.astype(np.float32)], [MASK]) == 0.0


def test_small_region_weighs_as_much_as_a_large_one() -> None:
    mask = np.zeros((10, 10), int)
    mask[0, 0], mask[5:9, 0:9] = 1, 1
    scores = -9.0 * mask
    scores[0, 0] = 1.0  # the small one is found first, the large one last
    assert aupro([scores], [mask]) == pytest.approx(0.5)


@pytest.mark.parametrize("layout", ["C", "F"])
def test_corner_neighbours_are_one_region(layout) -> None:
    mask = np.zeros((4, 5), np.uint8, order=layout)
    mask[1, 1] = mask[2, 2] = mask[0, 4] = 1
    found = label_regions(mask)
    assert sorted(found.areas.tolist()) == [1, 2]
    assert found.positions.tolist() == [4, 6, 12]
    assert found.regions[1] == found.regions[2] != found.regions[0]


def test_one_and_three_axes() -> None:
    assert label_regions(np.array([1, 1, 0, 1])).areas.tolist() == [2, 1]
    volume = np.zeros((2, 2, 3), bool)
    volume[0, 0, 0] = volume[1, 1, 1] = True
    assert label_regions(volume).areas.tolist() == [2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unchanged_by_exp_and_inputs_untouched(dtype) -> None:
    rng = np.random.default_rng(3)
    maps = [(rng.integers(-30, 30, (9, 7)) / 8).astype(dtype) for _ in range(4)]
    masks = [rng.random((9, 7)) < 0.2, None, np.zeros((9, 7)), rng.random((9, 7)) < 0.1]
    regions = [[SaturatedRegion(m, 0.5, relative=True)] if m is not None and m.any() else [] for m in masks]
    kept = [m.copy() for m in maps]
    assert aupro([np.exp(m) for m in maps], masks) == aupro(maps, masks)
    assert spro([np.exp(m) for m in maps], regions) == spro(maps, regions)
    assert all((a == b).all() for a, b in zip(maps, kept, strict=True))


def test_spro_saturates_and_keeps_a_scattered_defect_as_one() -> None:
    scores = np.array([[9.0, 0.0, 1.0, 1.0], [1, 1, 1, 1], [1, 1, 1, 8.0]])
    whole = SaturatedRegion(MASK, 3)
    assert spro([scores], [[whole]], 0.3) == pytest.approx(2 / 3)
    assert spro([scores], [[whole._replace(saturation=2)]], 0.3) == pytest.approx(1.0)
    assert spro([scores], [[whole._replace(saturation=99)]], 0.3) == pytest.approx(2 / 3)  # capped at the area
    assert spro([scores], [[whole._replace(saturation=0.9, relative=True)]], 0.3) == pytest.approx(1.0)  # int(2.7)


@pytest.mark.parametrize(
    ("maps", "masks", "words"),
    [
        ([np.ones((2, 2))], [None], "a defect pixel"),
        ([np.ones((2, 2))], [np.zeros((2, 2))], "a defect pixel"),
        ([np.ones((2, 2))], [np.ones((2, 2))], "a normal pixel"),
        ([np.ones((2, 2))], [np.ones((2, 3))], "has shape"),
        ([np.array([[np.nan, 1.0]])], [np.array([[1, 0]])], "NaN"),
        ([np.ones((0, 2))], [None], "some pixels"),
        ([], [], "a defect pixel"),
    ],
)
def test_refuses(maps, masks, words) -> None:
    with pytest.raises(DataError, match=words):
        aupro(maps, masks)


def test_refuses_options_and_empty_regions() -> None:
    maps = [np.ones((3, 4))]
    for limit in (0.0, 1.1, np.nan):
        with pytest.raises(ConfigError, match="limit"):
            aupro(maps, [MASK], limit)
    for saturation, relative in ((0, False), (1.5, True), (np.nan, False)):
        with pytest.raises(ConfigError, match="saturation"):
            spro(maps, [[SaturatedRegion(MASK, saturation, relative)]])
    with pytest.raises(DataError, match="empty"):
        spro(maps, [[SaturatedRegion(MASK * 0, 1)]])
