"""PaDiM: one Gaussian of normal features at each position.

Paper    Defard et al., PaDiM: a Patch Distribution Modeling Framework, ICPR 2021 workshops.
Suits    parts that always lie the same way; cheapest at inspection.
Fit      one pass; mean and covariance of the patch descriptor at every grid position, in constant memory.
Predict  a patch is as anomalous as its Mahalanobis distance to the Gaussian of its position; the image takes the mean
         of its worst hundredth of patches.
Differs  all channels by default instead of 100 drawn ones; descriptors are averaged over 3 x 3 positions, and have the
         square root of their length; the ridge is relative to the mean variance, so that it means the same for every
         backbone; the score is taken of patches, not of the blurred map, and of a share of them (`top=0`: of one).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError
from blemish.methods.base import Method, Published
from blemish.ops.arrays import coarse_product, columns, sqrt, total
from blemish.ops.draws import Draws
from blemish.ops.gaussians import PositionGaussians, Without, whitening
from blemish.ops.patches import Border, Length, check_windows, grid_of, patch_descriptors
from blemish.ops.scoring import SHARE, check_share, highest_share
from blemish.ops.smoothing import smooth_map, upsampling_matrix
from blemish.types import Batch, FeatureSpec, Prediction


@dataclass(frozen=True)
class Config:
    channels: int = 0  # descriptor channels drawn at random; 0 keeps all
    ridge: float = 0.01  # added to the covariance's diagonal, as a share of the mean variance over all positions
    windows: tuple[int, ...] = (3,)  # sides of the windows that each level is averaged over, one descriptor each
    length: Length = "root"  # of each descriptor: its square root, as it is, or 1
    border: Border = "zeros"  # what lies around the map in a window's mean; inside: only places that are there count
    level: int = -1  # pyramid level whose grid is used: 0 the finest, -1 the coarsest
    top: float = SHARE  # share of the patches whose mean distance is the image score; 0 takes the worst one
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input

    def __post_init__(self) -> None:
        if self.channels < 0 or self.ridge <= 0 or self.sigma < 0:
            raise ConfigError("channels >= 0, ridge > 0 and sigma >= 0 are required")
        check_windows(self.windows)
        check_share(self.top)


class PaDiM(Method[Config]):
    fitted_buffers = ("drawn", "mean", "whiten")
    published = (
        Published("MVTec AD", "I-AUROC", 0.979, "EfficientNet-B5", "Defard et al. 2021"),
        Published("MVTec AD", "P-AUROC", 0.975, "WideResNet-50-2, 550 channels", "Defard et al. 2021"),
        Published("MVTec AD", "AUPRO@0.3", 0.921, "WideResNet-50-2, 550 channels", "Defard et al. 2021"),
    )
    drawn: NDArray[np.int64]  # (C,) channels in use
    mean: NDArray[np.float32]  # (P, C)
    whiten: NDArray[np.float32]  # (P, C, C); the product with it is white

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.grid = grid_of(spec, config.level)
        self._channels = len(config.windows) * sum(spec.channels)
        keep = min(config.channels or self._channels, self._channels)
        self._draw = np.sort(Draws(seed).permutation(self._channels)[:keep])
        self._statistics = PositionGaussians()
        self._without: Without | None = None
        self._rows = upsampling_matrix(self.grid[0], size[0], config.sigma)
        self._columns = upsampling_matrix(self.grid[1], size[1], config.sigma)

    def _descriptors(self, batch: Batch, drawn: NDArray[np.int64]) -> Any:
        assert batch.pyramid is not None
        c = self.config
        x = patch_descriptors(batch.pyramid.maps, self.spec, self.grid, c.windows, c.length, c.border)
        return x if len(drawn) == self._channels else columns(x, drawn)

    def observe(self, batch: Batch) -> None:
        self._statistics.add(self._descriptors(batch, self._draw))

    def merge(self, other: Self) -> None:
        self._statistics.merge(other._statistics)

    def conclude(self) -> None:
        covariance = self._statistics.covariance()
        variance = float(covariance.diagonal(axis1=1, axis2=2).mean())
        ridge = self.config.ridge * variance if variance > 0 else 1.0  # one image or constant ones: Euclidean
        self.drawn = self._draw
        self.mean = self._statistics.mean().astype(np.float32)
        if self.keeps:
            self._without = Without(self._statistics, self.config.ridge)
        self._statistics = PositionGaussians()
        self.whiten = whitening(covariance, ridge)

    def recall(self, samples: int) -> None:
        self._draw = self.drawn
        self._statistics = PositionGaussians.recalled(self.mean, self.whiten, self.config.ridge, samples)

    def predict(self, batch: Batch) -> Prediction:
        centred = (self._descriptors(batch, self.drawn) - self.mean).transpose(1, 0, 2)  # (P, B, C)
        white = coarse_product(centred, self.whiten)
        return self._judged(sqrt(total(white * white, 2)).transpose(1, 0))  # Eq. 2

    def left_out(self, learned: Batch, judged: Batch) -> Prediction:
        assert self._without is not None
        samples = (self._descriptors(batch, self.drawn) for batch in (learned, judged))
        return self._judged(self._without.distances(*samples))

    def _judged(self, distance: Any) -> Prediction:
        """From the distance of each patch, (B, P)."""
        anomaly_map = smooth_map(distance.reshape(-1, *self.grid), self._rows, self._columns)
        return Prediction(highest_share(distance, self.config.top, math.prod(self.grid)), anomaly_map)


METHOD = PaDiM
