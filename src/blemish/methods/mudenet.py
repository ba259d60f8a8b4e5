"""MuDeNet: students of a small distilled teacher, one local and one under a global bottleneck.

Paper    Campos-Romero et al., MuDeNet: A multi-patch descriptor network for anomaly modeling, Information Fusion 2026.
Suits    no set that was measured so far: others rank above it.
Fit      a small network T was distilled from frozen features once, on photographs and drawn scenes; on the good images
         a student imitates T, then an autoencoder rebuilds T's maps of the whole image from a short vector, and a
         second student imitates the autoencoder.
Predict  where T and its student differ there is a local defect, where autoencoder and student differ the whole is
         wrong; each map as a z-score of good images at that place, averaged over receptive fields, and the two modules
         added, each over the spread of its scores of held-out good images. The image takes the mean of its map's
         highest hundredth. The frozen backbone is not run, unless it is the teacher itself (`teacher` = "trunk").
Differs  a stride of 4 and 32 channels instead of 2 and 64 (`scale` = "paper" has those); the drawn channels are shared
         out equally among the backbone's levels; what is local (T and its student) learns from squares cut out of the
         images, which gives more steps in the same time, in a phase of its own; residual units start as identities and
         the autoencoder has batch norms; students learn until the loss on held-out good images is flat, instead of 500
         epochs; the paper squares differences (`distance` = "squared"), scales maps by their range on held-out good
         images and adds modules at full weight (`scores` = "range", `modules` = "equal").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import ConfigError
from blemish.methods.base import HELD, Epochs, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.blocks import resized
from blemish.nn.descriptors import DescriptorNet, GlobalAutoencoder, Trunk
from blemish.nn.level_maps import LevelMaps
from blemish.nn.losses import cosine_map
from blemish.nn.place_scores import PlaceScores
from blemish.nn.precision import Exact
from blemish.nn.scoring import peak
from blemish.types import SHIPPED, Batch, FeatureSpec, Needs, Prediction

TRUNKS = {
    "small": Trunk(5, 2, (((3, 1),), ((3, 3),), ((3, 3), (3, 3)))),  # fields of 15, 31 and 63 pixels, stride 4
    "paper": Trunk(7, 1, (((3, 3),), ((3, 3), (3, 3)), ((5, 5), (5, 5)))),  # 16, 32 and 64 pixels, stride 2
}
SOURCE = "Campos-Romero et al. 2026, as a public reproduction quotes it"
SCENES, GOOD, TRUNK = "scenes", "good", "trunk"  # teachers that are no files
FEW = 20  # held-out images below which quantiles stand for the extremes
OUTER = 0.005  # share of values beyond each of those quantiles
PRIOR = 10.0  # held-out images that the modules' mean spread counts as, beside each one's own


@dataclass(frozen=True)
class Config:
    scale: Literal["small", "paper"] = "small"  # trunk: stride 4 and 8 convolutions, or stride 2 and 10 larger ones
    width: int = 32  # channels inside teacher and students; the paper has 64
    channels: int = 64  # C, of a descriptor: number of backbone channels drawn at random; the paper has 128
    latent: int = 32  # Z, length of the vector that the autoencoder knows an image by
    levels: tuple[int, ...] = (0, 1, 2)  # receptive fields in use, 0 the smallest
    structural: bool = True  # the student of the teacher: local defects
    logical: bool = True  # the autoencoder and its student: violations of the whole
    teacher: str = SHIPPED  # shipped, a file, scenes or good (distilled here on those), trunk (the frozen network)
    znorm: Literal["instance", "pool"] = "pool"  # target channels standardised per image, or over all of the pool
    standard: bool = True  # T's channels are standardised over the good images: those that hardly vary weigh as much
    stratified: bool = True  # channels are drawn equally from each level of the backbone; False: from all alike
    detach: bool = True  # the logical student's loss leaves the autoencoder alone
    norm: bool = True  # batch normalisation in the autoencoder: it learns in fewer steps; the paper has none
    hard: float = 0.0  # share of the largest squared errors that the structural student learns from; 0 = all
    distance: Literal["cosine", "squared"] = "cosine"  # of descriptors, at inspection; the paper has the squared one
    scores: Literal["place", "range"] = "place"  # maps by each place's mean and spread, or (paper) by held-out extremes
    modules: Literal["spread", "equal"] = "spread"  # added over the spread of held-out scores, or (paper) in full
    clamp: bool = False  # scaled maps are cut to [0, 1] before they are added: for `scores` = "range"
    distil_steps: int = 1500  # 0 leaves the teacher random
    distil_rate: float = 5e-3  # learning rate of the distillation
    distil_batch: int = 16  # squares in its steps
    crop: int = 128  # side in pixels of the squares that teacher and structural student learn from; 0 = whole images
    steps: int = 2000  # of the structural student at most
    until: Literal["flat", "steps"] = "flat"  # ends when the loss on held-out good images has stopped falling, or never
    batch: int = 8  # squares in its steps
    logical_steps: int = 600  # of the logical module at most
    logical_batch: int = 4  # images in its steps
    rate: float = 3e-3  # learning rate of structural student and logical module
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input
    top: float = 0.01  # share of the map whose mean is the image score; 0 takes its highest place, as the paper does

    def __post_init__(self) -> None:
        batches = (self.batch, self.distil_batch, self.logical_batch)
        if min(self.width, self.channels, self.latent, *batches) < 1:
            raise ConfigError("width, channels, latent and batches have to be 1 or more")
        if min(self.steps, self.distil_steps, self.logical_steps, self.sigma, self.crop) < 0:
            raise ConfigError("steps, crop and sigma cannot be negative")
        if min(self.rate, self.distil_rate) <= 0 or not 0 <= self.top <= 1:
            raise ConfigError("rates have to be positive, and top has to lie in [0, 1]")
        if not self.levels or list(self.levels) != sorted(set(self.levels) & {0, 1, 2}):
            raise ConfigError(f"levels {self.levels} are not among 0, 1, 2, ascending")
        if not self.teacher:
            raise ConfigError("teacher is empty", hint="shipped, scenes, good, trunk, or a file")
        if not (self.structural or self.logical):
            raise ConfigError("neither module is left", hint="structural, logical, or both")
        if not 0 <= self.hard < 1:
            raise ConfigError(f"hard has to lie in [0, 1), not {self.hard}")


def draw_channels(counts: tuple[int, ...], wanted: int, *, stratified: bool, seed: int = 0) -> Tensor:
    """(min(wanted, total),) ascending indices into the concatenated levels; equal shares of levels where they allow."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    if not stratified:
        return torch.randperm(total, generator=generator)[:wanted].sort().values
    shares, left = [0] * len(counts), min(wanted, total)
    order = sorted(range(len(counts)), key=lambda i: counts[i])
    for done, i in enumerate(order):  # channels that a narrow level lacks come from wider ones
        shares[i] = min(counts[i], left // (len(order) - done))
        left -= shares[i]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    drawn = [torch.randperm(n, generator=generator)[:k] + s for n, k, s in zip(counts, shares, starts, strict=True)]
    return torch.cat(drawn).sort().values


class Target(nn.Module):
    """E, what the teacher learns: drawn channels of the frozen levels on one grid, standardised."""

    drawn: Tensor  # (C,) indices into the concatenated levels
    mean: Tensor  # (C, 1, 1), of the pool
    deviation: Tensor  # (C, 1, 1)

    def __init__(self, drawn: Tensor, trunk: Trunk, per_image: bool) -> None:
        super().__init__()
        self.trunk, self.per_image = trunk, per_image
        self.register_buffer("drawn", drawn)
        self.register_buffer("mean", torch.zeros(len(drawn), 1, 1))
        self.register_buffer("deviation", torch.ones(len(drawn), 1, 1))

    def raw(self, batch: Batch) -> Tensor:
        """(B, C, *grid) float32."""
        assert batch.pyramid is not None
        grid = self.trunk.grid(batch.size)
        parts, start = [], 0
        for level in batch.pyramid.maps:
            end = start + level.shape[1]
            own = self.drawn[(self.drawn >= start) & (self.drawn < end)] - start
            if len(own):
                parts.append(resized(level[:, own].float(), grid))
            start = end
        return torch.cat(parts, 1)

    def measure(self, batches: Iterable[Batch]) -> None:
        """Mean and deviation of each channel over a pool."""
        count, total, square = 0, torch.zeros(len(self.drawn)).double(), torch.zeros(len(self.drawn)).double()
        for batch in batches:
            values = self.raw(batch).double().transpose(0, 1).flatten(1)
            count, total, square = count + values.shape[1], total + values.sum(1), square + values.square().sum(1)
        mean = total / count
        self.mean.copy_(mean[:, None, None])
        self.deviation.copy_((square / count - mean.square()).clamp_min(1e-5).sqrt()[:, None, None])

    def forward(self, batch: Batch) -> Tensor:
        raw = self.raw(batch)
        if not self.per_image:
            return (raw - self.mean) / self.deviation
        variance, mean = torch.var_mean(raw, (2, 3), correction=0, keepdim=True)
        return (raw - mean) * torch.rsqrt(variance + 1e-5)


class Standard(nn.Module):
    """Maps of the teacher, standardised per level and channel over the good images (as in EfficientAD, Batzner et al.
    2024); as they are before `measure`.
    """

    mean: Tensor  # (L, C, 1, 1)
    deviation: Tensor  # (L, C, 1, 1)

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(levels, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(levels, channels, 1, 1))

    def measure(self, lots: Iterable[list[Tensor]]) -> None:
        """From batches of maps (B, C, h, w), one per level."""
        count, total = 0, torch.zeros(2, *self.mean.shape[:2]).double()
        for maps in lots:
            values = torch.stack([m.double().transpose(0, 1).flatten(1) for m in maps])  # (L, C, N)
            count, total = count + values.shape[2], total + torch.stack([values.sum(2), values.square().sum(2)])
        mean, square = total / count
        self.mean.copy_(mean[:, :, None, None])
        self.deviation.copy_((square - mean.square()).clamp_min(1e-8).sqrt()[:, :, None, None])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [(m - a) / d for m, a, d in zip(maps, self.mean, self.deviation, strict=True)]


def distance_loss(wanted: list[Tensor], got: list[Tensor], hard: float = 0.0) -> Tensor:
    """Squared distance of descriptors, mean over images, positions and levels; of the hardest values only with `hard`.

    (1/L) sum over l of |wanted_l - got_l|^2, the sum over channels.
    """
    terms: list[Tensor] = []
    for a, b in zip(wanted, got, strict=True):
        if hard:
            error = (a.float() - b.float()).square().flatten()
            terms.append(error.topk(max(int(hard * error.numel()), 1)).values.mean() * a.shape[1])
        else:
            terms.append(F.mse_loss(b.float(), a.float()) * a.shape[1])
    return torch.stack(terms).mean()


class MuDeNet(TorchMethod[Config]):
    needs = Needs(strides=(4, 8, 16), image=True, held=HELD)
    brief = {
        **dict.fromkeys(("distil_batch", "batch", "logical_batch"), 12),
        **{"teacher": SCENES, "distil_steps": 30, "steps": 40, "logical_steps": 40, "crop": 0, "rate": 5e-3},
        **{"width": 8, "channels": 16, "latent": 4, "until": "steps"},
    }
    efforts = {
        "quick": {"distil_steps": 150, "steps": 200, "logical_steps": 60},
        # 500 epochs of everything; of the teacher, which has the paper's size, they are those of the 1,024 drawn scenes
        "long": {
            **{"teacher": SCENES, "scale": "paper", "width": 64, "channels": 128, "crop": 0, "until": "steps"},
            **{"batch": 8, "logical_batch": 8, "distil_batch": 8, "rate": 1e-3, "distil_rate": 1e-3},
            **{"steps": Epochs(500), "logical_steps": Epochs(500, "logical_batch"), "distil_steps": 64_000},
        },
    }
    fitted_modules = ("target", "teacher", "scaled", "student", "autoencoder", "logical_student", "place_scores")
    fitted_buffers = ("weights",)
    published = (
        Published("MVTec AD, cable", "I-AUROC", 0.989, "WideResNet-50-2, distilled", SOURCE),
        Published("MVTec AD, cable", "P-AUROC", 0.983, "WideResNet-50-2, distilled", SOURCE),
        Published("MVTec AD, cable", "AUPRO@0.3", 0.906, "WideResNet-50-2, distilled", SOURCE),
    )
    weights: Tensor  # (M,) of each module in use

    @classmethod
    def wants(cls, config: Config) -> Needs:
        return replace(cls.needs, artefact="" if config.teacher in (SCENES, GOOD, TRUNK) else config.teacher)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        trunk = TRUNKS[config.scale]
        self.grid = trunk.grid(size)
        drawn = draw_channels(spec.channels, config.channels, stratified=config.stratified)
        self.target = Target(drawn, trunk, config.znorm == "instance")
        width, channels, levels = config.width, len(drawn), config.levels
        with self.seeded(0):
            teacher = DescriptorNet(trunk, width, channels, (0, 1, 2))  # all of it, whichever parts are used
        self.teacher = nn.Identity() if config.teacher == TRUNK else teacher
        self.scaled = Standard(len(levels), channels)
        widths = (width * 3 // 4, width * 3 // 2) if config.scale == "small" else (width // 2, width)
        with self.seeded(self.seed + 1):  # never the teacher's weights
            student, logical_student = (DescriptorNet(trunk, width, channels, levels) for _ in range(2))
            autoencoder = GlobalAutoencoder(
                size,
                self.grid,
                widths=(*widths, channels, channels, channels),
                latent=config.latent,
                channels=channels,
                count=len(levels),
                norm=config.norm,
            )
        self.student = student if config.structural else nn.Identity()
        self.autoencoder = autoencoder if config.logical else nn.Identity()
        self.logical_student = logical_student if config.logical else nn.Identity()
        self.exact_x = Exact()
        self.place_scores = PlaceScores([self.grid] * len(levels) * (config.structural + config.logical))
        self._maps = LevelMaps([self.grid], size, config.sigma)
        self.to(memory_format=torch.channels_last)  # twice as fast here as planes

    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        distil = Phase(
            "distil",
            c.distil_steps,
            ("target", "teacher"),
            batch=c.distil_batch,
            rate=c.distil_rate,
            floor=0.01,
            decay=1e-5,
            data="good" if c.teacher == GOOD else "scenes",
            shared=True,
            depends=("scale", "width", "channels", "znorm", "stratified", "crop"),
        )
        phase = partial(Phase, rate=c.rate, flat=c.until == "flat")
        structural = phase("structural", c.steps, ("student",), batch=c.batch, floor=0.02)
        logical = phase("logical", c.logical_steps, ("autoencoder", "logical_student"), batch=c.logical_batch)
        return (*(distil,) * (c.teacher != TRUNK), *(structural,) * c.structural, *(logical,) * c.logical)

    def begin(self, phase: Phase, batches: Iterable[Batch]) -> None:
        if phase.name == "distil" and self.config.znorm == "pool":
            self.target.measure(batches)
        if phase.name != "distil" and self.config.standard:
            self.scaled.measure(map(self._raw, batches))

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        assert batch.x is not None
        if phase.name == "distil":
            x, target = self.cut(batch.x, self.target(batch))
            maps = self.teacher(x)
            return {"distil": distance_loss([target] * len(maps), maps)}
        if phase.name == "structural":
            x, teacher = self._square(batch)
            return {"structural": distance_loss(teacher, self.student(x), self.config.hard)}  # L_1
        x = batch.x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            teacher = self.descriptors(replace(batch, x=x))
        whole = self.autoencoder(x)
        taught = [m.detach() for m in whole] if self.config.detach else whole
        return {
            "autoencoder": distance_loss(teacher, whole),  # L_A
            "logical": distance_loss(taught, self.logical_student(x)),  # L_2
        }

    @torch.no_grad()
    def _square(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """A square of the step's images, and the teacher's maps of it."""
        if self.config.teacher == TRUNK:  # it has seen the whole images
            x, *maps = self.cut(batch.x, *self.descriptors(batch))  # type: ignore[arg-type]
            return x, maps
        (x,) = self.cut(batch.x)  # type: ignore[arg-type]
        return x, self.descriptors(replace(batch, x=x))

    def cut(self, x: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """A square of the step's images (B, 3, H, W), the same place in all, and of maps on the trunk's grid.

        What is local can learn from it: a network sees the square's border as it will see that of an image.
        """
        step, sides = TRUNKS[self.config.scale].step, x.shape[2:]
        side = [min(self.config.crop // step * step, n) if self.config.crop else n for n in sides]
        at = [
            int(torch.randint((n - s) // step + 1, (), generator=self.generator))
            for n, s in zip(sides, side, strict=True)
        ]
        square = [slice(a * step, a * step + s) for a, s in zip(at, side, strict=True)]
        cells = [slice(a, a + -(-s // step)) for a, s in zip(at, side, strict=True)]
        cut = x[:, :, square[0], square[1]].contiguous(memory_format=torch.channels_last)
        return cut, *(m[:, :, cells[0], cells[1]] for m in maps)

    def descriptors(self, batch: Batch) -> list[Tensor]:
        """The teacher's maps (B, C, h, w) of the receptive fields in use; of the frozen network the same for each."""
        return self.scaled(self._raw(batch))  # type: ignore[no-any-return]

    def _raw(self, batch: Batch) -> list[Tensor]:
        if self.config.teacher == TRUNK:
            return [self.target(batch)] * len(self.config.levels)
        maps = self.teacher(batch.x)
        return [maps[level] for level in self.config.levels]

    def differences(self, batch: Batch) -> list[list[Tensor]]:
        """T - S1 and A - S2, a map (B, h, w) a level; of the modules in use.

        1 - cosine, or the squared distance, which grows with a part's contrast.
        """
        pairs = []
        if self.config.structural:
            pairs.append((self.descriptors(batch), self.student(batch.x)))
        if self.config.logical:
            pairs.append((self.autoencoder(batch.x), self.logical_student(batch.x)))
        return [self._apart(*pair) for pair in pairs]

    def _apart(self, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        pairs = [(self.exact_x(p), self.exact_x(q)) for p, q in zip(a, b, strict=True)]
        if self.config.distance == "cosine":
            return [cosine_map(p, q) for p, q in pairs]
        return [(p - q).square().sum(1) for p, q in pairs]

    def measure(self, batches: Iterable[Batch]) -> None:
        """What good images have at each place."""
        if self.config.scores == "place":
            self.place_scores.measure(sum(self.differences(batch), []) for batch in batches)

    def settle(self, batches: Iterable[Batch]) -> None:
        """What the modules make of images that no step has seen: the ranges of their maps, and the spread of their
        scores.
        """
        apart = [self.differences(batch) for batch in batches]
        modules = [[torch.cat(level) for level in zip(*each, strict=True)] for each in zip(*apart, strict=True)]
        if self.config.scores == "range":
            self.place_scores.fix([_range(m) for m in sum(modules, [])])
        self.weights = torch.ones(len(modules))
        if self.config.modules == "spread":
            scores = [peak(self._maps([m]), self.config.top) for m in self._scaled(modules)]
            self.weights = _weights(torch.stack(scores))

    def _scaled(self, modules: list[list[Tensor]]) -> list[Tensor]:
        """Differences as one scaled map (B, h, w) a module, the mean over its levels."""
        flat = self.place_scores(sum(modules, []))
        flat = [m.clamp(0, 1) for m in flat] if self.config.clamp else flat
        count = len(self.config.levels)
        return [torch.stack(flat[i : i + count]).mean(0) for i in range(0, len(flat), count)]

    def parts(self, batch: Batch) -> list[Tensor]:
        """A map (B, h, w) of each module in use: scaled, the mean over levels, weighted; S is their sum."""
        scaled = self._scaled(self.differences(batch))
        return [self.weights[i] * m for i, m in enumerate(scaled)]

    def predict(self, batch: Batch) -> Prediction:
        anomaly_map = self._maps([torch.stack(self.parts(batch)).sum(0)])
        return Prediction(peak(anomaly_map, self.config.top), anomaly_map)


def _range(values: Tensor) -> tuple[float, float]:
    """Lowest value and span of held-out images' maps; quantiles of few images, so that no single cell decides."""
    every = values.flatten().double()
    if len(values) < FEW:
        low, high = (float(every.quantile(q)) for q in (OUTER, 1 - OUTER))
    else:
        low, high = float(every.amin()), float(every.amax())
    return low, max(high - low, 1e-3 * high, 1e-12)


def _weights(scores: Tensor) -> Tensor:
    """(M, N) scores of held-out good images by each of M modules alone -> (M,): one over their spread, of mean 1.

    So a rise of one spread counts the same in each module, and one that is noise hardly counts. A spread is drawn
    towards the mean of all, which counts as `PRIOR` images: few images do not tell it.
    """
    n = scores.shape[1]
    variance = scores.double().var(1, correction=0)
    variance = (n * variance + PRIOR * variance.mean()) / (n + PRIOR)
    weights = variance.clamp_min(1e-12).rsqrt()
    return (weights / weights.mean()).float()


METHOD = MuDeNet
