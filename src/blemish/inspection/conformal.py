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
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

from blemish.errors import CalibrationError, ConfigError

Kind = Literal["split", "cross", "leave_one_out"]


def check_rate(alpha: float) -> None:
    """ConfigError unless 0 < alpha < 1."""
    if not 0 < alpha < 1:
        raise ConfigError(f"the false-alarm rate has to lie between 0 and 1, not {alpha}")


def images_needed(alpha: float) -> int:
    """The fewest held-out good samples (or units) that can promise the rate alpha: the least n >= 1/alpha - 1."""
    check_rate(alpha)
    return max(1, math.ceil(1 / alpha - 1 - 1e-9))


def conformal_threshold(scores: Sequence[float], alpha: float, units: Sequence[int] = ()) -> float:
    """The smallest score that at least (n + 1)(1 - alpha) of the n units do not exceed.

    `units` (N,) numbers each score's unit; empty = every score is a unit, and this is the ceil((n + 1)(1 - alpha))-th
    smallest. CalibrationError where n is too small.
    """
    return _Line(scores, units).threshold(alpha)


class _Line:
    """Sorted values with the weights of their units summed up."""

    def __init__(self, values: Sequence[float], units: Sequence[int]) -> None:
        sizes = Counter(units)
        pairs = sorted(zip(values, [1 / sizes[u] for u in units] if units else [1.0] * len(values), strict=True))
        self.values = [value for value, _ in pairs]
        self.below = [0.0, *accumulate(weight for _, weight in pairs)]  # weight of the first k values
        self.units = len(sizes) or len(values)
        self.what = "good images" if self.units == len(values) else "units of good images"

    def threshold(self, alpha: float) -> float:
        least = images_needed(alpha)
        if self.units < least:
            instead = f", or ask for {1 / (self.units + 1):.3g} or more" if self.units else ""
            raise CalibrationError(
                f"{self.units} {self.what} cannot promise a false-alarm rate of {alpha:g}",
                hint=f"give at least {least} held-out {self.what}{instead}",
            )
        # the small constant keeps (19 + 1) * 0.95 = 19.000000000000004 from being rounded up to 20
        rank = bisect.bisect_left(self.below, (self.units + 1) * (1 - alpha) - 1e-9)
        return self.values[min(max(rank, 1), len(self.values)) - 1]

    def p_value(self, value: float) -> float:
        under = self.below[bisect.bisect_left(self.values, value)]
        return min((1 + self.units - under) / (self.units + 1), 1.0)


@dataclass(frozen=True)
class Calibrator:
    """What the held-out good samples of one station say.

    `scores` are sorted, `peaks` (largest value of each anomaly map) and `units` (its unit's number; empty = each image
    is one) go with them; `alpha` is the promised false-alarm rate, `per_unit` what it is counted by. `ids` tell the
    images again: an evaluation on them would prove nothing.
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    alpha: float
    kind: Kind = "split"
    units: tuple[int, ...] = ()
    per_unit: bool = False
    ids: tuple[str, ...] = ()

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
    ) -> Calibrator:
        """CalibrationError where there are too few samples, or a score that is not finite."""
        if not all(map(math.isfinite, [*scores, *peaks])):
            raise CalibrationError("a score of the held-out images is not finite")
        conformal_threshold(scores, alpha, units if per_unit else ())
        if len(set(units)) == len(scores):
            units = ()
        rows = sorted(zip(scores, peaks, units or [0] * len(scores), strict=True))
        return cls(
            tuple(s for s, _, _ in rows),
            tuple(p for _, p, _ in rows),
            alpha,
            kind,
            tuple(u for _, _, u in rows) if units else (),
            per_unit,
            tuple(sorted(set(ids))),
        )

    def again(self, alpha: float) -> Calibrator:
        """The same held-out samples under another rate; CalibrationError where they are too few for it."""
        return Calibrator.fit(self.scores, self.peaks, alpha, self.kind, self.units, self.per_unit, self.ids)

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

    @cached_property
    def threshold(self) -> float:
        """Scores above it are anomalous; exactly where p <= alpha."""
        return self._scores.threshold(self.alpha)

    @cached_property
    def wide_threshold(self) -> float:
        """The threshold counted by units, whatever the promise is counted by; where they are too few for the rate, the
        largest held-out score. For alarms that a new unit, which differs from those seen, is not to set off.
        """
        if not self.units:
            return self.threshold
        if len(set(self.units)) < images_needed(self.alpha):
            return self.scores[-1]
        return conformal_threshold(self.scores, self.alpha, self.units)

    @cached_property
    def map_threshold(self) -> float:
        """Map values above it form regions: at most a share alpha of good samples shows any."""
        return conformal_threshold(self.peaks, self.alpha, self._counted)

    def p_value(self, score: float) -> float:
        """Conformal p-value: the share of good samples, this one among them, that score at least as high."""
        return self._scores.p_value(score)

    @property
    def promise(self) -> str:
        """The sentence for people."""
        if self.exact:
            return f"at most {self.alpha:.3g} of good parts rejected, from {self.source}"
        return f"about {self.alpha:.3g} of good parts rejected, from {self.source} (no finite-sample guarantee)"

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
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibrator:
        """The inverse of `to_json`."""
        scores, peaks, units, ids = (tuple(values[key]) for key in ("scores", "peaks", "units", "ids"))
        return cls(scores, peaks, values["alpha"], values["kind"], units, values["per_unit"], ids)
