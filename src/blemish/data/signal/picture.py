"""Pictures of signals: every lead on squared paper, and under it how anomalous each moment is.

Paper as in cardiology: small squares of 0.04 s and 0.1 mV, large ones of 0.2 s and 0.5 mV, where the unit is
millivolts. Colours are those of the heat maps, on the model's one scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import Picture, Scale, colours
from blemish.types import Region

WIDTH = 1200  # pixels of the strip itself
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 22, 30
LEAST, MOST = 90, 260  # pixels of height of one lead
CURVE = 90  # pixels of the curve below
PAPER, FINE, COARSE, INK, SOFT = (255, 252, 250), (250, 232, 230), (238, 200, 198), (25, 25, 35), (110, 110, 120)
MARK = (20, 140, 60)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def strip(
    values: NDArray[np.floating[Any]],
    anomaly_map: NDArray[np.float32],
    rate: float,
    start: float,
    leads: Sequence[str | None],
    scale: Scale,
    regions: Sequence[Region] = (),
    mask: NDArray[np.bool_] | None = None,
) -> Picture:
    """RGB picture of leads (K, N), in mV at `rate` Hz from `start` seconds on, with their map (N,).

    What lies above the scale's low end is tinted behind the leads; `regions` are bracketed under the last lead, and
    `mask` (N,), what people have marked, is a green bar over the first. Gaps (NaN) stay empty.
    """
    seconds = values.shape[1] / rate
    per_second = WIDTH / seconds
    per_unit = _height_of_a_unit(values, per_second)
    spaces = [_space(lead, per_unit) for lead in values]
    height = TOP + sum(h for h, _ in spaces) + CURVE + BOTTOM
    picture = np.full((height, LEFT + WIDTH + RIGHT, 3), PAPER, np.uint8)
    bottom = height - BOTTOM - CURVE
    _tint(picture[TOP:bottom, LEFT : LEFT + WIDTH], anomaly_map, scale)
    _paper(picture, TOP, bottom, seconds, per_unit)
    top = TOP
    for lead, name, (space, middle) in zip(values, leads, spaces, strict=True):
        _trace(picture, lead, top + space / 2, middle, per_unit)
        cv2.putText(picture, name or "", (6, top + space // 2), _FONT, 0.45, INK, 1, cv2.LINE_AA)
        top += space
    if mask is not None and mask.any():
        for a, b in _stretches(mask):
            x0, x1 = (LEFT + round(v / len(mask) * WIDTH) for v in (a, b))
            cv2.rectangle(picture, (x0, TOP - 8), (max(x1 - 1, x0), TOP - 4), MARK, -1)
        cv2.putText(picture, "marked", (6, TOP - 2), _FONT, 0.4, MARK, 1, cv2.LINE_AA)
    _curve(picture, bottom, anomaly_map, scale)
    for region in regions:
        x0, x1 = (LEFT + round(v / len(anomaly_map) * WIDTH) for v in (region.bbox[0], region.bbox[2]))
        cv2.rectangle(picture, (x0, bottom + 1), (max(x1 - 1, x0 + 1), bottom + 4), INK, -1)
    _times(picture, height - BOTTOM, start, seconds)
    return cast(Picture, picture)


def _height_of_a_unit(values: NDArray[np.float32], per_second: float) -> float:
    """Pixels of a millivolt: as on paper (0.4 s are as long as 1 mV), less where a lead would not fit."""
    ranges = [max(float(np.nanmax(lead) - np.nanmin(lead)), 1e-6) for lead in values if np.isfinite(lead).any()]
    return min([0.4 * per_second, *((MOST - 30) / r for r in ranges)])


def _space(lead: NDArray[np.float32], per_unit: float) -> tuple[int, float]:
    """(pixels of height, the value in the middle) of a lead."""
    if not np.isfinite(lead).any():
        return LEAST, 0.0
    low, high = float(np.nanmin(lead)), float(np.nanmax(lead))
    return int(np.clip(math.ceil((high - low) * per_unit) + 30, LEAST, MOST)), (low + high) / 2


def _tint(area: NDArray[np.uint8], anomaly_map: NDArray[np.float32], scale: Scale) -> None:
    value = np.clip((_columns(anomaly_map) - scale.low) / (scale.high - scale.low), 0, 1)
    alpha = (0.45 * np.sqrt(value))[None, :, None]
    area[:] = (area * (1 - alpha) + colours(value)[None] * alpha).round().astype(np.uint8)


def _columns(anomaly_map: NDArray[np.float32]) -> NDArray[Any]:
    """The largest value under each column of pixels."""
    edges = np.linspace(0, len(anomaly_map), WIDTH + 1)
    first = np.minimum(edges[:-1].astype(int), len(anomaly_map) - 1)
    out = np.maximum.reduceat(anomaly_map, first) if len(anomaly_map) >= WIDTH else anomaly_map[first]
    return np.asarray(out, np.float64)


def _paper(picture: NDArray[np.uint8], top: int, bottom: int, seconds: float, per_unit: float) -> None:
    """Squares, multiplied onto the picture."""
    fine = WIDTH / seconds * 0.04 >= 4
    for step, colour in ((0.04, FINE), (0.2, COARSE)):
        if step == 0.04 and not fine:
            continue
        shade = np.array(colour, np.float32) / PAPER
        columns = LEFT + np.arange(0, seconds + 1e-9, step) / seconds * WIDTH
        height = 2.5 * step * per_unit
        rows = np.arange(top, bottom + 1e-9, height) if height >= 4 else np.zeros(0)
        for x in np.unique(np.minimum(columns.round().astype(int), LEFT + WIDTH)):
            picture[top:bottom, x] = (picture[top:bottom, x] * shade).round().astype(np.uint8)
        for y in np.unique(rows.round().astype(int)):
            picture[y, LEFT : LEFT + WIDTH] = (picture[y, LEFT : LEFT + WIDTH] * shade).round().astype(np.uint8)


def _trace(picture: NDArray[np.uint8], lead: NDArray[np.float32], centre: float, middle: float, unit: float) -> None:
    x = LEFT + (np.arange(len(lead)) + 0.5) / len(lead) * WIDTH
    y = centre - (lead - middle) * unit
    for a, b in _stretches(np.isfinite(lead)):
        points = np.stack([x[a:b], y[a:b]], axis=1)
        fixed = (points * 16).round().astype(np.int32)[:, None]
        cv2.polylines(picture, [fixed], False, INK, 1, cv2.LINE_AA, 4)


def _curve(picture: NDArray[np.uint8], top: int, anomaly_map: NDArray[np.float32], scale: Scale) -> None:
    """The anomaly score over time, filled in its colours; the dashed line is the map threshold."""
    base, room = top + CURVE - 2, CURVE - 16
    value = np.clip((_columns(anomaly_map) - scale.low) / (scale.high - scale.low), 0, 1)
    picture[top : top + CURVE, LEFT : LEFT + WIDTH] = PAPER
    tints = colours(value)
    for k, height in enumerate((value * room).round().astype(int).tolist()):
        picture[base - height : base + 1, LEFT + k] = tints[k] if height else SOFT
    threshold = base - round(room / 4)
    for x in range(LEFT, LEFT + WIDTH, 12):
        cv2.line(picture, (x, threshold), (min(x + 5, LEFT + WIDTH - 1), threshold), SOFT, 1)
    cv2.putText(picture, "score", (6, top + CURVE // 2 + 4), _FONT, 0.45, INK, 1, cv2.LINE_AA)


def _times(picture: NDArray[np.uint8], top: int, start: float, seconds: float) -> None:
    """Seconds of the recording below the strip."""
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, math.inf) if seconds / s <= 12)
    first = math.ceil(start / step - 1e-9) if math.isfinite(step) else 0
    for k in range(first, first + 13):
        at = k * step
        if not start - 1e-9 <= at <= start + seconds + 1e-9:
            break
        x = LEFT + round((at - start) / seconds * WIDTH)
        cv2.line(picture, (x, top), (x, top + 4), SOFT, 1)
        text = f"{at:.1f} s" if step < 1 else f"{at:.0f} s"
        width = cv2.getTextSize(text, _FONT, 0.4, 1)[0][0]
        left = int(np.clip(x - width // 2, 0, picture.shape[1] - width))
        cv2.putText(picture, text, (left, top + 18), _FONT, 0.4, SOFT, 1, cv2.LINE_AA)


def _stretches(true: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
