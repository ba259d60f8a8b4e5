"""How sure a measured figure is: intervals of an AUROC, of a difference, of a proportion, and the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.errors import ConfigError, DataError
from blemish.evaluation.metrics.ranking import split_by_label

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and the interval [low, high] that holds the true one at the asked confidence level."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """AUROC of a minus AUROC of b, its interval, and the two-sided p-value of "no difference"."""

    value: float
    low: float
    high: float
    p_value: float


def check_level(level: float) -> None:
    """Raise ConfigError unless 0 < level < 1."""
    if not 0.0 < level < 1.0:
        raise ConfigError(f"the confidence level must lie in (0, 1), got {level}")


def _quantile(level: float) -> float:
    check_level(level)
    return NormalDist().inv_cdf(0.5 + level / 2)


def _components(positives: NDArray[Any], negatives: NDArray[Any]) -> tuple[Floats, Floats]:
    """Structural components: V10 (m,) of the anomalous and V01 (n,) of the good scores; each averages to the AUROC."""
    low, high = np.sort(positives), np.sort(negatives)
    below = np.searchsorted(high, positives, "left") + np.searchsorted(high, positives, "right")
    above = 2 * len(low) - np.searchsorted(low, negatives, "left") - np.searchsorted(low, negatives, "right")
    return below / (2 * len(high)), above / (2 * len(low))


def _variance(v10: Floats, v01: Floats) -> float:
    """Variance of mean(v10), eq. 5 of Sun & Xu; 0 where a class has one sample and none can be estimated."""
    if min(len(v10), len(v01)) < 2:
        return 0.0
    return float(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01))


def _surely_above(pairs: int, level: float) -> float:
    """Lower limit of an AUROC measured as 1 with `pairs` samples in the smaller class.

    `pairs` disjoint pairs are independent and all were in order, which has probability AUROC**pairs. No distribution
    does worse, and one does as badly: all the disorder in one rare kind of sample of the smaller class.
    """
    return float(((1 - level) / 2) ** (1 / pairs))


def _hoeffding(pairs: int, level: float) -> float:
    """Half-width for a mean of pair comparisons in [0, 1] (Hoeffding 1963, section 5b); holds without a variance."""
    return math.sqrt(math.log(2 / (1 - level)) / (2 * pairs))


def delong(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> Estimate:
    """AUROC of (N,) scores with its DeLong interval, formed on the logit scale so that it stays inside [0, 1].

    Where the data show no variance the interval is conservative instead, never a point: at AUROC 0 or 1 the exact
    limit of `_surely_above`, elsewhere (all scores equal, one sample in a class) Hoeffding's. Close to 1 it covers a
    little less than asked: 93 % instead of 95 % at a true AUROC of 0.993 with 60 + 60 normally distributed scores.
    Raises  DataError as `ranking.split_by_label`; ConfigError for a level outside (0, 1).
    Source  DeLong et al., Biometrics 1988; in O(N log N): Sun & Xu, IEEE Signal Processing Letters 2014.
    """
    z = _quantile(level)
    v10, v01 = _components(*split_by_label(labels, scores))
    value, variance = float(v10.mean()), _variance(v10, v01)
    pairs = min(len(v10), len(v01))
    if (v10 == 1).all():
        return Estimate(1.0, _surely_above(pairs, level), 1.0)
    if (v10 == 0).all():
        return Estimate(0.0, 0.0, 1 - _surely_above(pairs, level))
    if variance <= 0:
        margin = _hoeffding(pairs, level)
        return Estimate(value, max(value - margin, 0.0), min(value + margin, 1.0))
    logit = math.log(value / (1 - value))
    margin = z * math.sqrt(variance) / (value * (1 - value))
    low, high = (0.5 + 0.5 * math.tanh((logit + side) / 2) for side in (-margin, margin))  # tanh cannot overflow
    return Estimate(value, low, high)


def delong_paired(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, level: float = 0.95) -> Difference:
    """Compare two (N,) score vectors on the same samples; positive where `scores_a` rank better.

    Where the difference shows no variance the interval is conservative: two perfect rankings leave room for the exact
    limit of one, everything else gets Hoeffding's margin for a comparison in [-1, 1].
    Raises and source: as `delong`.
    """
    z = _quantile(level)
    a10, a01 = _components(*split_by_label(labels, scores_a))
    b10, b01 = _components(*split_by_label(labels, scores_b))
    value, variance = float(a10.mean() - b10.mean()), _variance(a10 - b10, a01 - b01)
    pairs = min(len(a10), len(a01))
    if variance > 0:
        error = math.sqrt(variance)
        margin, p_value = z * error, math.erfc(abs(value) / error / math.sqrt(2))
    elif (a10 == 1).all() and (b10 == 1).all():
        margin, p_value = 1 - _surely_above(pairs, level), 1.0
    else:
        margin, p_value = 2 * _hoeffding(pairs, level), min(2 * math.exp(-pairs * value**2 / 2), 1.0)
    return Difference(value, max(value - margin, -1.0), min(value + margin, 1.0), p_value)


def wilson(successes: int, trials: int, level: float = 0.95) -> Estimate:
    """A proportion, such as a false-alarm rate, with its score interval (Wilson, JASA 1927).

    Raises DataError for no trials or a count outside [0, trials]; ConfigError for a level outside (0, 1).
    """
    z = _quantile(level)
    if trials < 1 or not 0 <= successes <= trials:
        raise DataError(f"{successes} of {trials} is no proportion")
    share, shrink = successes / trials, 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    margin = z / shrink * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else centre - margin
    high = 1.0 if successes == trials else centre + margin
    return Estimate(share, low, high)


def percentile_interval(value: float, replicas: Floats, level: float = 0.95) -> Estimate:
    """Percentile interval of bootstrap replicas (B,), stretched to hold the value itself."""
    check_level(level)
    low, high = np.quantile(replicas, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value))


def bootstrap(
    statistic: Callable[[NDArray[Any], NDArray[Any]], float],
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    generator: np.random.Generator,
    replicas: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """`statistic(labels, scores)` with its percentile interval (Efron 1979); the two classes are resampled apart.

    It cannot see past its data: a perfect ranking yields a point. For an AUROC prefer `delong`.
    Raises DataError as `ranking.split_by_label`; ConfigError for a level outside (0, 1) or fewer than 2 replicas.
    """
    check_level(level)
    if replicas < 2:
        raise ConfigError(f"a bootstrap needs at least 2 replicas, got {replicas}")
    split_by_label(labels, scores)
    y, s = np.asarray(labels), np.asarray(scores)
    classes = [np.flatnonzero(y == label) for label in (0, 1)]
    values = np.empty(replicas)
    for index in range(replicas):
        chosen = np.concatenate([generator.choice(members, len(members)) for members in classes])
        values[index] = statistic(y[chosen], s[chosen])
    return percentile_interval(float(statistic(y, s)), values, level)
