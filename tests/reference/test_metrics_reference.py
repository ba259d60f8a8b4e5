"""Metrics against scikit-learn, and against the definitions written out without any shortcut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn import metrics as sk

from blemish.evaluation.metrics import (
    SaturatedRegion,
    aupro,
    auroc,
    average_precision,
    delong,
    delong_paired,
    f1_max,
    roc_curve,
    spro,
)


@st.composite
def ranked(draw):
    """Labels of both classes and scores, some of few values (ties), some of many, of either sign."""
    size = draw(st.integers(2, 40))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size).filter(lambda v: 0 < sum(v) < len(v)))
    value = draw(st.sampled_from([st.integers(-2, 2), st.integers(-50, 50), st.floats(-1e6, 1e6, width=32)]))
    return np.array(labels), np.array(draw(st.lists(value, min_size=size, max_size=size)), dtype=np.float64)


@given(ranked())
@settings(max_examples=150, deadline=None)
def test_ranking_equals_scikit_learn(case) -> None:
    y, s = case
    assert auroc(y, s) == pytest.approx(sk.roc_auc_score(y, s), abs=1e-12)
    assert average_precision(y, s) == pytest.approx(sk.average_precision_score(y, s), abs=1e-12)
    precision, recall, thresholds = sk.precision_recall_curve(y, s)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    value, threshold = f1_max(y, s)
    assert value == pytest.approx(f1.max(), abs=1e-12)
    assert threshold in thresholds
    fpr, tpr, thresholds = sk.roc_curve(y, s, drop_intermediate=False)
    curve = roc_curve(y, s)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-15)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-15)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


def area_to_limit(fpr, overlap, limit) -> float:
    """Trapezoids up to the limit; at a step (equal rates) the last point counts when coming from the left."""
    total = 0.0
    for x0, x1, y0, y1 in zip(fpr[:-1], fpr[1:], overlap[:-1], overlap[1:], strict=True):
        if x1 <= x0 or x0 >= limit:
            continue
        end = min(x1, limit)
        total += (end - x0) * (y0 + (y0 + (y1 - y0) * (end - x0) / (x1 - x0))) / 2
    return total / limit


def brute_force(maps, regions, normal, limit, saturations) -> float:
    """Visit every threshold, from none called anomalous to all."""
    thresholds = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    fpr, overlap = [0.0], [0.0]
    for threshold in thresholds:
        called = [m >= threshold for m in maps]
        false = sum((c & n).sum() for c, n in zip(called, normal, strict=True))
        fpr.append(false / sum(n.sum() for n in normal))
        shares = [
            min((called[image] & region).sum() / saturation, 1.0)
            for (image, region), saturation in zip(regions, saturations, strict=True)
        ]
        overlap.append(float(np.mean(shares)))
    return area_to_limit(fpr, overlap, limit)


def random_set(rng, levels):
    maps, masks = [], []
    for _ in range(rng.integers(1, 4)):
        size = tuple(rng.integers(4, 9, 2))
        maps.append((rng.integers(0, levels, size) / 4 - 3).astype(np.float32))
        masks.append(rng.random(size) < rng.choice([0.0, 0.1, 0.3]))
    masks[0][0, 0], masks[0][-1, -1] = True, False
    return maps, masks


@pytest.mark.parametrize("levels", [2, 6, 10_000])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_equals_every_threshold_visited(levels, limit) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(12):
        maps, masks = random_set(rng, levels)
        regions = []
        for image, mask in enumerate(masks):
            labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
            regions += [(image, labels == index + 1) for index in range(count)]
        want = brute_force(maps, regions, [~m for m in masks], limit, [r.sum() for _, r in regions])
        given_masks = [m if m.any() else None for m in masks]
        assert aupro(maps, given_masks, limit) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 6, 10_000])
def test_spro_equals_every_threshold_visited(levels) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(15):
        maps, masks = random_set(rng, levels)
        defects, regions, saturations = [], [], []
        for image, mask in enumerate(masks):
            parts = [mask, mask & (rng.random(mask.shape) < 0.6)]  # overlapping and scattered
            defects.append([])
            for part in parts:
                if not part.any():
                    continue
                relative = bool(rng.integers(2))
                saturation = float(rng.uniform(0.05, 1)) if relative else float(rng.uniform(0.5, 12))
                area = int(part.sum())
                saturations.append(max(int(saturation * area), 1) if relative else min(saturation, area))
                regions.append((image, part))
                defects[-1].append(SaturatedRegion(part.astype(np.uint8) * 255, saturation, relative))
        for limit in (0.05, 0.4):
            want = brute_force(maps, regions, [~m for m in masks], limit, saturations)
            assert spro(maps, defects, limit) == pytest.approx(want, abs=1e-12)


def delong_by_pairs(y, *vectors):
    """Covariance of AUROCs from all m n comparisons, DeLong 1988."""
    v10, v01 = [], []
    for s in vectors:
        a, b = s[y == 1][:, None], s[y == 0][None]
        wins = (a > b) + 0.5 * (a == b)
        v10.append(wins.mean(axis=1))
        v01.append(wins.mean(axis=0))
    m, n = len(v10[0]), len(v01[0])
    return np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n


def test_delong_variance_equals_all_pairs() -> None:
    rng = np.random.default_rng(11)
    for _ in range(20):
        y = np.repeat([1, 0], rng.integers(5, 40, 2))
        a, b = np.round(rng.normal(y, 1, (2, len(y))), 1)
        covariance = delong_by_pairs(y, a, b)
        one, value = delong(y, a), auroc(y, a)
        logit = [np.log(p / (1 - p)) for p in (one.low, one.high)]
        error = (logit[1] - logit[0]) / 2 / 1.959964 * value * (1 - value)
        assert error == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-6)
        two = delong_paired(y, a, b)
        want = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        assert (two.high - two.low) / 2 / 1.959964 == pytest.approx(want, rel=1e-6)
