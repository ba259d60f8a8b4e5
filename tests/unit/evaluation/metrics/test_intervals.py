from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import ConfigError, DataError
from blemish.evaluation.metrics import auroc, average_precision, bootstrap, delong, delong_paired, wilson


def draw(rng, m, n, gap):
    labels = np.repeat([1, 0], [m, n])
    return labels, rng.normal(labels * gap, 1.0)


def test_value_is_the_auroc_and_interval_holds_it() -> None:
    rng = np.random.default_rng(0)
    for m, n in ((5, 90), (40, 40), (300, 20)):
        y, s = draw(rng, m, n, 1.0)
        got = delong(y, np.round(s, 1))
        assert got.value == pytest.approx(auroc(y, np.round(s, 1)))
        assert 0 < got.low < got.value < got.high < 1


@pytest.mark.parametrize("gap", [0.5, 1.5, 2.3])
def test_delong_covers_at_its_level(gap) -> None:
    """AUROC of two unit normals is Phi(gap / sqrt 2); 600 draws put 3 standard errors at 2.7 points."""
    from statistics import NormalDist

    truth, rng = NormalDist().cdf(gap / np.sqrt(2)), np.random.default_rng(4)
    hits = 0
    for _ in range(600):
        got = delong(*draw(rng, 45, 60, gap))
        hits += got.low <= truth <= got.high
    assert 0.92 <= hits / 600 <= 0.98


def test_perfect_ranking_has_the_exact_lower_limit() -> None:
    y = np.repeat([1, 0], [30, 50])
    got = delong(y, y)
    assert got.low == pytest.approx(0.025 ** (1 / 30))
    assert (got.value, got.high) == (1.0, 1.0)
    assert delong(y, 1 - y) == pytest.approx((0.0, 0.0, 1 - got.low))


def test_exact_limit_is_attained_by_the_worst_case() -> None:
    """A share q of the smaller class lies below everything: the AUROC is 1 - q, all 30 in order with (1 - q)**30."""
    low = delong(np.repeat([1, 0], [30, 50]), np.repeat([1, 0], [30, 50])).low
    assert low**30 == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([1, 1, 0, 0], [3, 3, 3, 3]), ([1, 0], [2, 1]), ([1, 0, 0, 0], [2, 1, 3, 4]), ([1, 0], [1, 1])],
)
def test_never_a_point(labels, scores) -> None:
    got = delong(labels, scores)
    assert got.low <= got.value <= got.high
    assert got.high - got.low > 0.5


def test_extreme_values_do_not_overflow() -> None:
    y = np.repeat([1, 0], [2, 20_000])
    s = np.concatenate([[3.0, 1.0], np.zeros(19_999), [2.0]])
    got = delong(y, s)
    assert 0 <= got.low < got.value < got.high <= 1


def test_paired_is_antisymmetric_and_narrower_than_apart() -> None:
    rng = np.random.default_rng(5)
    y, a = draw(rng, 60, 80, 1.0)
    b = a + rng.normal(0, 0.3, len(a))
    ab, ba = delong_paired(y, a, b), delong_paired(y, b, a)
    assert ab.value == pytest.approx(auroc(y, a) - auroc(y, b))
    assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low))
    assert ab.p_value == pytest.approx(ba.p_value)
    assert ab.high - ab.low < delong(y, a).high - delong(y, a).low


def test_paired_p_value_is_uniform_under_no_difference() -> None:
    rng, small = np.random.default_rng(6), 0
    for _ in range(500):
        y, hidden = draw(rng, 50, 50, 1.0)
        a, b = hidden + rng.normal(0, 1, 100), hidden + rng.normal(0, 1, 100)
        small += delong_paired(y, a, b).p_value < 0.1
    assert 0.06 <= small / 500 <= 0.14


def test_paired_interval_excludes_zero_exactly_when_p_is_small() -> None:
    rng = np.random.default_rng(7)
    seen = set()
    for gap in (0.0, 0.5, 1.0, 2.0):
        y, b = draw(rng, 50, 50, 0.5)
        got = delong_paired(y, b + gap * y, b)
        seen.add(got.p_value < 0.05)
        if gap:
            assert (got.low > 0 or got.high < 0) == (got.p_value < 0.05)
    assert seen == {True, False}


def test_paired_without_variance_is_no_point() -> None:
    y = np.repeat([1, 0], [20, 20])
    rng = np.random.default_rng(0)
    same = rng.random(40)
    for a, b in ((y, y * 2), (same, same), (y, 1 - y), (y * 0, y)):
        got = delong_paired(y, a, b)
        assert got.high > got.low
        assert got.low <= got.value <= got.high
        assert (got.p_value == 1.0) == (got.value == 0)


def test_wilson_known_values_and_ends() -> None:
    assert wilson(10, 100) == pytest.approx((0.1, 0.0552291, 0.1743657), abs=1e-6)
    assert wilson(0, 20).low == 0.0
    assert wilson(0, 20).high == pytest.approx(0.1611252, abs=1e-6)
    assert wilson(20, 20).high == 1.0
    assert wilson(20, 20).low == pytest.approx(1 - wilson(0, 20).high)


def test_bootstrap_is_seeded_and_near_delong() -> None:
    y, s = draw(np.random.default_rng(8), 60, 80, 1.0)
    got = bootstrap(auroc, y, s, generator=np.random.default_rng(1), replicas=400)
    assert got == bootstrap(auroc, y, s, generator=np.random.default_rng(1), replicas=400)
    assert (got.low, got.high) == pytest.approx(delong(y, s)[1:], abs=0.02)
    other = bootstrap(average_precision, y, s, generator=np.random.default_rng(1), replicas=50)
    assert other.low < other.value == average_precision(y, s) < other.high


def test_refuses() -> None:
    for level in (0.0, 1.0, 95):
        with pytest.raises(ConfigError, match="level"):
            delong([0, 1], [0, 1], level)
    with pytest.raises(DataError, match="no sample is anomalous"):
        delong([0, 0], [0, 1])
    with pytest.raises(ConfigError, match="replicas"):
        bootstrap(auroc, [0, 1], [0, 1], generator=np.random.default_rng(0), replicas=1)
    for successes, trials in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(DataError, match="no proportion"):
            wilson(successes, trials)
