"""Per-region overlap: AUPRO and its saturated form, exact.

A region counts with the share of its pixels at or above a threshold (PRO), averaged over all regions of the set; the
curve runs over the false positive rate of all normal pixels of the set, and its area up to a limit is divided by that
limit. Every score is a threshold. Because the curve is a sum over pixels, no threshold has to be visited: a defect
pixel of weight w adds w times the part of [0, limit] that lies right of the false positive rate at its own score, and
pixels that share their score with normal ones add a linear ramp. Only the top scores of the normal pixels are sorted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish.errors import ConfigError, DataError

Floats = NDArray[np.float64]


class RegionPixels(NamedTuple):
    """The defect pixels (P,) of one mask, in raster order."""

    positions: NDArray[np.intp]  # in the flattened mask
    regions: NDArray[np.intp]  # 0-based number of the region each pixel belongs to
    areas: NDArray[np.int64]  # (R,) pixels of each region


class SaturatedRegion(NamedTuple):
    """One ground-truth defect of one image: all mask > 0 pixels, connected or not."""

    mask: NDArray[Any]  # same shape as the map
    saturation: float  # pixels that suffice (capped at the area), or a share of the area in (0, 1]
    relative: bool = False


def check_limit(limit: float) -> None:
    """Raise ConfigError unless 0 < limit <= 1."""
    if not 0.0 < limit <= 1.0:
        raise ConfigError(f"the false-positive limit must lie in (0, 1], got {limit}")


def check_map(anomaly_map: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Arrays of one image; DataError where the map is empty or the mask has another shape."""
    values = np.asarray(anomaly_map)
    truth = None if mask is None else np.asarray(mask)
    if not 1 <= values.ndim <= 3 or not values.size:
        raise DataError(f"an anomaly map has one to three axes and some pixels, got shape {values.shape}")
    if truth is not None and truth.shape != values.shape:
        raise DataError(f"the mask has shape {truth.shape}, its anomaly map {values.shape}")
    return values, truth


def label_regions(mask: NDArray[Any]) -> RegionPixels:
    """Connected regions of mask > 0: 8 neighbours on two axes, 2 on one, 26 on three."""
    defect = mask > 0
    positions = np.flatnonzero(defect)
    if not positions.size:
        return RegionPixels(positions, positions, np.zeros(0, np.int64))
    if defect.ndim == 3:
        from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]

        labels = ndimage.label(defect, np.ones((3, 3, 3)))[0]
    else:
        image = defect.reshape(-1, defect.shape[-1]).view(np.uint8)
        x, y, width, height = cv2.boundingRect(image)  # defects are small: label their surroundings only
        labels = cv2.connectedComponents(image[y : y + height, x : x + width], connectivity=8)[1]
    regions = labels[labels > 0].astype(np.intp) - 1
    return RegionPixels(positions, regions, np.bincount(regions).astype(np.int64))


def ramp_areas(start: Floats, stop: Floats, limit: float) -> Floats:
    """Area over [0, limit] under curves that rise from 0 at `start` to 1 at `stop` (start <= stop), linearly."""
    flat = np.maximum(limit - stop, 0.0)
    rising = np.minimum(stop, limit) - start
    width = stop - start
    ramp = np.divide(rising**2, 2 * width, out=np.zeros_like(width), where=(width > 0) & (rising > 0))
    return np.asarray(flat + ramp)


def _weighted_area(scores: NDArray[Any], weights: Floats, normals: NDArray[Any], limit: float) -> float:
    """Area under the curve of the weighted defect pixels divided by the limit. `normals` (N,) is reordered in place."""
    total = len(normals)
    cut = total - math.ceil(limit * total) - 1
    if cut > 0:
        normals.partition(cut)
        normals = normals[normals >= normals[cut]]  # the group of equal scores at the cut stays whole
    normals.sort()
    start = (len(normals) - np.searchsorted(normals, scores, "right")) / total
    stop = (len(normals) - np.searchsorted(normals, scores, "left")) / total
    return float(np.dot(weights, ramp_areas(start, stop, limit)) / limit)


def _finite_order(values: NDArray[Any]) -> NDArray[Any]:
    """The flattened map; DataError where it holds NaN."""
    if np.isnan(values).any():
        raise DataError(f"{int(np.isnan(values).sum())} values of the anomaly map are NaN")
    return values.reshape(-1)


