"""PatchCore: nearest neighbours in a coreset of normal patch features.

Paper    Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
Suits    parts that move or vary; the default.
Fit      one pass; every normal patch is offered to the bank, a greedy k-centre coreset keeps a share of them.
Predict  a patch is as anomalous as it is far from the bank; the image takes the mean of its worst hundredth of patches,
         re-weighted on request (Eq. 7).
Differs  the coreset is exact farthest-first over all patches in the full space, without random projection or
         pre-sampling; the search is exact; a descriptor holds the position alone beside the mean over 3 x 3, each with
         the square root of its length, and the bank half the share of patches; re-weighting is off by default.
         `windows=3 length=raw coreset_ratio=0.1 top=0` is the paper's way. Beyond `pool` patches the pool is condensed
         by the same coreset rule and filled further, and so is each chunk of a large set: the covering radii of
         successive passes add up, so the bank still covers every patch seen within their sum.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError
from blemish.methods.base import Method, Published
from blemish.ops.arrays import constant, picked, repeated, rows, softmax, sqrt, top, total
from blemish.ops.draws import Draws
from blemish.ops.neighbours import nearest, nearest_within
from blemish.ops.patches import Border, Length, check_windows, grid_of, patch_descriptors
from blemish.ops.pool import Kept, Pool
from blemish.ops.scoring import SHARE, check_share, highest_share
from blemish.ops.smoothing import smooth_map, upsampling_matrix
from blemish.types import Batch, FeatureSpec, Prediction

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Config:
    coreset_ratio: float = 0.05  # share of all patches kept, in (0, 1]
    bank: int = 10_000  # maximum number of patches kept, whatever the ratio: it bounds the time of an inspection
    pool: int = 500_000  # maximum number of patches in memory while learning; more are condensed on the way
    neighbours: int = 1  # b in Eq. 7; 1 turns the re-weighting off, the paper uses 9
    top: float = SHARE  # share of the patches whose mean distance is the image score; 0 takes the worst one
    windows: tuple[int, ...] = (1, 3)  # sides of the windows that each level is averaged over, one descriptor each
    length: Length = "root"  # of each descriptor: its square root, as it is, or 1
    border: Border = "zeros"  # what lies around the map in a window's mean; inside: only places that are there count
    level: int = -1  # pyramid level whose grid is used: 0 the finest, -1 the coarsest
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input

    def __post_init__(self) -> None:
        if not 0 < self.coreset_ratio <= 1:
            raise ConfigError(f"coreset_ratio has to be in (0, 1], not {self.coreset_ratio}")
        if self.bank < 1 or self.pool < 4 * self.bank:
            raise ConfigError("bank >= 1 and pool >= 4 * bank are required")
        if self.neighbours < 1 or self.sigma < 0:
            raise ConfigError("neighbours >= 1 and sigma >= 0 are required")
        check_windows(self.windows)
        check_share(self.top)


class PatchCore(Method[Config]):
    fitted_buffers = ("centre", "memory", "support", "radius")
    published = (
        Published("MVTec AD", "I-AUROC", 0.990, "WideResNet-50-2", "Roth et al. 2022, coreset 10 %"),
        Published("MVTec AD", "P-AUROC", 0.981, "WideResNet-50-2", "Roth et al. 2022, coreset 10 %"),
        Published("MVTec AD", "AUPRO@0.3", 0.935, "WideResNet-50-2", "Roth et al. 2022, coreset 10 %"),
        Published("MTD", "I-AUROC", 0.979, "WideResNet-50-2", "Roth et al. 2022", where="mtd, random split"),
    )
    centre: Floats  # (C,) mean of the bank
    memory: Floats  # (M, C) the bank, around its centre
    support: NDArray[np.int64]  # (M, b) each row's nearest rows, itself first (Eq. 7)
    radius: Floats  # () every patch seen in fit lies within this distance of the bank

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.grid = grid_of(spec, config.level)
        self._pool = Pool(config.coreset_ratio, config.bank, config.pool, Draws(seed))
        self._kept: Kept | None = None
        self._rows = upsampling_matrix(self.grid[0], size[0], config.sigma)
        self._columns = upsampling_matrix(self.grid[1], size[1], config.sigma)

    def _descriptors(self, batch: Batch) -> Any:
        assert batch.pyramid is not None
        c = self.config
        return patch_descriptors(batch.pyramid.maps, self.spec, self.grid, c.windows, c.length, c.border)

    def observe(self, batch: Batch) -> None:
        x = self._descriptors(batch)
        patches = np.ascontiguousarray(x.reshape(-1, x.shape[2]))
        self._pool.add(patches, [(name, x.shape[1]) for name in batch.ids])

    def condense(self) -> None:
        self._pool.condense()

    def merge(self, other: Self) -> None:
        self._pool.merge(other._pool)

    def conclude(self) -> None:
        bank, self._kept = self._pool.coreset(keep=self.keeps)
        self.keeps = self._kept is not None
        self.centre = bank.mean(0)
        self._remember(bank)
        self.radius = np.array(self._pool.radius, np.float32)

    def _remember(self, bank: Floats) -> None:
        self.memory = bank - self.centre
        self.support = nearest_within(self.memory, self.config.neighbours)

    def recall(self, samples: int) -> None:
        self._pool.recall(self.memory + self.centre, samples * math.prod(self.grid), float(self.radius))

    def left_out(self, learned: Batch, judged: Batch) -> Prediction:
        assert self._kept is not None
        without = copy(self)
        without._remember(self._kept.without(learned.ids))
        return without.predict(judged)

    def predict(self, batch: Batch) -> Prediction:
        x = (self._descriptors(batch) - self.centre).reshape(-1, self.memory.shape[1])
        distance, index = nearest(x, self.memory)
        distance = distance.reshape(-1, math.prod(self.grid))
        score = highest_share(distance, self.config.top, math.prod(self.grid))
        if self.config.neighbours > 1:
            score = score * self._weight(x, distance, index)
        anomaly_map = smooth_map(distance.reshape(-1, *self.grid), self._rows, self._columns)
        return Prediction(score, anomaly_map)

    def _weight(self, x: Any, distance: Any, index: Any) -> Any:
        """(B,) of Eq. 7: small where the nearest row's own neighbours are just as near to the worst patch.

        x (B * P, C), distance (B, P), index (B * P,).
        """
        places = math.prod(self.grid)
        worst = top(distance, 1)[1]  # (B, 1)
        row = picked(index.reshape(-1, places), worst)[:, 0]  # (B,) the bank's nearest row
        channels = x.reshape(-1, places, self.memory.shape[1]).transpose(0, 2, 1)  # (B, C, P)
        patch = picked(channels, repeated(worst[:, None], self.memory.shape[1], 1)).transpose(0, 2, 1)  # (B, 1, C)
        around = rows(constant(self.support, like=row), row)  # (B, b)
        apart = patch - rows(constant(self.memory, like=row), around)
        far = sqrt(total(apart * apart, 2))  # (B, b); the nearest row itself comes first
        return 1.0 - softmax(far)[:, 0]


METHOD = PatchCore
