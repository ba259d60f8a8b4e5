"""OneNIP: one normal image as a prompt guides the reconstruction, and a refiner learns to find synthetic defects.

Paper    Gao, Learning to Detect Multi-class Anomalies with Just One Normal Image Prompt, ECCV 2024, arXiv 2505.09264.
Fit      a transformer whose tokens do not see their neighbours rebuilds the frozen features of good images from the
         tokens of another good image of the same category, the prompt, which reads the image while the image reads it.
         It restores images with synthetic defects as well; a small convolutional refiner learns the defects' masks from
         the absolute errors.
Predict  the router's category decides the prompt, an image in the middle of its category; the map is half the distance
         of features, half the refiner's probability on its scale; the image takes the highest mean of a square of a
         token.
Differs  half the paper's width; pre-norm layers, positions that start with the variance of tokens, products drawn
         equally often: fewer steps do; three levels, standardised; the prompt never is the image itself, and at
         inspection is always the same one; the scale of the probability comes from held-out good images and the same
         with synthetic defects, not from those that are inspected; the refiner is taught at its own stride; synthetic
         defects have drawn textures unless others are given; steps until the loss on held-out good images is flat. The
         paper's choices are options. `score` as in uniad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import ConfigError, DataError
from blemish.methods.base import HELD, Epochs, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.bank import FeatureBank
from blemish.nn.blocks import resized
from blemish.nn.grids import joined
from blemish.nn.level_maps import LevelMaps
from blemish.nn.losses import dice_loss
from blemish.nn.masked import (
    Added,
    MaskedAttention,
    MaskedEncoder,
    Norm,
    PromptLayer,
    Where,
    drop_attention,
    ending,
    jittered,
    xavier,
)
from blemish.nn.moments import ChannelMoments
from blemish.nn.precision import Exact
from blemish.nn.refiner import FINER, Refiner
from blemish.nn.residuals import Residuals
from blemish.nn.scoring import peak, window_peak
from blemish.ops.scoring import check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction

FEW = 8  # samples of a step below which the refiner's batch norms become group norms


@dataclass(frozen=True)
class Config:
    steps: int = 3000  # of training at most
    until: Literal["flat", "steps"] = "flat"  # ends when the loss on held-out good images has stopped falling, or never
    batch: int = 4  # images in a step, each with a damaged twin and a prompt
    balanced: bool = True  # products are drawn equally often, by decided category; the paper draws images so
    rate: float = 1e-3  # at the start; it falls along a cosine
    clip: float = 0.1  # largest norm of a step's gradient
    width: int = 128  # channels of a token; the paper has 256
    hidden: int = 512  # units of each perceptron; the paper has 1024
    encoders: int = 4  # layers
    decoders: int = 4  # layers
    heads: int = 8  # of each attention
    dropout: float = 0.1  # everywhere in the transformer but of attention; training only
    attention_dropout: float = 0.0  # of attention; the paper has 0.1, which takes half of a step's time on a processor
    norm: Norm = "pre"  # of layers: pre learns in fewer steps; the paper has post
    positions: Literal["normal", "uniform"] = "normal"  # at the start; uniform in [0, 1) as the paper
    stride: int = 16  # of the tokens' grid, in pixels
    resize: Literal["area", "bilinear"] = "area"  # how levels come to that grid; bilinear, as the paper, skips places
    standardise: bool = True  # channels at mean 0 and variance 1; the paper takes them as they are
    prompt: Literal["category", "any"] = "category"  # whose good images are prompts: its category's, or any
    kept: int = 64  # good images of each category that prompts are drawn from
    direction: Literal["both", "prompt"] = "both"  # prompt: the image does not read the prompt
    restoration: bool = True  # features of damaged copies have to become those of the good image
    refiner: bool = True  # a finer map, learned from the twins' masks
    refiner_width: int = 64  # its channels; the paper has 128
    dice: float = 0.5  # weight of its loss
    dice_at: Literal["grid", "image"] = "grid"  # masks are compared at a fourth of stride, or by the pixel as the paper
    fusion: float = 0.5  # share of the refiner in the map
    mask: Where = "all"  # which attentions look past a token and its neighbours
    neighbours: int = 0  # side of the window that is looked past; 1 = the token alone, 0 = 2 floor(n / 4) + 1 of n
    jitter: float = 1.21  # length of the noise on a token, as a share of its own; the paper's alpha / sqrt(channels)
    score: Literal["distance", "spread"] = "distance"  # of channels: alike, or over their spread on good images there
    top: float = 0.0  # share of the map whose mean is the image score; 0: the highest mean of a square of one token

    def __post_init__(self) -> None:
        sizes = (self.steps, self.width, self.hidden, self.encoders, self.decoders, self.heads, self.stride)
        if min(*sizes, self.kept, self.refiner_width) < 1 or self.batch < 2:
            raise ConfigError("steps, sizes, layers and kept have to be at least 1, batch at least 2")
        if self.width % self.heads or self.width < 2:
            raise ConfigError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.rate <= 0 or min(self.clip, self.jitter, self.neighbours, self.dice) < 0:
            raise ConfigError("rate has to be positive; clip, jitter, neighbours and dice cannot be negative")
        if not all(0 <= share < 1 for share in (self.dropout, self.attention_dropout)) or not 0 <= self.fusion <= 1:
            raise ConfigError("dropout and attention_dropout lie in [0, 1), fusion in [0, 1]")
        check_share(self.top)

    @property
    def twins(self) -> bool:
        """Whether anything learns from damaged images."""
        return self.restoration or self.refiner


class PromptedReconstructor(nn.Module):
    """Tokens (B, N, C) of joined features, and those of prompts -> the image's, rebuilt from the prompt's stream."""

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
        self.decoder = nn.ModuleList(PromptLayer(*layer, both=c.direction == "both") for _ in range(c.decoders))
        self.last, self.read = MaskedAttention(c.width, c.heads, c.dropout), Added(c.width, c.dropout)
        self.image_end, self.prompt_end = (ending(c.width, c.norm) for _ in range(2))
        self.head = nn.Linear(c.width, channels)
        xavier(self)
        drop_attention(self, c.attention_dropout)

    def decode(self, image: Tensor, prompt: Tensor) -> Tensor:
        """(B, N, C), of both encoded; the last attention is without a mask."""
        position = self.encoder.position()
        for layer in self.decoder:
            prompt, image = layer(prompt, image, position, self.encoder.of_decoder)
        prompt, image = self.prompt_end(prompt), self.image_end(image)
        prompt = self.read(prompt, self.last(prompt + position, image + position, image))
        return self.head(prompt)  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Several times as many images as prompts: the prompts repeat in order."""
        count = len(tokens)
        encoded = self.encoder(torch.cat([tokens, prompts]))
        return self.decode(encoded[:count], encoded[count:].repeat(count // len(prompts), 1, 1))


class OneNIP(TorchMethod[Config]):
    needs = Needs(strides=(4, 8, 16), twin="mixed", fresh=True, category=True, held=HELD)
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
        "refiner_width": 8,
    }
    efforts = {
        "quick": {"steps": 300},
        "long": {
            **{"steps": Epochs(1000), "until": "steps", "batch": 8, "rate": 1e-4},
            **{"width": 256, "hidden": 1024, "refiner_width": 128},
        },
    }
    fitted_buffers = ("mean", "scale", "prompts", "balance")
    fitted_modules = ("network", "refiner", "residuals")
    published = (
        Published("MVTec AD", "I-AUROC", 0.980, "EfficientNet-B4", "Gao 2024, corrected code; one model for all"),
        Published("MVTec AD", "P-AUROC", 0.979, "EfficientNet-B4", "Gao 2024, corrected code; one model for all"),
        Published("VisA", "I-AUROC", 0.928, "EfficientNet-B4", "Gao 2024, corrected code; one model for all"),
        Published("VisA", "P-AUROC", 0.987, "EfficientNet-B4", "Gao 2024, corrected code; one model for all"),
        Published("BTAD", "I-AUROC", 0.932, "EfficientNet-B4", "Gao 2024, corrected code; one model for all"),
        Published("BTAD", "P-AUROC", 0.974, "EfficientNet-B4", "Gao 2024, corrected code; one model for all"),
    )
    mean: Tensor  # (C, 1, 1) of the joined channels
    scale: Tensor
    prompts: Tensor  # (K, N, width), encoded, one a category
    balance: Tensor  # (), what a probability of 1 weighs in units of distance

    @classmethod
    def wants(cls, config: Config) -> Needs:
        twin = "mixed" if config.twins else None
        return replace(cls.needs, twin=twin, category=config.prompt == "category")

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.grid = math.ceil(size[0] / config.stride), math.ceil(size[1] / config.stride)
        channels = sum(spec.channels)
        self.refiner: nn.Module = nn.Identity()
        try:
            with self.seeded():
                self.network = PromptedReconstructor(config, channels, self.grid)
                if config.refiner:
                    norm: Literal["batch", "group"] = "batch" if 2 * config.batch >= FEW else "group"
                    self.refiner = Refiner(channels, config.refiner_width, norm)
                    xavier(self.refiner)
        except ValueError as error:
            raise ConfigError(str(error), hint="take a larger image, or smaller stride or neighbours") from error
        self.exact_features = Exact()
        self.level_maps = LevelMaps([self.grid], size, 0.0)
        self.fine_maps = LevelMaps([(FINER * self.grid[0], FINER * self.grid[1])], size, 0.0)
        self.residuals = Residuals(channels, self.grid, even=config.score == "distance")
        self._moments, self._bank = ChannelMoments(channels), FeatureBank(config.kept, seed)

    # ------------------------------------------------------------------------------------------- features and prompts
    def observe(self, batch: Batch) -> None:
        assert batch.pyramid is not None
        x = joined(batch.pyramid.maps, self.grid, self.config.resize)
        self._moments.add(x)
        self._bank.add(x, batch.ids, self._categories(batch))

    def merge(self, other: Self) -> None:
        self._moments.merge(other._moments)
        self._bank.merge(other._bank)

    def conclude(self) -> None:
        plain = not self.config.standardise
        mean, scale = self._moments.mean.float(), self._moments.spread()
        self.mean = (torch.zeros_like(mean) if plain else mean)[:, None, None]
        self.scale = (torch.ones_like(scale) if plain else scale)[:, None, None]

    def _categories(self, batch: Batch) -> Sequence[int]:
        """Whose prompts each sample may have."""
        if batch.category is None or self.config.prompt == "any":
            return [0] * len(batch.ids)
        return [int(k) for k in batch.category]

    def _tokens(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.scale).flatten(2).transpose(1, 2)

    def tokens(self, maps: tuple[Tensor, ...]) -> Tensor:
        """(B, N, C): all levels side by side at each place of the grid, rows first."""
        return self._tokens(joined(maps, self.grid, self.config.resize))

    def _map(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(-1, int(tokens.shape[2]), *self.grid)

    # ------------------------------------------------------------------------------------------------------- training
    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        phase = partial(Phase, clip=c.clip, balanced=c.balanced, flat=c.until == "flat")
        return (phase("train", c.steps, ("network", "refiner"), c.batch, c.rate),)

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Squared errors against the clean features, of good images and of damaged ones, and the masks' Dice."""
        assert batch.pyramid is not None
        c, clean = self.config, self.tokens(batch.pyramid.maps)
        count, seen = len(clean), clean
        if c.twins:
            assert batch.twin is not None
            seen = torch.cat([clean, self.tokens(batch.twin.maps)])
        prompts = self._tokens(self._bank.draw(batch.ids, self._categories(batch), self.generator))
        noisy = torch.cat([seen, prompts])
        if c.jitter > 0:
            noisy = jittered(noisy, c.jitter, self.generator)
        with self.seeded(int(torch.randint(2**62, (), generator=self.generator))):  # of dropout
            rebuilt = self.network(noisy[: len(seen)], noisy[len(seen) :]).float()
        share = 0.5 if c.restoration else 1.0  # the mean over both streams
        terms = {"rebuild": share * F.mse_loss(rebuilt[:count], clean)}
        if c.restoration:
            terms["restore"] = share * F.mse_loss(rebuilt[count:], clean)
        apart = rebuilt - seen
        if c.refiner:
            terms["refine"] = c.dice * self._dice(apart, batch)
        return terms

    def _dice(self, apart: Tensor, batch: Batch) -> Tensor:
        assert batch.mask is not None
        said = self.refiner(self._map(apart).abs()).float()
        mask = batch.mask[:, None].float()
        if self.config.dice_at == "image":
            said = resized(said, self.size)
        else:
            mask = F.interpolate(mask, size=(int(said.shape[2]), int(said.shape[3])), mode="area")
        return dice_loss(said.sigmoid(), torch.cat([torch.zeros_like(mask), mask]))

    def measure(self, batches: Iterable[Batch]) -> None:
        """Encodes each category's prompt; then what residuals good images have at each place."""
        self.prompts = self.network.encoder(self._tokens(self._bank.medoids(self.scale.flatten())))
        self.residuals.measure(map(self._apart, batches))

    def settle(self, batches: Iterable[Batch]) -> None:
        """Balance is the middle of the smallest and the largest distance, of held-out good images and of the same with
        synthetic defects: what is compared with is clean, as at inspection.
        """
        places: list[Tensor] = []
        for batch in batches:
            seen = [batch] if batch.twin is None else [batch, replace(batch, pyramid=batch.twin)]
            places += [self.residuals(self._apart(one)).flatten() for one in seen]
        distances = torch.cat(places)
        self.balance = (distances.max() + distances.min()) / 2
        self._bank = FeatureBank(self.config.kept, self.seed)

    # ----------------------------------------------------------------------------------------------------- inspection
    def _prompt(self, batch: Batch) -> Tensor:
        """(B, N, width), or (1, N, width) where it is one for all."""
        count = int(self.prompts.shape[0])
        if count == 1:
            return self.prompts
        if batch.category is None:
            raise DataError("the category of each sample is wanted: there are several prompts")
        return self.prompts[batch.category.clamp_max(count - 1)]

    def _apart(self, batch: Batch) -> Tensor:
        """(B, C, h, w): reconstruction minus input, in float32."""
        assert batch.pyramid is not None
        maps, exact = batch.pyramid.maps, self.exact_features
        rebuilt = self.network.decode(self.network.encoder(self.tokens(maps)), self._prompt(batch))
        return self._map(exact(rebuilt) - self.tokens(tuple(exact(x) for x in maps)))

    def predict(self, batch: Batch) -> Prediction:
        apart = self._apart(batch)
        anomaly_map = self.level_maps([self.residuals(apart)])
        if self.config.refiner:
            fine = self.fine_maps([self.refiner(apart.abs())[:, 0]]).sigmoid()
            anomaly_map = (1 - self.config.fusion) * anomaly_map + self.config.fusion * self.balance * fine
        if self.config.top:
            return Prediction(peak(anomaly_map, self.config.top), anomaly_map)
        return Prediction(window_peak(anomaly_map, self.config.stride), anomaly_map)


METHOD = OneNIP
