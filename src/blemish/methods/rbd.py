"""RBD: a student rebuilds hidden teacher features, and predicts the same when nothing is hidden.

Paper    Zhao and Guo, Reconstruction-based distillation for anomaly detection, Computers & Graphics 132, 2025.
Fit      tokens of the frozen features are hidden in blocks, damaged ones always; the student rebuilds the clean
         features from the rest; a consistency loss draws its prediction with nothing hidden to the one with the cell
         hidden.
Predict  one pass with nothing hidden; a position is as anomalous as its features are far, by the cosine, from the
         rebuilt ones, summed over the levels; for the image, levels count as z-scores of good images at their
         places: mean of the highest hundredth of their sum.
Differs  only the abstract was available: reconstruction in place of imitation, and the consistency of training and
         inference, are the paper's; their form is ours (masked teacher features; Yang et al., MGD, ECCV 2022; damaged
         evidence; Zhang et al., DeSTSeg, CVPR 2023). The student sees features, no pixels; it is narrow; a share of
         each batch takes the second pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from blemish.errors import ConfigError
from blemish.methods.base import HELD, Epochs, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.grids import to_grid
from blemish.nn.inpaint import PixelStem, Restorer, block_masks, complementary_masks, damaged_cells, on_grid
from blemish.nn.level_scores import Adding, LevelScores
from blemish.nn.losses import cosine_map, cosine_whole, masked_mean
from blemish.nn.precision import Exact
from blemish.ops.patches import grid_of
from blemish.ops.scoring import SHARE, check_share
from blemish.types import Batch, FeatureSpec, Needs, Prediction, Pyramid

Maps = Sequence[Tensor]


@dataclass(frozen=True)
class Config:
    steps: int = 400  # of training at most, 16 images each
    until: Literal["flat", "steps"] = "flat"  # ends when the loss on held-out good images has stopped falling, or never
    rate: float = 3e-3  # of AdamW, at the start
    width: int = 96  # channels of the tokens and of the context encoder
    units: int = 4  # residual units of the context encoder
    code: int = 112  # channels of what it hands to the decoder, which sees nothing else
    decoder: tuple[int, ...] = (40, 64, 96)  # channels of the decoder's stages, finest first; the last one goes on
    level: int = -1  # pyramid level whose grid the tokens have, 0 the finest; -1 = the middle one
    ratio: tuple[float, float] = (0.3, 0.6)  # share of the cells that are hidden, drawn per sample between these
    blocks: tuple[int, ...] = (1, 2, 4)  # sides of the hidden blocks, in cells
    damage_p: float = 0.5  # share of samples whose evidence comes from a damaged twin; 0 = no synthetic defects at all
    visible: float = 0.25  # weight of the reconstruction where nothing was hidden
    magnitude: float = 0.1  # weight of the smooth L1 on standardised features; 0 = the cosine alone
    consistency: float = 1.0  # weight of the consistency; 0 = off
    ramp: float = 0.2  # share of the steps over which the consistency's weight grows from 0
    pc_share: float = 0.5  # share of each batch that takes the second pass, for the consistency
    pc_on: Literal["features", "maps", "clean_vs_damaged"] = "features"  # what has to be consistent
    cos: Literal["position", "image"] = "position"  # a cosine per position, or of each whole map as one vector
    space: Literal["raw", "standard"] = "raw"  # features in which the cosine is taken
    evidence: Literal["features", "image"] = "features"  # what the student sees: the teacher's features, or pixels
    imitation: bool = False  # the plain form: nothing hidden, nothing damaged, the student copies
    ensemble: int = 0  # inspect with this many complementary masks, each cell taken where it was hidden; 0 = one pass
    top: float = SHARE  # share of the map whose mean is the image score; 0 takes its highest place
    levels: Adding = "both"  # z-scores of good images for the image score and a plain sum as map; z or sum: for both
    sigma: float = 4.0  # blur of the anomaly map, in pixels of the network's input

    def __post_init__(self) -> None:
        sizes = (self.steps, self.units, self.code, min(self.decoder, default=0))
        if min(sizes) < 1 or self.rate <= 0 or self.width < 2:
            raise ConfigError(
                "steps, rate, width, units, code and the decoder's widths have to be positive, the width 2 or more"
            )
        if not 0 < self.ratio[0] <= self.ratio[1] < 1 or min(self.blocks, default=0) < 1:
            raise ConfigError(
                f"a share of {self.ratio} in blocks of {self.blocks} cannot be hidden", hint="0 < ratio < 1"
            )
        if not 0 <= self.damage_p <= 1 or not 0 < self.pc_share <= 1 or not 0 <= self.ramp <= 1:
            raise ConfigError("damage_p and ramp lie in [0, 1], pc_share in (0, 1]")
        if min(self.visible, self.magnitude, self.consistency, self.sigma, self.ensemble) < 0:
            raise ConfigError("visible, magnitude, consistency, sigma and ensemble cannot be negative")
        check_share(self.top)
        if self.ensemble == 1 or (self.ensemble and self.imitation):
            raise ConfigError("an ensemble takes two masks or more, and a student that knows them")
        if self.pc_on == "clean_vs_damaged" and not self.damage_p:
            raise ConfigError("clean_vs_damaged compares with damaged twins", hint="damage_p > 0")
        if self.pc_on == "maps" and self.evidence == "image":
            raise ConfigError(
                "there are no teacher's features of images that are damaged on the way", hint="pc_on=features"
            )


class Tokeniser(nn.Module):
    """Standardised features to tokens: 1 x 1 at each level's own grid, one grid, 1 x 1 over all. (B, width, *grid)"""

    def __init__(self, channels: Sequence[int], grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        narrow = [min(c, max(width // 2, 1)) for c in channels]
        self.levels = nn.ModuleList(nn.Conv2d(c, n, 1) for c, n in zip(channels, narrow, strict=True))
        self.join = nn.Conv2d(sum(narrow), width, 1)

    def forward(self, levels: Maps) -> Tensor:
        parts = [to_grid(conv(x), self.grid) for conv, x in zip(self.levels, levels, strict=True)]
        return self.join(torch.cat(parts, 1))  # type: ignore[no-any-return]


class Student(nn.Module):
    """One set of weights in two modes: cells hidden, as in training, or nothing hidden, as at inspection."""

    def __init__(self, restorer: Restorer, width: int) -> None:
        super().__init__()
        self.restorer = restorer
        self.hidden = nn.Parameter(0.02 * torch.randn(width, 1, 1))  # stands in the place of a hidden token

    def hide(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens (…, C, h, w) with those of `mask` (…, h, w) hidden."""
        return torch.where(mask.unsqueeze(-3), self.hidden.to(tokens.dtype), tokens)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, C, h, w) -> standardised features of each level; only the hidden tokens show the mask."""
        return self.restorer(tokens if mask is None else self.hide(tokens, mask))  # type: ignore[no-any-return]


class RBD(TorchMethod[Config]):
    needs = Needs(strides=(8, 16, 32), twin="texture")
    # the raw cosine has no direction where a rectified backbone of very few channels gives nothing but zeros
    brief = {
        **{"steps": 40, "until": "steps", "space": "standard"},
        **{"width": 24, "units": 2, "code": 12, "decoder": (16, 16, 16)},
    }
    efforts = {
        "quick": {"steps": 40},
        # the abstract states none: that of the line of RD4AD
        "long": {"steps": Epochs(200, 16), "until": "steps", "width": 128, "decoder": (32, 64, 112)},
    }
    fitted_buffers = ("mean", "std")
    fitted_modules = ("tokeniser", "student", "scores")
    published = (
        Published("MVTec AD", "I-AUROC", 0.9961, "not stated in the abstract", "Zhao and Guo 2025"),
        Published("MVTec AD", "P-AUROC", 0.9823, "not stated in the abstract", "Zhao and Guo 2025"),
    )
    mean: Tensor  # (C,) of all levels, finest first
    std: Tensor

    @classmethod
    def wants(cls, config: Config) -> Needs:
        damage = config.damage_p > 0 and not config.imitation
        twin = "texture" if damage else None
        held = HELD if config.until == "flat" else 0.0
        return Needs(strides=(8, 16, 32), twin=twin, image=config.evidence == "image", held=held)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        levels = len(spec.channels)
        start = levels // 2 if config.level == -1 else config.level
        self.grid = grid_of(spec, start)
        widths = [config.decoder[min(i, len(config.decoder) - 1)] for i in range(levels)]
        with self.seeded():
            self.tokeniser: nn.Module
            if config.evidence == "image":
                self.tokeniser = PixelStem(size, self.grid, config.width)
            else:
                self.tokeniser = Tokeniser(spec.channels, self.grid, config.width)
            restorer = Restorer(
                config.width, config.code, spec.channels, spec.grids, widths, start % levels, config.units
            )
            self.student = Student(restorer, config.width)
        self.to(memory_format=torch.channels_last)  # faster on a CPU
        self.scores = LevelScores(spec.grids, size, config.sigma, config.levels, config.top)
        self.exact_maps = Exact()
        self._count = 0
        self._sums = torch.zeros(3, sum(spec.channels), dtype=torch.float64)  # origin, first and second powers

    # ------------------------------------------------------------------------------------------------- statistics
    def observe(self, batch: Batch) -> None:
        assert batch.pyramid is not None
        means = [x.double().mean((0, 2, 3)) for x in batch.pyramid.maps]
        if not self._count:
            self._sums[0] = torch.cat(means)  # around it, so that squares of large means do not cancel
        origin = self._levels(self._sums[0])
        squares = [
            (x.double() - o.view(-1, 1, 1)).square().mean((0, 2, 3))
            for x, o in zip(batch.pyramid.maps, origin, strict=True)
        ]
        n = len(batch.pyramid.maps[0])
        self._sums[1] += n * (torch.cat(means) - self._sums[0])
        self._sums[2] += n * torch.cat(squares)
        self._count += n

    def conclude(self) -> None:
        shift, square = self._sums[1:] / self._count
        std = (square - shift.square()).clamp_min(0).sqrt()
        least = torch.cat([0.05 * s.mean().expand_as(s) for s in self._levels(std)])
        std = torch.maximum(std, least)  # a channel that hardly varies must not be amplified
        self.mean = (self._sums[0] + shift).float()
        self.std = torch.where(std > 1e-6, std, torch.ones_like(std)).float()

    def _levels(self, values: Tensor) -> tuple[Tensor, ...]:
        """(C,) of all levels -> (C_l,) of each."""
        return torch.split(values, list(self.spec.channels))

    def _scales(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and std of each level, (C_l, 1, 1)."""
        pairs = zip(self._levels(self.mean), self._levels(self.std), strict=True)
        return [(mean.view(-1, 1, 1), std.view(-1, 1, 1)) for mean, std in pairs]

    def standard(self, maps: Maps) -> list[Tensor]:
        """Features with mean 0 and variance 1 in each channel of the training set."""
        return [(x - mean) / std for x, (mean, std) in zip(maps, self._scales(), strict=True)]

    def raw(self, maps: Maps) -> list[Tensor]:
        """The way back, in float32."""
        return [x.float() * std + mean for x, (mean, std) in zip(maps, self._scales(), strict=True)]

    # --------------------------------------------------------------------------------------------------- training
    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        phase = partial(Phase, floor=0.01, clip=1.0, flat=c.until == "flat")
        return (phase("restore", c.steps, ("tokeniser", "student"), rate=c.rate),)

    def tokens(self, batch: Batch, maps: Maps) -> Tensor:
        """(B, width, *grid): what the student sees of a sample."""
        if self.config.evidence == "image":
            assert batch.x is not None
            return self.tokeniser(batch.x)  # type: ignore[no-any-return]
        return self.tokeniser(self.standard(maps))  # type: ignore[no-any-return]

    def positions(self, a: Maps, b: Maps) -> list[Tensor]:
        """D_l of two standardised pyramids: 1 - cosine at each position, (B, *grid_l)."""
        return [cosine_map(x, y) for x, y in self._pairs(a, b)]

    def between(self, a: Maps, b: Maps, masks: Sequence[Tensor]) -> Tensor:
        """Sum over levels of D_l where the masks are set: its mean over positions, or that of whole maps as vectors."""
        terms = []
        for (x, y), mask in zip(self._pairs(a, b), masks, strict=True):
            if self.config.cos == "position":
                terms.append(masked_mean(cosine_map(x, y), mask))
            else:
                shown = mask.unsqueeze(1).float()
                terms.append(masked_mean(cosine_whole(x * shown, y * shown), mask.flatten(1).any(1)))
        return torch.stack(terms).sum()

    def _pairs(self, a: Maps, b: Maps) -> list[tuple[Tensor, Tensor]]:
        """The levels of both, in the space in which the cosine is taken."""
        if self.config.space == "raw":
            a, b = self.raw(a), self.raw(b)
        return list(zip(a, b, strict=True))

    def draw(self, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        """The evidence of a step, (B, *grid) cells that are damaged in it, and (B, *grid) cells that are hidden."""
        assert batch.pyramid is not None
        count = len(batch.pyramid.maps[0])
        hidden = block_masks(count, self.grid, self.config.ratio, self.config.blocks, self.generator)
        damaged = torch.zeros_like(hidden)
        if batch.twin is None or batch.mask is None or self.config.damage_p == 0:
            return batch, damaged, hidden
        chosen = torch.rand(count, generator=self.generator) < self.config.damage_p
        pairs = zip(batch.twin.maps, batch.pyramid.maps, strict=True)
        maps = tuple(torch.where(chosen.view(-1, 1, 1, 1), twin, clean) for twin, clean in pairs)
        damaged = damaged_cells(batch.mask, self.grid) & chosen.view(-1, 1, 1)
        x = batch.x
        if x is not None:
            x = self._blended(x, batch.mask & chosen.view(-1, 1, 1))
        evidence = Batch(batch.size, Pyramid(maps), x, batch.ids)
        return evidence, damaged, hidden | damaged

    def _blended(self, x: Tensor, mask: Tensor) -> Tensor:
        """Images with the mask's pixels from the next image of the batch, turned and in other colours, blended in."""
        count = len(x)
        gain = 0.5 + torch.rand(count, 3, 1, 1, generator=self.generator)
        beta = 0.8 * torch.rand(count, 1, 1, 1, generator=self.generator)
        other = x.roll(1, 0).flip(2, 3) * gain + torch.randn(count, 3, 1, 1, generator=self.generator)
        return torch.where(mask.unsqueeze(1), (1 - beta) * other + beta * x, x)

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        assert batch.pyramid is not None
        c, clean = self.config, self.standard(batch.pyramid.maps)
        if c.imitation:
            made = self.student(self.tokens(batch, batch.pyramid.maps))
            whole = [torch.ones(len(x), *x.shape[2:], dtype=torch.bool) for x in clean]
            return {"imitation": self.between(made, clean, whole), "mag": c.magnitude * _smooth(made, clean)}
        evidence, damaged, hidden = self.draw(batch)
        assert evidence.pyramid is not None
        tokens = self.tokens(evidence, evidence.pyramid.maps)
        count = len(tokens)
        second = max(1, round(c.pc_share * count)) if c.consistency else 0
        both = torch.cat([self.student.hide(tokens, hidden), tokens[:second]])
        out = self.student(both)
        masked, unmasked = [x[:count] for x in out], [x[count:] for x in out]
        hidden_l = [on_grid(hidden, grid) for grid in self.spec.grids]
        terms = {
            "rec_hidden": self.between(masked, clean, hidden_l),
            "rec_visible": c.visible * self.between(masked, clean, [~mask for mask in hidden_l]),
            "mag": c.magnitude * _smooth(masked, clean),
        }
        if second:
            weight = c.consistency * min(progress / c.ramp, 1.0) if c.ramp else c.consistency
            # the prediction with a hidden cell leads, without gradient: it cannot copy that cell
            target, seen = [x[:second].detach() for x in masked], [mask[:second] for mask in hidden_l]
            terms["pc"] = weight * self.gap(unmasked, target, seen, batch, evidence, damaged)
        return terms

    def gap(
        self, unmasked: Maps, target: Maps, hidden: Sequence[Tensor], clean: Batch, evidence: Batch, damaged: Tensor
    ) -> Tensor:
        """How far the prediction with nothing hidden is from the one it has to agree with, for the first samples."""
        count = len(target[0])
        if self.config.pc_on == "features":
            return self.between(unmasked, target, hidden)
        if self.config.pc_on == "maps":
            assert evidence.pyramid is not None
            teacher = [x[:count] for x in self.standard(evidence.pyramid.maps)]
            pairs = zip(self.positions(unmasked, teacher), self.positions(target, teacher), hidden, strict=True)
            return torch.stack([masked_mean((a - b).abs(), mask) for a, b, mask in pairs]).sum()
        assert clean.pyramid is not None
        with torch.no_grad():
            undamaged = self.student(self.tokens(clean, clean.pyramid.maps)[:count])
        return self.between(unmasked, undamaged, [on_grid(damaged[:count], grid) for grid in self.spec.grids])

    # ------------------------------------------------------------------------------------------------- inspection
    def restored(self, batch: Batch) -> list[Tensor]:
        """Standardised features as the student sees them without masks, or with complementary ones if it is asked."""
        assert batch.pyramid is not None
        tokens = self.tokens(batch, batch.pyramid.maps)
        if not self.config.ensemble:
            return list(self.student(tokens))
        masks = complementary_masks(self.grid, self.config.ensemble)  # (k, *grid)
        many = self.student.hide(tokens.unsqueeze(1), masks).flatten(0, 1)
        made = [x.unflatten(0, (-1, self.config.ensemble)) for x in self.student(many)]
        own = [on_grid(masks, grid).unsqueeze(1) for grid in self.spec.grids]  # (k, 1, *grid_l)
        return [(x * m.to(x.dtype)).sum(1) for x, m in zip(made, own, strict=True)]

    def places(self, batch: Batch) -> list[Tensor]:
        """(B, h_l, w_l) a level: how far restored and frozen features are apart."""
        assert batch.pyramid is not None
        teacher = self.standard([self.exact_maps(x) for x in batch.pyramid.maps])
        return self.positions([self.exact_maps(x) for x in self.restored(batch)], teacher)

    def measure(self, batches: Iterable[Batch]) -> None:
        """What good images have at each place."""
        self.scores.measure(map(self.places, batches))

    def predict(self, batch: Batch) -> Prediction:
        return self.scores(self.places(batch))  # type: ignore[no-any-return]


def _smooth(a: Maps, b: Maps) -> Tensor:
    """Sum over levels of the mean smooth L1, in float32."""
    return torch.stack([nn.functional.smooth_l1_loss(x.float(), y.float()) for x, y in zip(a, b, strict=True)]).sum()


METHOD = RBD
