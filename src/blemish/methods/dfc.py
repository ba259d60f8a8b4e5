"""DFC: first tell products apart by anchors that vote, then look at each with a head of its own.

Paper    Wang et al., Deep feature clustering for multi-class industrial image anomaly detection, KBS 311, 2025.
Suits    several categories, one model, to which further products are added later.
Fit      a few good images of each category become anchors (CAC); anchors vote on the category of all others (CIM); each
         category's local features go to a head of its own (LFR), here an adaptor and a discriminator that learns good
         features from the same ones with noise on them.
Predict  positions vote on the category; the head of the decided category scores every position, as a z-score of good
         images there; the map is bilinear and blurred, the image takes the mean of the highest hundredth of the
         positions; scores are put on the scale of each head's good images.
Differs  the abstract names CAC, CIM, LFR and separate heads, and no more: anchors are spherical k-means centres whose
         votes weigh by their reliability, the head is that of SimpleNet (Liu et al., CVPR 2023) at its rates and its
         adaptor's width. Of that differ: noise relative to the spread of each channel (`noise`), where SimpleNet's is
         0.015 whatever the features; half the hidden units (`hidden`); some positions of an image in a step
         (`positions`); weights averaged over the second half of the steps (`average`); z-scores of places (`levels`)
         and the mean of the highest ones (`top`). Any other method can be the head (`head`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import ConfigError
from blemish.methods.base import Epochs, Pace, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.averages import Averages, measured_anew
from blemish.nn.blocks import resized
from blemish.nn.boundary import LEAK
from blemish.nn.level_maps import LevelMaps
from blemish.nn.place_scores import PlaceScores, Way
from blemish.nn.precision import Exact
from blemish.nn.scoring import highest_share
from blemish.ops.patches import Border
from blemish.ops.scoring import SHARE, check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction, Routing

CAPACITY = ((32, 1 / 3), (96, 2 / 3))  # (rank below this, share of the hidden units that is used)
FLOOR = 0.01  # minimum spread of a channel, as a share of the usual one
ENERGY = 0.99  # share of the variance that defines the rank


@dataclass(frozen=True)
class Config:
    labels: Literal["few", "none"] = "few"  # names of a few images of each category are read, or none: clusters
    shots: int = 8  # good images of each category that anchors are made of, at most 15 % of them
    anchors: int = 16  # of each category
    count: int = 0  # categories where labels are none; 0 = as many as the silhouette says
    vote: Literal["reliable", "plain"] = "reliable"  # anchors that several categories share count less, or all alike
    head: str = "own"  # the method of the heads: own, or any other by name
    head_options: dict[str, Any] = field(default_factory=dict)  # the options of another method as head
    width: int = 0  # channels behind the adaptor; 0 = as many as the levels have together
    hidden: int = 512  # of the discriminator
    capacity: Literal["fixed", "rank"] = "fixed"  # rank: hidden units by the rank of the category's features
    noise: float = 0.25  # on adapted features, as a share of each channel's spread
    reach: float = 1.0  # noise is multiplied by a random factor of up to this, drawn for each; 1 = one strength
    neighbourhood: int = 3  # side of the square of positions whose mean is inspected
    border: Border = "zeros"  # of that mean: zeros around the map count, or what lies inside alone
    margin: float = 0.5  # of the hinge
    steps: int = 600  # of each head
    batch: int = 8  # images in a step
    positions: int = 256  # drawn of each image in a step
    rate: float = 1e-4  # of the adaptor, at the start; it falls along a cosine
    discriminator_rate: float = 2e-4  # the same of the discriminator
    average: float = 0.5  # share of the steps, at the end, over which weights are averaged; 0 = the last ones
    levels: Way = "z"  # scores by each place's mean and spread on good images, or as they are (sum)
    top: float = SHARE  # share of the positions whose mean is the image score; 0 takes the highest one, as in SimpleNet
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input

    def __post_init__(self) -> None:
        sizes = (self.hidden, self.steps, self.batch, self.positions, self.reach)
        if min(sizes) < 1 or min(self.noise, self.margin, self.rate, self.discriminator_rate) <= 0:
            raise ConfigError("sizes and reach have to be 1 or more, noise, margin and rates positive")
        if min(self.width, self.sigma) < 0 or not 0 <= self.average < 1:
            raise ConfigError("width and sigma must not be negative, and average has to lie in [0, 1)")
        check_share(self.top)
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood has to be odd and positive, not {self.neighbourhood}")
        if self.head == "own" and self.head_options:
            raise ConfigError("head_options belong to another method as head", hint="head=padim, say")


class Discriminator(nn.Module):
    """(N, width) -> (N,): high for good features. Linear, batch norm, leaky ReLU, linear (SimpleNet, section 3.3)."""

    active: Tensor  # (hidden,) 1 where a unit is used

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(width, hidden), nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, 1, bias=False)
        self.register_buffer("active", torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.leaky_relu(self.norm(self.first(x)), LEAK) * self.active)[:, 0]  # type: ignore[no-any-return]


class DFC(TorchMethod[Config]):
    needs = Needs(strides=(4, 8, 16))
    brief = {
        "steps": 60,
        "rate": 5e-3,
        "hidden": 64,
        "positions": 64,
        "shots": 4,
        "anchors": 4,
        "top": 0.05,
        "discriminator_rate": 5e-3,
        "neighbourhood": 1,
    }
    efforts = {
        "quick": {"steps": 20},
        # SimpleNet, whose head it is: all positions of the default backbone's features are taken
        "long": {"steps": Epochs(160), "batch": 8, "positions": 4096, "hidden": 1024},
    }
    fitted_modules = ("adaptor", "discriminator", "place_scores")
    published = (Published("MVTec AD", "I-AUROC", 0.996, "WideResNet-50-2", "SimpleNet, Liu et al. 2023, one each"),)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.grid = spec.grids[min(1, len(spec.grids) - 1)]
        total = sum(spec.channels)
        with self.seeded():
            self.adaptor = nn.Linear(total, config.width or total)
            self.discriminator = Discriminator(config.width or total, config.hidden)
        self.averages = Averages((self.adaptor, self.discriminator), config.average)
        self.place_scores = PlaceScores([self.grid], config.levels)
        self.exact_features = Exact()
        self.level_maps = LevelMaps([self.grid], size, config.sigma)
        self._folded: list[tuple[Tensor, Tensor, Tensor]] = []  # in a list: no part of the state
        self._count, self._sum, self._square = 0, torch.zeros(total).double(), torch.zeros(total, total).double()

    @classmethod
    def routing(cls, config: Config) -> Routing:
        return Routing(
            shots=config.shots,
            anchors=config.anchors,
            labels=config.labels,
            count=config.count,
            reliable=config.vote == "reliable",
            separate=True,
            head=None if config.head == "own" else config.head,
            head_options=config.head_options,
        )

    def local(self, batch: Batch) -> Tensor:
        """(B, C, h, w): all levels on one grid, means over a small square."""
        assert batch.pyramid is not None
        levels = [_to_grid(level.float(), self.grid) for level in batch.pyramid.maps]
        side = self.config.neighbourhood
        return F.avg_pool2d(torch.cat(levels, 1), side, 1, side // 2, count_include_pad=self.config.border == "zeros")

    def observe(self, batch: Batch) -> None:
        x = self.local(batch).transpose(0, 1).flatten(1).double()
        self._count += x.shape[1]
        self._sum += x.sum(1)
        self._square += x @ x.T

    def conclude(self) -> None:
        """Starts the adaptor at standardised features, and switches hidden units off where the rank is low."""
        mean = self._sum / self._count
        covariance = self._square / self._count - mean[:, None] * mean[None]
        spread = covariance.diagonal().clamp_min(0).sqrt()
        spread = torch.maximum(spread, FLOOR * (self._square.diagonal() / self._count).mean().sqrt()).clamp_min(1e-9)
        weight = self.adaptor.weight.double() / spread
        self.adaptor.weight.copy_(weight.float())
        self.adaptor.bias.copy_(-(weight @ mean).float())
        if self.config.capacity == "rank":
            share = next((s for most, s in CAPACITY if rank(covariance) < most), 1.0)
            self.discriminator.active.copy_((torch.arange(self.config.hidden) < share * self.config.hidden).float())
        self._sum, self._square = torch.zeros(0), torch.zeros(0)

    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        paces = (Pace("discriminator", c.discriminator_rate, 1e-5),)
        learns = ("adaptor", "discriminator")
        return (Phase("head", c.steps, learns, c.batch, c.rate, floor=0.4, decay=1e-5, paces=paces),)

    def begin(self, phase: Phase, batches: Iterable[Batch]) -> None:  # noqa: ARG002
        self.averages.restart()

    def _said(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the discriminator says of good features at positions drawn in each image, and of the same with noise."""
        x = self.local(batch).permute(0, 2, 3, 1).flatten(1, 2)  # (B, P, C)
        count = min(self.config.positions, x.shape[1])
        drawn = torch.rand(x.shape[:2], generator=self.generator).topk(count, 1).indices
        good = self.adaptor(x.gather(1, drawn[:, :, None].expand(-1, -1, x.shape[2])).flatten(0, 1)).float()
        spread = good.detach().std(0)  # the adaptor cannot win by growing
        far = self.config.reach ** torch.rand(len(good), 1, generator=self.generator)
        noise = self.config.noise * far * spread.clamp_min(FLOOR)
        spoilt = good + noise * torch.randn(good.shape, generator=self.generator)
        said = self.discriminator(torch.cat([good, spoilt])).float()
        return said[: len(good)], said[len(good) :]

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        good, spoilt = self._said(batch)
        margin = self.config.margin
        return {"good": F.relu(margin - good).mean(), "spoilt": F.relu(margin + spoilt).mean()}

    def after(self, phase: Phase, progress: float) -> None:
        self.averages.add(progress)

    def measure(self, batches: Iterable[Batch]) -> None:
        """The averaged weights, and the batch norm's statistics with them."""
        if not self.averages.take():
            return
        self.generator.manual_seed(self.seed)
        with measured_anew(self.discriminator.norm):
            for batch in batches:
                self._said(batch)

    def settle(self, batches: Iterable[Batch]) -> None:
        """What good images have at each place."""
        self._folded.clear()
        self.place_scores.measure([self.positions(batch)] for batch in batches)

    def positions(self, batch: Batch) -> Tensor:
        """(B, h, w): what scores, before its place is considered."""
        if not self._folded:  # made once
            self._folded.append(folded(self.adaptor, self.discriminator))
        weight, bias, last = self._folded[0]
        said = F.leaky_relu(F.linear(self.local(batch).permute(0, 2, 3, 1), weight, bias), LEAK) @ last
        return F.softplus(self.config.margin - self.exact_features(said))  # in the order of -D, and positive

    def load_fitted(self, state: Mapping[str, Any]) -> None:
        super().load_fitted(state)
        self._folded.clear()

    def predict(self, batch: Batch) -> Prediction:
        places = self.place_scores([self.positions(batch)])
        return Prediction(highest_share(places[0].flatten(1), self.config.top), self.level_maps(places))


@torch.no_grad()
def folded(adaptor: nn.Linear, discriminator: Discriminator) -> tuple[Tensor, Tensor, Tensor]:
    """Adaptor, first layer and batch norm (by its running statistics) as one layer's (hidden, C) and (hidden,), and the
    (hidden,) weights of the units behind it: all linear, so exact but for rounding."""
    first, norm = discriminator.first, discriminator.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight = first.weight.double() @ adaptor.weight.double()
    bias = first.weight.double() @ adaptor.bias.double() + first.bias.double() - norm.running_mean.double()
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    last = discriminator.last.weight[0].detach() * discriminator.active
    return (scale[:, None] * weight).float(), (scale * bias + norm.bias.double()).float(), last


def _to_grid(level: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Means of a finer level, bilinear of a coarser one."""
    if level.shape[2] > grid[0]:
        return F.avg_pool2d(level, level.shape[2] // grid[0], ceil_mode=True)[:, :, : grid[0], : grid[1]]
    return resized(level, grid)


def rank(covariance: Tensor) -> int:
    """How many principal components hold 99 % of the variance."""
    values = torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0)
    return int((values.cumsum(0) < ENERGY * values.sum()).sum()) + 1


METHOD = DFC
