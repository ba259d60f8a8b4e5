"""UniAD: a masked transformer builds normal features from learned queries, one model for all products.

Paper    You et al., A Unified Model for Multi-class Anomaly Detection, NeurIPS 2022.
Suits    many products in one model.
Fit      frozen levels are joined on one grid of tokens; a transformer learns on good images of all products to rebuild
         them from noisy ones. Three things keep it from copying: no token sees itself or its neighbours (neighbour
         masked attention), each decoder layer grows its output from learned queries (layer-wise query decoder), and
         the input is jittered while the target is clean (feature jittering).
Predict  a token is as anomalous as far as its features lie from the rebuilt ones; the map is bilinear; the image takes
         the highest mean of the map over a square of one token.
Differs  half the paper's width; layers are pre-norm, and positions start with the variance of tokens: both learn in far
         fewer steps; products are drawn equally often; three levels without that of stride 2, brought to one grid by
         means of areas, channels standardised; steps until the loss on held-out good images is flat instead of
         1000 epochs; jitter by its share of a token's length, not by the paper's alpha, which depends on the channels;
         the map is bilinear between centres of tokens. The paper's choices are options. Beside the paper's score stands
         one whose channels count by their spread at the place on good images (`score`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import ConfigError
from blemish.methods.base import HELD, Epochs, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.grids import joined
from blemish.nn.level_maps import LevelMaps
from blemish.nn.masked import MaskedEncoder, Norm, QueryLayer, Where, drop_attention, jittered, xavier
from blemish.nn.moments import ChannelMoments
from blemish.nn.precision import Exact
from blemish.nn.residuals import Residuals
from blemish.nn.scoring import peak, window_peak
from blemish.ops.scoring import check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction


@dataclass(frozen=True)
class Config:
    steps: int = 6000  # of training at most
    until: Literal["flat", "steps"] = "flat"  # ends when the loss on held-out good images has stopped falling, or never
    batch: int = 2  # images in a step: more and smaller steps learn more from the same images
    balanced: bool = True  # products are drawn equally often, by decided category; the paper draws images so
    rate: float = 1e-3  # at the start; it falls along a cosine
    clip: float = 0.1  # largest norm of a step's gradient
    width: int = 128  # channels of a token; the paper has 256
    hidden: int = 512  # units of each perceptron; the paper has 1024
    encoders: int = 4  # layers
    decoders: int = 4  # layers
    heads: int = 8  # of each attention
    dropout: float = 0.1  # everywhere but of attention; training only
    attention_dropout: float = 0.0  # of attention; the paper has 0.1, which takes half of a step's time on a processor
    norm: Norm = "pre"  # of layers: pre learns in fewer steps; the paper has post
    positions: Literal["normal", "uniform"] = "normal"  # at the start; uniform in [0, 1) as the paper
    stride: int = 16  # of the tokens' grid, in pixels
    resize: Literal["area", "bilinear"] = "area"  # how levels come to that grid; bilinear, as the paper, skips places
    standardise: bool = True  # channels at mean 0 and variance 1; the paper takes them as they are
    mask: Where = "all"  # which attentions look past a token and its neighbours
    neighbours: int = 0  # side of the window that is looked past; 1 = the token alone, 0 = 2 floor(n / 4) + 1 of n
    queries: bool = True  # learned ones in each decoder layer; off: decoding starts from the encoder's memory
    jitter: float = 1.21  # length of the noise on a token, as a share of its own; the paper's alpha / sqrt(channels)
    jitter_share: float = 1.0  # of the steps that are jittered
    score: Literal["distance", "spread"] = "distance"  # of channels: alike, or over their spread on good images there
    top: float = 0.0  # share of the map whose mean is the image score; 0: the highest mean of a square of one token
    sigma: float = 0.0  # blur of the anomaly map, in pixels of the network's input; the paper has none

    def __post_init__(self) -> None:
        sizes = (self.steps, self.width, self.hidden, self.encoders, self.decoders, self.heads, self.stride)
        if min(sizes) < 1 or self.batch < 2:
            raise ConfigError("steps, sizes and numbers of layers have to be at least 1, batch at least 2")
        if self.width % self.heads or self.width < 2:
            raise ConfigError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.rate <= 0 or min(self.clip, self.jitter, self.sigma, self.neighbours) < 0:
            raise ConfigError("rate has to be positive; clip, jitter, sigma and neighbours cannot be negative")
        if not all(0 <= share < 1 for share in (self.dropout, self.attention_dropout)):
            raise ConfigError("dropout and attention_dropout lie in [0, 1)")
        if not 0 <= self.jitter_share <= 1:
            raise ConfigError("jitter_share lies in [0, 1]")
        check_share(self.top)


class Reconstructor(nn.Module):
    """Tokens (B, N, C) of joined features -> the same, rebuilt."""

    def __init__(self, config: Config, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        c, layer = config, (config.width, config.hidden, config.heads, config.dropout, config.norm)
        self.encoder = MaskedEncoder(
            channels,
            grid,
            c.encoders,
            *layer,
            where=c.mask,
            neighbours=c.neighbours,
            normal=c.positions == "normal",
        )
        tokens = grid[0] * grid[1]
        self.decoder = nn.ModuleList(QueryLayer(tokens, *layer, queries=c.queries) for _ in range(c.decoders))
        self.norm, self.head = nn.LayerNorm(c.width), nn.Linear(c.width, channels)
        xavier(self)
        drop_attention(self, c.attention_dropout)

    def decode(self, memory: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, C)."""
        out, position = memory, self.encoder.position()
        for layer in self.decoder:
            out = layer(memory, out, position, self.encoder.of_decoder)
        return self.head(self.norm(out))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decode(self.encoder(tokens))


