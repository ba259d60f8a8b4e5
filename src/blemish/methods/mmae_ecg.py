"""MMAE-ECG: a small transformer repaints hidden segments of an ECG, of the whole record and of one short run of it.

Paper    Zhou et al., Multi-scale Masked Autoencoder for Electrocardiogram Anomaly Detection, arXiv:2502.05494, 2025;
         PLoS ONE 21(3): e0343571, 2026.
Fit      the signal is cut into segments, which are tokens; a share of all of them is hidden and, apart from that, a
         share of a short run; what is visible at either scale attends to each other in one encoder, and one block
         repaints the hidden segments of both, each normalised by itself, so that small waves count as much as tall
         ones. No R peak is looked for.
Predict  several fixed maskings; a sample is as anomalous as it was repainted wrongly, over both scales; the window
         takes the mean. Segments in which little happens count less (`scale`).
Differs  layer sizes, segment, run and share of hidden segments are not published: they follow from the benchmark's
         geometry and from the stated budget. The passes are a deterministic tiling at that budget (`aggregation`).
         The last step is kept, where public code of this line of work keeps the epoch of the best test result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from blemish.errors import ConfigError
from blemish.methods.base import Epochs, Phase, Published
from blemish.methods.torch_base import TorchMethod
from blemish.nn.multiscale import (
    Indices,
    MultiScaleAutoencoder,
    Pass,
    drawn,
    guarded,
    indices,
    interleaved,
    tiles,
)
from blemish.nn.precision import Exact
from blemish.nn.scoring import top_mean
from blemish.nn.smoothing import smooth_curve
from blemish.types import Batch, FeatureSpec, Needs, Prediction


@dataclass(frozen=True)
class Config:
    segment: int = 24  # samples of a segment: 192 ms at 125 Hz
    local: int = 8  # segments of the short run
    theta: float = 0.5  # share of segments that is hidden, at either scale
    scales: Literal["both", "global", "local"] = "both"  # of masking; one alone for comparison
    positions: Literal["own", "shared"] = "own"  # of the run's tokens: their own, or those of the whole signal
    targets: Literal["segment", "raw"] = "segment"  # each segment normalised by itself, or as it is
    leak_guard: Literal["none", "union"] = "none"  # union: a segment that is hidden at one scale is hidden at both
    floor: float = 0.01  # added to a segment's variance: without it, flat segments would be amplified noise
    width: int = 64  # channels of a token
    depth: int = 4  # blocks of the encoder; the decoder has one
    heads: int = 4  # of attention
    ratio: int = 4  # hidden units of a block's perceptron, by its width
    aggregation: Literal["paired", "full", "random"] = "paired"  # passes: one for each run, all pairs, or drawn ones
    passes: int = 10  # drawn ones, where aggregation is random
    scale: Literal["weighted", "normalised", "raw"] = "weighted"  # errors: times v / (v + flat), alike, times v
    flat: float = 0.1  # v, the variance of a segment and lead, at which weighted errors count by half; usual is 1
    standard: bool = True  # errors less the median, over the deviation, of normal windows at their place
    score: Literal["mean", "top", "max"] = "mean"  # of the window: over all samples, the highest tenth of segments, one
    sigma: float = 3.75  # blur of the anomaly map, in samples: 30 ms at 125 Hz
    shift: int = 25  # maximum shift of a window in training, in samples: 0.2 s at 125 Hz
    gain: float = 0.2  # windows are scaled by 1 - gain to 1 + gain in training, all leads alike
    steps: int = 3500  # of training; below about 2,000 it learns the mean shape only
    batch: int = 64  # windows in a step
    rate: float = 1e-3  # at the start; it falls along a cosine

    def __post_init__(self) -> None:
        if min(self.segment, self.local, self.width, self.depth, self.heads, self.ratio, self.passes, self.steps) < 1:
            raise ConfigError("sizes, passes and steps have to be 1 or more")
        if self.local < 2 or self.width % self.heads or self.batch < 2:
            raise ConfigError("local and batch have to be 2 or more, and width a multiple of heads")
        if not (0 < self.theta < 1 and 0 <= self.gain < 1) or min(self.sigma, self.shift) < 0:
            raise ConfigError("theta has to lie between 0 and 1, gain in [0, 1), sigma and shift cannot be negative")
        if min(self.rate, self.floor, self.flat) <= 0:
            raise ConfigError("rate, floor and flat have to be positive")


class MMAEECG(TorchMethod[Config]):
    needs = Needs(source="signal", axes=1, strides=(), held=0.1)
    brief = {
        "segment": 8, "local": 3, "width": 16, "depth": 1, "heads": 2, "steps": 120, "batch": 8, "rate": 1e-2,
        "sigma": 2.0, "shift": 0, "gain": 0.0, "standard": False,
    }  # fmt: skip
    efforts = {
        "quick": {"steps": 350},
        "long": {"steps": Epochs(200)},  # the paper states none; from 100 on the loss falls slowly
    }
    fitted_buffers = ("middle", "spread")
    fitted_modules = ("network",)
    published = (
        Published("PTB-XL", "I-AUROC", 0.860, "none", "arXiv:2502.05494v1, as a later note quotes it"),
        Published("PTB-XL", "I-AUROC", 0.941, "none", "PLoS ONE 2026, as a later note quotes it; another protocol"),
    )

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, ...], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)  # type: ignore[arg-type]  # one axis
        c, self.leads = config, spec.inputs
        self.total = size[0] // c.segment
        if size[0] % c.segment or self.total <= c.local:
            raise ConfigError(
                f"a window of {size[0]} samples is not {c.local + 1} or more whole segments of {c.segment}",
                hint="choose segment and local, or another window",
            )
        with self.seeded():
            values = self.leads * c.segment
            self.network = MultiScaleAutoencoder(
                values, self.total, c.local, width=c.width, depth=c.depth, heads=c.heads, ratio=c.ratio
            )
        self.exact_repainted, self.exact_targets = Exact(), Exact()
        self.groups = self._groups()
        self.shares = self._shares()

    # -- maskings ------------------------------------------------------------------------------------------------------

    def passes(self) -> list[Pass]:
        """The maskings of inspection: the same for every window."""
        c = self.config
        if c.aggregation == "random":
            generator = torch.Generator().manual_seed(self.seed)
            found = [drawn(self.total, c.local, c.theta, generator) for _ in range(c.passes)]
        else:
            outer, inner, runs = (
                interleaved(self.total, c.theta),
                interleaved(c.local, c.theta),
                tiles(self.total, c.local),
            )
            if c.aggregation == "full" or c.scales == "local":
                count = max(len(outer), len(inner))
                pairs = [(run, k) for run in runs for k in range(count)]
            else:
                pairs = [(run, h) for h, run in enumerate(runs)]
            found = [Pass(outer[k % len(outer)], run, inner[k % len(inner)]) for run, k in pairs]
        if c.leak_guard == "union" and c.scales == "both":
            found = [guarded(one, c.local) for one in found]
        if c.scales == "global":  # maskings that differ in the run alone are one
            found = list(dict.fromkeys(Pass(one.hidden, 0, ()) for one in found))
        return found

    def _groups(self) -> list[Indices]:
        """The passes by their shape, so that those of one shape run as one batch."""
        shapes: dict[tuple[int, int], list[Pass]] = {}
        for one in self.passes():
            shapes.setdefault((len(one.hidden), len(one.inside)), []).append(one)
        return [self._indices(passes) for passes in shapes.values()]

    def _indices(self, passes: list[Pass]) -> Indices:
        own = self.config.positions == "own"
        return indices(passes, self.total, self.config.local, scales=self.config.scales, own=own)

    def _shares(self) -> Tensor:
        """(T, occurrences): what each repainted segment counts for each place.

        Means over a scale's occurrences, then of both scales; a place that no pass hides takes the mean of all.
        """
        targets = torch.cat([group.targets for group in self.groups])
        inner = torch.cat([group.inner for group in self.groups])
        at = (torch.arange(self.total)[:, None] == targets).float()
        scales = [at * (~inner).float(), at * inner.float()]
        there = [(scale.sum(1, keepdim=True) > 0).float() for scale in scales]
        means = [scale / scale.sum(1, keepdim=True).clamp_min(1) for scale in scales]
        both = (means[0] + means[1]) / (there[0] + there[1]).clamp_min(1)
        return torch.where(at.sum(1, keepdim=True) > 0, both, both.sum(0) / both.sum().clamp_min(1e-9))

    # -- segments ------------------------------------------------------------------------------------------------------

    def segments(self, x: Tensor) -> Tensor:
        """(B, K, L) -> (B, T, K, S)."""
        return x.reshape(-1, self.leads, self.total, self.config.segment).transpose(1, 2)

    def targets(self, segments: Tensor) -> Tensor:
        """What is to be repainted: of each segment and lead mean 0 and variance 1, or as it is."""
        if self.config.targets == "raw":
            return segments
        mean, variance = segments.mean(3, keepdim=True), segments.var(3, keepdim=True, correction=0)
        return (segments - mean) / (variance + self.config.floor).sqrt()

    def weights(self, segments: Tensor) -> Tensor:
        """(B, T, K, 1): what the error of each segment counts.

        Normalised errors alone would let flat stretches decide, where there is nothing to repaint but noise; raw ones
        would let the tallest waves.
        """
        c = self.config
        variance: Tensor = self.exact_targets(segments.var(3, keepdim=True, correction=0))
        weights = {
            "weighted": variance / (variance + c.flat),
            "normalised": torch.ones_like(variance),
            "raw": variance + c.floor,
        }[c.scale]
        return weights if c.targets == "segment" else weights / (variance + c.floor)

    def errors(self, segments: Tensor, at: Indices) -> Tensor:
        """(B, occurrences, K, S): squared differences of repainted and hidden segments."""
        repainted: Tensor = self.exact_repainted(self.network(segments.flatten(2), at))
        wanted: Tensor = self.exact_targets(self.targets(segments)).index_select(1, at.targets)
        error: Tensor = (repainted.reshape_as(wanted) - wanted).square()
        return error

    # -- learning ------------------------------------------------------------------------------------------------------

    def phases(self) -> tuple[Phase, ...]:
        c = self.config
        return (Phase("train", c.steps, self.fitted_modules, c.batch, c.rate, 0.0, betas=(0.9, 0.95), decay=0.05),)

    def loss(self, phase: Phase, batch: Batch, progress: float) -> dict[str, Tensor]:
        assert batch.x is not None
        c = self.config
        one = drawn(self.total, c.local, c.theta, self.generator)  # one masking for the batch
        at = self._indices([guarded(one, c.local) if c.leak_guard == "union" and c.scales == "both" else one])
        errors = self.errors(self.segments(self._varied(batch.x)), at).float().mean((0, 2, 3))
        terms = {"global": errors[~at.inner], "local": errors[at.inner]}
        return {name: term.mean() for name, term in terms.items() if len(term)}

    def _varied(self, x: Tensor) -> Tensor:
        """Windows shifted in time, each by itself (what is missing is reflected), and scaled, all leads alike."""
        c, count, length = self.config, x.shape[0], x.shape[2]
        most = min(c.shift, length - 1)
        shift = torch.randint(-most, most + 1, (count, 1), generator=self.generator)
        gain = 1 + c.gain * (2 * torch.rand(count, 1, 1, generator=self.generator) - 1)
        at = (torch.arange(length) + shift).abs()
        at = torch.where(at >= length, 2 * (length - 1) - at, at)
        return x.gather(2, at[:, None].expand(-1, self.leads, -1)) * gain

    def settle(self, batches: Iterable[Batch]) -> None:
        """The usual error of each place, from windows that no step has seen."""
        levels = [self._levels(batch).mean(2) for batch in batches]
        place = torch.cat(levels).sort(0).values  # (n, T)
        if not self.config.standard or not len(place):
            self.middle, self.spread = torch.zeros(self.total), torch.ones(self.total)
            return
        self.middle = place.median(0).values
        spread = 1.4826 * (place - self.middle).abs().median(0).values
        # a place with too few windows gets the deviation of the others
        self.spread = torch.maximum(spread, 0.1 * self.middle.abs().mean()).clamp_min(1e-6)

    # -- inspecting ----------------------------------------------------------------------------------------------------

    def _levels(self, batch: Batch) -> Tensor:
        """(B, T, S): the error of every sample, over leads, passes and scales."""
        assert batch.x is not None
        segments = self.segments(batch.x)
        errors = torch.cat([self.errors(segments, at) for at in self.groups], 1).float()
        targets = torch.cat([at.targets for at in self.groups])
        errors = errors * self.weights(segments).index_select(1, targets)
        return (self.shares @ errors.mean(2)).reshape(-1, self.total, self.config.segment)

    def predict(self, batch: Batch) -> Prediction:
        places = (self._levels(batch) - self.middle[:, None]) / self.spread[:, None]
        anomaly_map = smooth_curve(places.flatten(1), self.config.sigma)
        if self.config.score == "mean":
            return Prediction(places.flatten(1).mean(1), anomaly_map)
        top = 1 if self.config.score == "max" else math.ceil(self.total / 10)
        return Prediction(top_mean(places.mean(2), top), anomaly_map)


METHOD = MMAEECG
