"""PatchCore: nearest neighbours in a coreset of normal patch features.

Paper    Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
Suits    parts that move or vary; the default.
Fit      one pass; every normal patch is offered to the bank, a greedy k-centre coreset keeps a share of them.
Predict  a patch is as anomalous as it is far from the bank; the image takes its worst patch, re-weighted on request
         (Eq. 7).
Differs  the coreset is exact farthest-first over all patches in the full space, without random projection or
         pre-sampling; the search is exact; descriptors use the mean over 3 x 3 positions; re-weighting is off by
         default. Beyond `pool` patches the pool is condensed by the same coreset rule and filled further, and so
         is each chunk of a large set: the covering radii of successive passes add up, so the bank still covers every
         patch seen within their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from blemish.errors import ConfigError
from blemish.methods.base import Method, Published
from blemish.nn.precision import CoarseProduct
from blemish.ops.coreset import greedy_k_centre
from blemish.ops.neighbours import nearest, nearest_within
from blemish.ops.patches import grid_of, patch_descriptors
from blemish.ops.scoring import top_mean
from blemish.ops.smoothing import smooth_map, upsampling_matrix
from blemish.types import Batch, FeatureSpec, Prediction


@dataclass(frozen=True)
class Config:
    coreset_ratio: float = 0.1  # share of all patches kept, in (0, 1]
    bank: int = 20_000  # maximum number of patches kept, whatever the ratio: it bounds the time of an inspection
    pool: int = 1_000_000  # maximum number of patches in memory while learning; more are condensed on the way
    neighbours: int = 1  # b in Eq. 7; 1 turns the re-weighting off, the paper uses 9
    top: int = 1  # patches whose mean distance is the image score
    neighbourhood: int = 3  # side of the window that each level is averaged over
    level: int = -1  # pyramid level whose grid is used: 0 the finest, -1 the coarsest
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input

    def __post_init__(self) -> None:
        if not 0 < self.coreset_ratio <= 1:
            raise ConfigError(f"coreset_ratio has to be in (0, 1], not {self.coreset_ratio}")
        if self.bank < 1 or self.pool < 4 * self.bank:
            raise ConfigError("bank >= 1 and pool >= 4 * bank are required")
        if self.neighbours < 1 or self.top < 1 or self.sigma < 0:
            raise ConfigError("neighbours >= 1, top >= 1 and sigma >= 0 are required")
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood has to be odd and positive, not {self.neighbourhood}")


class PatchCore(Method[Config]):
    fitted_buffers = ("centre", "memory", "support", "radius")
    published = (
        Published("MVTec AD", "I-AUROC", 0.990, "WideResNet-50-2", "Roth et al. 2022, coreset 10 %"),
        Published("MVTec AD", "P-AUROC", 0.981, "WideResNet-50-2", "Roth et al. 2022, coreset 10 %"),
        Published("MVTec AD", "AUPRO@0.3", 0.935, "WideResNet-50-2", "Roth et al. 2022, coreset 10 %"),
        Published("MTD", "I-AUROC", 0.979, "WideResNet-50-2", "Roth et al. 2022", where="mtd, random split"),
    )
    centre: Tensor  # (C,) mean of the bank
    memory: Tensor  # (M, C) the bank, around its centre
    support: Tensor  # (M, b) each row's nearest rows, itself first (Eq. 7)
    radius: Tensor  # () every patch seen in fit lies within this distance of the bank

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.grid = grid_of(spec, config.level)
        self._pool: list[Tensor] = []
        self._pooled = self._seen = 0
        self._radius = 0.0
        self._rows = upsampling_matrix(self.grid[0], size[0], config.sigma)
        self._columns = upsampling_matrix(self.grid[1], size[1], config.sigma)
        self.coarse_search = CoarseProduct()

    def _descriptors(self, batch: Batch) -> Tensor:
        assert batch.pyramid is not None
        return patch_descriptors(batch.pyramid, self.grid, self.config.neighbourhood)

    def observe(self, batch: Batch) -> None:
        patches = self._descriptors(batch).flatten(0, 1)
        self._make_room(len(patches))
        self._pool.append(patches.contiguous())
        self._pooled += len(patches)
        self._seen += len(patches)

    def _make_room(self, patches: int) -> None:
        if self._pooled + patches > self.config.pool:
            self.condense()

    def condense(self) -> None:
        if self._pooled > 2 * self.config.bank:
            self._pool = [self._pick(2 * self.config.bank)]
            self._pooled = len(self._pool[0])

    def merge(self, other: Self) -> None:
        self._make_room(other._pooled)
        self._pool += other._pool
        self._pooled += other._pooled
        self._seen += other._seen
        self._radius = max(self._radius, other._radius)  # each side covers its own patches

    def _pick(self, k: int) -> Tensor:
        points = torch.cat(self._pool)
        self._pool = []
        start = int(torch.randint(len(points), (), generator=self.generator))
        picks, radius = greedy_k_centre(points, k, start=start)
        self._radius += radius
        return points[picks]

    def conclude(self) -> None:
        size = max(1, min(round(self.config.coreset_ratio * self._seen), self.config.bank))
        bank = self._pick(size)
        self.centre = bank.mean(0)
        self.memory = bank - self.centre
        self.support = nearest_within(self.memory, self.config.neighbours)
        self.radius = torch.tensor(self._radius)

    def recall(self, samples: int) -> None:
        self._pool = [self.memory + self.centre]
        self._pooled = len(self.memory)
        self._seen = samples * self.grid[0] * self.grid[1]
        self._radius = float(self.radius)

    def predict(self, batch: Batch) -> Prediction:
        x = self._descriptors(batch) - self.centre
        distance, index = nearest(x.flatten(0, 1), self.memory, self.coarse_search)
        distance = distance.view(x.shape[0], -1)
        score = top_mean(distance, self.config.top)
        if self.config.neighbours > 1:
            score = score * self._weight(x, distance, index.view(x.shape[0], -1))
        anomaly_map = smooth_map(distance.reshape(-1, *self.grid), self._rows, self._columns)
        return Prediction(score, anomaly_map)

    def _weight(self, x: Tensor, distance: Tensor, index: Tensor) -> Tensor:
        """(B,) of Eq. 7: small where the nearest row's own neighbours are just as near to the worst patch."""
        worst = distance.topk(1, dim=1).indices  # (B, 1)
        patch = x.gather(1, worst[:, :, None].expand(-1, -1, x.shape[2]))  # (B, 1, C)
        around = self.support[index.gather(1, worst)[:, 0]]  # (B, b)
        far = (patch - self.memory[around]).square().sum(2).sqrt()  # (B, b); the nearest row itself comes first
        return 1 - far.softmax(1)[:, 0]


METHOD = PatchCore
