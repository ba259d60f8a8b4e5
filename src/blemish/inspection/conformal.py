"""From raw scores to a promise: conformal p-values and thresholds. The raw score is never changed.

Split conformal (Vovk et al. 2005; Lei et al. 2018): n good samples that the model has not seen give scores s_i. For a
new good sample, exchangeable with them, P(p <= alpha) <= alpha holds exactly, for every n and every distribution:
    p(s) = (1 + #{i: s_i >= s}) / (n + 1),   threshold = the ceil((n + 1)(1 - alpha))-th smallest s_i.
Fewer than 1/alpha - 1 samples cannot support the promise, and no threshold is made.

Units. Several images of one physical thing (tile, module, patient) are alike, so images are not exchangeable, but units
are. Counted per image, the formula above then holds about, not exactly (docs/results/promise.md measures it). Counted
per unit, every unit has weight one, shared by its images, and n counts units (hierarchical conformal prediction, Lee,
Barber and Willett 2023, Theorem 1: the exact guarantee for an image of a new unit):
    p(s) = (1 + sum over units of the share of its images with s_i >= s) / (n + 1).
With one image to each unit the two are the same. Few units make the exact promise very strict.

Cross conformal (Vovk 2015): with few samples, K models are fitted on K - 1 folds each and score the fold left out, and
the pooled scores calibrate the model fitted on all. Each fold model has seen less than the deployed one, so its scores
tend to be higher and the threshold tends to err on the good parts' side; but no finite-sample theorem covers the single
deployed model (for the ensemble of the K models the bound is about 2 alpha: Barber et al. 2021, Theorem 4).

Leave-one-out: the same with as many folds as there are samples (the jackknife), where a method gives each sample's
score without it directly from what it has learned. Those models have seen all but one sample, so their scores are
nearly those of new ones, and the threshold errs less. A theorem needs the ensemble here too (the jackknife+, Barber et
al. 2021), or a model that one sample hardly changes (Steinberger and Leeb 2023).

Regions are cut where a map exceeds a threshold of its own, with a promise of its own. Per image: the formula above on
the largest value of each good map, so at most a share alpha of good images shows any region. Per area: each image has
weight one, shared by its pixels; the same sum over units then bounds the expected share of a good image's area that is
above (conformal risk control, Angelopoulos et al. 2024, with the share as the risk).

Several statistics of one image (a score for each named area, the limit of its rules) get one threshold each and one
promise together: `joint_thresholds`.

Confidence. All of this holds on average over choices of the held-out samples; the one threshold that is used may lie
above. With a confidence c its own rate is at most alpha, except with probability 1 - c over that choice (Vovk 2012): of
n scores r may lie above, r the largest number with P(Bin(n, alpha) <= r) <= 1 - c; that is P(Beta(r + 1, n - r)
> alpha), of the rate of a threshold with r scores above. Shares of an area or of a unit's images are not 0 or 1: of
them the sum that may lie above is bounded by Hoeffding's and Bentkus' inequalities (Bates et al. 2021), with the same
n at the least. Folds and leave-one-out have no such theorem, nor have the images of units counted one by one.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from blemish.errors import CalibrationError, ConfigError

Kind = Literal["split", "cross", "leave_one_out"]
RegionPer = Literal["image", "area"]
Decide = Literal["score", "rules", "both"]

TAIL = (0.0, *(2 ** (k / 4) for k in range(-56, 1)))
"""Shares of an image's area of which `Further.tail` holds the values that they exceed."""


class Further(NamedTuple):
    """What is known of a held-out good image beside its score and the largest value of its map."""

    tail: tuple[float, ...] = ()  # for each share of TAIL the value that at most this share of its area exceeds
    areas: tuple[float, ...] = ()  # the largest value of its map in each named area
    limit: float | None = None  # the map threshold from which on no rule fires


