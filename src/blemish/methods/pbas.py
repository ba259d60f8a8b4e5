"""PBAS: normal features, pushed off their centres, are the synthetic anomalies from which a small network learns the
boundary.

Paper    Chen, Luo, Gao, Lv and Zhang, Progressive boundary guided anomaly synthesis for industrial anomaly detection,
         IEEE TCSVT 35(2), 2025 (arXiv 2412.17458).
Suits    lines where inspection has to be fast and parts vary in place.
Fit      frozen features of 3 x 3 neighbourhoods go through one linear layer, the projection. Centres are made once, by
         matching batch means to each other. Then each step pulls features to their nearest centres (ABL), pushes a copy
         of each on along the ray from its centre, by a share k of the mean distance (AFS), and teaches a discriminator
         to tell features from such fakes (RBO). As distances shrink, fakes come closer.
Predict  the discriminator's logit at each cell, as a z-score of good images there; the map is bilinear and blurred, the
         image takes the mean of the highest hundredth of the cells. No centre is searched: projection and discriminator
         are folded into one matrix, the centre of a place into its bias.
Differs  the discriminator gets the offset from the centre of the place beside the feature (`place`); weights are means
         over the second half of the steps (`average`); logits count from what is usual at a place (`levels`); the
         highest cell alone scores in the paper (`top`); means over a neighbourhood instead of pooled windows
         (`faithful_pool`); some cells of each image in a step (`share`); centres are searched near a cell
         (`exact_assign`); logits instead of probabilities; far fewer steps at higher rates along a cosine; the last
         step is kept, where the published code keeps the epoch that is best on the test set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import ConfigError
from blemish.methods.base import Epochs, Pace, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.averages import Averages, measured_anew
from blemish.nn.boundary import BoundaryDiscriminator, FoldedBoundary, PatchEmbedding
from blemish.nn.centres import CentreWindow, aligned, anywhere, ray
from blemish.nn.level_maps import LevelMaps
from blemish.nn.moments import ChannelMoments
from blemish.nn.place_scores import PlaceScores, Way
from blemish.nn.precision import Exact
from blemish.nn.scoring import highest_share
from blemish.ops.scoring import SHARE, check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction

LEAST = 0.01  # radius, as a share of the mean length of a feature: equal images would have none


@dataclass(frozen=True)
class Config:
    centres: Literal["aligned", "mean", "single"] = "aligned"  # by feature alignment, a mean at each cell, one for all
    momentum: float = 0.9  # of the moving average that aligns centres
    constraint: bool = True  # features are pulled to their centres (ABL)
    direction: Literal["ray", "random", "gaussian"] = "ray"  # of fakes: off the centre, anywhere, or isotropic noise
    k: float = 0.25  # length of the step to a fake, as a share of the mean distance to the centres
    noise: float = 0.25  # standard deviation of isotropic noise in each channel, which no distance guides
    score: Literal["discriminator", "distance"] = "discriminator"  # distance: to the centre, without refining (RBO)
    exact_assign: bool = False  # centres of all cells may be the nearest, or those near the cell alone
    window: int = 4  # cells to each side that count as near
    neighbourhood: int = 3  # side of the square of cells that each cell is seen with
    faithful_pool: bool = False  # its values are pooled one after the other as in the paper, or averaged
    standardise: bool = False  # embedded channels by their mean and spread
    width: int = 0  # channels of the embedding; 0 = as many as the levels have together
    place: bool = True  # the discriminator gets the offset from the centre of a cell's place too
    hidden: int = 128  # units of the discriminator
    average: float = 0.5  # share of the steps, at the end, over which weights are averaged; 0 = the last ones
    levels: Way = "z"  # logits by each place's mean and spread on good images, or as they are (sum)
    steps: int = 300  # of training, whatever the number of images
    batch: int = 8  # images in a step
    share: float = 0.25  # of each row's cells that a step sees
    rate: float = 3e-3  # of the projection, at the start; it falls along a cosine
    boundary_rate: float = 6e-3  # the same of the discriminator
    floor: float = 0.05  # of both rates at the end, as a share; 1 = constant, as in the paper
    top: float = SHARE  # share of the cells whose mean is the image score; 0 takes the highest one, as in the paper
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input

    def __post_init__(self) -> None:
        if min(self.hidden, self.steps, self.batch) < 1 or min(self.width, self.window) < 0:
            raise ConfigError("hidden, steps and batch have to be 1 or more, width and window not negative")
        if min(self.k, self.noise, self.rate, self.boundary_rate) <= 0 or self.sigma < 0:
            raise ConfigError("k, noise and rates have to be positive, and sigma not negative")
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood has to be odd and positive, not {self.neighbourhood}")
        if not 0 <= self.momentum < 1 or not 0 < self.share <= 1 or not 0 <= self.floor <= 1:
            raise ConfigError("momentum in [0, 1), share in (0, 1], floor in [0, 1] are required")
        if not 0 <= self.average < 1:
            raise ConfigError(f"average is a share of the steps, in [0, 1), not {self.average:g}")
        check_share(self.top)
        if self.score == "distance" and not self.constraint:
            raise ConfigError("a distance that nothing was learned for", hint="constraint=true, or score=discriminator")


class PBAS(TorchMethod[Config]):
    needs = Needs(strides=(8, 16))
    brief = {"steps": 150, "rate": 3e-3, "boundary_rate": 1e-2, "hidden": 32, "neighbourhood": 1}
    efforts = {
        "quick": {"steps": 30},
        "long": {"steps": Epochs(640), "batch": 8, "share": 1.0, "hidden": 1024, "exact_assign": True},
    }
    fitted_buffers = ("mean", "spread")
    fitted_modules = ("projection", "discriminator", "place_scores")
    published = (
        Published("MVTec AD", "I-AUROC", 0.998, "WideResNet-50-2", "Chen et al. 2025; epoch chosen on the test set"),
        Published("MVTec AD", "P-AUROC", 0.986, "WideResNet-50-2", "Chen et al. 2025; epoch chosen on the test set"),
        Published("VisA", "I-AUROC", 0.977, "WideResNet-50-2", "Chen et al. 2025; epoch chosen on the test set"),
        Published("VisA", "P-AUROC", 0.986, "WideResNet-50-2", "Chen et al. 2025; epoch chosen on the test set"),
    )
    mean: Tensor  # (C,) of embedded channels
    spread: Tensor  # (C,)
    centres: Tensor  # (M, C), frozen once they are made

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.grid = (spec.grids[0][0], spec.grids[0][1])
        self.embedding = PatchEmbedding(
            spec.channels, spec.grids, config.width, config.neighbourhood, faithful=config.faithful_pool
        )
        width = self.embedding.width
        with self.seeded():
            self.projection = nn.Linear(width, width)
            nn.init.xavier_normal_(self.projection.weight)
            self.discriminator = BoundaryDiscriminator(width, config.hidden, placed=config.place)
        self.averages = Averages((self.projection, self.discriminator), config.average)
        count = 1 if config.centres == "single" else self.grid[0] * self.grid[1]
        self.register_buffer("centres", torch.zeros(count, width))
        self.exact_features = Exact()
        self.place_scores = PlaceScores([self.grid], config.levels)
        self.level_maps = LevelMaps([self.grid], size, config.sigma)
        self._moments = ChannelMoments(width)
        self._search: CentreWindow | None = None
        self._folded: list[FoldedBoundary] = []  # in a list: no part of the state

    def observe(self, batch: Batch) -> None:
        self._moments.add(self._embedded(batch))

    def merge(self, other: Self) -> None:
        self._moments.merge(other._moments)

    def conclude(self) -> None:
        standard = self.config.standardise
        self.mean = self._moments.mean.float() if standard else torch.zeros(self.embedding.width)
        self.spread = self._moments.spread() if standard else torch.ones(self.embedding.width)

    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        paces: tuple[Pace, ...] = ()
        learns: tuple[str, ...] = ("projection",)
        if c.score == "discriminator":
            learns, paces = ("projection", "discriminator"), (Pace("discriminator", c.boundary_rate, 0.01),)
        return (Phase("boundary", c.steps, learns, c.batch, c.rate, floor=c.floor, decay=1e-5, paces=paces),)

    def _embedded(self, batch: Batch) -> Tensor:
        """(B, C, h, w), frozen; channels last, in which a CPU takes means and gathers cells several times faster."""
        assert batch.pyramid is not None
        maps = [x.float().contiguous(memory_format=torch.channels_last) for x in batch.pyramid.maps]
        return self.embedding(maps)  # type: ignore[no-any-return]

    def _standard(self, x: Tensor) -> Tensor:
        """(..., C) embedded features, by their mean and spread."""
        return (x - self.mean) / self.spread

    def begin(self, phase: Phase, batches: Iterable[Batch]) -> None:
        """Centres of all good images, by the projection as it was drawn (ABL)."""
        self._forget()
        self.averages.restart()
        total, images, made = torch.zeros(self.embedding.width, *self.grid), 0, False
        for batch in batches:
            for part in torch.split(self._embedded(batch), self.config.batch):
                total, images = total + part.sum(0), images + len(part)
                if self.config.centres == "aligned":
                    means = self._projected(part.mean(0))
                    self.centres.copy_(aligned(self.centres, means, self.config.momentum) if made else means)
                    made = True
        if self.config.centres != "aligned":
            means = self._projected(total / images)
            self.centres.copy_(means.mean(0, keepdim=True) if self.config.centres == "single" else means)

    def _projected(self, mean: Tensor) -> Tensor:
        """A mean map (C, h, w) -> (h * w, C): the mean of what is projected, which is linear."""
        return self.projection(self._standard(mean.flatten(1).T))  # type: ignore[no-any-return]

    @torch.no_grad()
    def assigned(self, t: Tensor, columns: Tensor) -> Tensor:
        """Each feature's centre: (h, B, n, C) and the columns of the cells, (h, B, n) or (n,) -> (h, B, n, C)."""
        if self._search is None:  # centres are there, and stay
            everywhere = self.config.exact_assign or self.config.centres == "single"
            self._search = CentreWindow(self.centres, self.grid, None if everywhere else self.config.window)
        return self.centres[self._search.nearest(t, columns)]

    def _drawn(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(T, C) projected features of cells drawn in each row, and their centres: the nearest, and their place's."""
        c = self.config
        x = self._embedded(batch).permute(2, 0, 3, 1)  # (h, B, w, C)
        count = max(round(c.share * self.grid[1]), 1)
        columns = torch.rand(x.shape[:3], generator=self.generator).topk(count, 2).indices
        x = x.gather(2, columns[..., None].expand(-1, -1, -1, x.shape[3]))
        t = self.projection(self._standard(x)).float()
        cells = columns + self.grid[1] * torch.arange(self.grid[0])[:, None, None]
        place = self.centres[cells if len(self.centres) > 1 else torch.zeros_like(cells)]
        return t.flatten(0, 2), self.assigned(t, columns).flatten(0, 2), place.flatten(0, 2)

    def _logits(self, t: Tensor, offset: Tensor, radius: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """(T,) of features and of their fakes."""
        both = torch.cat([t, self.fakes(t, offset.detach(), radius.detach())])
        logits: Tensor = self.discriminator(both, both - torch.cat([place, place])).float()
        return logits[: len(t)], logits[len(t) :]

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        c = self.config
        t, centre, place = self._drawn(batch)
        offset = t - centre
        radius = offset.norm(dim=1).mean()
        terms = {"centre": radius} if c.constraint else {}
        if c.score == "discriminator":
            good, fake = self._logits(t, offset, radius, place)
            terms["good"], terms["fake"] = F.softplus(good).mean(), F.softplus(-fake).mean()  # BCE with logits
        return terms

    def fakes(self, t: Tensor, offset: Tensor, radius: Tensor) -> Tensor:
        """Features (T, C), pushed off (AFS); the step is no part of the gradient, the feature is."""
        if self.config.direction == "gaussian":
            return t + self.config.noise * torch.randn(t.shape, generator=self.generator)
        least = LEAST * t.detach().norm(dim=1).mean()
        if self.config.direction == "random":
            unit = anywhere(t, self.generator)
        else:
            unit = ray(offset, LEAST * least, self.generator)
        return t + self.config.k * torch.maximum(radius, least) * unit

    def after(self, phase: Phase, progress: float) -> None:
        self.averages.add(progress)

    def measure(self, batches: Iterable[Batch]) -> None:
        """The averaged weights, and the batch norm's statistics with them."""
        if not self.averages.take():
            return
        self.generator.manual_seed(self.seed)
        with measured_anew(self.discriminator.norm):
            for batch in batches:
                t, centre, place = self._drawn(batch)
                self._logits(t, t - centre, (t - centre).norm(dim=1).mean(), place)

    def settle(self, batches: Iterable[Batch]) -> None:
        """What good images have at each place."""
        self._forget()
        self.place_scores.measure([self.cells(batch)] for batch in batches)

    def _forget(self) -> None:
        """Drop what was derived from weights and centres, which have changed."""
        self._folded, self._search = [], None

    def fitted_state(self) -> dict[str, Tensor]:
        """The centres too where they are needed again."""
        return super().fitted_state() | ({"centres": self.centres} if self._keeps_centres else {})

    @property
    def _keeps_centres(self) -> bool:
        return self.config.place or self.config.score == "distance"

    def load_fitted(self, state: Mapping[str, Any]) -> None:
        super().load_fitted(state)
        if self._keeps_centres:
            self.centres.copy_(torch.as_tensor(state["centres"]))
        self._forget()

    def logits(self, batch: Batch) -> Tensor:
        """(B, h, w): how much each cell looks like a fake."""
        assert batch.pyramid is not None
        if not self._folded:  # made once
            parts = (self.embedding, self.mean, self.spread, self.projection, self.discriminator)
            self._folded.append(FoldedBoundary(*parts, self.centres))
        return self._folded[0](batch.pyramid.maps)  # type: ignore[no-any-return]

    def distances(self, batch: Batch) -> Tensor:
        """(B, h, w): how far each cell lies from its centre."""
        t: Tensor = self.projection(self._standard(self._embedded(batch).permute(2, 0, 3, 1)))  # (h, B, w, C)
        t = self.exact_features(t)
        offset = t - self.assigned(t, torch.arange(self.grid[1]))
        far: Tensor = offset.norm(dim=3)
        return far.transpose(0, 1)

    def cells(self, batch: Batch) -> Tensor:
        """(B, h, w): what scores, before its place is considered."""
        scores = self.logits(batch) if self.config.score == "discriminator" else self.distances(batch)
        return self.exact_features(scores)  # type: ignore[no-any-return]

    def predict(self, batch: Batch) -> Prediction:
        places = self.place_scores([self.cells(batch)])
        return Prediction(highest_share(places[0].flatten(1), self.config.top), self.level_maps(places))


METHOD = PBAS
