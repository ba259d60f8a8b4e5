"""The pure functions against slow, plain versions of themselves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist, pdist

from blemish.errors import ConfigError
from blemish.ops import neighbours
from blemish.ops.coreset import greedy_k_centre
from blemish.ops.gaussians import PositionGaussians, whitening
from blemish.ops.neighbours import nearest, nearest_within
from blemish.ops.patches import mean_around, patch_descriptors, shortened, to_grid
from blemish.ops.scoring import check_share, highest_share, top_mean
from blemish.ops.smoothing import smooth_map, upsampling_matrix
from blemish.types import FeatureSpec


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def short(x: np.ndarray) -> np.ndarray:
    """Rounded to bf16's eight bits, or nearly."""
    return np.ldexp(np.round(np.ldexp((parts := np.frexp(x))[0], 8)), parts[1] - 8)


def plain_k_centre(points: np.ndarray, k: int, start: int) -> list[int]:
    distance = ((points - points[start]) ** 2).sum(1)
    picks = [start]
    for _ in range(k - 1):
        picks.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[picks[-1]]) ** 2).sum(1))
    return picks


@pytest.mark.parametrize("lazy", [8, 64, 4096])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_lazy_batches_pick_what_the_plain_loop_picks(lazy: int, offset: float) -> None:
    points = np.random.default_rng(0).normal(size=(1500, 12)) * np.linspace(0.2, 3, 12) + offset
    picks, radius = greedy_k_centre(points.astype(np.float32), 150, start=7, lazy=lazy, tile=257)
    expected = plain_k_centre(points.astype(np.float32).astype(np.float64), 150, 7)
    assert picks.tolist() == expected
    gaps = np.linalg.norm(points[:, None] - points[expected][None], axis=2).min(1)
    assert radius == pytest.approx(gaps.max(), rel=1e-3)


def test_coreset_never_picks_twice_and_stops_at_the_number_of_points() -> None:
    picks, radius = greedy_k_centre(np.ones((20, 3), np.float32), 30, lazy=4)
    assert sorted(picks.tolist()) == list(range(20))
    assert radius == 0
    assert greedy_k_centre(np.zeros((1, 2), np.float32), 1)[0].tolist() == [0]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 120), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_greedy_radius_is_within_twice_the_best(n: int, k: int, seed: int) -> None:
    """Gonzalez 1985: any k + 1 picks are further apart than the radius, so no k balls of half of it can cover."""
    points = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    picks, radius = greedy_k_centre(points, k)
    assert len(set(picks.tolist())) == min(k, n)
    chosen = points[picks]
    if len(picks) > 1 and radius > 0:
        assert pdist(chosen).min() >= radius - 1e-3


def test_nearest_is_exact_over_chunks_and_finds_itself() -> None:
    bank = normal(5000, 16)
    x = np.concatenate([normal(64, 16, seed=1), bank[[17, 4999]]])
    distance, index = nearest(x, bank)
    expected = cdist(x, bank)
    assert np.array_equal(index, expected.argmin(1))
    np.testing.assert_allclose(distance, expected.min(1), rtol=1e-5, atol=1e-5)
    assert distance[-2:].tolist() == [0.0, 0.0]


def test_a_coarse_product_still_gives_true_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, x = normal(3000, 32), normal(200, 32, seed=1)
    monkeypatch.setattr(neighbours, "coarse_product", lambda a, b: (short(a) @ short(b)).astype(np.float32))
    distance, index = nearest(x, bank)
    np.testing.assert_allclose(distance, np.linalg.norm(x - bank[index], axis=1), rtol=1e-5)
    best = cdist(x, bank).min(1)
    assert (distance >= best - 1e-4).all()
    assert (distance / best).max() < 1.02


def test_neighbours_within_start_with_the_row_itself() -> None:
    bank = normal(1500, 5, seed=1)
    assert np.array_equal(nearest_within(bank, 4), cdist(bank, bank).argsort(1)[:, :4])
    assert nearest_within(np.zeros((3, 2), np.float32), 9)[:, 0].tolist() == [0, 1, 2]


