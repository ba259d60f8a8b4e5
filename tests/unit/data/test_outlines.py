"""Outlines: filled, they give the mask again, whatever its shape."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.data.outlines import outlines


def filled(polygon: list[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose middle lies inside, by the rule of even and odd crossings."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    crossings = np.zeros(shape, int)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        for y in range(min(ay, by), max(ay, by)):
            x = ax + (y + 0.5 - ay) * (bx - ax) / (by - ay)
            crossings[y, : max(int(np.ceil(x - 0.5)), 0)] += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("seed", range(60))
def test_filled_outlines_are_the_mask(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random(generator.integers(1, 25, 2)) < generator.uniform(0.1, 0.95)
    covered = sum((filled(p, mask.shape).astype(int) for p in outlines(mask)), np.zeros(mask.shape, int))
    assert (covered == mask).all()


def test_a_box_has_four_corners_and_one_pixel_is_a_polygon() -> None:
    mask = np.zeros((9, 12), bool)
    mask[2:5, 3:10] = True
    mask[7, 1] = True
    first, second = outlines(mask)
    assert sorted(zip(first[::2], first[1::2], strict=True)) == [(3, 2), (3, 5), (10, 2), (10, 5)]
    assert len(second) == 8
    assert outlines(np.zeros((4, 4), bool)) == []
