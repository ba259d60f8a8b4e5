"""From residuals of several levels to an anomaly map and an image score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor, nn

from blemish.nn.level_maps import LevelMaps
from blemish.nn.place_scores import PlaceScores
from blemish.nn.scoring import highest_share, peak_step
from blemish.types import Prediction

Adding = Literal["both", "z", "sum"]


class LevelScores(nn.Module):
    """Level maps (B, h_l, w_l) of residuals -> the map they add up to, and the mean of its highest share.

    The two ask for different things. Whether an image is unusual is told by z-scores of good images: a level or a place
    that is always badly restored says nothing. Where a defect lies is told by the residuals themselves: divided by
    their spread, a small difference at a quiet place counts as much as the defect.

    Args:
        grids: (h, w) of each level.
        size: (H, W) of the network's input.
        sigma: of the blur, in pixels of the input.
        adding: z-scores for the image and plain residuals for the map (both), or one of them for the two (z, sum).
        top: share of the map whose mean is the image score; 0 takes its highest place.
    """

    def __init__(
        self, grids: Sequence[tuple[int, ...]], size: tuple[int, int], sigma: float, adding: Adding, top: float
    ) -> None:
        super().__init__()
        self.place_scores = PlaceScores(grids, "sum" if adding == "sum" else "z")
        self.level_maps = LevelMaps(grids, size, sigma)
        self.deciding = LevelMaps(grids, size, sigma, every=peak_step(top))
        self.adding, self.top = adding, top

    def measure(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Take the figures of good images' level maps."""
        self.place_scores.measure(batches)

    def forward(self, maps: Sequence[Tensor]) -> Prediction:
        usual = self.place_scores(maps)
        score = highest_share(self.deciding(usual).flatten(1), self.top)
        return Prediction(score, self.level_maps(maps if self.adding == "both" else usual))
