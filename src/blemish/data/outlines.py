"""Outlines of areas as label tools take them: polygons along the edges of pixels, which give the same area back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


def outlines(mask: NDArray[np.bool_]) -> list[list[int]]:
    """A mask (H, W) -> polygons [x, y, x, y, ...] in pixels, (0, 0) the top left corner of the first one.

    One polygon for each area whose pixels touch by their sides. A hole is reached by a seam of no width, which goes in
    and comes back: filled by either rule, a polygon covers its area and leaves out its holes.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    found = []
    for number in range(1, count):
        x, y, w, h = (int(v) for v in stats[number][:4])
        loops = _loops(labels[y : y + h, x : x + w] == number)
        outer = max(loops, key=_signed_area)
        points = outer + [outer[0]] if len(loops) > 1 else outer
        for hole in loops:
            if hole is not outer:
                points = [*points, *hole, hole[0], outer[0]]
        found.append([value for px, py in points for value in (px + x, py + y)])
    return found


def _loops(area: NDArray[np.bool_]) -> list[list[Point]]:
    """The closed lines around an area and its holes, corners only, the area always at the right hand.

    Where two pixels of it touch by a corner alone, the line turns towards its own pixel: what corners join stays apart.
    """
    padded = np.pad(area, 1)
    steps: dict[Point, list[Point]] = {}
    sides = (  # (pixel, neighbour beyond the side), from corner, to corner
        ((-1, 0), (0, 0), (1, 0)),  # above: to the right
        ((0, 1), (1, 0), (1, 1)),  # right: down
        ((1, 0), (1, 1), (0, 1)),  # below: to the left
        ((0, -1), (0, 1), (0, 0)),  # left: up
    )
    for (dy, dx), (ax, ay), (bx, by) in sides:
        beyond = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for y, x in np.argwhere(area & ~beyond).tolist():
            steps.setdefault((x + ax, y + ay), []).append((x + bx, y + by))
    loops = []
    while steps:
        start = at = next(iter(steps))
        line, came = [start], (0, 0)
        while True:
            ways, right = steps.get(at, []), (at[0] - came[1], at[1] + came[0])  # to the right hand, y downwards
            if at == start and any(came) and right not in ways:
                break
            to = ways.pop(ways.index(right) if right in ways else 0)
            if not ways:
                del steps[at]
            step = (to[0] - at[0], to[1] - at[1])
            if step == came:
                line.pop()  # straight on: no corner
            line.append(to)
            at, came = to, step
        loops.append(_without_straight_start(line[:-1]))
    return loops


def _without_straight_start(line: list[Point]) -> list[Point]:
    """The line begins anywhere on a side: not a corner then."""
    (ax, ay), (bx, by), (cx, cy) = line[-1], line[0], line[1]
    return line[1:] if (bx - ax) * (cy - by) == (by - ay) * (cx - bx) else line


def _signed_area(loop: list[Point]) -> int:
    """Twice the area, positive where it lies at the right hand, y downwards."""
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(loop, [*loop[1:], loop[0]], strict=True))
