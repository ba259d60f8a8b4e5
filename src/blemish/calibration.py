"""From raw scores to a promise: conformal p-values and thresholds. The raw score is never changed.

Split conformal (Vovk et al. 2005; Lei et al. 2018): n good samples that the model has not seen give scores s_i. For a
new good sample, exchangeable with them, P(p <= alpha) <= alpha holds exactly, for every n and every distribution:
    p(s) = (1 + #{i: s_i >= s}) / (n + 1),   threshold = the ceil((n + 1)(1 - alpha))-th smallest s_i.
Fewer than 1/alpha - 1 samples cannot support the promise, and no threshold is made.

Cross conformal (Vovk 2015): with few samples, K models are fitted on K - 1 folds each and score the fold left out, and
the pooled scores calibrate the model fitted on all. Each fold model has seen less than the deployed one, so its scores
tend to be higher and the threshold tends to err on the good parts' side; but no finite-sample theorem covers the single
deployed model (for the ensemble of the K models the bound is about 2 alpha: Barber et al. 2021, Theorem 4).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Any, Literal

from blemish.errors import CalibrationError, ConfigError

Kind = Literal["split", "cross"]


def check_rate(alpha: float) -> None:
    """ConfigError unless 0 < alpha < 1."""
    if not 0 < alpha < 1:
        raise ConfigError(f"the false-alarm rate has to lie between 0 and 1, not {alpha}")


def images_needed(alpha: float) -> int:
    """The fewest held-out good samples that can promise the rate alpha: the least n with n >= 1/alpha - 1."""
    check_rate(alpha)
    return max(1, math.ceil(1 / alpha - 1 - 1e-9))


def conformal_threshold(scores: list[float], alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest score; CalibrationError where n is too small."""
    n, least = len(scores), images_needed(alpha)
    if n < least:
        raise CalibrationError(
            f"{n} good images cannot promise a false-alarm rate of {alpha:g}",
            hint=f"give at least {least} held-out good images, or ask for {1 / (n + 1):.3g} or more",
        )
    # the small constant keeps (19 + 1) * 0.95 = 19.000000000000004 from being rounded up to 20
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    return sorted(scores)[rank - 1]


@dataclass(frozen=True)
class Calibrator:
    """What the held-out good samples of one station say.

    `scores` and `peaks` (largest value of each anomaly map) are sorted; `alpha` is the promised false-alarm rate.
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    alpha: float
    kind: Kind = "split"

    @classmethod
    def fit(cls, scores: list[float], peaks: list[float], alpha: float, kind: Kind = "split") -> Calibrator:
        """CalibrationError where there are too few samples; DataError never: scores are finite by then."""
        if not all(map(math.isfinite, scores + peaks)):
            raise CalibrationError("a score of the held-out images is not finite")
        conformal_threshold(scores, alpha)
        return cls(tuple(sorted(scores)), tuple(sorted(peaks)), alpha, kind)

    @property
    def n(self) -> int:
        """Number of held-out good samples."""
        return len(self.scores)

    @property
    def threshold(self) -> float:
        """Scores above it are anomalous; exactly where p <= alpha."""
        return conformal_threshold(list(self.scores), self.alpha)

    @property
    def map_threshold(self) -> float:
        """Map values above it form regions: at most a share alpha of good samples shows any."""
        return conformal_threshold(list(self.peaks), self.alpha)

    def p_value(self, score: float) -> float:
        """Conformal p-value: the share of good samples, this one among them, that score at least as high."""
        return (1 + self.n - bisect.bisect_left(self.scores, score)) / (self.n + 1)

    @property
    def promise(self) -> str:
        """The sentence for people."""
        if self.kind == "split":
            return f"at most {self.alpha:.3g} of good parts rejected, from {self.n} held-out good images"
        return (
            f"about {self.alpha:.3g} of good parts rejected, from {self.n} good images in folds "
            "(no finite-sample guarantee for this kind)"
        )

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
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibrator:
        """The inverse of `to_json`."""
        return cls(tuple(values["scores"]), tuple(values["peaks"]), values["alpha"], values["kind"])
