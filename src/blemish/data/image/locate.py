"""Where a part lies in its picture, and at which angle: learned from good images against their background.

find     background -> what differs from it -> connected area of a part's size -> centre and axis by moments, or
         matching at all angles where a part has no axis -> refined, cropped and brought back as in `posing`

What cannot be found is an error of its own: the picture is not good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.image.posing import LEARNED, MATCH, ROUNDS, TEMPLATE, Look, Picture, Posing, look_at, looks_at, packed
from blemish.errors import DataError, PartNotFound
from blemish.types import Pose

COARSE = 192  # pixels of a picture's longer side, at least, in which a part is looked for
FIRST = 512  # the same where good parts are looked for whose size is not known yet: thin ones must not break
OPEN, CLOSE = 3, 5  # pixels, coarse: thinner things are no part, narrower gaps do not divide one
STRAY = 0.25  # of the smallest good part: a larger thing beside the part is an alarm
AREA = (0.5, 1.6)  # of the smallest and of the largest good part: how large a part may be
MARGIN = 1.1  # of the largest good part: what is cropped
ROUND = 1.15  # a part whose axes are nearer to each other has no direction that moments could tell
ANGLES = 24  # directions that such a part is compared at
BACKGROUND = 12.0  # grey levels that a background may differ from the good images', beside their own spread
FULL = 0.95  # of a picture: what covers more is no part on a background


_ALIKE = "leave it out, or leave out locating (--locate)"


@dataclass(frozen=True, slots=True)
class _Area:
    """A connected area that differs from the background, in coarse pixels."""

    x: float
    y: float
    angle: float  # of the longer axis, in radians
    area: float
    longer: float  # standard deviations along both axes
    shorter: float


@dataclass(frozen=True)
class Locator(Posing):
    """What good images say of background and part. All lengths are in pixels of the picture.

    Attributes:
        background: its grey level.
        tolerance: grey levels by which the background of a picture may differ from it.
        contrast: grey levels by which a part differs from its picture's background, at least.
        areas: smallest and largest area of a part.
        size: (h, w) of what is cropped.
        template: the mean good part in its pose, grey, as base64 of (TEMPLATE pixels at its longer side).
        stray: area of what may lie beside a part.
        turned: the part has no axis, and is matched at all angles.
        match: correlation with the template that a part has at least.
        narrowed: spread of good images that was left by locating; 1 = it narrowed nothing.
        several: a picture that is inspected may show several parts.
    """

    background: float
    tolerance: float
    contrast: float
    areas: tuple[float, float]
    size: tuple[float, float]
    template: str
    stray: float
    turned: bool
    match: float
    narrowed: float = 1.0
    several: bool = False

    @classmethod
    def learn(cls, images: Callable[[int], Picture], names: Sequence[str], *, several: bool = False) -> Self:
        """From good images (H, W[, 3]) by number, of these names; each shows one part.

        DataError naming one in which no part stands out from the background, more than one does, or another than in the
        others.
        """
        seen = _Seen.of(looks_at(images, len(names), lambda _: FIRST), names)
        if TEMPLATE > max(seen.size) * min(look.scale for look in seen.looks):  # parts are small in the pictures
            seen = _Seen.of(looks_at(images, len(names), lambda shape: _longest(shape, seen.size)), names)
        looks, areas = seen.looks, seen.areas
        grounds = [look.ground for look in looks]
        background = float(np.median(grounds))
        tolerance = BACKGROUND + 3 * float(np.median(np.abs(np.subtract(grounds, background))))
        worst = int(np.argmax(np.abs(np.subtract(grounds, background))))
        if abs(grounds[worst] - background) > tolerance:
            message = f"its border has a grey level of {grounds[worst]:.0f}, that of most good images {background:.0f}"
            raise DataError(message, path=names[worst], hint=_ALIKE)
        sizes = [area.area for area in areas]
        stray = max([STRAY * min(sizes), *(AREA[1] * area for area in seen.others)])
        limits = (AREA[0] * min(sizes), AREA[1] * max(sizes))
        draft = cls(background, tolerance, seen.contrast, limits, seen.size, "", stray, seen.turned, -1.0)
        typical, chosen = int(np.argsort(sizes)[len(sizes) // 2]), range(0, len(looks), -(-len(looks) // LEARNED))
        template = draft.seen(looks[typical], seen.poses[typical])
        for _ in range(ROUNDS):
            draft = replace(draft, template=packed(template))
            aligned = [(looks[i], draft.posed(looks[i], areas[i])) for i in chosen]
            template = np.mean([draft.seen(look, pose) for look, pose in aligned], 0)
        draft = replace(draft, template=packed(template))
        poses = [draft.posed(look, area) for look, area in zip(looks, areas, strict=True)]
        matches = [pose.match for pose in poses]
        if min(matches) < MATCH * float(np.median(matches)):
            name = names[int(np.argmin(matches))]
            raise DataError("shows another part than the other good images, or another side", path=name, hint=_ALIKE)
        return replace(draft, match=MATCH * min(matches), narrowed=draft.narrowed_by(looks, poses), several=several)

    # ------------------------------------------------------------------------------------------------- inspection
    def find_all(self, image: Picture) -> list[Pose]:
        """All parts of an image, from left to right. PartNotFound where there is none."""
        look = look_at(image, _longest(image.shape, self.size))
        if abs(look.ground - self.background) > self.tolerance:
            raise PartNotFound(
                f"no part found: the background's grey level is {look.ground:.0f}, not {self.background:.0f}",
                hint="is the light on, and does the part leave the border free?",
            )
        areas = _areas(look, self.contrast)
        fitting = [a for a in areas if self.areas[0] <= a.area <= self.areas[1]]
        if not fitting:
            sizes = ", ".join(f"{a.area:.0f}" for a in areas[:3]) or "nothing"
            raise PartNotFound(
                f"no part found: good ones cover {self.areas[0]:.0f} to {self.areas[1]:.0f} pixels, here {sizes}",
                hint="is the part whole, and the only thing in the picture?",
            )
        posed = [(self.posed(look, area), area) for area in fitting]
        matching = [(pose, area) for pose, area in posed if pose.match >= self.match]
        if not matching:
            best = max(pose.match for pose, _ in posed)
            raise PartNotFound(
                f"no part found: what lies there matches good parts by {best:.2f}, and {self.match:.2f} is needed",
                hint="is it another part, or another side of it?",
            )
        parts = [area for _, area in matching]
        beside = max((area.area for area in areas if area not in parts), default=0.0)
        if beside > self.stray:
            raise PartNotFound(
                f"something of {beside:.0f} pixels lies beside the part",
                hint="is a part broken, or is there anything else in the picture?",
            )
        return sorted((pose for pose, _ in matching), key=lambda pose: (pose.x, pose.y))

    def covered(self, image: Picture) -> NDArray[np.bool_]:
        """Which pixels of an image (H, W[, 3]) show its parts: what differs from the background, outlines filled."""
        look = look_at(image, _longest(image.shape, self.size))
        filled = np.zeros(look.grey.shape, np.uint8)
        cv2.drawContours(filled, _outlines(look, self.contrast), -1, 1, cv2.FILLED)
        return cv2.resize(filled, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0

    # --------------------------------------------------------------------------------------------------- the pose
    def posed(self, look: Look, area: _Area) -> Pose:
        """Centre and angle of an area, that matches the template best."""
        starts = np.arange(ANGLES) * (2 * math.pi / ANGLES) if self.turned else area.angle + np.array([0, math.pi])
        poses = (self.matched(look, Pose(area.x, area.y, float(angle), 0.0)) for angle in starts)
        return self.refined(look, max(poses, key=lambda pose: pose.match))


def _away(look: Look) -> Picture:
    """Grey levels between a pixel and the background."""
    return cast(Picture, np.abs(look.grey.astype(np.int16) - round(look.ground)).astype(np.uint8))


def _contrast(looks: Sequence[Look]) -> float:
    """The grey levels beyond which a pixel is no background: of the middle image, by Otsu's rule."""
    return max(float(np.median([cv2.threshold(_away(look), 0, 255, cv2.THRESH_OTSU)[0] for look in looks])), 4.0)


