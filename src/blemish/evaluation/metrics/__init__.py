"""Metrics of raw scores and maps, larger = more anomalous; pure functions, plus one mergeable accumulator of pixels."""

from __future__ import annotations

from blemish.evaluation.metrics.aupro import SaturatedRegion, aupro, spro
from blemish.evaluation.metrics.intervals import Difference, Estimate, bootstrap, delong, delong_paired, wilson
from blemish.evaluation.metrics.pixels import Bounded, BoundedF1, PixelCounts, aupro_paired
from blemish.evaluation.metrics.ranking import F1Max, RocCurve, auroc, average_precision, f1_max, roc_curve
from blemish.evaluation.metrics.segmentation import SegmentedPixels

__all__ = [
    "Bounded",
    "BoundedF1",
    "Difference",
    "Estimate",
    "F1Max",
    "PixelCounts",
    "RocCurve",
    "SaturatedRegion",
    "SegmentedPixels",
    "aupro",
    "aupro_paired",
    "auroc",
    "average_precision",
    "bootstrap",
    "delong",
    "delong_paired",
    "f1_max",
    "roc_curve",
    "spro",
    "wilson",
]