class UniAD(TorchMethod[Config]):
    needs = Needs(strides=(4, 8, 16))
    brief = {
        "steps": 40,
        "until": "steps",
        "batch": 8,
        "rate": 4e-3,
        "clip": 1.0,
        "width": 16,
        "hidden": 32,
        "encoders": 1,
        "decoders": 1,
        "heads": 2,
        "stride": 8,
    }
    efforts = {
        "quick": {"steps": 600},
        "long": {
            **{"steps": Epochs(1000), "until": "steps", "batch": 8, "rate": 1e-4},
            **{"width": 256, "hidden": 1024},
        },
    }
    fitted_buffers = ("mean", "scale")
    fitted_modules = ("network", "residuals")
    published = (
        Published("MVTec AD", "I-AUROC", 0.965, "EfficientNet-B4", "You et al. 2022; one model for all classes"),
        Published("MVTec AD", "P-AUROC", 0.968, "EfficientNet-B4", "You et al. 2022; one model for all classes"),
        Published("VisA", "I-AUROC", 0.888, "EfficientNet-B4", "ADer, 256 pixels; one model for all classes"),
        Published("VisA", "P-AUROC", 0.983, "EfficientNet-B4", "ADer, 256 pixels; one model for all classes"),
    )
    mean: Tensor  # (C, 1, 1) of the joined channels
    scale: Tensor

    @classmethod
    def wants(cls, config: Config) -> Needs:
        return replace(cls.needs, held=HELD if config.until == "flat" else 0.0)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.grid = math.ceil(size[0] / config.stride), math.ceil(size[1] / config.stride)
        try:
            with self.seeded():
                self.network = Reconstructor(config, sum(spec.channels), self.grid)
        except ValueError as error:
            raise ConfigError(str(error), hint="take a larger image, or smaller stride or neighbours") from error
        self.exact_features = Exact()
        self.residuals = Residuals(sum(spec.channels), self.grid, even=config.score == "distance")
        self.level_maps = LevelMaps([self.grid], size, config.sigma)
        self._moments = ChannelMoments(sum(spec.channels))

    def observe(self, batch: Batch) -> None:
        assert batch.pyramid is not None
        self._moments.add(joined(batch.pyramid.maps, self.grid, self.config.resize))

    def merge(self, other: Self) -> None:
        self._moments.merge(other._moments)

    def conclude(self) -> None:
        plain = not self.config.standardise
        mean, scale = self._moments.mean.float(), self._moments.spread()
        self.mean = (torch.zeros_like(mean) if plain else mean)[:, None, None]
        self.scale = (torch.ones_like(scale) if plain else scale)[:, None, None]

    def tokens(self, maps: tuple[Tensor, ...]) -> Tensor:
        """(B, N, C): all levels side by side at each place of the grid, rows first."""
        x = joined(maps, self.grid, self.config.resize)
        return ((x - self.mean) / self.scale).flatten(2).transpose(1, 2)

    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        phase = partial(Phase, clip=c.clip, balanced=c.balanced, flat=c.until == "flat")
        return (phase("train", c.steps, ("network",), c.batch, c.rate),)

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The mean squared error; 1 is that of the mean feature, where channels are standardised."""
        assert batch.pyramid is not None
        clean = self.tokens(batch.pyramid.maps)
        c, seen = self.config, clean
        if c.jitter > 0 and float(torch.rand((), generator=self.generator)) < c.jitter_share:
            seen = jittered(clean, c.jitter, self.generator)
        with self.seeded(int(torch.randint(2**62, (), generator=self.generator))):  # of dropout
            rebuilt = self.network(seen)
        return {"restore": F.mse_loss(rebuilt.float(), clean)}

    def apart(self, batch: Batch) -> Tensor:
        """(B, C, h, w): rebuilt less frozen features, in float32."""
        assert batch.pyramid is not None
        exact = self.exact_features
        rebuilt = exact(self.network(self.tokens(batch.pyramid.maps)))
        apart: Tensor = rebuilt - self.tokens(tuple(exact(x) for x in batch.pyramid.maps))
        return apart.transpose(1, 2).reshape(-1, int(apart.shape[2]), *self.grid)

    def measure(self, batches: Iterable[Batch]) -> None:
        """What residuals good images have at each place."""
        self.residuals.measure(map(self.apart, batches))

    def predict(self, batch: Batch) -> Prediction:
        anomaly_map = self.level_maps([self.residuals(self.apart(batch))])
        if self.config.top:
            return Prediction(peak(anomaly_map, self.config.top), anomaly_map)
        return Prediction(window_peak(anomaly_map, self.config.stride), anomaly_map)


METHOD = UniAD