def _outlines(look: Look, contrast: float) -> Sequence[Any]:
    """The outer outlines of what differs from the background."""
    near, thin = (np.ones((side, side), np.uint8) for side in (CLOSE, OPEN))
    mask = (_away(look) > contrast).view(np.uint8)
    mask = cast(Picture, cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, near), cv2.MORPH_OPEN, thin))
    return cast(Sequence[Any], cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])


def _areas(look: Look, contrast: float) -> list[_Area]:
    """What differs from the background, outlines filled, largest first."""
    found = (_measured(outline, look.scale) for outline in _outlines(look, contrast))
    return sorted((area for area in found if area is not None), key=lambda area: -area.area)


def _measured(contour: Any, scale: float) -> _Area | None:
    m = cv2.moments(contour)
    if m["m00"] < 4:  # coarse pixels
        return None
    x, y = m["m10"] / m["m00"], m["m01"] / m["m00"]
    xx, yy, xy = (m[k] / m["m00"] for k in ("mu20", "mu02", "mu11"))
    root = math.hypot((xx - yy) / 2, xy)
    longer, shorter = (xx + yy) / 2 + root, max((xx + yy) / 2 - root, 1e-6)
    angle = 0.5 * math.atan2(2 * xy, xx - yy)
    return _Area(
        (x + 0.5) / scale - 0.5,
        (y + 0.5) / scale - 0.5,
        angle,
        m["m00"] / scale**2,
        math.sqrt(longer) / scale,
        math.sqrt(shorter) / scale,
    )


