"""Reverse distillation: a decoder that has seen normal parts only restores what a frozen network saw.

Paper    Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022 (RD4AD).
Suits    defects of texture and of shape at once, at the price of training.
Fit      the frozen levels are joined and squeezed into a small embedding; a decoder that mirrors the network restores
         them, coarsest first; both learn on good images that each level's cosine distance is small.
Predict  a place is as anomalous as restored and frozen features differ, summed over the levels and blurred; for the
         image, levels count as z-scores of good images at their places: mean of the highest hundredth of their sum.
Differs  a light decoder with bilinear upsampling instead of the mirrored network; steps until the loss on held-out good
         images is flat instead of 200 epochs; the paper's image score is the highest place of the map (`levels=sum`,
         `top=0`); the loss takes positions one by one, as the paper writes it, not whole maps as its code (`cos`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from blemish.errors import ConfigError
from blemish.methods.base import HELD, Epochs, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.blocks import MirroredDecoder
from blemish.nn.level_scores import Adding, LevelScores
from blemish.nn.precision import Exact
from blemish.nn.reverse import OneClassEmbedding, embedding_stride, restoring_maps, restoring_terms
from blemish.ops.scoring import SHARE, check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction


@dataclass(frozen=True)
class Config:
    steps: int = 600  # of training at most
    until: Literal["flat", "steps"] = "flat"  # ends when the loss on held-out good images has stopped falling, or never
    batch: int = 16  # images in a step
    rate: float = 2e-3  # at the start; it falls along a cosine
    cos: Literal["position", "image"] = "position"  # what the loss compares: single positions, or whole maps
    embedding: int = 128  # channels of the one-class embedding
    embedding_stride: int = 32  # of its grid, in pixels; not finer than the coarsest level
    joined: int = 128  # most channels that a level is brought to before the levels are joined
    widths: tuple[int, ...] = (32, 64, 96)  # of the decoder, finest first; the last one holds for all levels below
    blocks: int = 2  # residual units of the embedding, and of each stage of the decoder
    levels: Adding = "both"  # z-scores of good images for the image score and a plain sum as map; z or sum: for both
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input
    top: float = SHARE  # share of the map whose mean is the image score; 0 takes its highest place, as RD4AD does

    def __post_init__(self) -> None:
        numbers = (self.steps, self.embedding, self.embedding_stride, self.joined, self.blocks, *self.widths)
        if not self.widths or min(numbers) < 1 or self.batch < 2:
            raise ConfigError("widths are wanted, all sizes have to be at least 1, and batch at least 2")
        if self.rate <= 0 or self.sigma < 0:
            raise ConfigError("rate > 0 and sigma >= 0 are required")
        check_share(self.top)


class ReverseDistillation(TorchMethod[Config]):
    needs = Needs(strides=(8, 16, 32))
    # a coarsest level of 2 x 2 cells, as small images have, would outweigh the others in z-scores
    brief = {
        "steps": 100,
        "until": "steps",
        "levels": "sum",
        "rate": 2e-2,
        "sigma": 6.0,
        "embedding": 8,
        "widths": (8, 12, 16),
    }
    efforts = {
        "quick": {"steps": 60},
        # RD4AD; its decoder mirrors the network: the widths are those of the default backbone
        "long": {"steps": Epochs(200), "until": "steps", "widths": (40, 112, 320)},
    }
    fitted_modules = ("embedding", "decoder", "scores")
    published = (
        Published("MVTec AD", "I-AUROC", 0.985, "WideResNet-50-2", "Deng and Li 2022"),
        Published("MVTec AD", "P-AUROC", 0.978, "WideResNet-50-2", "Deng and Li 2022"),
        Published("MVTec AD", "AUPRO@0.3", 0.939, "WideResNet-50-2", "Deng and Li 2022; image by image"),
    )

    @classmethod
    def wants(cls, config: Config) -> Needs:
        return replace(cls.needs, held=HELD if config.until == "flat" else 0.0)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        widths = [config.widths[min(i, len(config.widths) - 1)] for i in range(len(spec.channels))]
        with self.seeded():
            self.embedding = OneClassEmbedding(
                spec.channels,
                spec.grids,
                config.embedding,
                joined=config.joined,
                stride=embedding_stride(spec.grids, size, config.embedding_stride),
                blocks=config.blocks,
            )
            self.decoder = MirroredDecoder(
                config.embedding, spec.channels, spec.grids, widths=widths, blocks=config.blocks
            )
        self.to(memory_format=torch.channels_last)  # a step is a sixth faster on a CPU
        self.exact_features = Exact()
        self.scores = LevelScores(spec.grids, size, config.sigma, config.levels, config.top)

    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        phase = partial(Phase, betas=(0.5, 0.999), decay=0.0, flat=c.until == "flat")
        return (phase("train", c.steps, ("embedding", "decoder"), c.batch, c.rate),)

    def _restored(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The features again, by way of the embedding alone."""
        return self.decoder(self.embedding(maps))  # type: ignore[no-any-return]

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        assert batch.pyramid is not None
        maps = batch.pyramid.maps
        return restoring_terms(maps, self._restored(maps), whole=self.config.cos == "image")  # Eq. 2

    def places(self, batch: Batch) -> list[Tensor]:
        """(B, h_l, w_l) a level: how far restored and frozen features are apart (Eq. 1)."""
        assert batch.pyramid is not None
        maps, exact = batch.pyramid.maps, self.exact_features
        restored = self._restored(maps)
        return restoring_maps([exact(x) for x in maps], [exact(x) for x in restored])

    def measure(self, batches: Iterable[Batch]) -> None:
        """What good images have at each place."""
        self.scores.measure(map(self.places, batches))

    def predict(self, batch: Batch) -> Prediction:
        return self.scores(self.places(batch))  # type: ignore[no-any-return]


METHOD = ReverseDistillation
