"""The pool of points, its coreset, and that coreset without some of the samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from blemish.ops.coreset import greedy_k_centre
from blemish.ops.draws import Draws
from blemish.ops.pool import Kept, Pool, farthest_first


def points(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)


def filled(samples: int = 8, each: int = 30, ratio: float = 0.2, most: int = 10_000, bank: int = 1000) -> Pool:
    pool = Pool(ratio, bank, most, Draws(0))
    for i in range(samples):
        pool.add(points(each, i), [(str(i), each)])
    return pool


@pytest.mark.parametrize(("lazy", "tile"), [(1024, 8192), (7, 50)])
def test_each_point_knows_its_nearest_pick(lazy: int, tile: int) -> None:
    x, near = points(300), np.empty(300, np.int64)
    picks, radius = greedy_k_centre(x, 40, start=3, lazy=lazy, tile=tile, near=near)
    assert np.array_equal(picks, greedy_k_centre(x, 40, start=3, lazy=lazy, tile=tile)[0])
    gaps = cdist(x, x[picks])
    assert np.array_equal(near, picks[gaps.argmin(1)])
    assert gaps.min(1).max() == pytest.approx(radius, rel=1e-4)


def test_equal_points_have_a_pick_among_them() -> None:
    x, near = np.ones((20, 3), np.float32), np.empty(20, np.int64)
    picks, _ = greedy_k_centre(x, 4, near=near)
    assert set(near) <= set(picks)
    assert np.array_equal(near[picks], picks)


def test_what_a_sample_gave_is_replaced_by_what_others_gave() -> None:
    pool = filled()
    bank, kept = pool.coreset(keep=True)
    assert kept is not None
    for ids in (["3"], ["0", "5", "7"]):
        others = np.concatenate([points(30, i) for i in range(8) if str(i) not in ids])
        without = kept.without(ids)
        assert len(without) == len(bank), "as many as were taken away"
        assert cdist(without, others).min(1).max() == 0
        assert len(np.unique(without, axis=0)) == len(without)
        radius, again = cdist(others, without).min(1).max(), greedy_k_centre(others, len(bank))[1]
        assert radius <= 1.1 * again, "the others are covered about as well as by a coreset of them alone"


def test_a_sample_without_picks_changes_nothing() -> None:
    """And one that has them all leaves a coreset of the others."""
    x, near = np.concatenate([points(10), 100 + points(10)]), np.empty(20, np.int64)
    picks, _ = greedy_k_centre(x, 4, near=near)
    kept = Kept(x, [("a", 10), ("b", 10)], picks[picks >= 10], np.full(20, picks[picks >= 10][0]))
    assert np.array_equal(kept.without(["a"]), x[picks[picks >= 10]])
    assert len(kept.without(["b"])) == (picks >= 10).sum()
    assert cdist(kept.without(["b"]), x[:10]).min(1).max() == 0
    with pytest.raises(KeyError):
        kept.without(["c"])


@pytest.mark.parametrize("have", [0, 6])
def test_the_farthest_come_first(have: int) -> None:
    x, bank = points(40), points(have, 1)
    picks = farthest_first(x, bank, 10)
    assert len(set(picks)) == 10
    for k in range(1 if have == 0 else 0, 10):
        gaps = cdist(x, np.concatenate([bank, x[picks[:k]]])).min(1)
        assert gaps[picks[k]] == pytest.approx(gaps.max(), rel=1e-4)
    assert len(farthest_first(x, bank, 100)) == 40
    assert len(farthest_first(x[:0], bank, 3)) == 0


def test_nothing_can_be_left_out_of_what_was_condensed() -> None:
    assert filled(most=100, bank=20).coreset(keep=True)[1] is None
    merged = filled()
    merged.merge(filled(most=100, bank=20))
    assert merged.coreset(keep=True)[1] is None
    assert filled().coreset()[1] is None, "nobody asked"


def test_merged_pools_know_whose_points_they_hold() -> None:
    whole, first, second = (Pool(0.2, 1000, 10_000, Draws(0)) for _ in range(3))
    for i in range(8):
        for pool in (whole, first if i < 5 else second):
            pool.add(points(30, i), [(str(i), 30)])
    first.merge(second)
    (one, kept), (other, merged) = (pool.coreset(keep=True) for pool in (whole, first))
    assert kept is not None
    assert merged is not None
    assert np.array_equal(one, other)
    assert np.array_equal(kept.without(["6"]), merged.without(["6"]))


def test_a_recalled_bank_belongs_to_no_sample() -> None:
    pool, old = Pool(0.5, 1000, 10_000, Draws(0)), points(20, 99)
    pool.recall(old, 40, 0.5)
    pool.add(points(30, 1), [("new", 30)])
    bank, kept = pool.coreset(keep=True)
    assert len(bank) == 35
    assert kept is not None
    assert cdist(kept.without(["new"]), old).min(1).max() == 0
