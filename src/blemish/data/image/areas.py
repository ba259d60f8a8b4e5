"""A region of interest as people draw it: one, or several with names.

A picture: black is not inspected. A grey one is a plain mask, all above 0. In one of several colours each colour is an
area; a JSON file of the same name beside it may say what they are called: {"#ff0000": "seal", "#00ff00": "rim"}.

Polygons: {"regions": [{"name": "seal", "polygon": [[x, y], ...], "kind": "inspect" | "ignore"}]} in source pixels, or
in shares of width and height where no coordinate exceeds 1. What is ignored is cut out of all areas; where nothing is
to be inspected, that is all else. Polygons of one name are one area; where two areas overlap, the later one has the
place. "size": [width, height] says of which picture the pixels are, where the pictures have several sizes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.config import nearest
from blemish.data.image.decode import read_image, set_in
from blemish.errors import DataError
from blemish.files import MAX_PIXELS, read_file

Mask = NDArray[np.bool_]
Point = tuple[float, float]
MOST_COLOURS = 16
_DRAW = 'draw {"regions": [{"name": "seal", "polygon": [[x, y], [x, y], [x, y]]}]}'
_SHIFT = 4  # binary digits of a pixel's fraction, for OpenCV


@dataclass(frozen=True)
class Drawn:
    """What is inspected, (H, W), and of it each named area; `relative` where it fits a picture of any shape."""

    inside: Mask
    areas: dict[str, Mask] = field(default_factory=dict)
    relative: bool = False


@dataclass(frozen=True)
class Polygon:
    """One region of a JSON file."""

    name: str
    points: tuple[Point, ...]
    ignored: bool


def read_drawn(path: str | Path, sizes: Sequence[tuple[int, int]], max_pixels: int = MAX_PIXELS) -> Drawn:
    """The region of interest in a picture or a JSON file, for pictures of these sizes (W, H).

    DataError, naming the file and the region, where it cannot be used.
    """
    if is_json(path):
        size, polygons = _polygons(path)
        return _from_polygons(path, polygons, size, sizes)
    image, names = read_image(path, max_pixels=max_pixels), _names(path)
    colours = _colours(path, image, names)
    if not colours:
        return Drawn(set_in(image, path))
    coded = _coded(image)
    areas = {name: coded == colour for name, colour in colours.items()}
    return Drawn(np.logical_or.reduce(list(areas.values())), areas)


def area_names(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[str, ...]:
    """The names of the areas in such a file; none where it is one region without a name."""
    if is_json(path):
        return tuple(dict.fromkeys(p.name for p in _polygons(path)[1] if not p.ignored))
    return tuple(_colours(path, read_image(path, max_pixels=max_pixels), _names(path)))


def is_json(path: str | Path) -> bool:
    """By its name: a picture is none."""
    return Path(path).suffix.lower() == ".json"


def _json(path: str | Path) -> Any:
    try:
        return json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no JSON ({error})", path=path, hint=_DRAW) from None


def _names(path: str | Path) -> dict[str, str]:
    """What the file beside a picture calls its colours, by `#rrggbb`."""
    beside = Path(path).with_suffix(".json")
    if not beside.is_file():
        return {}
    found = _json(beside)
    hint = '{"#ff0000": "seal"} names what is red'
    if not isinstance(found, dict) or not all(isinstance(v, str) and v.strip() for v in found.values()):
        raise DataError("does not name colours", path=beside, hint=hint)
    names = {key.lower(): value for key, value in found.items()}
    for key in names:
        digits = key.removeprefix("#")
        if len(key) != 7 or key == digits or set(digits) - set("0123456789abcdef") or not int(digits, 16):
            raise DataError(f"'{key}' is no colour other than black", path=beside, hint=hint)
    if len(set(names.values())) < len(names):
        raise DataError("gives one name to two colours", path=beside, hint=hint)
    return names


def _coded(image: NDArray[Any]) -> NDArray[np.int32]:
    """(H, W, 3) uint8 -> (H, W): one number for each colour, 0 is black."""
    return image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _colours(path: str | Path, image: NDArray[Any], names: dict[str, str]) -> dict[str, int]:
    """The colour (see `_coded`) of each area of a picture by name, from above; none where it is one without a name."""
    if image.ndim == 2:
        if names:
            raise DataError("is grey, and the file beside it names colours", path=path, hint="draw in those colours")
        return {}
    plain = (image == image[..., :1]).all()
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\xff\xd8"
    if image.dtype != np.uint8 or (not names and (plain or compressed)):
        return {}
    found, first = np.unique(_coded(image), return_index=True)
    order = [int(found[i]) for i in np.argsort(first) if found[i]]
    if len(order) > MOST_COLOURS:
        message = f"has {len(order)} colours, and an area is one of them"
        raise DataError(message, path=path, hint="draw with hard edges (no smoothing), and save as PNG")
    by_code = {f"#{colour:06x}": colour for colour in order}
    for code in names:
        if code not in by_code:
            raise DataError(f"has nothing in {code} ('{names[code]}')", path=path, hint=nearest(code, list(by_code)))
    if len(order) < 2 and not names:
        return {}
    return {names.get(code, f"region-{number}"): colour for number, (code, colour) in enumerate(by_code.items(), 1)}


def _polygons(path: str | Path) -> tuple[tuple[int, int] | None, list[Polygon]]:
    """The picture's size where it is stated, and the regions."""
    found = _json(path)
    if not isinstance(found, dict) or not isinstance(found.get("regions"), list) or not found["regions"]:
        raise DataError("holds no list 'regions'", path=path, hint=_DRAW)
    _known(path, "the file", found, ("regions", "size"))
    size = found.get("size")
    if size is not None and not (
        isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    ):
        raise DataError(f"'size' is no width and height: {size!r}", path=path, hint='"size": [1024, 768]')
    return None if size is None else (size[0], size[1]), [
        _polygon(path, number, one) for number, one in enumerate(found["regions"], 1)
    ]