@dataclass(frozen=True)
class Regions:
    """How regions are cut, and what decides about an image.

    rate    of good images that show a region or fire a rule, or of good area; None = the false-alarm rate
    per     what the rate counts, where there are no rules
    decide  the image score (with named areas: their scores), the rules, or both together
    """

    rate: float | None = None
    per: RegionPer = "image"
    decide: Decide = "score"

    def __post_init__(self) -> None:
        if self.rate is not None:
            check_rate(self.rate)
            if self.decide != "score":
                message = f"a region rate of {self.rate:g} says nothing where rules decide"
                raise ConfigError(message, hint="the false-alarm rate is theirs; leave region_rate out")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_rate(alpha: float) -> None:
    """ConfigError unless 0 < alpha < 1."""
    if not 0 < alpha < 1:
        raise ConfigError(f"the false-alarm rate has to lie between 0 and 1, not {alpha}")


def check_confidence(confidence: float | None) -> None:
    """ConfigError unless 0.5 <= confidence < 1, or None."""
    if confidence is not None and not 0.5 <= confidence < 1:
        message = f"the confidence has to be at least 0.5 and less than 1, not {confidence}"
        raise ConfigError(message, hint="0.95 is 95 % sure; leave it out for a promise that holds on average")


def sure(confidence: float) -> str:
    """The words for people: 95 % sure."""
    return f"{100 * confidence:.6g} % sure"


def uncertain(confidence: float, *, by_units: bool) -> CalibrationError:
    """That no theorem gives this confidence: for folds and samples left out once, or for units of several images."""
    if by_units:
        message, hint = "counted by images, of which several show one thing,", "count by units (--promise-per unit)"
    else:
        message, hint = "made of images that are learned from,", "hold some out: calibration split (--calibration)"
    return CalibrationError(f"a threshold {message} cannot be {sure(confidence)}", hint=hint)


def images_needed(alpha: float, confidence: float | None = None, together: int = 1) -> int:
    """The fewest held-out good samples (or units) that can promise the rate alpha: the least n >= 1/alpha - 1, with a
    confidence c the least n with 1 - (1 - alpha)^n >= c. With so many, `together` thresholds can keep one promise."""
    check_rate(alpha)
    if confidence is None:
        return max(1, math.ceil(together / alpha - 1 - 1e-9))
    n = math.ceil(math.log(1 - confidence) / math.log1p(-alpha) - 1e-9)
    while _allowed(n, alpha, confidence) < together - 1:
        n += 1
    return n


def _allowed(n: int, alpha: float, confidence: float) -> int:
    """The largest r with P(Bin(n, alpha) <= r) <= 1 - confidence; -1 where there is none."""
    r, tail, most = -1, 0.0, (1 - confidence) * (1 + 1e-9)
    while r < n:
        k = r + 1
        choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        tail += math.exp(choose + k * math.log(alpha) + (n - k) * math.log1p(-alpha))
        if tail > most:
            break
        r = k
    return r


def _allowed_sum(n: int, alpha: float, confidence: float) -> float:
    """How large the sum of n shares in [0, 1] may be, so that with this confidence their mean is at most alpha: the
    larger of Bentkus' and Hoeffding's bound. At least `images_needed` are given."""
    bentkus = _allowed(n, alpha, 1 - (1 - confidence) / math.e)
    need = -math.log(1 - confidence) / n
    low, high = 0.0, alpha
    for _ in range(60):
        mean = (low + high) / 2
        # the Kullback-Leibler divergence of Bernoulli variables, mean from alpha
        apart = mean * math.log(mean / alpha) + (1 - mean) * math.log((1 - mean) / (1 - alpha))
        low, high = (mean, high) if apart >= need else (low, mean)
    return max(float(bentkus), n * low)


def conformal_threshold(
    scores: Sequence[float], alpha: float, units: Sequence[int] = (), confidence: float | None = None
) -> float:
    """The smallest score that at least (n + 1)(1 - alpha) of the n units do not exceed, or with a confidence as many as
    it takes.

    `units` (N,) numbers each score's unit; empty = every score is a unit, and this is the ceil((n + 1)(1 - alpha))-th
    smallest. CalibrationError where n is too small.
    """
    return _Line(scores, units).threshold(alpha, confidence)