def test_gaussians_equal_numpy_and_merge_exactly() -> None:
    x = normal(40, 6, 5) * np.float32(3) + np.float32(50)
    whole, left, right = PositionGaussians(), PositionGaussians(), PositionGaussians()
    for part in np.split(x, [7, 14, 21, 28, 35]):
        whole.add(part)
    left.add(x[:25])
    right.add(x[25:])
    left.merge(right)
    left.merge(PositionGaussians())
    for array in (left.total, left.outer):
        array.flags.writeable = False  # as what comes from another machine
    empty = PositionGaussians()
    empty.merge(left)
    empty.merge(PositionGaussians())
    more = PositionGaussians()
    more.merge(left)
    more.merge(right)
    for statistics in (whole, left, empty):
        assert statistics.n == 40
        np.testing.assert_allclose(statistics.mean(), x.mean(0, dtype=np.float64), rtol=1e-7, atol=1e-6)
        for p in range(6):
            expected = np.cov(x[:, p].T.astype(np.float64))
            np.testing.assert_allclose(statistics.covariance()[p], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [8, 59])  # 59: halves of halves, odd ones among them
def test_whitening_gives_the_mahalanobis_distance(channels: int) -> None:
    a = normal(40, channels, channels).astype(np.float64)  # more positions than are factored at a time
    covariance, d = a @ a.transpose(0, 2, 1), normal(40, channels, seed=1)
    w = whitening(covariance, 0.5)
    got = ((d[:, None] @ w)[:, 0] ** 2).sum(1)
    inverse = np.linalg.inv(covariance + 0.5 * np.eye(channels))
    np.testing.assert_allclose(got, np.einsum("pc,pcd,pd->p", d, inverse, d), rtol=1e-3)


@pytest.mark.parametrize(("n", "out", "sigma"), [(16, 256, 4.0), (5, 37, 2.5), (4, 16, 0.0), (7, 7, 1.0)])
def test_one_matrix_is_interpolation_then_blur(n: int, out: int, sigma: float) -> None:
    grid = normal(2, n, n)
    matrix = upsampling_matrix(n, out, sigma)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
    up = np.stack([cv2.resize(one, (out, out), interpolation=cv2.INTER_LINEAR) for one in grid])
    expected = up if sigma == 0 else ndimage.gaussian_filter(up, (0, sigma, sigma), mode="mirror", truncate=4.0)
    np.testing.assert_allclose(smooth_map(grid, matrix, matrix), expected, atol=2e-3)


def test_patch_descriptors_average_windows_and_blocks() -> None:
    fine = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    coarse = np.ones((1, 2, 4, 4), np.float32)
    spec = FeatureSpec((0, 1), (1, 2), ((8, 8), (4, 4)))
    x = patch_descriptors((fine, coarse), spec, (4, 4), windows=(1,))
    assert x.shape == (1, 16, 3)
    assert x[0, 0].tolist() == [(0 + 1 + 8 + 9) / 4, 1, 1]
    both = patch_descriptors((fine, coarse), spec, (4, 4), windows=(1, 3))
    assert both.shape == (1, 16, 6)
    assert np.array_equal(both[:, :, :3], x)
    assert np.array_equal(both[:, :, 3:], patch_descriptors((fine, coarse), spec, (4, 4), windows=(3,)))
    wide = patch_descriptors((fine,), FeatureSpec((0,), (1,), ((8, 8),)), (8, 8))[0, :, 0].reshape(8, 8)
    assert wide[1, 1] == fine[0, 0, :3, :3].mean()
    assert wide[0, 0] == fine[0, 0, :2, :2].sum() / 9  # zeros lie around the map
    assert mean_around(fine, 3, "inside")[0, 0, 0, 0] == fine[0, 0, :2, :2].mean()
    bent = to_grid(fine, (8, 8), (3, 5))
    np.testing.assert_allclose(bent[0, 0], cv2.resize(fine[0, 0], (5, 3), interpolation=cv2.INTER_LINEAR), atol=1e-5)


def test_top_mean() -> None:
    scores = np.array([[1.0, 5.0, 3.0], [2.0, 2.0, 9.0]])
    assert top_mean(scores, 1).tolist() == [5, 9]
    assert top_mean(scores, 2).tolist() == [4, 5.5]


def test_the_highest_share_of_places_is_one_at_least() -> None:
    scores = np.arange(10, dtype=np.float32)[None]
    assert highest_share(scores, 0, 10).tolist() == highest_share(scores, 0.04, 10).tolist() == [9]
    assert highest_share(scores, 0.2, 10).tolist() == [8.5]
    with pytest.raises(ConfigError, match="in \\[0, 1\\)"):  # counted in places, as it once was, 1 was the maximum
        check_share(1)


def test_a_shortened_vector_keeps_its_direction() -> None:
    x = normal(2, 12, 5)
    length = np.linalg.norm(x, axis=2, keepdims=True)
    np.testing.assert_allclose(shortened(x, "root"), x / np.sqrt(length), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(shortened(x, "unit"), axis=2), 1, rtol=1e-5)
    assert shortened(x, "raw") is x
    assert not shortened(np.zeros((1, 3, 2), np.float32), "root").any()