def _longest(shape: tuple[int, ...], size: tuple[float, float]) -> float:
    """The longer side of a picture in which a part of `size` is as large as the template, or of one at `COARSE`."""
    return max(COARSE, TEMPLATE * max(shape[:2]) / max(size))


class _Seen(NamedTuple):
    """What moments alone say of pictures of one part each."""

    looks: list[Look]
    contrast: float
    areas: list[_Area]  # of the parts
    others: list[float]  # areas of what else lies in the pictures
    turned: bool
    poses: list[Pose]
    size: tuple[float, float]  # (h, w) that holds every part

    @classmethod
    def of(cls, looks: list[Look], names: Sequence[str]) -> Self:
        """DataError naming a picture that does not show one part."""
        contrast = _contrast(looks)
        found = [_areas(look, contrast) for look in looks]
        for look, areas, name in zip(looks, found, names, strict=True):
            _check_one(look, areas, name)
        parts = [areas[0] for areas in found]
        turned = float(np.median([part.longer / part.shorter for part in parts])) < ROUND
        poses = [Pose(part.x, part.y, 0.0 if turned else part.angle, 0.0) for part in parts]
        others = [area.area for areas in found for area in areas[1:]]
        return cls(looks, contrast, parts, others, turned, poses, _extent(looks, contrast, poses, turned))


def _check_one(look: Look, areas: Sequence[_Area], name: str) -> None:
    if not areas or areas[0].area * look.scale**2 > FULL * look.grey.size:
        raise DataError("no part stands out from the background", path=name, hint="leave locate out (--locate)")
    if len(areas) > 1 and areas[1].area > AREA[0] * areas[0].area:
        raise DataError("shows more than one part", path=name, hint="learn from pictures of one part each")


def _extent(looks: Sequence[Look], contrast: float, poses: Sequence[Pose], turned: bool) -> tuple[float, float]:
    """(h, w) around the centre that holds every good part, with a margin; a square where it is turned."""
    sides = []
    for look, pose in zip(looks, poses, strict=True):
        outline = max(_outlines(look, contrast), key=cv2.contourArea)[:, 0].astype(float)
        points = (outline + 0.5) / look.scale - 0.5 - (pose.x, pose.y)
        cos, sin = math.cos(pose.angle), math.sin(pose.angle)
        along, across = points @ (cos, sin), points @ (-sin, cos)
        reach = np.hypot(along, across).max() if turned else 0.0
        sides.append((max(np.abs(across).max(), reach), max(np.abs(along).max(), reach)))
    high, wide = np.max(sides, 0) * 2 * MARGIN
    return float(high), float(wide)