def _known(path: str | Path, what: str, values: dict[str, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            raise DataError(f"{what} has an unknown '{key}'", path=path, hint=nearest(key, list(known)))


def _polygon(path: str | Path, number: int, value: Any) -> Polygon:
    what = f"region {number}"
    if not isinstance(value, dict):
        raise DataError(f"{what} is no object", path=path, hint=_DRAW)
    _known(path, what, value, ("name", "polygon", "kind"))
    kind, name, points = value.get("kind", "inspect"), value.get("name", f"region-{number}"), value.get("polygon")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{what} has no name but {name!r}", path=path, hint="a name is text")
    what = f"region '{name}'"
    if kind not in ("inspect", "ignore"):
        raise DataError(f"{what} is of kind {kind!r}", path=path, hint="inspect or ignore")
    if not isinstance(points, list) or len(points) < 3:
        raise DataError(f"{what} has no polygon of three points or more", path=path, hint=_DRAW)
    for point in points:
        if not (
            isinstance(point, list)
            and len(point) == 2
            and all(type(v) in (int, float) and math.isfinite(v) for v in point)
        ):
            raise DataError(f"{what} has a point {point!r}", path=path, hint="[x, y]")
    corners = tuple((float(x), float(y)) for x, y in points)
    if corners[0] == corners[-1]:
        corners = corners[:-1]  # closed by hand
    if crossing := _crossing(corners):
        a, b = crossing
        message = f"{what} crosses itself: the side from point {a + 1} meets the one from point {b + 1}"
        raise DataError(message, path=path, hint="list the points in the order in which they are walked along")
    return Polygon(name, corners, kind == "ignore")


def _crossing(points: Sequence[Point]) -> tuple[int, int] | None:
    """The first two sides that are no neighbours and touch."""
    n = len(points)
    for a, b in combinations(range(n), 2):
        if (b - a) % n in (1, n - 1):
            continue
        p, q, r, s = points[a], points[(a + 1) % n], points[b], points[(b + 1) % n]
        sides = (_side(p, q, r) * _side(p, q, s), _side(r, s, p) * _side(r, s, q))
        if max(sides) <= 0 and _boxes_meet(p, q, r, s):
            return a, b
    return None


def _side(a: Point, b: Point, c: Point) -> float:
    """Sign of c: left of, on, or right of the line through a and b."""
    turn = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    return math.copysign(1.0, turn) if turn else 0.0


def _boxes_meet(p: Point, q: Point, r: Point, s: Point) -> bool:
    return all(max(min(p[i], q[i]), min(r[i], s[i])) <= min(max(p[i], q[i]), max(r[i], s[i])) for i in (0, 1))


def _from_polygons(
    path: str | Path, polygons: Sequence[Polygon], size: tuple[int, int] | None, sizes: Sequence[tuple[int, int]]
) -> Drawn:
    relative = max(v for p in polygons for point in p.points for v in point) <= 1
    if size is None and not relative and len(set(sizes)) > 1:
        message = f"is in pixels, and the pictures have {len(set(sizes))} sizes"
        raise DataError(message, path=path, hint='say of which one: "size": [width, height], or give shares up to 1')
    width, height = size or sizes[0]
    factor = (width, height) if relative else (1, 1)
    inside = np.full((height, width), all(p.ignored for p in polygons), np.bool_)
    areas: dict[str, Mask] = {}
    for polygon in polygons:
        for x, y in polygon.points:
            if not (0 <= x * factor[0] <= width and 0 <= y * factor[1] <= height):
                message = (
                    f"region '{polygon.name}' has a point ({x:g}, {y:g}) outside of a picture of {width} x {height}"
                )
                raise DataError(message, path=path, hint="x from 0 to the width, y from 0 to the height")
        mask = _filled(polygon.points, factor, (height, width))
        if not mask.any():
            raise DataError(f"region '{polygon.name}' is empty", path=path, hint="its points lie on one line")
        if polygon.ignored:
            continue
        inside |= mask
        for earlier in areas.values():
            earlier &= ~mask
        areas[polygon.name] = areas.get(polygon.name, np.zeros_like(mask)) | mask
    for polygon in polygons:
        if polygon.ignored:
            hidden = _filled(polygon.points, factor, (height, width))
            for area in (inside, *areas.values()):
                area &= ~hidden
    for name, area in areas.items():
        if not area.any():
            raise DataError(f"region '{name}' is empty", path=path, hint="others lie over all of it")
    return Drawn(inside, areas, relative)


def _filled(points: Sequence[Point], factor: tuple[int, int], shape: tuple[int, int]) -> Mask:
    """The pixels whose centres lie inside, or on the edge."""
    if abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, (*points[1:], points[0]), strict=True))) < 1e-12:
        return np.zeros(shape, np.bool_)
    places = (np.asarray(points) * factor - 0.5) * 2**_SHIFT
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [places.round().astype(np.int32)], 1, shift=_SHIFT)
    return canvas > 0
