"""ProtoOT: local and global prototypes of normal features, spread over them by optimal transport.

Paper    Trombetta and Lartizien, Learning local and global prototypes with optimal transport for unsupervised anomaly
         detection and localization, ECML workshop on learning from small data, 2025 (PRADOT).
Suits    aligned parts of which one may be missing, doubled or at a wrong place.
Fit      each level gets prototypes, as many at every cell of its grid. A batch's embeddings are assigned to them by
         entropic optimal transport with equal mass for each, at a cost that mixes cosine distance and distance on the
         grid; each prototype moves to the barycentre of what it got (EMA). Local sets mix the two, global ones ignore
         the place. There is no gradient.
Predict  a cell costs what its cheapest prototype costs; maps of all sets are averaged; the image takes the highest
         place.
Differs  far fewer prototypes, smaller batches, and a fixed number of steps instead of 50 epochs; prototypes start at
         training embeddings (`init`); Sinkhorn stops early; the last step is kept, no validation part is held out.
         Learns from at most `keep` images, drawn evenly from all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.errors import ConfigError
from blemish.methods.base import Epochs, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.level_maps import LevelMaps
from blemish.nn.prototypes import apart, distinct, nearest_means, positions, squared
from blemish.nn.scoring import peak
from blemish.nn.transport import FINEST, barycentres, sinkhorn, sinkhorn_pot
from blemish.ops.scoring import SHARE, check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction

LARGEST = 2**25  # maximum entries of a cost matrix: a batch that would need more is made smaller
HALF = 65504.0  # largest number of float16
TINY = 1e-6  # smallest cost that counts as one
COMPARED = 32  # images that tell how much good ones vary, and as many that they are compared with


@dataclass(frozen=True)
class Config:
    sets: Literal["both", "local", "global"] = "both"  # kinds of prototypes: with a place, without one, or both
    alpha: float = 0.3  # share of the distance on the grid in the cost of local prototypes; global ones have 0
    layers_fine: int = 2  # prototypes at each cell of levels of strides below 16; 0 leaves these levels out
    layers_coarse: int = 8  # the same for strides of 16 and more; the paper has 16 everywhere
    variety: float = 0.0  # layers double while that brings good images nearer by this share; 0: they stay as stated
    most: int = 16  # layers that this comes to at most
    batch_fine: int = 4  # images in a step, for strides below 16
    batch_coarse: int = 8  # the same for strides of 16 and more
    steps: int = 50  # of each set, whatever the number of images
    momentum: float = 0.9  # of the moving average; the paper has 0.95 and far more steps
    metric: Literal["cosine", "euclidean"] = "cosine"  # of features; the cosine knows directions only, as in the paper
    epsilon: float = 0.01  # of the entropy of the plan
    iterations: int = 100  # of Sinkhorn, at most
    tolerance: float = 0.01  # share of the mass in wrong columns below which Sinkhorn stops
    solver: Literal["kernel", "pot", "nearest"] = "kernel"  # ours, that of POT, or no transport: nearest prototypes
    init: Literal["data", "uniform"] = "data"  # prototypes start at training embeddings, or at U(0, 1) as in the paper
    structure: Literal["fixed", "learned"] = "fixed"  # whether places of local prototypes move too
    norm: Literal["image", "frozen"] = "image"  # feature costs over the largest of the image, or of training
    neighbourhood: int = 1  # side of the square of cells whose mean is inspected
    same: float = 0.999  # cosine above which a prototype of the same cell as another is dropped as its copy; 1: none is
    keep: int = 1024  # maximum number of images learned from
    heads: Literal["own", "shared"] = "own"  # of several categories in one model: prototypes of their own, or the same
    top: float = SHARE  # share of the map whose mean is the image score; 0 takes its highest place, as the paper does
    sigma: float = 0.0  # blur of the anomaly map, in pixels of the network's input

    def __post_init__(self) -> None:
        sizes = (self.batch_fine, self.batch_coarse, self.steps, self.iterations, self.keep, self.most)
        if min(sizes) < 1 or min(self.layers_fine, self.layers_coarse) < 0 or not self.layers_fine + self.layers_coarse:
            raise ConfigError(
                "sizes have to be 1 or more, layers not negative, and those of one kind of level positive"
            )
        shares = (self.momentum, self.variety)
        if not 0 < self.alpha <= 1 or not 0 < self.same <= 1 or not all(0 <= share < 1 for share in shares):
            raise ConfigError("alpha and same in (0, 1], momentum and variety in [0, 1) are required")
        check_share(self.top)
        if self.epsilon < FINEST or self.tolerance < 0 or self.sigma < 0:
            raise ConfigError(f"epsilon >= {FINEST}, tolerance >= 0 and sigma >= 0 are required")
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood has to be odd and positive, not {self.neighbourhood}")


class Kind(NamedTuple):
    """What a set of prototypes is: of which level, how much places count, how it is learned."""

    level: int
    alpha: float
    layers: int
    batch: int


class Prototypes(NamedTuple):
    """A learned set of M prototypes for P cells."""

    kind: Kind
    features: Tensor  # (M, C), of length one where the metric is the cosine
    spatial: Tensor  # (P, M) distance of cells and places, in [0, 1]
    largest: Tensor  # () feature cost in training


class ProtoOT(TorchMethod[Config]):
    needs = Needs(strides=(8, 16), costly=True, views=True, apart=True)
    brief = {"steps": 20, "momentum": 0.8, "metric": "euclidean"}
    efforts = {
        "quick": {"steps": 5, "momentum": 0.5},
        "long": {
            **{"steps": Epochs(50, "batch_coarse"), "batch_fine": 64, "batch_coarse": 64, "momentum": 0.95},
            **{"layers_fine": 16, "layers_coarse": 16},
        },
    }
    fitted_buffers = ("prototypes", "places", "counts", "largest")
    published = (
        Published("MVTec AD", "I-AUROC", 0.973, "ResNet-50", "Trombetta and Lartizien 2025, four sets"),
        Published("MVTec AD", "P-AUROC", 0.976, "ResNet-50", "Trombetta and Lartizien 2025, four sets"),
        Published("MVTec LOCO", "I-AUROC", 0.789, "ResNet-50", "Trombetta and Lartizien 2025, four sets"),
        Published("MVTec LOCO", "sPRO@0.05", 0.526, "ResNet-50", "Trombetta and Lartizien 2025, four sets"),
    )
    prototypes: Tensor  # features of all sets, one after the other, each (M, C)
    places: Tensor  # (sum of M, 2) on the grid, in [0, 1]
    counts: Tensor  # (S,) M of each set
    largest: Tensor  # (S,) feature cost in the second half of training

    @classmethod
    def wants(cls, config: Config) -> Needs:
        return replace(cls.needs, apart=config.heads == "own")

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.kinds = _kinds(config, spec, size)
        self.sets: list[Prototypes] = []
        self.level_maps = LevelMaps([spec.grids[k.level] for k in self.kinds], size, config.sigma, aligned=True)
        self._kept: list[dict[int, Tensor]] = []  # of each image kept: (C, P) float16 of each level that is used
        self._seen = 0

    def _embeddings(self, batch: Batch, level: int) -> Tensor:
        """(B, C, P) of one level."""
        assert batch.pyramid is not None
        side = self.config.neighbourhood
        x = batch.pyramid.maps[level].float()
        x = x if side == 1 else F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)
        return x.flatten(2)

    def _scaled(self, x: Tensor) -> Tensor:
        """(..., C) as the metric compares it."""
        return F.normalize(x, dim=-1) if self.config.metric == "cosine" else x

    def _feature_cost(self, x: Tensor, prototypes: Tensor) -> Tensor:
        """Scaled (..., C) and (M, C) -> (..., M): 1 - cosine, or squared distances; one product either way."""
        if self.config.metric == "cosine":
            return 1 - x @ prototypes.T
        return squared(x, prototypes)

    def observe(self, batch: Batch) -> None:
        """Keeps what is learned from: all images, or a reservoir, in which each is as likely as any other."""
        levels = {kind.level for kind in self.kinds}
        found = {i: self._embeddings(batch, i).clamp(-HALF, HALF).half() for i in levels}
        for b in range(len(next(iter(found.values())))):
            image = {level: x[b].clone() for level, x in found.items()}
            if self._seen < self.config.keep:
                self._kept.append(image)
            elif (at := int(torch.randint(self._seen + 1, (), generator=self.generator))) < self.config.keep:
                self._kept[at] = image
            self._seen += 1

    def conclude(self) -> None:
        learned = [self._learn(self._varied(kind)) for kind in self.kinds]
        self.prototypes = torch.cat([features.flatten() for features, _, _ in learned])
        self.places = torch.cat([places for _, places, _ in learned])
        self.counts = torch.tensor([len(places) for _, places, _ in learned])
        self.largest = torch.stack([largest for _, _, largest in learned])
        self._kept = []
        self._unpack()

    def _varied(self, kind: Kind) -> Kind:
        """The set with layers in proportion to what good images show: as many images as layers are drawn, and twice as
        many while those come nearer to the others, cell by cell, by a share of `variety`.
        """
        images = torch.randperm(len(self._kept), generator=self._generator(kind))[: 2 * COMPARED].tolist()
        known, others = images[: len(images) // 2][: self.config.most], images[len(images) // 2 :]
        if not self.config.variety or 2 * kind.layers > len(known):
            return kind
        features = [
            self._scaled(torch.stack([self._kept[i][kind.level].float().T for i in part])) for part in (known, others)
        ]
        cells = [part.transpose(0, 1) for part in features]  # (P, n, C)
        cost = torch.stack([self._feature_cost(x, y) for x, y in zip(cells[1], cells[0], strict=True)])  # (P, n, m)
        layers, nearest = kind.layers, cost[:, :, : kind.layers].amin(2).mean()
        while 2 * layers <= len(known):
            further = cost[:, :, : 2 * layers].amin(2).mean()
            if further > (1 - self.config.variety) * nearest:
                break
            layers, nearest = 2 * layers, further
        return kind._replace(layers=layers)

    def _learn(self, kind: Kind) -> tuple[Tensor, Tensor, Tensor]:
        """Prototypes (M, C), their places (M, 2) and the largest cosine cost () of one set."""
        c = self.config
        generator = self._generator(kind)
        grid = positions(self.spec.grids[kind.level])
        features, places = self._start(kind, generator), grid.repeat(kind.layers, 1)
        spatial = apart(grid, places)
        most = max(LARGEST // (len(grid) * len(places)), 1)
        batches = shuffled(len(self._kept), min(kind.batch, most), generator)
        potential: Tensor | None = None
        largest = torch.zeros(())
        for step in range(c.steps):
            x = torch.cat([self._kept[i][kind.level].float().T for i in next(batches)])  # (B * P, C)
            cost = self._feature_cost(
                self._scaled(x), self._scaled(features)
            )  # (B * P, M), changed in place: it is large
            top = cost.amax().clamp_min(TINY)
            cost *= (1 - kind.alpha) / top
            if kind.alpha:
                cost.view(-1, *spatial.shape).add_(spatial, alpha=kind.alpha)
            if step >= c.steps // 2:  # the first steps may compare with prototypes that are still anywhere
                largest = torch.maximum(largest, top)
            points = torch.cat([x, grid.repeat(len(x) // len(grid), 1)], 1)
            now = torch.cat([features, places], 1)
            if c.solver == "nearest":
                target = nearest_means(cost, points, now)
            else:
                solve = sinkhorn if c.solver == "kernel" else sinkhorn_pot
                found = solve(cost, epsilon=c.epsilon, iterations=c.iterations, tolerance=c.tolerance, start=potential)
                potential, target = found.potential, barycentres(found.plan, points).float()
            features = features.lerp(target[:, :-2], 1 - c.momentum)
            if c.structure == "learned" and kind.alpha:  # one place for all layers of a cell
                moved = target[:, -2:].view(kind.layers, -1, 2).mean(0).repeat(kind.layers, 1)
                places = places.lerp(moved, 1 - c.momentum)
                spatial = apart(grid, places)
        features = self._scaled(features)
        cells = torch.arange(len(places)) % len(grid) if kind.alpha else torch.zeros(len(places), dtype=torch.int64)
        chosen = distinct(features, cells, c.same)
        return features[chosen], places[chosen], largest

    def _generator(self, kind: Kind) -> torch.Generator:
        """A generator for each set: what a set learns does not depend on the other sets."""
        return torch.Generator().manual_seed(self.seed * 1024 + 2 * kind.level + (kind.alpha > 0))

    def _start(self, kind: Kind, generator: torch.Generator) -> Tensor:
        """(M, C), layer by layer: the cells of random images for local prototypes, random cells for global ones."""
        channels, cells = self._kept[0][kind.level].shape
        if self.config.init == "uniform":
            return torch.rand(kind.layers * cells, channels, generator=generator)
        if kind.alpha:
            order = torch.randperm(len(self._kept), generator=generator).tolist()
            chosen = [order[k % len(order)] for k in range(kind.layers)]
            return torch.cat([self._kept[i][kind.level].float().T for i in chosen])
        images = torch.randint(len(self._kept), (kind.layers * cells,), generator=generator).tolist()
        at = torch.randint(cells, (kind.layers * cells,), generator=generator).tolist()
        return torch.stack([self._kept[i][kind.level][:, p] for i, p in zip(images, at, strict=True)]).float()

    def _unpack(self) -> None:
        """The buffers as sets, with what does not depend on the image."""
        counts = self.counts.tolist()
        widths = [count * self.spec.channels[kind.level] for count, kind in zip(counts, self.kinds, strict=True)]
        parts = zip(
            self.kinds,
            torch.split(self.prototypes, widths),
            torch.split(self.places, counts),
            self.largest,
            strict=True,
        )
        self.sets = [
            Prototypes(
                kind,
                flat.view(-1, self.spec.channels[kind.level]),
                apart(positions(self.spec.grids[kind.level]), places),
                largest.clamp_min(TINY),
            )
            for kind, flat, places, largest in parts
        ]

    def load_fitted(self, state: Mapping[str, Any]) -> None:
        super().load_fitted(state)
        self._unpack()

    def costs(self, batch: Batch, found: Prototypes) -> Tensor:
        """(B, P): what the cheapest prototype of a set costs each cell."""
        x = self._scaled(self._embeddings(batch, found.kind.level).transpose(1, 2))
        cost = self._feature_cost(x, found.features)  # (B, P, M)
        top = found.largest if self.config.norm == "frozen" else cost.amax((1, 2), keepdim=True).clamp_min(TINY)
        if not found.kind.alpha:
            return cost.amin(2, keepdim=True).div(top)[:, :, 0]
        return (cost * ((1 - found.kind.alpha) / top) + found.kind.alpha * found.spatial).amin(2)

    def predict(self, batch: Batch) -> Prediction:
        places = [self.costs(batch, found).reshape(-1, *self.spec.grids[found.kind.level]) for found in self.sets]
        anomaly_map = self.level_maps(places) / len(places)
        return Prediction(peak(anomaly_map, self.config.top), anomaly_map)


def _kinds(config: Config, spec: FeatureSpec, size: tuple[int, int]) -> list[Kind]:
    """The sets of these options, level by level."""
    alphas = [a for a, name in ((config.alpha, "local"), (0.0, "global")) if config.sets in (name, "both")]
    kinds = []
    for level, grid in enumerate(spec.grids):
        coarse = size[0] >= 16 * grid[0]
        layers = config.layers_coarse if coarse else config.layers_fine
        batch = config.batch_coarse if coarse else config.batch_fine
        kinds += [Kind(level, alpha, layers, batch) for alpha in alphas if layers]
    if not kinds:
        raise ConfigError("no level is left to learn prototypes of", hint="layers_fine and layers_coarse")
    return kinds


def shuffled(count: int, batch: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Batches of shuffled epochs without end; an epoch's incomplete batch is dropped, unless it is the only one."""
    batch = min(batch, count)
    while True:
        order = torch.randperm(count, generator=generator).tolist()
        for first in range(0, count - batch + 1, batch):
            yield order[first : first + batch]


METHOD = ProtoOT
