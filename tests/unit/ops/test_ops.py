"""The pure functions against slow, plain versions of themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from blemish.ops.coreset import greedy_k_centre
from blemish.ops.gaussians import PositionGaussians, whitening
from blemish.ops.neighbours import nearest, nearest_within
from blemish.ops.patches import patch_descriptors, to_grid
from blemish.ops.scoring import peak, top_mean
from blemish.ops.smoothing import smooth_map, upsampling_matrix
from blemish.types import Pyramid


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
    picks, radius = greedy_k_centre(torch.from_numpy(points).float(), 150, start=7, lazy=lazy, tile=257)
    expected = plain_k_centre(points.astype(np.float32).astype(np.float64), 150, 7)
    assert picks.tolist() == expected
    gaps = np.linalg.norm(points[:, None] - points[expected][None], axis=2).min(1)
    assert radius == pytest.approx(gaps.max(), rel=1e-3)


def test_coreset_never_picks_twice_and_stops_at_the_number_of_points() -> None:
    picks, radius = greedy_k_centre(torch.ones(20, 3), 30, lazy=4)
    assert sorted(picks.tolist()) == list(range(20))
    assert radius == 0
    assert greedy_k_centre(torch.zeros(1, 2), 1)[0].tolist() == [0]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 120), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_greedy_radius_is_within_twice_the_best(n: int, k: int, seed: int) -> None:
    """Gonzalez 1985: any k + 1 picks are further apart than the radius, so no k balls of half of it can cover."""
    points = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3))).float()
    picks, radius = greedy_k_centre(points, k)
    assert len(set(picks.tolist())) == min(k, n)
    chosen = points[picks]
    if len(picks) > 1 and radius > 0:
        assert torch.pdist(chosen).min() >= radius - 1e-3


def test_nearest_is_exact_over_chunks_and_finds_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(5000, 16, generator=generator)
    x = torch.cat([torch.randn(64, 16, generator=generator), bank[[17, 4999]]])
    distance, index = nearest(x, bank, torch.matmul)
    expected = torch.cdist(x.double(), bank.double())
    assert torch.equal(index, expected.argmin(1))
    torch.testing.assert_close(distance.double(), expected.amin(1), rtol=1e-5, atol=1e-5)
    assert distance[-2:].tolist() == [0.0, 0.0]


def test_a_coarse_product_still_gives_true_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(3000, 32, generator=generator)
    x = torch.randn(200, 32, generator=generator)
    distance, index = nearest(x, bank, lambda a, b: (a.bfloat16() @ b.bfloat16()).float())
    torch.testing.assert_close(distance, (x - bank[index]).norm(dim=1))
    best = torch.cdist(x, bank).amin(1)
    assert (distance >= best - 1e-4).all()
    assert (distance / best).max() < 1.02


def test_neighbours_within_start_with_the_row_itself() -> None:
    bank = torch.randn(1500, 5, generator=torch.Generator().manual_seed(1))
    expected = torch.cdist(bank.double(), bank.double()).argsort(1)[:, :4]
    assert torch.equal(nearest_within(bank, 4), expected)
    assert nearest_within(torch.zeros(3, 2), 9)[:, 0].tolist() == [0, 1, 2]


def test_gaussians_equal_numpy_and_merge_exactly() -> None:
    x = torch.randn(40, 6, 5, generator=torch.Generator().manual_seed(0)) * 3 + 50
    whole, left, right = PositionGaussians(), PositionGaussians(), PositionGaussians()
    for part in x.split(7):
        whole.add(part)
    left.add(x[:25])
    right.add(x[25:])
    left.merge(right)
    left.merge(PositionGaussians())
    empty = PositionGaussians()
    empty.merge(left)
    for statistics in (whole, left, empty):
        assert statistics.n == 40
        torch.testing.assert_close(statistics.mean(), x.double().mean(0), rtol=1e-7, atol=1e-6)
        for p in range(6):
            expected = np.cov(x[:, p].double().numpy().T)
            np.testing.assert_allclose(statistics.covariance()[p].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_whitening_gives_the_mahalanobis_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
    covariance = a @ a.transpose(1, 2)
    d = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    w = whitening(covariance, 0.5)
    got = (d.float()[:, None] @ w)[:, 0].square().sum(1)
    inverse = torch.linalg.inv(covariance + 0.5 * torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(got.double(), torch.einsum("pc,pcd,pd->p", d, inverse, d), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("n", "out", "sigma"), [(16, 256, 4.0), (5, 37, 2.5), (4, 16, 0.0), (7, 7, 1.0)])
def test_one_matrix_is_interpolation_then_blur(n: int, out: int, sigma: float) -> None:
    grid = torch.rand(2, n, n, generator=torch.Generator().manual_seed(0))
    matrix = upsampling_matrix(n, out, sigma)
    torch.testing.assert_close(matrix.sum(1), torch.ones(out))
    up = F.interpolate(grid[:, None], size=(out, out), mode="bilinear", align_corners=False)[:, 0].numpy()
    expected = up if sigma == 0 else ndimage.gaussian_filter(up, (0, sigma, sigma), mode="mirror", truncate=4.0)
    np.testing.assert_allclose(smooth_map(grid, matrix, matrix).numpy(), expected, atol=2e-3)


def test_patch_descriptors_average_windows_and_blocks() -> None:
    fine = torch.arange(64.0).view(1, 1, 8, 8)
    coarse = torch.ones(1, 2, 4, 4)
    x = patch_descriptors(Pyramid((fine, coarse)), (4, 4), neighbourhood=1)
    assert x.shape == (1, 16, 3)
    assert x[0, 0].tolist() == [(0 + 1 + 8 + 9) / 4, 1, 1]
    wide = patch_descriptors(Pyramid((fine,)), (8, 8), neighbourhood=3)[0, :, 0].view(8, 8)
    assert wide[1, 1] == fine[0, 0, :3, :3].mean()
    assert wide[0, 0] == fine[0, 0, :2, :2].mean()  # the border averages over what is there
    assert to_grid(fine, (3, 5)).shape == (1, 1, 3, 5)


def test_top_mean() -> None:
    scores = torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 9.0]])
    assert top_mean(scores, 1).tolist() == [5, 9]
    assert top_mean(scores, 2).tolist() == [4, 5.5]
    assert top_mean(scores, 99).tolist() == [3, pytest.approx(13 / 3)]


def test_the_peak_is_the_highest_place_or_the_mean_of_a_share() -> None:
    wave = torch.arange(64.0)
    anomaly_map = torch.stack([wave[:, None] + wave, torch.zeros(64, 64)])
    assert torch.equal(peak(anomaly_map, 0), torch.tensor([126.0, 0.0]))
    every_fourth = (wave[:, None] + wave)[::4, ::4].flatten().sort(descending=True).values
    assert torch.allclose(peak(anomaly_map, 0.01), torch.tensor([every_fourth[:3].mean(), 0.0]))  # 1 % of 256 places
    assert torch.allclose(peak(anomaly_map, 1), torch.tensor([every_fourth.mean(), 0.0]))