def _too_few(n: int, what: str, alpha: float, confidence: float | None, together: int = 1) -> CalibrationError:
    over = f" over {together} thresholds together" if together > 1 else ""
    sure = "" if confidence is None else f" with confidence {confidence:g}"
    instead = ""
    if n and together == 1:
        possible = 1 / (n + 1) if confidence is None else 1 - (1 - confidence) ** (1 / n)
        instead = f", or ask for {possible:.3g} or more"
    return CalibrationError(
        f"{n} {what} cannot promise a false-alarm rate of {alpha:g}{over}{sure}",
        hint=f"give at least {images_needed(alpha, confidence, together)} held-out {what}{instead}",
    )


class _Line:
    """Sorted values with the weights of their units summed up."""

    def __init__(self, values: Sequence[float], units: Sequence[int], tails: Sequence[Sequence[float]] = ()) -> None:
        """With `tails` the values of an image are those, spread over its area, in place of the one in `values`."""
        sizes = Counter(units)
        weights = [1 / sizes[u] for u in units] if units else [1.0] * len(values)
        pairs = list(zip(values, weights, strict=True))
        if tails:
            shares = [more - less for less, more in zip(TAIL, (*TAIL[1:], 1.0), strict=True)]
            rows = zip(tails, weights, strict=True)
            pairs = [(v, weight * share) for tail, weight in rows for v, share in zip(tail, shares, strict=True)]
        pairs.sort()
        self.values = [value for value, _ in pairs]
        self.below = [0.0, *accumulate(weight for _, weight in pairs)]  # weight of the first k values
        self.units = len(sizes) or len(values)
        self.whole = not tails and self.units == len(values)  # each unit is above a threshold, or is not
        self.what = "good images" if self.units == len(values) else "units of good images"

    def threshold(self, alpha: float, confidence: float | None = None) -> float:
        if self.units < images_needed(alpha, confidence):
            raise _too_few(self.units, self.what, alpha, confidence)
        if confidence is None:
            least = (self.units + 1) * (1 - alpha)
        else:
            least = self.units - (_allowed if self.whole else _allowed_sum)(self.units, alpha, confidence)
        # the small constant keeps (19 + 1) * 0.95 = 19.000000000000004 from being rounded up to 20
        rank = bisect.bisect_left(self.below, least - 1e-9)
        return self.values[min(max(rank, 1), len(self.values)) - 1]

    def p_value(self, value: float) -> float:
        under = self.below[bisect.bisect_left(self.values, value)]
        return min((1 + self.units - under) / (self.units + 1), 1.0)


