"""Pixel metrics of a whole set in one pass and constant memory: counts per float16 value instead of sorted pixels.

Rounding to float16 keeps the order of the scores and only makes some of them equal, so every metric here is that of
slightly coarser scores, and the pixels that share a value say how far it can be from the metric of the raw ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.errors import ConfigError, DataError
from blemish.evaluation.metrics.aupro import (
    SaturatedRegion,
    check_limit,
    check_map,
    label_regions,
    ramp_areas,
    region_mask,
    saturated_gains,
)
from blemish.evaluation.metrics.intervals import Difference, Estimate, check_level, percentile_interval
from blemish.evaluation.metrics.ranking import f1_of_counts, precision_under_counts

Floats = NDArray[np.float64]

_BINS = 1 << 16
_LARGEST = 65504.0  # largest finite float16
_FINE = 16  # float16 values per coarse bin: 1,024 per octave become 64
_UNIT = 1 << 44  # a region's weight as an integer, so that sums depend on no order
_MOST_REGIONS = (1 << 63) // _UNIT - 1
_BLOCK = 128  # bootstrap replicas at once

# The 16-bit patterns of all finite float16 from the largest value down: positive ones fall, negative ones rise.
_DESCENDING = np.concatenate([np.arange(0x7BFF, -1, -1), np.arange(0x8000, 0xFC00)])
_COARSE = _DESCENDING[::_FINE] // _FINE


class Bounded(NamedTuple):
    """A metric of the rounded scores; that of the raw scores lies in [low, high]."""

    value: float
    low: float
    high: float


class BoundedF1(NamedTuple):
    """Best F1 as `Bounded`; `threshold` is in raw scores, exact to half a float16 step."""

    value: float
    low: float
    high: float
    threshold: float


class _Row(NamedTuple):
    """Coarse histogram of one image; the positions of counts that are not 0, and those counts."""

    normal: tuple[NDArray[np.uint16], NDArray[np.uint32]]
    defect: tuple[NDArray[np.uint16], NDArray[np.uint32]]
    weight: tuple[NDArray[np.uint16], NDArray[np.int64]]


class _Shares(NamedTuple):
    """Defect pixels of one image: patterns (D,) of all, patterns and weights (S,) of those that regions count."""

    defect: NDArray[np.intp]
    hit: NDArray[np.intp]
    gain: NDArray[np.int64]
    regions: int
    slack: int


def values_of(patterns: NDArray[np.intp]) -> NDArray[np.float16]:
    """The float16 values behind 16-bit patterns."""
    return patterns.astype(np.uint16).view(np.float16)


class PixelCounts:
    """Accumulates anomaly maps; gives P-AUROC, P-AP, P-F1max and AUPRO at any limit, for the pixels of all images.

    scale   the raw score that becomes 1, chosen without test data (say the median of held-out good maps). Scores from
            6e-5 to 65504 times `scale`, of either sign, keep 11 bits; larger ones are cut and counted in `clipped`.

    Holds 1.5 MB, and a coarse histogram of a few KB per image for the bootstrap. Raises ConfigError for a scale
    outside [1e-37, 1e37].
    """

    def __init__(self, scale: float) -> None:
        if not 1e-37 <= scale <= 1e37:  # its inverse must be a float32
            raise ConfigError(f"scale must lie between 1e-37 and 1e37, got {scale}")
        self.scale = float(scale)
        self.regions = 0
        self.clipped = 0  # pixels beyond the float16 range; they are ties in every bound
        self._all = np.zeros(_BINS, np.int64)
        self._defect = np.zeros(_BINS, np.int64)
        self._weight = np.zeros(_BINS, np.int64)
        self._slack = 0  # what rounding of the weights took from or gave to all regions, in units
        self._rows: list[_Row] = []

    @property
    def images(self) -> int:
        """Number of images seen."""
        return len(self._rows)

    @property
    def pixels(self) -> tuple[int, int]:
        """Number of normal and of defect pixels seen."""
        defect = int(self._defect.sum())
        return int(self._all.sum()) - defect, defect

    def update(
        self,
        anomaly_map: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        saturated: Sequence[SaturatedRegion] | None = None,
    ) -> None:
        """Add one image: a raw map, (H, W) in source pixels (one or three axes do too), and its mask.

        Defect is mask > 0, regions are 8-connected; None = a good image. Sizes may differ between images.
        With `saturated` in place of a mask these are the regions, and what `aupro` gives is sPRO (see
        `metrics.aupro.spro`). Raises DataError for NaN, a mask of another shape, an empty map; nothing is added then.
        """
        values, truth = check_map(anomaly_map, mask)
        patterns, clipped = self._patterns(values)
        counts = np.bincount(patterns, minlength=_BINS)
        row_defect = row_weight = np.zeros(0, np.int64)
        share = self._shares(patterns, values.shape, truth, saturated or ())
        if share.regions:
            if self.regions + share.regions > _MOST_REGIONS:
                raise DataError(f"more than {_MOST_REGIONS:,} defect regions cannot be counted exactly")
            row_defect, row_weight = np.zeros((2, _BINS // _FINE), np.int64)
            np.add.at(self._defect, share.defect, 1)
            np.add.at(row_defect, share.defect // _FINE, 1)
            np.add.at(self._weight, share.hit, share.gain)
            np.add.at(row_weight, share.hit // _FINE, share.gain)
            self.regions += share.regions
            self._slack += share.slack
        self._all += counts
        self.clipped += clipped
        row_normal = counts.reshape(-1, _FINE).sum(axis=1)
        row_normal[: row_defect.size] -= row_defect
        self._rows.append(
            _Row(_sparse(row_normal, np.uint32), _sparse(row_defect, np.uint32), _sparse(row_weight, np.int64))
        )

    def _shares(
        self,
        patterns: NDArray[np.intp],
        shape: tuple[int, ...],
        truth: NDArray[Any] | None,
        saturated: Sequence[SaturatedRegion],
    ) -> _Shares:
        """What each defect pixel of one image adds to the overlap curve, in units of a region."""
        if saturated:
            defect = np.zeros(patterns.size, bool)
            hits, gains = [], []
            for region in saturated:
                inside = region_mask(region, shape)
                gain = np.rint(saturated_gains(region, int(inside.sum())) * _UNIT).astype(np.int64)
                rank = np.argsort(-values_of(patterns[inside]), kind="stable")
                hits.append(patterns[inside][rank])
                gains.append(gain)
                defect |= inside
            slack = sum(abs(_UNIT - int(gain.sum())) for gain in gains)
            return _Shares(patterns[defect], np.concatenate(hits), np.concatenate(gains), len(hits), slack)
        if truth is None or not (found := label_regions(truth)).areas.size:
            none = np.zeros(0, np.int64)
            return _Shares(none, none, none, 0, 0)
        weights = (_UNIT + found.areas // 2) // found.areas
        hit = patterns[found.positions]
        slack = int(np.abs(_UNIT - weights * found.areas).sum())
        return _Shares(hit, hit, weights[found.regions], found.areas.size, slack)

    def merge(self, other: PixelCounts) -> None:
        """Add all images of another accumulator of the same scale: exactly what one pass over both had given."""
        if other.scale != self.scale:
            raise ConfigError(f"accumulators of scale {self.scale} and {other.scale} cannot be merged")
        if self.regions + other.regions > _MOST_REGIONS:
            raise DataError(f"more than {_MOST_REGIONS:,} defect regions cannot be counted exactly")
        self._all += other._all
        self._defect += other._defect
        self._weight += other._weight
        self.regions += other.regions
        self.clipped += other.clipped
        self._slack += other._slack
        self._rows.extend(other._rows)

    def auroc(self) -> Bounded:
        """Pixel AUROC; the bound is half the mass of good-defect pairs that share a value."""
        return Bounded(*_area_with_bound(*self._levels(self._defect), 1.0))

    def aupro(self, limit: float = 0.3) -> Bounded:
        """AUPRO as `aupro.aupro`; the bound lets every value's defect pixels come first or last among its normals."""
        check_limit(limit)
        value, low, high = _area_with_bound(*self._levels(self._weight), limit)
        slack = 2 * self._slack / (_UNIT * self.regions)
        return Bounded(value, max(low - slack, 0.0), min(high + slack, 1.0))

    def average_precision(self) -> Bounded:
        """Pixel average precision; the bound takes the best and the worst precision possible inside each value."""
        normal, defect = self._levels(self._defect)
        true, false = np.cumsum(defect), np.cumsum(normal)
        value = precision_under_counts(true, false)
        held = defect > 0
        gained, after, ahead = defect[held].astype(np.float64), true[held].astype(np.float64), (false - normal)[held]
        high = float(np.sum(gained * (after / (after + ahead))) / true[-1])
        # Worst: all normals of the value first. The i-th defect then has (t + i) / (t + i + f); the sum over i of
        # f / (t + i + f) is at most f log(1 + gained / (t + f)).
        behind = false[held].astype(np.float64)
        base = after - gained + behind
        lost = np.log1p(np.divide(gained, base, out=np.zeros_like(base), where=base > 0)) * behind
        low = float(np.sum(gained - lost) / true[-1])
        return Bounded(value, min(max(low, 0.0), value), max(high, value))

    def f1_max(self) -> BoundedF1:
        """Best pixel F1. Its threshold is one of the raw scores' too, so their best is never lower."""
        normal, defect = self._levels(self._defect)
        true, false = np.cumsum(defect), np.cumsum(normal)
        f1 = f1_of_counts(true, false)
        best = int(np.argmax(f1))
        high = float(np.max(f1_of_counts(true, false - normal)))
        steps = _DESCENDING.astype(np.uint16).view(np.float16).astype(np.float64)
        edge = float(steps[best : best + 2].mean()) if best + 1 < len(steps) else -math.inf
        return BoundedF1(float(f1[best]), float(f1[best]), max(high, float(f1[best])), edge * self.scale)

    def bootstrap_auroc(self, *, generator: np.random.Generator, replicas: int = 1000, level: float = 0.95) -> Estimate:
        """Pixel AUROC with its bootstrap interval over images, as `bootstrap_aupro`."""
        return self._bootstrap(self.auroc(), 1.0, lambda row: row.defect, generator, replicas, level)

    def bootstrap_aupro(
        self, limit: float = 0.3, *, generator: np.random.Generator, replicas: int = 1000, level: float = 0.95
    ) -> Estimate:
        """AUPRO with its percentile interval over images: good and defective images are resampled apart.

        Replicas come from the coarse histograms (64 bins per octave) and are shifted by what those miss on the full
        set; the interval also holds the bound of `aupro`. With fewer than two defective images it is [0, 1].
        Raises ConfigError for a level outside (0, 1), a limit outside (0, 1] or fewer than 2 replicas.
        """
        return self._bootstrap(self.aupro(limit), limit, lambda row: row.weight, generator, replicas, level)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays, for a file; `from_arrays` reads them."""
        out: dict[str, NDArray[Any]] = {
            "scale": np.array(self.scale),
            "sums": np.stack([self._all, self._defect, self._weight]),
            "counts": np.array([self.regions, self.clipped, self._slack]),
        }
        for name in _Row._fields:
            bins, values = zip(*(getattr(row, name) for row in self._rows), strict=True) if self._rows else ((), ())
            out[f"{name}_sizes"] = np.array([len(b) for b in bins], np.int64)
            out[f"{name}_bins"] = np.concatenate([*bins, np.zeros(0, np.uint16)])
            out[f"{name}_values"] = np.concatenate([*values, np.zeros(0, np.int64 if name == "weight" else np.uint32)])
        return out

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `to_arrays` gave."""
        counts = cls(float(arrays["scale"]))
        counts._all, counts._defect, counts._weight = (row.copy() for row in arrays["sums"])
        counts.regions, counts.clipped, counts._slack = (int(n) for n in arrays["counts"])
        parts = []
        for name in _Row._fields:
            ends = np.cumsum(arrays[f"{name}_sizes"])[:-1]
            split = [np.split(arrays[f"{name}_{what}"], ends) for what in ("bins", "values")]
            parts.append(list(zip(*split, strict=True)))
        if len(arrays["normal_sizes"]):
            counts._rows = [_Row(*row) for row in zip(*parts, strict=True)]
        return counts

    def _patterns(self, values: NDArray[Any]) -> tuple[NDArray[np.intp], int]:
        """float16 patterns (P,) of the scaled scores and how many had to be clipped."""
        with np.errstate(over="ignore"):  # infinity is clipped below, and counted
            scaled = np.multiply(values.reshape(-1), np.float32(1 / self.scale), dtype=np.float32, casting="same_kind")
        scaled += np.float32(0)  # -0.0 is 0.0, but would get a pattern of its own
        low, high = float(scaled.min()), float(scaled.max())
        if math.isnan(low):
            raise DataError(f"{int(np.isnan(scaled).sum())} values of the anomaly map are NaN")
        clipped = 0
        if max(high, -low) > _LARGEST:
            clipped = int(np.count_nonzero(np.abs(scaled) > _LARGEST))
            np.clip(scaled, -_LARGEST, _LARGEST, out=scaled)
        return scaled.astype(np.float16).view(np.uint16).astype(np.intp), clipped

    def _levels(self, weights: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Normal counts and defect weights per value, from the largest value down."""
        normal, defect = self.pixels
        if not normal or not defect:
            raise DataError(f"pixel metrics need both kinds of pixel, got {normal} normal and {defect} defect ones")
        return (self._all - self._defect)[_DESCENDING], weights[_DESCENDING]

    def _bootstrap(
        self,
        exact: Bounded,
        limit: float,
        defects: Callable[[_Row], tuple[NDArray[Any], NDArray[Any]]],
        generator: np.random.Generator,
        replicas: int,
        level: float,
    ) -> Estimate:
        check_level(level)
        if replicas < 2:
            raise ConfigError(f"a bootstrap needs at least 2 replicas, got {replicas}")
        defective = np.array([bool(row.defect[0].size) for row in self._rows])
        if np.count_nonzero(defective) < 2:
            return Estimate(exact.value, 0.0, 1.0)
        areas = self._areas_ofdraws(defects, limit)
        values = np.concatenate([areas(times) for times in draws(defective, generator, replicas)])
        values += exact.value - areas(np.ones((1, len(defective))))
        spread = percentile_interval(exact.value, values, level)
        return Estimate(exact.value, max(min(spread.low, exact.low), 0.0), min(max(spread.high, exact.high), 1.0))

    def _areas_ofdraws(
        self, defects: Callable[[_Row], tuple[NDArray[Any], NDArray[Any]]], limit: float
    ) -> Callable[[Floats], Floats]:
        """(replicas, images) how often each image was drawn -> (replicas,) areas of the coarse histograms."""
        normals, weights = [row.normal for row in self._rows], [defects(row) for row in self._rows]
        seen = np.unique(np.concatenate([bins for bins, _ in normals + weights]))
        used = _COARSE[np.isin(_COARSE, seen)]
        normal, weight = _matrix(normals, used), _matrix(weights, used)
        return lambda times: _areas(times @ normal, times @ weight, limit)[0]


def aupro_paired(
    a: PixelCounts,
    b: PixelCounts,
    limit: float = 0.3,
    *,
    generator: np.random.Generator,
    replicas: int = 1000,
    level: float = 0.95,
) -> Difference:
    """AUPRO of a minus AUPRO of b on the same images in the same order: bootstrap over images, drawn for both at once.

    The interval is the percentile one, as in `PixelCounts.bootstrap_aupro`; the p-value is twice the smaller share of
    replicas on either side of 0, never 0 (Davison & Hinkley 1997, section 4.4). With fewer than two defective images
    there is nothing to resample: the interval is [-1, 1] and p is 1. DataError where the images are not the same.
    """
    check_level(level)
    defective = np.array([bool(row.defect[0].size) for row in a._rows])
    if a.images != b.images or not np.array_equal(defective, [bool(row.defect[0].size) for row in b._rows]):
        raise DataError("a paired test needs the same images in the same order on both sides")
    value = a.aupro(limit).value - b.aupro(limit).value
    if np.count_nonzero(defective) < 2:
        return Difference(value, -1.0, 1.0, 1.0)
    first, second = (counts._areas_ofdraws(lambda row: row.weight, limit) for counts in (a, b))
    values = np.concatenate([first(times) - second(times) for times in draws(defective, generator, replicas)])
    once = np.ones((1, len(defective)))
    values += value - (first(once) - second(once))
    spread = percentile_interval(value, values, level)
    tail = min(np.count_nonzero(values <= 0), np.count_nonzero(values >= 0))
    return Difference(value, spread.low, spread.high, min(1.0, 2 * (tail + 1) / (replicas + 1)))


def draws(defective: NDArray[np.bool_], generator: np.random.Generator, replicas: int) -> Iterator[Floats]:
    """Blocks of (replicas, images) counts: how often each image is drawn; good and defective ones are drawn apart."""
    for first in range(0, replicas, _BLOCK):
        times = np.zeros((min(_BLOCK, replicas - first), len(defective)))
        for kind in (np.flatnonzero(defective), np.flatnonzero(~defective)):
            if kind.size:
                shares = np.full(kind.size, 1 / kind.size)
                times[:, kind] = generator.multinomial(kind.size, shares, size=len(times))
        yield times


def _sparse(counts: NDArray[np.int64], dtype: type[Any]) -> tuple[NDArray[np.uint16], NDArray[Any]]:
    bins = np.flatnonzero(counts)
    return bins.astype(np.uint16), counts[bins].astype(dtype)


def _matrix(rows: list[tuple[NDArray[Any], NDArray[Any]]], used: NDArray[np.intp]) -> Floats:
    """(images, used coarse bins) float64; the bins in use are a few hundred of thousands."""
    column = np.zeros(_BINS // _FINE, np.intp)
    column[used] = np.arange(len(used))
    out = np.zeros((len(rows), len(used)))
    for image, (bins, counts) in enumerate(rows):
        out[image, column[bins]] = counts
    return out


def _areas(normal: NDArray[Any], weight: NDArray[Any], limit: float) -> tuple[Floats, Floats, Floats]:
    """Normalised area up to `limit` of each (..., K) histogram, with the lowest and highest the raw scores could have.

    AUROC is the case of weights = counts and limit = 1.
    """
    stop = np.cumsum(normal, axis=-1, dtype=np.float64)
    stop /= np.maximum(stop[..., -1:], 1.0)  # 0 where a bootstrap drew fully masked images only
    start = np.concatenate([np.zeros_like(stop[..., :1]), stop[..., :-1]], axis=-1)
    share = weight / weight.sum(axis=-1, keepdims=True)

    def integrate(begin: Floats, end: Floats) -> Floats:
        return np.asarray(np.sum(share * ramp_areas(begin, end, limit), axis=-1) / limit)

    return integrate(start, stop), integrate(stop, stop), integrate(start, start)


def _area_with_bound(normal: NDArray[Any], weight: NDArray[Any], limit: float) -> tuple[float, float, float]:
    value, low, high = (float(area) for area in _areas(normal, weight, limit))
    return value, low, high
