"""AUPRO (FPR <= 0.3) of 500 maps of 256 x 256 by three routes: CPU seconds, peak extra memory, value.

Run `python benchmarks/aupro.py [images] [repeats]`; writes docs/results/aupro.md. Routes are interleaved, the median
counts.
"""

from __future__ import annotations

import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.evaluation.metrics import PixelCounts, aupro

SIDE = 256
OUT = Path("docs/results/aupro.md")
LIMIT = 0.3

Maps = NDArray[np.float32]
Masks = NDArray[np.uint8]


def make(images: int) -> tuple[Maps, Masks]:
    """Smooth skewed maps; 3 of 5 images carry one or two elliptic defects that raise the map by a random amount."""
    rng = np.random.default_rng(0)
    maps = np.empty((images, SIDE, SIDE), np.float32)
    masks = np.zeros((images, SIDE, SIDE), np.uint8)
    for values, mask in zip(maps, masks, strict=True):
        noise = rng.standard_normal((SIDE // 4, SIDE // 4)).astype(np.float32)
        values[:] = np.exp(0.5 * cv2.GaussianBlur(cv2.resize(noise, (SIDE, SIDE)), (0, 0), 4) * 3)
        for _ in range(rng.integers(1, 3) if rng.random() < 0.62 else 0):
            centre = tuple(int(v) for v in rng.integers(20, SIDE - 20, 2))
            axes = tuple(int(v) for v in rng.integers(3, 18, 2))
            cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1, -1)
        values += mask * np.float32(rng.gamma(2.0, 0.8))
    return maps, masks


def plain(maps: Maps, masks: Masks) -> float:
    """Label, sort every pixel, accumulate. Maps of continuous values: ties are not treated."""
    weights = np.zeros(maps.shape)
    regions = 0
    for weight, mask in zip(weights, masks, strict=True):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        share = 1.0 / stats[:, cv2.CC_STAT_AREA]
        share[0] = 0.0
        weight[:] = share[labels]
        regions += count - 1
    order = np.argsort(maps, axis=None)[::-1]
    gained = np.cumsum(weights.reshape(-1)[order]) / regions
    normal = masks.reshape(-1)[order] == 0
    rate = np.cumsum(normal) / normal.sum()
    inside = rate <= LIMIT
    x, y = np.append(rate[inside], LIMIT), np.append(gained[inside], np.interp(LIMIT, rate, gained))
    return float(np.trapezoid(y, x) / LIMIT)


def exact(maps: Maps, masks: Masks) -> float:
    """The library's exact route."""
    return aupro(list(maps), list(masks), LIMIT)


def streamed(maps: Maps, masks: Masks) -> float:
    """The library's one pass."""
    counts = PixelCounts(scale=float(np.median(maps[0])))
    for values, mask in zip(maps, masks, strict=True):
        counts.update(values, mask)
    return counts.aupro(LIMIT).value


def main() -> None:
    """Measure and write the page."""
    images, repeats = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (500, 3)
    maps, masks = make(images)
    routes: dict[str, Callable[[Any, Any], float]] = {
        "sort of all pixels": plain,
        "exact, no global sort": exact,
        "one pass, float16 counts": streamed,
    }
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    values: dict[str, float] = {}
    for _ in range(repeats):
        for name, route in routes.items():
            begin = time.process_time()
            values[name] = route(maps, masks)
            seconds[name].append(time.process_time() - begin)
    regions = sum(cv2.connectedComponents(mask, connectivity=8)[0] - 1 for mask in masks)
    lines = [
        "# AUPRO",
        "",
        f"Made by `python benchmarks/aupro.py`: {images} maps of {SIDE} × {SIDE}, {regions} regions, false-positive rates to",
        f"{LIMIT}, median of {repeats} interleaved runs.",
        "",
        "| route | CPU s | times faster | peak extra MB | value |",
        "|---|---|---|---|---|",
    ]
    slowest = statistics.median(seconds["sort of all pixels"])
    for name, route in routes.items():
        tracemalloc.start()  # numpy reports its arrays to it; apart from the timing, which it slows
        route(maps, masks)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        duration = statistics.median(seconds[name])
        lines.append(f"| {name} | {duration:.2f} | {slowest / duration:.1f} | {peak:.1f} | {values[name]:.10f} |")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
