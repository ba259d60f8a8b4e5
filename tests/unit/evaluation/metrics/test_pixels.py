from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import ConfigError, DataError
from blemish.evaluation.metrics import (
    PixelCounts,
    SaturatedRegion,
    aupro,
    aupro_paired,
    auroc,
    average_precision,
    f1_max,
    spro,
)

SIZES = [(17, 23), (30, 11), (8, 8), (25, 25), (12, 40), (19, 19)]


def make(seed: int, steps: float | None = None, shift: float = 0.0):
    """Maps of different sizes with boxes as defects; `steps` makes many of their values equal."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for index, size in enumerate(SIZES * 3):
        values = rng.gamma(2.0, 1.0, size) - shift
        mask = np.zeros(size, np.uint8)
        for _ in range(index % 3):
            y, x = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
            mask[y : y + rng.integers(1, 7), x : x + rng.integers(1, 7)] = 255
        values += mask / 255 * rng.random() * 3
        maps.append((np.round(values / steps) * steps if steps else values).astype(np.float32))
        masks.append(mask if mask.any() or index % 2 else None)
    return maps, masks


def count(maps, masks, scale=1.0) -> PixelCounts:
    counts = PixelCounts(scale)
    for values, mask in zip(maps, masks, strict=True):
        counts.update(values, mask)
    return counts


def pooled(maps, masks):
    truth = [np.zeros(v.shape) if m is None else m > 0 for v, m in zip(maps, masks, strict=True)]
    return np.concatenate([t.ravel() for t in truth]).astype(int), np.concatenate([v.ravel() for v in maps])


def results(counts):
    return counts.auroc(), counts.average_precision(), counts.f1_max(), counts.aupro(0.3), counts.aupro(0.05)


def exact(maps, masks):
    y, s = pooled(maps, masks)
    f1 = f1_max(y, s).value
    return auroc(y, s), average_precision(y, s), f1, aupro(maps, masks, 0.3), aupro(maps, masks, 0.05)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_scores_that_float16_holds_give_the_exact_metrics(shift) -> None:
    maps, masks = make(1, steps=0.125, shift=shift)
    counts = count(maps, masks)
    for got, want in zip(results(counts), exact(maps, masks), strict=True):
        assert got.value == pytest.approx(want, abs=1e-11)
    y, s = pooled(maps, masks)
    called = s >= counts.f1_max().threshold
    assert (called == (s >= f1_max(y, s).threshold)).all()


@pytest.mark.parametrize("scale", [1.0, 1e3, 3e5, 1e-4])
@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_exact_metrics_lie_within_the_bound(scale, shift) -> None:
    """Scales of 3e5 and 1e-4 drive the scores into subnormal numbers and near the end of the range."""
    for seed in range(4):
        maps, masks = make(10 + seed, shift=shift)
        counts = count(maps, masks, scale)
        for got, want in zip(results(counts), exact(maps, masks), strict=True):
            assert got.low - 1e-12 <= want <= got.high + 1e-12
            assert got.low <= got.value <= got.high
        if scale == 1.0:
            assert counts.auroc().high - counts.auroc().low < 1e-3
            assert counts.aupro().high - counts.aupro().low < 5e-3
            assert counts.average_precision().high - counts.average_precision().low < 2e-2


def test_a_bound_can_be_reached() -> None:
    """Two values that float16 merges: raw order decides between both ends of the bound."""
    one, above = np.float32(1.0), np.float32(1.0001)
    mask = np.array([[1, 0]])
    for pair, end in (([above, one], "high"), ([one, above], "low")):
        values = np.array([pair], np.float32)
        counts = count([values], [mask])
        assert counts.auroc() == (0.5, 0.0, 1.0)
        assert getattr(counts.auroc(), end) == auroc([1, 0], values[0])
        assert getattr(counts.aupro(), end) == pytest.approx(aupro([values], [mask]))
        assert getattr(counts.average_precision(), end) == pytest.approx(average_precision([1, 0], values[0]), abs=0.2)


def test_merged_parts_equal_one_pass_and_order_is_irrelevant() -> None:
    maps, masks = make(2)
    whole = count(maps, masks)
    left, right = count(maps[:7], masks[:7]), count(maps[7:], masks[7:])
    left.merge(right)
    backwards = count(maps[::-1], masks[::-1])
    assert results(left) == results(whole) == results(backwards)
    assert (left.images, left.regions, left.pixels) == (whole.images, whole.regions, whole.pixels)
    spread = [c.bootstrap_aupro(generator=np.random.default_rng(0), replicas=50) for c in (left, whole)]
    assert spread[0] == spread[1]


def test_clipped_scores_are_counted_and_bounded() -> None:
    values = np.array([[1e9, 7e4, np.inf, 65504, 1.0, -np.inf, -1e6, 0.0]], np.float32)
    mask = np.array([[1, 0, 1, 0, 0, 0, 1, 0]])
    counts = count([values], [mask])
    assert counts.clipped == 5
    got, want = counts.auroc(), auroc(mask[0], values[0])
    assert got.low <= want <= got.high
    assert got.value != want
    counts.merge(count([values], [mask]))
    assert counts.clipped == 10
    assert count([values], [mask], 1e37).clipped == 2  # the infinite ones


def test_minus_zero_equals_zero_and_small_negatives_stay_below() -> None:
    mask = np.array([[1, 1, 0]])
    assert count([np.array([[0.0, -0.0, -0.0]], np.float32)], [mask]).auroc() == (0.5, 0.0, 1.0)
    assert count([np.array([[0.0, 0.0, -1e-30]], np.float32)], [mask]).auroc().value == 1.0


def test_float64_and_integer_maps() -> None:
    maps, masks = make(4, steps=1.0)
    for dtype in (np.float64, np.int32):
        assert results(count([m.astype(dtype) for m in maps], masks)) == results(count(maps, masks))
    assert count([np.array([[1e300, 1.0]])], [np.array([[1, 0]])]).auroc().value == 1.0


def test_failed_update_adds_nothing() -> None:
    maps, masks = make(5)
    counts = count(maps, masks)
    before = results(counts), counts.images
    with pytest.raises(DataError, match="1 values of the anomaly map are NaN"):
        counts.update(np.array([[np.nan, 1.0]]), np.array([[1, 0]]))
    with pytest.raises(DataError, match="has shape"):
        counts.update(maps[0], np.ones((2, 2)))
    assert (results(counts), counts.images) == before


def test_memory_does_not_grow_with_the_images() -> None:
    rng = np.random.default_rng(0)
    counts = PixelCounts(1.0)
    for _ in range(20):
        counts.update(rng.gamma(2.0, 1.0, (200, 200)).astype(np.float32))
    rows = sum(array.nbytes for row in counts._rows for pair in row for array in pair)
    assert rows < 20 * 8_000 < 20 * 200 * 200 * 4 / 10


def test_interval_over_images_is_seeded_and_holds_the_value() -> None:
    maps, masks = make(6)
    counts = count(maps, masks)
    for run, value in ((counts.bootstrap_auroc, counts.auroc().value), (counts.bootstrap_aupro, counts.aupro().value)):
        first = run(generator=np.random.default_rng(7), replicas=300)
        assert first == run(generator=np.random.default_rng(7), replicas=300)
        assert first.value == value
        assert 0 <= first.low < value < first.high <= 1
        assert first.high - first.low > 0.01
        wider = run(generator=np.random.default_rng(7), replicas=300, level=0.999)
        assert wider.high - wider.low > first.high - first.low


def test_interval_agrees_with_resampling_the_images_themselves() -> None:
    maps, masks = make(8)
    has_defect = np.array([m is not None and bool(m.any()) for m in masks])
    rng, values = np.random.default_rng(1), []
    for _ in range(200):
        sides = [np.flatnonzero(has_defect == kind) for kind in (0, 1)]
        chosen = np.concatenate([rng.choice(side, len(side)) for side in sides])
        values.append(aupro([maps[i] for i in chosen], [masks[i] for i in chosen]))
    got = count(maps, masks).bootstrap_aupro(generator=np.random.default_rng(2), replicas=2000)
    low, high = np.quantile(values, [0.025, 0.975])
    assert got.low == pytest.approx(low, abs=0.25 * (high - low))
    assert got.high == pytest.approx(high, abs=0.25 * (high - low))


def test_coarse_rows_hold_every_pixel_once() -> None:
    counts = count(*make(3))
    assert sum(int(row.normal[1].sum()) for row in counts._rows) == counts.pixels[0]
    assert sum(int(row.defect[1].sum()) for row in counts._rows) == counts.pixels[1]
    assert sum(int(row.weight[1].sum()) for row in counts._rows) == int(counts._weight.sum())


def test_interval_is_centred_on_the_exact_value() -> None:
    """All scores share one coarse bin, so the replicas know nothing but the shift."""
    rng = np.random.default_rng(1)
    mask = np.zeros((30, 30), bool)
    mask[:10] = True
    maps = [(1 + (rng.integers(0, 8, mask.shape) + 4 * mask) / 1024).astype(np.float32) for _ in range(5)]
    counts = count(maps, [mask] * 5)
    exact, got = counts.auroc(), counts.bootstrap_auroc(generator=rng, replicas=50)
    assert exact.value > 0.8
    assert (got.low, got.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_every_replica_has_defects() -> None:
    maps, masks = make(7)
    first = [i for i, m in enumerate(masks) if m is not None and m.any()][:2]
    good = [m for i, m in enumerate(maps) if i not in first]
    counts = count([maps[i] for i in first] + good, [masks[i] for i in first] + [None] * len(good))
    got = counts.bootstrap_aupro(generator=np.random.default_rng(0), replicas=300)
    assert 0 <= got.low <= got.value <= got.high <= 1


def test_one_defective_image_tells_nothing_about_others() -> None:
    maps, masks = make(9)
    index = next(i for i, m in enumerate(masks) if m is not None and m.any())
    got = count([maps[index]], [masks[index]]).bootstrap_aupro(generator=np.random.default_rng(0))
    assert (got.low, got.high) == (0.0, 1.0)


def test_refuses() -> None:
    for scale in (0.0, -1.0, np.nan, np.inf, 1e-60):
        with pytest.raises(ConfigError, match="scale"):
            PixelCounts(scale)
    counts = PixelCounts(1.0)
    with pytest.raises(ConfigError, match="merged"):
        counts.merge(PixelCounts(2.0))
    counts.update(np.ones((2, 2)))
    for metric in (counts.auroc, counts.aupro, counts.average_precision, counts.f1_max):
        with pytest.raises(DataError, match="both kinds of pixel"):
            metric()
    with pytest.raises(ConfigError, match="limit"):
        counts.aupro(0.0)


def test_saturated_regions_give_spro_in_one_pass() -> None:
    generator = np.random.default_rng(5)
    maps = [generator.gamma(2.0, 1.0, (40, 50)).astype(np.float32) for _ in range(6)]
    marked: list[list[SaturatedRegion]] = []
    for i, anomaly_map in enumerate(maps):
        first, second = np.zeros((2, 40, 50), bool)
        first[5:15, 5:20], second[10:30, 15:25] = True, True  # they overlap
        anomaly_map[first] += 1.5
        marked.append([SaturatedRegion(first, 40), SaturatedRegion(second, 0.5, relative=True)] if i % 2 else [])
    counts, left, right = PixelCounts(1.0), PixelCounts(1.0), PixelCounts(1.0)
    for i, (anomaly_map, regions) in enumerate(zip(maps, marked, strict=True)):
        counts.update(anomaly_map, saturated=regions)
        (left if i < 3 else right).update(anomaly_map, saturated=regions)
    left.merge(right)
    for limit in (0.05, 0.3):
        exact, ours = spro(maps, marked, limit), counts.aupro(limit)
        assert ours.low <= exact <= ours.high
        assert ours.value == pytest.approx(exact, abs=2e-3)
        assert left.aupro(limit) == ours
    assert counts.regions == 6


def test_counts_survive_their_way_through_arrays():
    counts = count(*make(3))
    again = PixelCounts.from_arrays(counts.to_arrays())
    assert results(again) == results(counts)
    assert again.aupro(0.05) == counts.aupro(0.05)
    for at in (0.3, 0.05):
        a, b = (c.bootstrap_aupro(at, generator=np.random.default_rng(1), replicas=50) for c in (again, counts))
        assert a == b
    again.merge(counts)
    assert again.images == 2 * counts.images
    assert PixelCounts.from_arrays(PixelCounts(2.0).to_arrays()).images == 0


@pytest.mark.slow
def test_paired_aupro_is_the_bootstrap_of_the_difference():
    maps, masks = make(4)
    noisy = [v + np.random.default_rng(9).gamma(2.0, 2.0, v.shape).astype(np.float32) for v in maps]
    a, b = count(maps, masks), count(noisy, masks)
    found = aupro_paired(a, b, generator=np.random.default_rng(0), replicas=400)
    assert found.value == pytest.approx(a.aupro().value - b.aupro().value)
    # the same draws, each side measured exactly on the drawn images
    rng = np.random.default_rng(5)
    kinds = [[i for i, m in enumerate(masks) if bool(m is not None and m.any()) is bad] for bad in (True, False)]
    plain = []
    for _ in range(200):
        drawn = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds if kind])
        sides = [count([side[i] for i in drawn], [masks[i] for i in drawn]).aupro().value for side in (maps, noisy)]
        plain.append(sides[0] - sides[1])
    low, high = np.quantile(plain, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.05)
    assert found.high == pytest.approx(high, abs=0.05)
    same = aupro_paired(a, a, generator=np.random.default_rng(0), replicas=50)
    assert (same.value, same.p_value) == (0, 1)
    assert aupro_paired(b, a, generator=np.random.default_rng(0), replicas=400).value == -found.value
    with pytest.raises(DataError, match="same images"):
        aupro_paired(a, count(maps[1:], masks[1:]), generator=np.random.default_rng(0))