def _curve_area(
    maps: list[NDArray[Any]],
    defects: list[NDArray[np.intp]],
    scores: list[NDArray[Any]],
    weights: list[Floats],
    limit: float,
) -> float:
    """Pool the flattened maps, without the positions in `defects`, against the weighted defect pixels."""
    total = sum(flat.size - positions.size for flat, positions in zip(maps, defects, strict=True))
    if not scores or not total:
        raise DataError(f"per-region overlap needs {'a normal' if scores else 'a defect'} pixel in the set")
    normals = np.empty(total, np.result_type(*maps))  # one copy of the normal pixels is the memory this takes
    filled = 0
    for flat, positions in zip(maps, defects, strict=True):
        end = filled + flat.size - positions.size
        normals[filled:end] = np.delete(flat, positions)
        filled = end
    return _weighted_area(np.concatenate(scores), np.concatenate(weights), normals, limit)


def aupro(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike | None], limit: float = 0.3) -> float:
    """Area under the PRO curve up to a false positive rate of `limit`, divided by it; in [0, 1].

    maps    one anomaly map per image, in the pixels of its mask; sizes may differ
    masks   defect where > 0, regions are 8-connected; None or all zero = a good image
    Raises ConfigError for a limit outside (0, 1]; DataError for shapes that differ, NaN, no region or no normal pixel.
    Source  Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, section 4.2.
    """
    check_limit(limit)
    flats, defects, scores, weights = [], [], [], []
    regions = 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        values, truth = check_map(anomaly_map, mask)
        flats.append(_finite_order(values))
        found = label_regions(np.zeros(0, bool) if truth is None else truth)
        defects.append(found.positions)
        if found.areas.size:
            regions += found.areas.size
            scores.append(flats[-1][found.positions])
            weights.append(1.0 / found.areas[found.regions])
    return _curve_area(flats, defects, scores, weights, limit) / max(regions, 1)


def spro(maps: Sequence[ArrayLike], regions: Sequence[Sequence[SaturatedRegion]], limit: float = 0.05) -> float:
    """Area under the saturated PRO curve up to a false positive rate of `limit`, divided by it; in [0, 1].

    A region A with saturation s counts min(|A and P| / s, 1) where P is called anomalous; the mean runs over all
    regions of the set, and normal pixels are those in no region of their image.

    maps     one anomaly map per image
    regions  the defects of each image, none for a good one; regions may overlap
    Raises   as `aupro`; ConfigError for a saturation out of range too.
    Source   Bergmann et al., Beyond Dents and Scratches, IJCV 2022, section 4 (MVTec LOCO AD). A relative saturation is
             rounded down to whole pixels and an absolute one capped at the area, as its published evaluation does.
    """
    check_limit(limit)
    flats, defects, scores, weights = [], [], [], []
    for anomaly_map, marked in zip(maps, regions, strict=True):
        values, _ = check_map(anomaly_map, None)
        flats.append(_finite_order(values))
        defect = np.zeros(values.size, bool)
        for region in marked:
            inside = region_mask(region, values.shape)
            scores.append(np.sort(flats[-1][inside])[::-1])
            weights.append(saturated_gains(region, int(np.count_nonzero(inside))))
            defect |= inside
        defects.append(np.flatnonzero(defect))
    return _curve_area(flats, defects, scores, weights, limit) / max(len(scores), 1)


def saturated_gains(region: SaturatedRegion, area: int) -> Floats:
    """(area,) shares of a region's overlap by rank, highest score first: the k-th pixel adds what saturation leaves."""
    gains = np.clip(_saturation_pixels(region, area) - np.arange(area), 0.0, 1.0)
    return np.asarray(gains / gains.sum())


def region_mask(region: SaturatedRegion, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The region's pixels, flattened; DataError where there are none or the shape is another."""
    mask = np.asarray(region.mask)
    if mask.shape != shape or not (mask > 0).any():
        raise DataError(f"a ground-truth region is empty or has another shape than its map: {mask.shape}, {shape}")
    return (mask > 0).reshape(-1)


def _saturation_pixels(region: SaturatedRegion, area: int) -> float:
    if not 0.0 < region.saturation <= (1.0 if region.relative else math.inf):
        raise ConfigError(f"saturation {region.saturation} is out of range (relative: {region.relative})")
    return max(float(int(region.saturation * area)), 1.0) if region.relative else min(region.saturation, float(area))
