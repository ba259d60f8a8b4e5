"""The pure functions of networks, in PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blemish.nn.grids import to_grid
from blemish.nn.losses import cosine_map, cosine_places
from blemish.nn.scoring import peak, top_mean


def test_a_level_is_brought_to_a_grid_by_block_means_or_bilinear() -> None:
    fine = torch.arange(64.0).view(1, 1, 8, 8)
    assert to_grid(fine, (4, 4))[0, 0, 0, 0] == (0 + 1 + 8 + 9) / 4
    assert torch.equal(to_grid(fine, (3, 5)), F.interpolate(fine, size=(3, 5), mode="bilinear"))


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


def test_cosines_as_products_are_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 5, 4, 6, generator=generator)
    torch.testing.assert_close(cosine_places(a, b), cosine_map(a, b), atol=1e-5, rtol=0)
    assert cosine_places(a, b).shape == (3, 4, 6)
    one = cosine_places(a, b[:1])  # the same of each sample
    torch.testing.assert_close(one, cosine_map(a, b[:1].expand_as(a)), atol=1e-5, rtol=0)
    assert cosine_places(a, 3 * a).abs().max() < 1e-5
