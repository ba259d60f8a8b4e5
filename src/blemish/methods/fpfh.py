"""FPFH: nearest neighbours in a coreset of histograms of the surroundings of normal points.

Paper    Horwitz and Hoshen, Back to the Feature: Classical 3D Features are (Almost) All You Need for 3D Anomaly
         Detection, CVPR Workshops 2023 (BTF, its FPFH alone); Rusu, Blodow and Beetz, Fast Point Feature Histograms
         (FPFH) for 3D Registration, ICRA 2009.
Fit      each cloud is thinned to points one voxel apart, which get normals from their neighbours; the angles between
         normals of a point and its neighbours make three histograms, and those of the neighbours are added, the near
         ones counting more: 33 numbers that no motion of the part changes (`ops.histograms`). All points of all clouds
         are offered to the bank, of which a greedy k-centre coreset keeps a share.
Predict  a point is as anomalous as it is far from the bank, blurred over its neighbours, and so is one between those
         that were looked at; a cloud takes its worst place, re-weighted on request.
Differs  the voxel is a share of the typical part's diagonal and at least one and a half spacings of its points, not a
         length; thinning has no axes; the worst place is that of the blurred map, not a single point (`score`);
         weights of neighbours are normalised (BTF's come from Open3D, with squared distances); the coreset is exact,
         without random projection; nothing is pooled to 28 x 28, so that clouds without a grid are treated alike; no
         plane is taken out of the background.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError
from blemish.methods.base import Method, Published
from blemish.ops.arrays import softmax
from blemish.ops.draws import Draws
from blemish.ops.histograms import Looked, Radii, look, spread
from blemish.ops.neighbours import nearest, nearest_within
from blemish.ops.pool import Kept, Pool
from blemish.types import Batch, FeatureSpec, Needs, Prediction

Floats = NDArray[np.float32]

COARSEST = 0.2  # of the diagonal: voxels beyond show no shape


@dataclass(frozen=True)
class Config:
    voxel: float = 0.01  # between points that are inspected, as a share of the part's diagonal
    spacings: float = 1.5  # the voxel is at least this many distances between neighbouring points; 0 = no minimum
    normal_radius: float = 2.0  # of the neighbours that a normal comes from, in voxels
    normal_points: int = 30  # maximum number of them
    radius: float = 8.0  # of the neighbours that a histogram counts, in voxels; BTF has 5
    fast: bool = True  # FPFH; False leaves the neighbours' own histograms out (SPFH)
    coreset_ratio: float = 0.1  # share of all points kept, in (0, 1]
    bank: int = 10_000  # maximum number of points kept, whatever the ratio: it bounds the time of an inspection
    pool: int = 1_000_000  # maximum number of points in memory while learning; more are condensed on the way
    neighbours: int = 1  # rows of the bank that re-weight the score; 1 turns that off, BTF uses 3
    score: Literal["map", "point"] = "map"  # highest place of the blurred map, or farthest point as in BTF
    top: int = 1  # places whose mean is the score
    sigma: float = 2.0  # blur of the anomaly map, in voxels

    def __post_init__(self) -> None:
        if not 0 < self.voxel <= COARSEST or self.spacings < 0:
            raise ConfigError(f"voxel has to be in (0, {COARSEST}], and spacings 0 or more")
        if min(self.normal_radius, self.radius) <= 0 or self.normal_points < 3:
            raise ConfigError("radii have to be positive, with 3 points of a normal or more")
        if not 0 < self.coreset_ratio <= 1:
            raise ConfigError(f"coreset_ratio has to be in (0, 1], not {self.coreset_ratio}")
        if self.bank < 1 or self.pool < 4 * self.bank:
            raise ConfigError("bank >= 1 and pool >= 4 * bank are required")
        if self.neighbours < 1 or self.top < 1 or self.sigma < 0:
            raise ConfigError("neighbours >= 1, top >= 1 and sigma >= 0 are required")


class Fpfh(Method[Config]):
    needs = Needs(
        source="points",
        axes=1,
        graph=False,
        engine="histogram bank",
        costly=True,
        reason="who is whose neighbour differs from cloud to cloud and is searched in trees, which a graph cannot",
    )
    fitted_buffers = ("voxel", "centre", "memory", "support", "radius")
    published = (
        Published("MVTec 3D-AD", "I-AUROC", 0.753, "FPFH", "Horwitz and Hoshen 2023, raw points"),
        Published("MVTec 3D-AD", "P-AUROC", 0.980, "FPFH", "Horwitz and Hoshen 2023, raw points"),
        Published("MVTec 3D-AD", "AUPRO@0.3", 0.928, "FPFH", "Horwitz and Hoshen 2023, raw points"),
    )
    voxel: NDArray[np.float64]  # () where the typical part is 1 across
    centre: Floats  # (33,) mean of the bank
    memory: Floats  # (M, 33) the bank, around its centre
    support: NDArray[np.int64]  # (M, b) each row's nearest rows, itself first
    radius: Floats  # () every point seen in fit lies within this distance of the bank

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.radii = Radii(**{name: getattr(config, name) for name in Radii._fields})
        self._voxel = min(max(config.voxel, config.spacings * spec.spacing), COARSEST)
        self._pool = Pool(config.coreset_ratio, config.bank, config.pool, Draws(seed))
        self._kept: Kept | None = None

    def look(self, sample: Floats) -> Looked:
        """Points, normals and histograms of a sample (N, 6); rows of NaN are no points."""
        rows = sample[np.isfinite(sample).all(1)].astype(np.float64)
        return look(rows[:, :3], rows[:, 3:], float(self.voxel) if self.fitted else self._voxel, self.radii)

    def observe(self, batch: Batch) -> None:
        assert batch.x is not None
        for name, sample in zip(batch.ids, batch.x, strict=True):
            features = self.look(sample).features
            self._pool.add(features, [(name, len(features))])

    def condense(self) -> None:
        self._pool.condense()

    def merge(self, other: Self) -> None:
        self._pool.merge(other._pool)

    def conclude(self) -> None:
        bank, self._kept = self._pool.coreset(keep=self.keeps)
        self.keeps = self._kept is not None
        self.voxel = np.array(self._voxel)
        self.centre = bank.mean(0)
        self._remember(bank)
        self.radius = np.array(self._pool.radius, np.float32)

    def _remember(self, bank: Floats) -> None:
        self.memory = bank - self.centre
        self.support = nearest_within(self.memory, self.config.neighbours)

    def recall(self, samples: int) -> None:
        seen = round(len(self.memory) / self.config.coreset_ratio)  # a bank at its limit stays at it
        self._pool.recall(self.memory + self.centre, seen, float(self.radius))
        self._voxel = float(self.voxel)

    def left_out(self, learned: Batch, judged: Batch) -> Prediction:
        assert self._kept is not None
        without = copy(self)
        without._remember(self._kept.without(learned.ids))
        return without.predict(judged)

    def predict(self, batch: Batch) -> Prediction:
        assert batch.x is not None
        scores, maps = [], np.zeros(batch.x.shape[:2], np.float32)
        for sample, anomaly_map in zip(batch.x, maps, strict=True):
            seen, there = self.look(sample), np.isfinite(sample).all(1)
            x = seen.features - self.centre
            distance, index = nearest(x, self.memory)
            scores.append(self._score(x, distance, index, seen))
            anomaly_map[there] = self.blurred(distance, seen, sample[there, :3])
        return Prediction(np.array(scores, np.float32), maps)

    def blurred(self, values: Floats, seen: Looked, at: NDArray[Any]) -> Floats:
        """Values (M,) of the points that were looked at, read at places (N, 3)."""
        sigma = self.config.sigma * float(self.voxel)
        return spread(values, seen.points, at.astype(np.float64), sigma)

    def _score(self, x: Floats, distance: Floats, index: NDArray[np.int64], seen: Looked) -> float:
        places = self.config.score == "map"
        judged = self.blurred(distance, seen, seen.points) if places else distance
        score = float(np.sort(judged)[-self.config.top :].mean())
        return score * self._weight(x, judged, index) if self.config.neighbours > 1 else score

    def _weight(self, x: Floats, judged: Floats, index: NDArray[np.int64]) -> float:
        """Small where the nearest row's own neighbours are just as near to the worst point (PatchCore, Eq. 7)."""
        worst = int(judged.argmax())
        far = np.sqrt(((x[worst] - self.memory[self.support[index[worst]]]) ** 2).sum(1))
        return 1 - float(softmax(far / np.float32(x.shape[1] ** 0.5))[0])


METHOD = Fpfh
