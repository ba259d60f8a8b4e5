"""Level maps as one map and one score."""

from __future__ import annotations

import pytest
import torch

from blemish.nn.level_maps import LevelMaps
from blemish.nn.level_scores import LevelScores
from blemish.nn.scoring import peak

GRIDS, SIZE = [(8, 9), (4, 5)], (64, 72)


def good(count: int) -> list[torch.Tensor]:
    """Residuals of two levels; a corner of the fine one is always badly restored, and varies most."""
    generator = torch.Generator().manual_seed(0)
    fine, coarse = (1 + 0.1 * torch.rand(count, *grid, generator=generator) for grid in GRIDS)
    fine[:, 0, 0] += 5 * torch.rand(count, generator=generator)
    return [fine, coarse]


@pytest.mark.parametrize("top", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("adding", ["both", "z", "sum"])
def test_the_score_is_that_of_the_whole_map_of_its_kind(adding: str, top: float) -> None:
    scores = LevelScores(GRIDS, SIZE, 4.0, adding, top)  # type: ignore[arg-type]
    scores.measure([good(200)])
    maps, plain = good(7), LevelMaps(GRIDS, SIZE, 4.0)
    found, usual = scores(maps), maps if adding == "sum" else scores.place_scores(maps)
    torch.testing.assert_close(found.score, peak(plain(usual), top))
    torch.testing.assert_close(found.anomaly_map, plain(usual if adding == "z" else maps))


def test_a_place_that_is_always_badly_restored_decides_about_the_map_but_not_about_the_image() -> None:
    scores = LevelScores(GRIDS, SIZE, 2.0, "both", 0.0)
    scores.measure([good(400)])
    maps = [x.mean(0, keepdim=True) for x in good(400)]
    maps[0][0, 5, 6] += 1.0  # unusual there, yet less than what the corner has all the time
    whole = LevelMaps(GRIDS, SIZE, 2.0)
    found, usual = scores(maps), whole(scores.place_scores(maps))
    rows, columns = usual.shape[1:]
    at = divmod(int(usual.flatten(1).argmax()), columns)
    assert abs(at[0] - 5.5 * rows / 8) < 4
    assert abs(at[1] - 6.5 * columns / 9) < 4
    assert int(found.anomaly_map.flatten(1).argmax()) == 0
    torch.testing.assert_close(found.score, usual.amax((1, 2)))
