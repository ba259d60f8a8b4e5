"""HetNet: two students rebuild CNN features from what a CNN and a transformer see, one of them through noise.

Paper    Yu et al., Noise Fusion-based Distillation Learning for Anomaly Detection in Complex Industrial Environments,
         arXiv 2506.16050, 2025. No code of the method is public; what the paper leaves open follows RD4AD (Deng and Li,
         CVPR 2022) and PaDiM (Defard et al. 2021).
Fit      the global teacher first, where no pretrained one is given: a small transformer learns to guess the CNN's
         deepest features at hidden patches of the good images (in-house global teacher), and is frozen. Then fusion and
         students: features of both teachers exchange information by cross attention (ALGF), are fused over scales (MHF)
         and embedded (OCE); student R rebuilds the CNN's features from clean ones, student D has to match R although
         boxes of the CNN's features were replaced by draws from their places' Gaussians (LMGN).
Predict  no noise; a cell is as anomalous as 1 - cosine between the CNN's features and the students', mean of both
         students, summed over the levels and blurred; for the image, levels count as z-scores of good images at their
         cells: mean of the highest hundredth of their sum.
Differs  the global teacher is learned in-house on the good images unless a second backbone is named; the embedding lies
         at stride 32; decoders are narrower than the features and upsample bilinearly; widths, weights of the loss,
         boxes and schedule are reconstructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import log2
from typing import Literal

import torch
from torch import Tensor, cat, nn

from blemish.errors import ConfigError
from blemish.methods.base import HELD, Epochs, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.algf import Exchange, LocalGlobalFusion, pointwise
from blemish.nn.blocks import MirroredDecoder, Residual, conv3, norm_of, resized
from blemish.nn.grids import to_grid
from blemish.nn.level_scores import Adding, LevelScores
from blemish.nn.lmgn import LocalGaussians, draw_boxes, standard_noise
from blemish.nn.losses import cosine_map, cosine_whole, masked_mean
from blemish.nn.precision import Exact
from blemish.nn.transformer import MaskedGuess, SmallTransformer, hidden_cells
from blemish.ops.scoring import SHARE, check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction

Grid = tuple[int, ...]
HEADS = 4


@dataclass(frozen=True)
class Config:
    steps: int = 300  # of fusion and students at most, 16 images each
    until: Literal["flat", "steps"] = "flat"  # ends when the loss on held-out good images has stopped falling, or never
    rate: float = 1e-2  # theirs
    teachers: Literal["both", "cnn", "global", "random"] = "both"  # random: an untrained transformer, to compare only
    csa: Exchange = "tokens"  # exchange: cross attention, a gate of channels, or a plain sum
    noise: Literal["local", "standard", "none"] = "local"  # what boxes of the CNN's features are replaced by
    scoring: Literal["both", "R", "D"] = "both"  # whose difference from the teacher counts
    cos: Literal["position", "image"] = "position"  # what the loss compares: single positions, or whole maps
    denoising: float = 1.0  # lambda, weight of student D's loss
    widths: tuple[int, ...] = (32, 64, 96)  # of fusion and decoders, finest level first; the last for all that follow
    embedding: int = 128  # channels of the one-class embedding
    blocks: int = 1  # residual units in a stage of a decoder
    samples: int = 96  # maximum number of images for a place's Gaussian; kept during training only
    neighbourhood: int = 1  # side of the window of cells whose features belong to a place's Gaussian
    ridge: float = 0.01  # of its covariance, as a share of a level's mean variance
    strength: float = 1.0  # s in mu + s L z
    teacher_steps: int = 150  # of the in-house global teacher, where no second backbone is named
    teacher_rate: float = 1e-3  # its own
    teacher_width: int = 96  # channels of its tokens
    teacher_depth: int = 4  # its blocks
    hidden: float = 0.5  # share of the patches that it has to guess
    levels: Adding = "both"  # z-scores of good images for the image score and a plain sum as map; z or sum: for both
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input
    top: float = SHARE  # share of the map whose mean is the image score; 0 takes its highest place

    def __post_init__(self) -> None:
        if min(self.steps, self.rate, self.teacher_steps, self.teacher_rate) <= 0:
            raise ConfigError("steps and rates have to be positive", hint="teachers=cnn goes without a transformer")
        if min(self.embedding, self.blocks, self.samples) < 1:
            raise ConfigError("embedding, blocks and samples have to be positive")
        if not self.widths or min(self.widths) < HEADS:
            raise ConfigError(f"widths of {HEADS} channels or more are required, not {self.widths}")
        if min(self.denoising, self.ridge, self.strength, self.sigma) < 0:
            raise ConfigError("denoising, ridge, strength and sigma cannot be negative")
        check_share(self.top)
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood has to be odd and positive, not {self.neighbourhood}")
        if self.teacher_width < 1 or self.teacher_width % max(self.teacher_width // 32, 1) or self.teacher_depth < 1:
            raise ConfigError("teacher_width has to be a multiple of 32 or less than 64, and teacher_depth positive")
        if not 0 < self.hidden < 1:
            raise ConfigError(f"hidden has to lie between 0 and 1, not {self.hidden}")
        if self.teachers in ("cnn", "global") and self.csa != "off":
            raise ConfigError("one teacher has nothing to exchange", hint="csa=off")
        if self.teachers == "global" and self.noise != "none":
            raise ConfigError("the noise belongs to the CNN's features, and there is no CNN", hint="noise=none")


class Fusion(nn.Module):
    """ALGF on every level, then MHF: all on the coarsest grid by strided 3 x 3 convolutions, side by side."""

    def __init__(
        self,
        local: Sequence[int],
        grids: Sequence[Grid],
        others: Sequence[int] | None,
        widths: list[int],
        csa: Exchange,
    ) -> None:
        super().__init__()
        self.coarsest = grids[-1]
        self.levels, self.down = nn.ModuleList(), nn.ModuleList()
        for i, (channels, grid, width) in enumerate(zip(local, grids, widths, strict=True)):
            self.levels.append(LocalGlobalFusion(channels, others[i] if others else None, width, grid, csa))
            units: list[nn.Module] = []
            for n in range(round(log2(max(grid[0] / grids[-1][0], 1)))):
                wider = widths[min(i + n + 1, len(widths) - 1)]
                units += [conv3(width, wider, 2), norm_of("batch", wider), nn.ReLU()]
                width = wider
            if width != widths[-1]:
                units.append(pointwise(width, widths[-1]))
            self.down.append(nn.Sequential(*units))
        self.channels = len(widths) * widths[-1]

    def forward(self, local: Sequence[Tensor], others: Sequence[Tensor] | None) -> Tensor:
        seen = others if others is not None else [None] * len(local)
        fused = [level(f, g) for level, f, g in zip(self.levels, local, seen, strict=True)]
        return cat([resized(down(z), self.coarsest) for down, z in zip(self.down, fused, strict=True)], 1)


class Student(nn.Module):
    """One-class embedding and mirrored decoder: (B, channels, h, w) -> one map a level of the target, finest first."""

    def __init__(
        self, channels: int, target: Sequence[int], grids: Sequence[Grid], stride: int, config: Config
    ) -> None:
        super().__init__()
        widths = _widths(config, len(grids))
        self.embed = Residual(channels, config.embedding, stride=stride)
        self.decode = MirroredDecoder(config.embedding, target, grids, widths=widths, blocks=config.blocks)

    def forward(self, fused: Tensor) -> tuple[Tensor, ...]:
        return self.decode(self.embed(fused))  # type: ignore[no-any-return]


class HetNet(TorchMethod[Config]):
    needs = Needs(strides=(8, 16, 32), image=True, second=True)
    efforts = {
        "quick": {"steps": 30, "teacher_steps": 15},
        # the paper's is not public: RD4AD's, which it follows
        "long": {
            "steps": Epochs(200, 16),
            "until": "steps",
            "widths": (32, 64, 128),
            "teacher_steps": Epochs(200, 16),
        },
    }
    fitted_modules = ("teacher", "fusion", "students", "scores")
    # a coarsest level of 2 x 2 cells, as small images have, would outweigh the others in z-scores
    brief = {
        "steps": 80,
        "until": "steps",
        "levels": "sum",
        "teacher_steps": 10,
        "teacher_width": 16,
        "teacher_depth": 1,
        "widths": (16, 24, 32),
        "embedding": 32,
    }
    published = tuple(
        Published(data, metric, value, "a CNN and a transformer, not named", "Yu et al. 2025")
        for data, values in (
            ("MVTec AD", (0.9919, 0.9804, 0.9463)),
            ("VisA", (0.9619, 0.9878, 0.9406)),
            ("MPDD", (0.9276, 0.9857, 0.9543)),
            ("MSC-AD", (0.8581, 0.9797, 0.9471)),
        )
        for metric, value in zip(("I-AUROC", "P-AUROC", "AUPRO@0.3"), values, strict=True)
    )

    @classmethod
    def wants(cls, config: Config) -> Needs:
        second = config.teachers in ("both", "global")
        held = HELD if config.until == "flat" else 0.0
        return Needs(strides=cls.needs.strides, image=config.teachers != "cnn", second=second, held=held)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        first, levels = spec.first, spec.first
        self.given = spec.second > 0 and config.teachers in ("both", "global")
        self.in_house = not self.given and config.teachers != "cnn"
        local, grids = list(spec.channels[:first]), list(spec.grids[:first])
        others = other_grids = None
        self.teacher: nn.Module = nn.Identity()
        if self.given:
            self._nearest = [first + -(-(i + 1) * spec.second // levels) - 1 for i in range(levels)]
            others, other_grids = [spec.channels[i] for i in self._nearest], [spec.grids[i] for i in self._nearest]
        elif self.in_house:
            depth, width = config.teacher_depth, config.teacher_width
            taps = [-(-(i + 1) * depth // levels) for i in range(levels)]
            with self.seeded(0):
                teacher = SmallTransformer(size, taps, width=width, depth=depth)
                self.guess = MaskedGuess(width, local[-1])
            self.teacher, others, other_grids = teacher, [width] * levels, [teacher.grid] * levels
            self._common = (min(grids[-1][0], teacher.grid[0]), min(grids[-1][1], teacher.grid[1]))
        if config.teachers == "global":
            assert others is not None
            assert other_grids is not None
            local, grids, others = others, other_grids, None
        stride = 2 if size[0] // grids[-1][0] < 32 and min(grids[-1]) >= 8 else 1
        with self.seeded():
            self.fusion = Fusion(local, grids, others, _widths(config, levels), config.csa)
            self.students = nn.ModuleDict(
                {s: Student(self.fusion.channels, local, grids, stride, config) for s in "RD"}
            )
        self.box_grid = (-(-size[0] // 16), -(-size[1] // 16))
        self.gaussians = LocalGaussians(config.samples, config.neighbourhood, config.ridge)
        self._moments = [torch.zeros(spec.channels[first - 1], dtype=torch.float64)] * 2
        self._seen = 0
        self.exact_features = Exact()
        self.scores = LevelScores(grids, size, config.sigma, config.levels, config.top)
        self.to(memory_format=torch.channels_last)

    def observe(self, batch: Batch) -> None:
        """Samples for LMGN, and the moments of the targets of the in-house teacher."""
        assert batch.pyramid is not None
        local = batch.pyramid.maps[: self.spec.first]
        if self.config.noise == "local":
            self.gaussians.add(local, self.generator)
        if self.in_house:
            values = local[-1].double().transpose(0, 1).flatten(1)
            self._seen += values.shape[1]
            self._moments = [self._moments[0] + values.sum(1), self._moments[1] + values.square().sum(1)]

    def conclude(self) -> None:
        if self.config.noise == "local":
            self.gaussians.conclude(self.generator)
        if self.in_house:
            mean, square = (moment / self._seen for moment in self._moments)
            variance = (square - mean**2).clamp_min(0)
            self.guess.settle(mean, variance)

    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        phase = partial(Phase, betas=(0.5, 0.999), decay=0.0, flat=c.until == "flat")
        students = phase("students", c.steps, ("fusion", "students"), rate=c.rate)
        if not self.in_house or c.teachers == "random":
            return (students,)
        teacher = Phase(
            "global teacher",
            c.teacher_steps,
            ("teacher", "guess"),
            rate=c.teacher_rate,
            clip=1.0,
            shared=True,
            depends=("teacher_width", "teacher_depth", "hidden"),
        )
        return (teacher, students)

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        if phase.name == "global teacher":
            return {"masked": self.guessing(batch)}
        with torch.no_grad():
            local, others = self.features(batch)
            noisy = self.noised(local)
        rebuilt = self.students["R"](self.fusion(local, others))
        denoised = self.students["D"](self.fusion(noisy, others))
        return {
            "reconstruction": self.distance(local, rebuilt),
            "denoising": self.config.denoising * self.distance([r.detach() for r in rebuilt], denoised),
        }

    def guessing(self, batch: Batch) -> Tensor:
        """Mean squared error of the CNN's standardised deepest features at hidden places; the mean comes to 1."""
        assert batch.pyramid is not None
        assert isinstance(self.teacher, SmallTransformer)
        target = self.guess.standard(to_grid(batch.pyramid.maps[self.spec.first - 1], self._common))
        hidden = hidden_cells(len(target), self._common, self.config.hidden, self.generator)
        patches = nn.functional.interpolate(hidden[:, None].float(), size=self.teacher.grid)[:, 0] > 0
        tokens = self.teacher(batch.x, patches)[-1]
        guess = self.guess(to_grid(tokens, self._common)).float()
        return masked_mean((guess - target).square().mean(1), hidden)

    def features(self, batch: Batch) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
        """What the students rebuild, finest first, and what the other teacher adds to it, level by level."""
        assert batch.pyramid is not None
        maps = batch.pyramid.maps
        others: Sequence[Tensor] | None = None
        if self.given:
            others = [maps[i] for i in self._nearest]
        elif self.in_house:
            others = self.teacher(batch.x)
        if self.config.teachers == "global":
            assert others is not None
            return others, None
        return maps[: self.spec.first], others

    def noised(self, local: Sequence[Tensor]) -> Sequence[Tensor]:
        """The CNN's features with boxes replaced; draws from the method's generator."""
        if self.config.noise == "none":
            return local
        boxes = draw_boxes(len(local[0]), (self.box_grid[0], self.box_grid[1]), self.generator)
        if self.config.noise == "standard":
            return standard_noise(local, boxes, self.generator)
        return self.gaussians.replace(local, boxes, self.generator, self.config.strength)

    def distance(self, targets: Sequence[Tensor], rebuilt: Sequence[Tensor]) -> Tensor:
        """1 - cosine, mean over the batch, sum over levels."""
        compare = cosine_map if self.config.cos == "position" else cosine_whole
        return torch.stack([compare(x, y).mean() for x, y in zip(targets, rebuilt, strict=True)]).sum()

    def places(self, batch: Batch) -> list[Tensor]:
        """(B, h_l, w_l) a level: how far rebuilt and frozen features are apart."""
        local, others = self.features(batch)
        fused = self.fusion(local, others)
        chosen = "RD" if self.config.scoring == "both" else self.config.scoring
        rebuilt = [[self.exact_features(x) for x in self.students[s](fused)] for s in chosen]
        maps = []
        for level, target in enumerate(local):
            exact = self.exact_features(target)
            maps.append(torch.stack([cosine_map(exact, r[level]) for r in rebuilt]).mean(0))
        return maps

    def measure(self, batches: Iterable[Batch]) -> None:
        """What good images have at each place."""
        self.scores.measure(map(self.places, batches))

    def predict(self, batch: Batch) -> Prediction:
        return self.scores(self.places(batch))  # type: ignore[no-any-return]


def _widths(config: Config, levels: int) -> list[int]:
    return [config.widths[min(i, len(config.widths) - 1)] for i in range(levels)]


METHOD = HetNet