def joint_thresholds(
    columns: Sequence[Sequence[float]], alpha: float, units: Sequence[int] = (), confidence: float | None = None
) -> tuple[float, ...]:
    """Thresholds of K statistics (K, N), so that at most a share alpha of new good images exceeds any of them.

    The images are ranked in each statistic; the smallest of an image's p-values is what decides, and how small it may
    be is calibrated on the same images, without a split and without Bonferroni's K. Proof: let the depth of statistic
    k be d_k, and call an image deep where in some k at most d_k images, itself among them, are as large. Which of n + 1
    images are deep does not depend on their order, so with the deepest depths that leave at most alpha (n + 1) of them
    deep, the new image is deep with probability alpha or less. It exceeds the d_k-th largest of the other n only where
    it is deep; then it takes one of the d_k places of statistic k, so that of the n others the first d_k - 1 in k and
    the first d_l in every other l are deep at most. Depths at which those, and the new image, are no more than
    alpha (n + 1) for every k are therefore never deeper than the exact ones. With K = 1 this is `conformal_threshold`.

    Depths grow one statistic after the other, as long as that holds. Images of one unit (`units`, (N,)) count as one,
    by their largest values: an image of a new unit keeps the promise if its whole unit does. CalibrationError where
    there are too few images to look at each statistic at all: K / alpha - 1 are always enough.

    With a confidence the image with the largest value of one statistic after the other is taken out, r + 1 in all, and
    the last value taken out of each is its threshold. The share of new images in what was cut off is that of r + 1
    blocks of Tukey (1947), Beta(r + 1, n - r) as with one statistic, whatever was cut first.
    """
    if units:
        at: dict[int, list[int]] = {}
        for i, unit in enumerate(units):
            at.setdefault(unit, []).append(i)
        columns = [[max(column[i] for i in rows) for rows in at.values()] for column in columns]
    count, n = len(columns), len(columns[0])
    what = "units of good images" if units else "good images"
    if confidence is not None:
        if n < images_needed(alpha, confidence, count):
            raise _too_few(n, what, alpha, confidence, count)
        left, cut = set(range(n)), [math.inf] * count
        for step in range(_allowed(n, alpha, confidence) + 1):
            column = columns[step % count]
            largest = max(left, key=lambda i: (column[i], i))  # noqa: B023 (used at once)
            left.remove(largest)
            cut[step % count] = column[largest]
        return tuple(cut)
    rising = [sorted(column) for column in columns]
    # which images have each rank; equal ones all take the last of their places
    at_rank: list[dict[int, list[int]]] = [{} for _ in columns]
    for column, row, places in zip(columns, rising, at_rank, strict=True):
        for i, value in enumerate(column):
            places.setdefault(n - bisect.bisect_left(row, value), []).append(i)
    depths, deep = [0] * count, Counter[int]()  # in how many statistics an image is deep
    for step in range(count * n):
        k = step % count
        deeper = [d + (j == k) for j, d in enumerate(depths)]
        deep.update(at_rank[k].get(deeper[k], ()))
        # a new image that is deep in j takes a place there: who holds the last one, and is deep nowhere else, is not
        last = (sum(deep[i] == 1 for i in at_rank[j].get(d, ())) for j, d in enumerate(deeper) if d)
        if 1 + len(deep) - min(last) > alpha * (n + 1) + 1e-9:
            break
        depths = deeper
    if min(depths) < 1:
        raise _too_few(n, what, alpha, None, count)
    return tuple(row[n - depth] for row, depth in zip(rising, depths, strict=True))


