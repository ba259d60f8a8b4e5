"""FADeR: hidden patches are repainted once, and features of what is not normal are weakened on the way.

Paper    Park et al., Feature Attenuation of Defective Representation Can Resolve Incomplete Masking on Anomaly
         Detection, arXiv 2407.04597, 2024.
Suits    a part beside which the repaint is to be shown: what the network thinks should be there.
Fit      the strangest patches of each good image, by frozen features, are replaced by a mosaic, and a U-Net repaints
         the image; then, with the U-Net frozen, two linear layers learn from its errors which patches of its features
         to let through to the decoder.
Predict  one mask, one repaint, which the frozen network sees too: a place is as anomalous as features of image and
         repaint differ, each level as a z-score of good images at that place, summed over the levels; the image takes
         the mean of its blurred map's highest hundredth.
Differs  we know the abstract and a digest. That line of work compares gradients of image and repaint over four scales
         (`map=msgms`); the mask goes by a CNN's features where the authors' earlier work has attention of a
         transformer; the gate learns from errors on made corruption measured against the clean image (`variant` B),
         since errors on good images alone (A) carry almost no information; the U-Net is that of RIAD (Zavrtanik et al.
         2021), small, at about 128 pixels, with steps until the loss on held-out good images is flat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.errors import ConfigError
from blemish.methods.base import HELD, Epochs, Phase
from blemish.methods.torch_base import TorchMethod
from blemish.nn.attenuation import PatchGate, attenuated, pooled
from blemish.nn.blocks import resized
from blemish.nn.grids import joined, to_grid
from blemish.nn.hiding import drawn, fixed_mask, hidden, strangest
from blemish.nn.level_scores import Adding, LevelScores
from blemish.nn.losses import cosine_places
from blemish.nn.moments import ChannelMoments
from blemish.nn.precision import Exact
from blemish.nn.similarity import msgms_loss, msgms_map, ssim
from blemish.nn.spoiling import spoilt
from blemish.nn.unet import UNet, inner_size
from blemish.ops.scoring import SHARE
from blemish.types import Batch, FeatureSpec, Needs, Prediction

DEPTH = 4  # halvings of the U-Net
QUANTILES = (0.5, 0.999)  # of good patches' errors, between which the gate is to close
LEAST = 1.0  # range of grey values, in the network's own units: plain images are not blown up


@dataclass(frozen=True)
class Config:
    side: int = 128  # shorter side in pixels of the image that is repainted; no larger than the network's input
    patch: int = 8  # side in those pixels of what is hidden or let through as one
    mask: Literal["saliency", "random", "checker", "centre"] = "saliency"  # the rule; all but saliency are fixed
    share: float = 0.25  # of the patches that are hidden; checker hides half
    soft: float = 0.05  # width of the step between hidden and seen, so that engines agree on it; 0 = none
    wander: float = 0.3  # share of training images with patches hidden at random; mask=random: all of them
    hint: Literal["mosaic", "zero"] = "mosaic"  # what hidden patches are replaced by
    width: int = 16  # channels of the U-Net's finest level
    steps: int = 600  # of the U-Net at most
    until: Literal["flat", "steps"] = "flat"  # ends when the loss on held-out good images has stopped falling, or never
    batch: int = 8  # images in a step, of both phases
    rate: float = 3e-3  # of the U-Net's steps, at the start
    gate: Literal["learned", "off"] | float = "learned"  # a number: the same everywhere, nothing is learned
    variant: Literal["A", "B"] = "B"  # the gate learns from errors on A: good images as they are, B: made corruption
    recovery: float = 1.0  # lambda of variant B: weight of the repaint's own error; 0 = the errors' signal alone
    hidden: int = 64  # units between the two layers of the gate
    per_skip: bool = False  # a gate for each level of the U-Net, by that level alone
    skip_only: bool = False  # the bottleneck is let through whole
    gate_steps: int = 150  # of the gate
    gate_rate: float = 2e-2  # of the gate's steps, at the start
    # features, frozen ones of image and repaint; their gradients over four scales, with squared differences of colour
    # or without; or saliency, which the mask is made by: features of the image and the usual ones, no repaint at all
    map: Literal["features", "msgms", "l2+msgms", "saliency"] = "features"  # what is compared
    levels: Adding = "z"  # of map=features: z-scores of good images (z), plain sums (sum), z for the image alone (both)
    sigma: float = 7.0  # blur of the anomaly map, in pixels of the network's input
    top: float = SHARE  # share of the map whose mean is the image score; 0 takes its highest place, as RIAD does

    def __post_init__(self) -> None:
        if min(self.width, self.steps, self.hidden, self.gate_steps) < 1 or self.batch < 2:
            raise ConfigError("width, steps, hidden and gate_steps have to be 1 or more, and batch 2 or more")
        if self.patch not in (2, 4, 8, 16) or self.side < 16:
            raise ConfigError("patch has to be 2, 4, 8 or 16, and side 16 or more")
        if min(self.rate, self.gate_rate) <= 0 or min(self.recovery, self.sigma, self.soft) < 0:
            raise ConfigError("rates have to be positive, and recovery, sigma and soft cannot be negative")
        if not 0 < self.share < 1 or not 0 <= self.wander <= 1 or not 0 <= self.top <= 1:
            raise ConfigError("share lies between 0 and 1, wander and top in [0, 1]")
        if isinstance(self.gate, float | int) and not 0 <= self.gate <= 1:
            raise ConfigError(f"a gate that is a number lies in [0, 1], not {self.gate}")


class Look(NamedTuple):
    """What was made of a batch; the image is (B, 3, H, W) of the inner size, grids are those of the patches."""

    image: Tensor
    mask: Tensor  # (B or 1, 1, h, w), 1 = hidden
    gate: Tensor | None  # (B, 1 or levels, h, w) in (0, 1); None where it is off
    repaint: Tensor


class FADeR(TorchMethod[Config]):
    needs = Needs(strides=(8, 16), image=True, again=True)
    # z-scores of a coarsest level of a few cells, as small images have, would outweigh the others
    brief = {
        **{"levels": "sum", "sigma": 2.0},
        **{"steps": 40, "until": "steps", "batch": 12, "rate": 1e-2, "gate_steps": 10},
        **{"width": 4, "side": 32, "hidden": 16},
    }
    efforts = {
        "quick": {"steps": 30, "gate_steps": 15},
        # of RIAD, whose network it is; the paper's own is not known
        "long": {
            **{"steps": Epochs(300), "until": "steps", "gate_steps": Epochs(25), "batch": 4, "rate": 1e-4},
            **{"side": 256, "width": 64},
        },
    }
    fitted_modules = ("unet", "door", "scores")
    fitted_buffers = ("low", "span", "usual", "fixed")
    low: Tensor  # (3, 1, 1) darkest value of each channel on good images
    span: Tensor  # () from there to the brightest, of the channel with most of it
    usual: Tensor  # (C, h, w) mean of the frozen features at each place; empty where nothing goes by saliency
    fixed: Tensor  # (1, 1, h, w) the fixed mask; empty where it goes by saliency

    @classmethod
    def wants(cls, config: Config) -> Needs:
        if config.map == "saliency":
            return replace(cls.needs, image=False, again=False)
        held = HELD if config.until == "flat" else 0.0
        return replace(cls.needs, again=config.map == "features", held=held)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self.inner = inner_size(size, config.side, 2**DEPTH)
        self.grid = self.inner[0] // config.patch, self.inner[1] // config.patch
        self.paints = config.map != "saliency"
        with self.seeded():
            unet = UNet(config.width, DEPTH)
            self.unet: Any = unet if self.paints else nn.Identity()
            self.door: nn.Module = nn.Identity()
            if self.paints and config.gate == "learned":
                self.door = PatchGate(unet.widths, self.grid, config.hidden, apart=config.per_skip)
        self.to(memory_format=torch.channels_last)
        self.exact = Exact()
        grids = {"features": spec.grids, "saliency": spec.grids[:1]}.get(config.map, (self.inner,))
        adding: Adding = config.levels if config.map == "features" else "sum"
        self.scores = LevelScores(grids, size, config.sigma, adding, config.top)
        self._seen, self._sum = 0, torch.zeros(())
        self._ends = torch.full((3,), torch.inf), torch.full((3,), -torch.inf)

    # ------------------------------------------------------------------------------ what good images look like
    def observe(self, batch: Batch) -> None:
        if batch.x is not None:
            x = to_grid(batch.x.float(), self.inner).transpose(0, 1).flatten(1)
            self._ends = torch.minimum(self._ends[0], x.amin(1)), torch.maximum(self._ends[1], x.amax(1))
        self._seen += len(batch.ids)
        if self._salient:
            self._sum = self._sum + self._features(batch).double().sum(0)

    def conclude(self) -> None:
        c, (low, high) = self.config, self._ends if self.paints else (torch.zeros(3), torch.ones(3))
        self.low, self.span = low[:, None, None], (high - low).amax().clamp_min(LEAST)
        self.usual = (self._sum / self._seen).float() if self._salient else torch.zeros(0)
        self.fixed = torch.zeros(0) if c.mask == "saliency" else fixed_mask(c.mask, self.grid, c.share, self.seed)
        self._sum = torch.zeros(())

    @property
    def _salient(self) -> bool:
        """Whether mask or map go by what is strange to the frozen network."""
        return "saliency" in (self.config.mask, self.config.map)

    def _features(self, batch: Batch) -> Tensor:
        """(B, C, h, w): the frozen levels on the finest one's grid."""
        assert batch.pyramid is not None
        maps = [x.float() for x in batch.pyramid.maps]
        return joined(maps, (int(maps[0].shape[2]), int(maps[0].shape[3])))

    # ------------------------------------------------------------------------------------------------ one image
    def image(self, batch: Batch) -> Tensor:
        """(B, 3, *inner): the image, small, good images' values in [0, 1]."""
        assert batch.x is not None
        return (to_grid(batch.x.float(), self.inner) - self.low) / self.span

    def mask(self, batch: Batch) -> Tensor:
        """(B, 1, *grid), or (1, 1, *grid) of all images: what the rule hides. A function of each image alone."""
        if self.config.mask != "saliency":
            return self.fixed
        strange = self._strange(self._features(batch))
        return strangest(to_grid(strange[:, None], self.grid)[:, 0], self.config.share, self.config.soft)

    def _strange(self, features: Tensor) -> Tensor:
        """(B, h, w): 1 - cosine to the usual features of each place."""
        return cosine_places(features, self.usual[None])

    def encoded(self, x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The encoder's maps of images (B, 3, *inner) with a mask over them."""
        patch = self.config.patch
        covered = hidden(x, mask, patch, patch if self.config.hint == "mosaic" else 0)
        maps: tuple[Tensor, ...] = self.unet.encode(covered.contiguous(memory_format=torch.channels_last))
        return maps

    def gated(self, maps: tuple[Tensor, ...]) -> Tensor | None:
        """The soft mask of encoded images: learned, or the same everywhere, or none."""
        if self.config.gate == "off":
            return None
        if isinstance(self.config.gate, float | int):
            return torch.full((1, 1, *self.grid), float(self.config.gate))
        return self.door(maps).sigmoid()  # type: ignore[no-any-return]

    def painted(self, maps: tuple[Tensor, ...], gate: Tensor | None) -> Tensor:
        """(B, 3, *inner): the repaint from encoded images, weakened by a gate."""
        let = maps if gate is None else attenuated(maps, gate, skips_only=self.config.skip_only)
        painted: Tensor = self.unet.decode(let)
        return painted

    def look(self, batch: Batch) -> Look:
        """Image, binary mask, soft mask and repaint: all that the map is made of."""
        x, mask = self.image(batch), self.mask(batch)
        maps = self.encoded(x, mask)
        gate = self.gated(maps)
        return Look(x, mask, gate, self.painted(maps, gate))

    # ------------------------------------------------------------------------------------------------- training
    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        base = Phase("repaint", c.steps, ("unet",), c.batch, c.rate, floor=0.0, decay=1e-5, flat=c.until == "flat")
        gate = Phase("gate", c.gate_steps, ("door",), c.batch, c.gate_rate, decay=0.0)
        return () if not self.paints else (base, gate) if c.gate == "learned" else (base,)

    def begin(self, phase: Phase, batches: Iterable[Batch]) -> None:
        """Measures the constants of the gate: features and errors of the finished U-Net on good images."""
        if phase.name != "gate":
            return
        assert isinstance(self.door, PatchGate)
        tokens, errors = ChannelMoments(sum(self.unet.widths)), []
        for batch in batches:
            x = self.image(batch)
            maps = self.encoded(x, self.mask(batch))
            tokens.add(self.door.tokens(maps))
            errors.append(self._errors(self.unet.decode(maps), x).flatten())
        self.door.standardise(tokens.mean.float(), tokens.spread())
        every = torch.cat(errors).sort().values
        low, high = (every[round(q * (len(every) - 1))] for q in QUANTILES)
        self.door.low.copy_(low)
        self.door.span.copy_((high - low).clamp_min(1e-6))

    def _errors(self, repaint: Tensor, x: Tensor) -> Tensor:
        """(B, 1, *grid): mean squared difference over each patch."""
        return pooled((repaint - x).square().mean(1, keepdim=True), self.grid)

    def _training_mask(self, batch: Batch) -> Tensor:
        """The mask of the rule, or random patches on some images: the U-Net learns to repaint what the rule never
        hides."""
        c = self.config
        assert batch.x is not None
        count = len(batch.x)
        lots = drawn(count, self.grid, c.share, self.generator)
        if c.mask == "random":
            return lots
        by_lot = torch.rand(count, 1, 1, 1, generator=self.generator) < c.wander
        return torch.where(by_lot, lots, self.mask(batch))

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        x, mask = self.image(batch), self._training_mask(batch)
        if phase.name == "repaint":
            painted = self.unet.decode(self.encoded(x, mask)).float()
            return {"l2": F.mse_loss(painted, x), "msgms": msgms_loss(painted, x), "ssim": 1 - ssim(painted, x)}
        assert isinstance(self.door, PatchGate)
        corrupted = self.config.variant == "B"
        with torch.no_grad():
            maps = self.encoded(spoilt(x, self.generator)[0] if corrupted else x, mask)
            wanted = self.door.targets(self._errors(self.unet.decode(maps).float(), x))
        logits = self.door(maps).float()
        terms = {"signal": F.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits))}
        if corrupted and self.config.recovery:
            painted = self.painted(maps, logits.sigmoid()).float()
            terms["l2"] = self.config.recovery * F.mse_loss(painted, x)
            terms["msgms"] = self.config.recovery * msgms_loss(painted, x)
        return terms

    # ----------------------------------------------------------------------------------------------- inspection
    def remade(self, batch: Batch) -> Tensor:
        return resized(self.look(batch).repaint * self.span + self.low, self.size)

    def places(self, batch: Batch) -> list[Tensor]:
        """(B, h_l, w_l) a level: features of image and repaint, or their gradients, or features and usual ones."""
        if self.config.map == "features":
            assert batch.pyramid is not None
            assert batch.again is not None
            seen, again = ([self.exact(x) for x in each.maps] for each in (batch.pyramid, batch.again))
            return [cosine_places(x, y) for x, y in zip(seen, again, strict=True)]
        if not self.paints:
            return [self._strange(self.exact(self._features(batch)))]
        look = self.look(batch)
        x, repaint = self.exact(look.image), self.exact(look.repaint)
        gradients = msgms_map(x, repaint)
        return [gradients + (x - repaint).square().mean(1) if self.config.map == "l2+msgms" else gradients]

    def measure(self, batches: Iterable[Batch]) -> None:
        """What good images have at each place."""
        self.scores.measure(map(self.places, batches))

    def predict(self, batch: Batch) -> Prediction:
        return self.scores(self.places(batch))  # type: ignore[no-any-return]


METHOD = FADeR
