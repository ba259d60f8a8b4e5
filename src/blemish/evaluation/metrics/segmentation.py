"""SegF1: how well maps that are cut at a threshold of the model's own mark the defects' pixels, over a whole set.

Heckler-Kram et al., The MVTec AD 2 dataset, arXiv:2503.21622, 2025: the F1 score of the pixels of all images of an
object. No threshold is looked for here, unlike in F1max: it has to come from good images alone, before the test.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.errors import DataError
from blemish.evaluation.metrics.aupro import check_map
from blemish.evaluation.metrics.intervals import Estimate, percentile_interval
from blemish.evaluation.metrics.pixels import draws


class SegmentedPixels:
    """Counts the pixels of maps cut at their thresholds (map > threshold) against masks (mask > 0)."""

    def __init__(self) -> None:
        self.thresholds: set[float] = set()  # that were used: one for each category of a multi-class model
        self.uncut = 0  # images whose model had no threshold: nothing is said of a set with any
        self._rows: list[tuple[int, int, int]] = []  # of each image: pixels of a defect found, not found, others marked

    def update(self, anomaly_map: ArrayLike, mask: ArrayLike | None, threshold: float | None) -> None:
        """Add one image; mask None = a good one, threshold None = the model has none for it.

        DataError for NaN or a mask of another shape; nothing is added then.
        """
        values, truth = check_map(anomaly_map, mask)
        if threshold is None:
            self.uncut += 1
            return
        if np.isnan(values).any():
            raise DataError(f"{int(np.isnan(values).sum())} values of the anomaly map are NaN")
        above = values > threshold
        defect = np.zeros(values.shape, np.bool_) if truth is None else truth > 0
        found, marked, total = (int(np.count_nonzero(each)) for each in (above & defect, above, defect))
        self.thresholds.add(float(threshold))
        self._rows.append((found, total - found, marked - found))

    def merge(self, other: SegmentedPixels) -> None:
        """Add all images of another one."""
        self.thresholds |= other.thresholds
        self.uncut += other.uncut
        self._rows += other._rows

    def f1(self, *, generator: np.random.Generator, replicas: int = 1000, level: float = 0.95) -> Estimate | None:
        """F1 of all pixels of all images, with its bootstrap interval over images (good and defective ones resampled
        apart; [0, 1] with fewer than two defective ones). None where an image had no threshold, or no pixel is one of
        a defect.
        """
        rows = np.array(self._rows, np.float64).reshape(-1, 3)
        defective = np.asarray(rows[:, :2].any(axis=1))
        if self.uncut or not defective.any():
            return None
        value = float(_f1(rows.sum(axis=0)))
        if np.count_nonzero(defective) < 2:
            return Estimate(value, 0.0, 1.0)
        values = np.concatenate([_f1(times @ rows) for times in draws(defective, generator, replicas)])
        return percentile_interval(value, values, level)


def _f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) sums of pixels -> F1."""
    found, missed, false = sums[..., 0], sums[..., 1], sums[..., 2]
    return np.asarray(2 * found / (2 * found + missed + false))