@dataclass(frozen=True)
class Calibrator:
    """What the held-out good samples of one station say.

    `scores` are sorted, `peaks` (largest value of each anomaly map) and `units` (its unit's number; empty = each image
    is one) go with them; `alpha` is the promised false-alarm rate, `per_unit` what it is counted by. `ids` tell the
    images again: an evaluation on them would prove nothing. `regions` says how regions are cut and what decides,
    `further` what that needs of each image; empty = nothing more is known of them. With a `confidence` each promise
    holds for this threshold with that certainty; None = on average over choices of the held-out samples.
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    alpha: float
    kind: Kind = "split"
    units: tuple[int, ...] = ()
    per_unit: bool = False
    ids: tuple[str, ...] = ()
    regions: Regions = Regions()
    further: tuple[Further, ...] = ()
    confidence: float | None = None

    @classmethod
    def fit(
        cls,
        scores: Sequence[float],
        peaks: Sequence[float],
        alpha: float,
        kind: Kind = "split",
        units: Sequence[int] = (),
        per_unit: bool = False,
        ids: Sequence[str] = (),
        regions: Regions = Regions(),  # noqa: B008 (frozen)
        further: Sequence[Further] = (),
        confidence: float | None = None,
    ) -> Calibrator:
        """CalibrationError where there are too few samples, a score that is not finite, or a confidence that no theorem
        gives."""
        check_confidence(confidence)
        if not all(map(math.isfinite, [*scores, *peaks])):
            raise CalibrationError("a score of the held-out images is not finite")
        conformal_threshold(scores, alpha, units if per_unit else (), confidence)
        if len(set(units)) == len(scores):
            units = ()
        columns = zip(scores, peaks, units or [0] * len(scores), further or [Further()] * len(scores), strict=True)
        rows = sorted(columns, key=lambda row: row[:3])
        made = cls(
            tuple(row[0] for row in rows),
            tuple(row[1] for row in rows),
            alpha,
            kind,
            tuple(row[2] for row in rows) if units else (),
            per_unit,
            tuple(sorted(set(ids))),
            regions,
            tuple(row[3] for row in rows) if any(row[3] != Further() for row in rows) else (),
            confidence,
        )
        made.check()
        return made

    def again(self, alpha: float, regions: Regions | None = None, confidence: float | None = None) -> Calibrator:
        """The same held-out samples under another rate, with regions cut as before or otherwise, and with another
        confidence where one is given.

        CalibrationError where they are too few for it, or where what `regions` ask for is not known of them.
        """
        given, certain = regions or self.regions, self.confidence if confidence is None else confidence
        return Calibrator.fit(
            self.scores, self.peaks, alpha, self.kind, self.units, self.per_unit, self.ids, given, self.further, certain
        )

    def check(self) -> None:
        """CalibrationError where one of the promises cannot be made."""
        if self.confidence is not None and not self.exact:
            raise uncertain(self.confidence, by_units=self.kind == "split")
        if self.regions.per == "area" and not self.ruled and not all(f.tail for f in self.further or [Further()]):
            message = "nothing is known of how large an area of the good images is above a map threshold"
            raise CalibrationError(message, hint="give good images to calibrate from")
        if self.regions.decide != "score" and not self.ruled:
            raise CalibrationError("rules are to decide, and there is none", hint="decide score, or give rules")
        _ = self.map_threshold, self.area_thresholds

    @property
    def ruled(self) -> bool:
        """Whether regions are cut where rules are kept."""
        return bool(self.further) and self.further[0].limit is not None

    @cached_property
    def _limits(self) -> list[float]:
        return [0.0 if f.limit is None else f.limit for f in self.further]

    @cached_property
    def _scores(self) -> _Line:
        return _Line(self.scores, self._counted)

    @property
    def _counted(self) -> tuple[int, ...]:
        return self.units if self.per_unit else ()

    @property
    def n(self) -> int:
        """Number of held-out good samples."""
        return len(self.scores)

    @property
    def above(self) -> int:
        """How many of the held-out scores, all different and of a unit each, lie above their threshold."""
        if self.confidence is not None:
            return _allowed(self.n, self.alpha, self.confidence)
        return self.n - math.ceil((self.n + 1) * (1 - self.alpha) - 1e-9)

    @cached_property
    def threshold(self) -> float:
        """Scores above it are anomalous; exactly where p <= alpha, unless rules decide together with the score, or a
        confidence allows fewer."""
        if self._together and not self._areas:
            return self._together[0]
        return self._scores.threshold(self.alpha, self.confidence)

    @cached_property
    def _areas(self) -> list[list[float]]:
        """(K, N): the largest values of the maps in each named area."""
        return [list(column) for column in zip(*(f.areas for f in self.further), strict=True)]

    @cached_property
    def _together(self) -> tuple[float, ...]:
        """Thresholds of the score, or of each named area, and of the rules, where they decide together."""
        if self.regions.decide != "both":
            return ()
        columns = self._areas or [list(self.scores)]
        return joint_thresholds([*columns, self._limits], self.alpha, self._counted, self.confidence)

    @cached_property
    def area_thresholds(self) -> tuple[float, ...]:
        """For each named area the largest value of its map above which a part is anomalous; one promise over all."""
        if not self._areas:
            return ()
        return self._together[:-1] or joint_thresholds(self._areas, self.alpha, self._counted, self.confidence)

    @cached_property
    def wide_threshold(self) -> float:
        """The threshold counted by units, whatever the promise is counted by; where they are too few for the rate, the
        largest held-out score. For alarms that a new unit, which differs from those seen, is not to set off.
        """
        if not self.units:
            return self.threshold
        if len(set(self.units)) < images_needed(self.alpha, self.confidence):
            return self.scores[-1]
        return conformal_threshold(self.scores, self.alpha, self.units, self.confidence)

    @property
    def region_rate(self) -> float:
        """The share of good images, or of good area, that `map_threshold` is made for."""
        return self.alpha if self.regions.rate is None else self.regions.rate

    @cached_property
    def map_threshold(self) -> float:
        """Map values above it form regions: at most a share `region_rate` of good samples shows any, or fires a rule,
        or at most this share of their area is above.
        """
        if self._together:
            return self._together[-1]
        if self.ruled:
            return conformal_threshold(self._limits, self.region_rate, self._counted, self.confidence)
        if self.regions.per == "area":
            tails = [f.tail for f in self.further]
            return _Line(self.peaks, self._counted, tails).threshold(self.region_rate, self.confidence)
        return conformal_threshold(self.peaks, self.region_rate, self._counted, self.confidence)

    @property
    def map_threshold_per(self) -> str:
        """What `region_rate` counts: image, area, or rules (images that fire one)."""
        return "rules" if self.ruled else self.regions.per

    @cached_property
    def colour_threshold(self) -> float:
        """Where heat maps take on full colour: that of images at the false-alarm rate, however regions are cut."""
        return conformal_threshold(self.peaks, self.alpha, self._counted, self.confidence)

    def p_value(self, score: float) -> float:
        """Conformal p-value: the share of good samples, this one among them, that score at least as high."""
        return self._scores.p_value(score)

    @property
    def promise(self) -> str:
        """The sentence for people."""
        return self._sentence(self.alpha, f"of good parts rejected{self._by}")

    def _sentence(self, rate: float, what: str) -> str:
        if self.confidence is not None:
            return f"{sure(self.confidence)}: at most {100 * rate:.3g} % {what}, from {self.source}"
        if self.exact:
            return f"at most {rate:.3g} {what}, from {self.source}"
        return f"about {rate:.3g} {what}, from {self.source} (no finite-sample guarantee)"

    @property
    def _by(self) -> str:
        """What rejects, where it is not the image score."""
        areas = f"one of {len(self._areas)} areas" if self._areas else ""
        if self.regions.decide == "both":
            return f" by {areas or 'score'} or rules together"
        return " by the rules" if self.regions.decide == "rules" else f" by {areas} together" if areas else ""

    @property
    def region_promise(self) -> str:
        """The sentence about regions."""
        if self._together:
            return f"regions are cut above {self.map_threshold:.4g}, where rules and score together keep their promise"
        what = {
            "image": "of good images show a region",
            "area": "of good area lies in regions, on average",
            "rules": "of good images fire a rule",
        }[self.map_threshold_per]
        return self._sentence(self.region_rate, what)

    @property
    def source(self) -> str:
        """What the threshold was made from, for people."""
        units = f" of {len(set(self.units))} units" if self.units else ""
        if self.kind == "split":
            return f"{self.n} held-out good images{units}"
        return f"{self.n} good images{units}" + (" in folds" if self.kind == "cross" else ", each left out once")

    @property
    def exact(self) -> bool:
        """Whether the rate is guaranteed for every n and distribution, or holds about."""
        return self.kind == "split" and (self.per_unit or not self.units)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "alpha": self.alpha,
            "n": self.n,
            "threshold": self.threshold,
            "map_threshold": self.map_threshold,
            "scores": list(self.scores),
            "peaks": list(self.peaks),
            "units": list(self.units),
            "per_unit": self.per_unit,
            "ids": list(self.ids),
            "map_threshold_per": self.map_threshold_per,
            "region_rate": self.region_rate,
            **({} if self.regions == Regions() else {"regions": self.regions.to_json()}),
            **({"further": [list(f) for f in self.further]} if self.further else {}),
            **({"area_thresholds": list(self.area_thresholds)} if self._areas else {}),
            **({} if self.confidence is None else {"confidence": self.confidence}),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibrator:
        """The inverse of `to_json`; what earlier versions did not write has its default."""
        scores, peaks, units, ids = (tuple(values[key]) for key in ("scores", "peaks", "units", "ids"))
        further = tuple(Further(tuple(tail), tuple(areas), limit) for tail, areas, limit in values.get("further", ()))
        regions = Regions(**values.get("regions", {}))
        per_unit, confidence = values["per_unit"], values.get("confidence")
        return cls(scores, peaks, values["alpha"], values["kind"], units, per_unit, ids, regions, further, confidence)
