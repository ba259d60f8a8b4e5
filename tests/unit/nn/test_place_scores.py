"""Level maps in units of good images."""

from __future__ import annotations

import pytest
import torch

from blemish.nn.place_scores import PRIOR, PlaceScores

GRIDS = [(3, 4), (2, 2)]


def good(count: int) -> list[torch.Tensor]:
    """Maps whose fine level is ten times as large, and whose corner varies most."""
    generator = torch.Generator().manual_seed(0)
    fine, coarse = (1 + 0.1 * torch.rand(count, *grid, generator=generator) for grid in GRIDS)
    fine[:, 0, 0] *= 1 + torch.rand(count, generator=generator)
    return [10 * fine, coarse]


def test_places_of_good_images_have_z_scores() -> None:
    maps = good(4000)
    scores = PlaceScores(GRIDS)
    scores.measure([[x[s : s + 70] for x in maps] for s in range(0, 4000, 70)])
    for level in scores(maps):
        assert level.mean(0).abs().max() < 0.2
        assert level.std(0).sub(1).abs().max() < 0.2
    whole, parts = PlaceScores(GRIDS), PlaceScores(GRIDS)
    whole.measure([maps])
    parts.measure([[x[:1] for x in maps], [x[1:] for x in maps]])
    for a, b in zip(whole(maps), parts(maps), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_place_that_hardly_varied_among_few_images_does_not_outweigh_the_others() -> None:
    maps = good(4)
    maps[0][:, 1, 1] = 3.0
    scores = PlaceScores(GRIDS)
    scores.measure([maps])
    assert scores.get_buffer("mean_0")[1, 1] == 3
    level = maps[0].var(0, correction=0).mean()
    assert scores.get_buffer("spread_0")[1, 1] == pytest.approx(float((PRIOR * level / (4 + PRIOR)).sqrt()), rel=1e-5)


@pytest.mark.parametrize("way", ["z", "sum"])
def test_a_constant_level_stays_finite_and_sums_stay_as_they_are(way: str) -> None:
    scores = PlaceScores(GRIDS, way)  # type: ignore[arg-type]
    maps = [torch.zeros(5, *grid) for grid in GRIDS]
    scores.measure([maps])
    assert all(torch.isfinite(x).all() for x in scores(maps))
    if way == "sum":
        assert all(torch.equal(a, b) for a, b in zip(scores(good(3)), good(3), strict=True))
