"""SegF1 against scikit-learn on all pixels, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from blemish.errors import DataError
from blemish.evaluation.metrics import SegmentedPixels


def seeded(value: int = 0) -> np.random.Generator:
    return np.random.default_rng(value)


def images(number: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Maps of different sizes with their masks; every third image is a good one."""
    generator = seeded(seed)
    out: list[tuple[np.ndarray, np.ndarray | None]] = []
    for i in range(number):
        shape = (5 + i % 4, 7)
        mask = None if i % 3 == 0 else generator.random(shape) < 0.3
        out.append((generator.random(shape).astype(np.float32) + (0 if mask is None else 0.4 * mask), mask))
    return out


def test_it_is_the_f1_of_all_pixels_of_all_images() -> None:
    counted, each = SegmentedPixels(), images(9)
    for anomaly_map, mask in each:
        counted.update(anomaly_map, mask, 0.7)
    truth = np.concatenate([np.zeros(m.size, bool) if mask is None else mask.ravel() for m, mask in each])
    above = np.concatenate([m.ravel() for m, _ in each]) > np.float32(0.7)
    found = counted.f1(generator=seeded())
    assert found is not None
    assert found.value == pytest.approx(f1_score(truth, above), abs=1e-12)
    per_image = np.mean([f1_score(mask.ravel(), (m > 0.7).ravel()) for m, mask in each if mask is not None])
    assert found.value != pytest.approx(per_image, abs=1e-3)  # pooled, no mean over images
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


def test_the_threshold_itself_is_not_above_it() -> None:
    counted = SegmentedPixels()
    counted.update([[0.5, 0.6]], [[1, 1]], 0.5)
    found = counted.f1(generator=seeded())
    assert found == (pytest.approx(2 / 3), 0.0, 1.0)  # one defective image says nothing of others


def test_each_image_is_cut_at_its_own_threshold_and_parts_are_merged() -> None:
    whole, parts = SegmentedPixels(), [SegmentedPixels(), SegmentedPixels()]
    for i, (anomaly_map, mask) in enumerate(images(6)):
        for counted in (whole, parts[i % 2]):
            counted.update(anomaly_map, mask, 0.5 + i % 2)
    parts[0].merge(parts[1])
    assert parts[0].thresholds == whole.thresholds == {0.5, 1.5}
    assert parts[0].f1(generator=seeded()).value == whole.f1(generator=seeded()).value  # type: ignore[union-attr]


def test_without_a_threshold_or_a_defect_there_is_none() -> None:
    counted = SegmentedPixels()
    counted.update([[1.0]], None, 0.5)
    assert counted.f1(generator=seeded()) is None
    counted.update([[1.0]], [[1]], 0.5)
    assert counted.f1(generator=seeded()) is not None
    counted.update([[1.0]], [[1]], None)  # a category that had too few images for a promise
    assert counted.f1(generator=seeded()) is None


def test_nothing_above_the_threshold_is_zero_and_no_error() -> None:
    counted = SegmentedPixels()
    counted.update([[0.1, 0.2]], [[0, 1]], 0.5)
    assert counted.f1(generator=seeded()).value == 0.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("anomaly_map", "mask", "message"), [([[np.nan]], [[1]], "NaN"), ([[1.0]], [[1, 0]], "mask has shape")]
)
def test_what_cannot_be_counted(anomaly_map: list[list[float]], mask: list[list[int]], message: str) -> None:
    counted = SegmentedPixels()
    with pytest.raises(DataError, match=message):
        counted.update(anomaly_map, mask, 0.5)
    assert counted.thresholds == set()
