"""EMMF-RD: reverse distillation whose levels are mapped onto each other, and whose embedding has a memory of normal
cells.

Paper    Tong et al., Enhanced Multi-Scale Features Mutual Mapping Fusion Based on Reverse Knowledge Distillation for
         Industrial Anomaly Detection and Localization, IEEE Transactions on Big Data 10(4), 2024.
Fit      all frozen levels are mapped onto each other and fused with unequal weights (mutual mapping fusion), squeezed
         into a one-class embedding, and restored by a decoder; coordinate attention stands before the embedding and
         behind every stage of the decoder. After a warm-up the cells of all good images fill a memory by k-means; from
         then on each cell is pulled at least 0.3 of the way to rows of the memory, which follows the cells and
         forgets.
Predict  a place is as anomalous as restored and frozen features differ, summed over the levels and blurred; for the
         image, levels count as z-scores of good images at their places: mean of the highest hundredth of their sum.
Differs  the abstract alone names the parts; equations and sizes are reconstructed from the work that it builds on
         (RD4AD, coordinate attention, MNAD, MemAE). A light decoder; steps until the loss on held-out good
         images is flat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from blemish.errors import ConfigError
from blemish.methods.base import HELD, Epochs, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.attention import CoordinateAttention
from blemish.nn.blocks import MirroredDecoder
from blemish.nn.level_scores import Adding, LevelScores
from blemish.nn.mapping import MutualMappingFusion
from blemish.nn.memory import EmbeddingMemory
from blemish.nn.precision import Exact
from blemish.nn.reverse import OneClassEmbedding, embedding_stride, restoring_maps, restoring_terms
from blemish.ops.scoring import SHARE, check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction

CELLS = 16384  # of the embedding that the memory starts from, drawn from those of all images


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
    widths: tuple[int, ...] = (32, 64, 96)  # of fusion and decoder, finest first; the last one holds for all below
    blocks: int = 2  # residual units of the embedding, and of each stage of the decoder
    levels: Adding = "both"  # z-scores of good images for the image score and a plain sum as map; z or sum: for both
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input
    top: float = SHARE  # share of the map whose mean is the image score; 0 takes its highest place, as RD4AD does
    fusion: Literal["mutual", "off"] = "mutual"  # off: the levels are joined as they are
    maps: Literal["both", "down", "up"] = "both"  # from finer levels to coarser ones (down), the other way, or both
    weights: Literal["learned", "equal"] = "learned"  # with which the mapped levels are fused
    discrepancy: bool = True  # adds where the levels disagree
    attention: Literal["both", "embedding", "decoder", "off"] = "both"  # where coordinate attention stands
    reduction: int = 32  # of the channels inside the attention
    memory: Literal["embedding", "off"] = "embedding"  # what is remembered
    rows: Literal["ema", "grad"] = "ema"  # how rows of the memory learn: follow the cells, or are parameters
    slots: int = 64  # rows of the memory
    nearest: int = 8  # rows that a cell is read from
    temperature: float = 0.1  # of the softmax over their cosines
    floor: float = 0.3  # least share of the way to the memory that every cell goes
    compact: float = 0.1  # weight of the cells' distance to their row
    separate: float = 0.01  # weight of the margin to the second row
    warm_up: float = 0.1  # share of the steps before the memory is there
    ramp: float = 0.1  # share of the steps in which it reaches full strength

    def __post_init__(self) -> None:
        numbers = (self.steps, self.embedding, self.embedding_stride, self.joined, self.blocks, *self.widths)
        if not self.widths or min(*numbers, self.reduction, self.slots, self.nearest) < 1 or self.batch < 2:
            raise ConfigError("widths are wanted, all sizes have to be at least 1, and batch at least 2")
        if self.rate <= 0 or self.temperature <= 0 or min(self.sigma, self.compact, self.separate) < 0:
            raise ConfigError("rate and temperature > 0, sigma, compact and separate >= 0 are required")
        check_share(self.top)
        if not 0.3 <= self.floor <= 1:
            raise ConfigError("floor has to lie between 0.3 and 1", hint="below, the memory could be got past")
        if not (0 < self.warm_up < 1 and 0 <= self.ramp < 1 - self.warm_up):
            raise ConfigError("warm_up and ramp are shares of the steps: above 0, and less than 1 together")


class EMMFRD(TorchMethod[Config]):
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
        "slots": 8,
        "nearest": 4,
    }
    efforts = {
        "quick": {"steps": 60},
        # the abstract states none: RD4AD's, on which the paper builds
        "long": {"steps": Epochs(200), "until": "steps", "widths": (40, 112, 320), "slots": 128},
    }
    fitted_modules = ("fusion", "embedding", "memory", "decoder", "scores")
    published = (
        Published("MVTec AD", "I-AUROC", 0.981, "not stated in the abstract", "Tong et al. 2024"),
        Published("MVTec AD", "P-AUROC", 0.983, "not stated in the abstract", "Tong et al. 2024"),
        Published("MVTec AD", "AUPRO@0.3", 0.950, "not stated in the abstract", "Tong et al. 2024; image by image"),
    )

    @classmethod
    def wants(cls, config: Config) -> Needs:
        return replace(cls.needs, held=HELD if config.until == "flat" else 0.0)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        widths = [config.widths[min(i, len(config.widths) - 1)] for i in range(len(spec.channels))]
        fused = list(spec.channels) if config.fusion == "off" else widths
        attention = partial(CoordinateAttention, reduction=config.reduction)
        with self.seeded():
            self.embedding = OneClassEmbedding(
                fused,
                spec.grids,
                config.embedding,
                joined=config.joined,
                stride=embedding_stride(spec.grids, size, config.embedding_stride),
                blocks=config.blocks,
                attention=attention if config.attention in ("both", "embedding") else None,
            )
            self.decoder = MirroredDecoder(
                config.embedding,
                spec.channels,
                spec.grids,
                widths=widths,
                blocks=config.blocks,
                after=attention if config.attention in ("both", "decoder") else None,
            )
            self.fusion = self._fusion(widths)
            self.memory = self._memory()
        self._cells: Tensor | None = None  # of the step's embedding, for the write that follows it
        self.to(memory_format=torch.channels_last)  # a step is a sixth faster on a CPU
        self.exact_features = Exact()
        self.scores = LevelScores(spec.grids, size, config.sigma, config.levels, config.top)

    def _fusion(self, widths: list[int]) -> nn.Module:
        c, spec = self.config, self.spec
        if c.fusion == "off":
            return nn.Identity()
        learned = c.weights == "learned"
        return MutualMappingFusion(
            spec.channels, spec.grids, widths, learned=learned, discrepancy=c.discrepancy, ways=c.maps
        )

    def _memory(self) -> nn.Module:
        c = self.config
        if c.memory == "off":
            return nn.Identity()
        return EmbeddingMemory(
            c.embedding,
            c.slots,
            nearest=c.nearest,
            temperature=c.temperature,
            floor=c.floor,
            learned=c.rows == "grad",
        )

    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        network = ("embedding", "decoder") if c.fusion == "off" else ("embedding", "decoder", "fusion")
        phase = partial(Phase, batch=c.batch, rate=c.rate, betas=(0.5, 0.999), decay=0.0)
        flat = c.until == "flat"
        if c.memory == "off":
            return (phase("train", c.steps, network, flat=flat),)
        warm = max(round(c.steps * c.warm_up), 1)
        train = phase("train", c.steps - warm, (*network, "memory"), flat=flat)
        return phase("warm-up", warm, network, floor=1.0), train

    def begin(self, phase: Phase, batches: Iterable[Batch]) -> None:
        """After the warm-up, the cells of all good images fill the memory; of many, CELLS are drawn at random."""
        if not (isinstance(self.memory, EmbeddingMemory) and "memory" in phase.learns):
            return
        self.generator.manual_seed(self.seed)
        cells, keys, per_image = torch.zeros(0, self.config.embedding), torch.zeros(0), 0
        for batch in batches:
            phi = self._embedded(batch)
            per_image = int(phi.shape[2] * phi.shape[3])
            cells = torch.cat([cells, self.memory.cells(phi)])
            keys = torch.cat([keys, torch.rand(len(cells) - len(keys), generator=self.generator)])
            kept = keys.topk(min(CELLS, len(keys)), sorted=False).indices  # a uniform sample of all cells seen so far
            cells, keys = cells[kept], keys[kept]
        self.memory.start(cells, self.config.batch * per_image, self.generator)

    def _embedded(self, batch: Batch) -> Tensor:
        """phi (B, D, h, w): levels fused, joined, squeezed."""
        assert batch.pyramid is not None
        return self.embedding(self.fusion(batch.pyramid.maps))  # type: ignore[no-any-return]

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        assert batch.pyramid is not None
        c, phi = self.config, self._embedded(batch)
        terms: dict[str, Tensor] = {}
        self._cells = None
        if isinstance(self.memory, EmbeddingMemory) and "memory" in phase.learns:
            cells = self.memory.cells(phi)
            self._cells = cells.detach()
            compact, separate = self.memory.terms(cells)
            terms = {"compact": c.compact * compact, "separate": c.separate * separate}
            phi = self.memory(phi, min(progress * (1 - c.warm_up) / c.ramp, 1.0) if c.ramp else 1.0)
        whole = c.cos == "image"
        return restoring_terms(batch.pyramid.maps, self.decoder(phi), whole=whole) | terms

    def after(self, phase: Phase, progress: float) -> None:
        if isinstance(self.memory, EmbeddingMemory) and self._cells is not None:
            self.memory.write(self._cells)
            self._cells = None

    def places(self, batch: Batch) -> list[Tensor]:
        """(B, h_l, w_l) a level: how far restored and frozen features are apart."""
        assert batch.pyramid is not None
        exact, restored = self.exact_features, self.decoder(self.memory(self._embedded(batch)))
        return restoring_maps([exact(x) for x in batch.pyramid.maps], [exact(x) for x in restored])

    def measure(self, batches: Iterable[Batch]) -> None:
        """What good images have at each place."""
        self.scores.measure(map(self.places, batches))

    def predict(self, batch: Batch) -> Prediction:
        return self.scores(self.places(batch))  # type: ignore[no-any-return]


METHOD = EMMFRD
