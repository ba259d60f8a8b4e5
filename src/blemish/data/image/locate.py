"""Where a part lies in its picture, and at which angle: learned from good images against their background.

find     background -> what differs from it -> connected area of a part's size -> centre and axis by moments, or
         matching at all angles where a part has no axis -> refined by ECC (Evangelidis and Psarakis, PAMI 2008)
crop     the part turned to the learned pose, in pixels of the network's input
back     an anomaly map of that crop in the pixels of the picture

What cannot be found is an error of its own: the picture is not good.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError, DataError, PartNotFound
from blemish.system import cores
from blemish.types import Pose

Picture = NDArray[np.uint8]

COARSE = 192  # pixels of a picture's longer side, at least, in which a part is looked for
FIRST = 512  # the same where good parts are looked for whose size is not known yet: thin ones must not break
TEMPLATE = 64  # pixels of the template's longer side
RING = 0.02  # of the shorter side: the border of a picture that shows the background
OPEN, CLOSE = 3, 5  # pixels, coarse: thinner things are no part, narrower gaps do not divide one
STRAY = 0.25  # of the smallest good part: a larger thing beside the part is an alarm
AREA = (0.5, 1.6)  # of the smallest and of the largest good part: how large a part may be
MARGIN = 1.1  # of the largest good part: what is cropped
ROUND = 1.15  # a part whose axes are nearer to each other has no direction that moments could tell
ANGLES = 24  # directions that such a part is compared at
MATCH = 0.5  # of the least match of a good part: what matches less is no part
SMOOTH = 3  # pixels of the Gaussian before a refinement
SHIFT, TURN = 0.15, 0.2  # how far a refinement may move a part, as a share of the template, and in radians
BACKGROUND = 12.0  # grey levels that a background may differ from the good images', beside their own spread
LEARNED = 64  # good images that the template is made from
FULL = 0.95  # of a picture: what covers more is no part on a background
ROUNDS = 2  # of aligning them with their mean


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
class Locator:
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
        seen = _Seen.of(_looks(images, len(names), lambda _: FIRST), names)
        if TEMPLATE > max(seen.size) * min(look.scale for look in seen.looks):  # parts are small in the pictures
            seen = _Seen.of(_looks(images, len(names), lambda shape: _longest(shape, seen.size)), names)
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
        template = draft._seen(looks[typical], seen.poses[typical])
        for _ in range(ROUNDS):
            draft = replace(draft, template=_packed(template))
            aligned = [(looks[i], draft._posed(looks[i], areas[i])) for i in chosen]
            template = np.mean([draft._seen(look, pose) for look, pose in aligned], 0)
        draft = replace(draft, template=_packed(template))
        poses = [draft._posed(look, area) for look, area in zip(looks, areas, strict=True)]
        matches = [pose.match for pose in poses]
        if min(matches) < MATCH * float(np.median(matches)):
            name = names[int(np.argmin(matches))]
            raise DataError("shows another part than the other good images, or another side", path=name, hint=_ALIKE)
        return replace(draft, match=MATCH * min(matches), narrowed=draft._narrowed(looks, poses), several=several)

    # ------------------------------------------------------------------------------------------------- inspection
    @property
    def pixels(self) -> tuple[int, int]:
        """(h, w) of a crop in pixels of the picture."""
        return max(1, round(self.size[0])), max(1, round(self.size[1]))

    def find(self, image: Picture, number: int = 0) -> Pose:
        """The one part of an image (H, W[, 3]); with `several` a part by its number.

        PartNotFound where there is none, or more than one without `several`.
        """
        poses = self.find_all(image)
        if len(poses) > 1 and not self.several:
            raise PartNotFound(
                f"{len(poses)} parts found where good images show one",
                hint="take one picture of each, or learn with --locate several",
            )
        return poses[number]

    def find_all(self, image: Picture) -> list[Pose]:
        """All parts of an image, from left to right. PartNotFound where there is none."""
        look = _look(image, _longest(image.shape, self.size))
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
        posed = [(self._posed(look, area), area) for area in fitting]
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
        look = _look(image, _longest(image.shape, self.size))
        filled = np.zeros(look.grey.shape, np.uint8)
        cv2.drawContours(filled, _outlines(look, self.contrast), -1, 1, cv2.FILLED)
        return cv2.resize(filled, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0

    def crop(self, image: NDArray[Any], pose: Pose, size: tuple[int, int]) -> NDArray[Any]:
        """The part of an image (H, W[, 3]) in the learned pose, (*size[, 3]); what lies outside of the image shows its
        border."""
        shrink = max(1, math.floor(min(self.size[0] / size[0], self.size[1] / size[1])))
        if shrink > 1:  # mean over areas, so that fine structure is not aliased
            high, wide = (max(1, side // shrink) for side in image.shape[:2])
            image = np.asarray(
                cv2.resize(image[: high * shrink, : wide * shrink], (wide, high), interpolation=cv2.INTER_AREA)
            )
        matrix, flags = self._matrix(pose, size, shrink), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(image, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE))

    def back(self, anomaly_map: NDArray[np.float32], pose: Pose, shape: tuple[int, int]) -> NDArray[np.float32]:
        """An anomaly map of a crop in the pixels of its picture (H, W); outside of the crop its lowest value."""
        matrix = self._matrix(pose, cast(tuple[int, int], anomaly_map.shape), 1)
        lowest = float(anomaly_map.min())
        out = cv2.warpAffine(
            np.ascontiguousarray(anomaly_map, np.float32),
            matrix,
            shape[::-1],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=lowest,
        )
        return cast(NDArray[np.float32], out)

    def _matrix(self, pose: Pose, size: tuple[int, int], shrink: float) -> NDArray[np.float64]:
        """(2, 3): from pixels of a crop of `size` to those of a picture that was shrunk so many times."""
        high, wide = (side / pixels for side, pixels in zip(self.size, size, strict=True))
        cos, sin = math.cos(pose.angle), math.sin(pose.angle)
        turn = np.array([[cos * wide, -sin * high], [sin * wide, cos * high]])
        middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
        # a pixel's middle lies half a pixel from its corner, in both
        centre = np.array([pose.x, pose.y]) + 0.5
        return np.column_stack([turn / shrink, (centre - turn @ middle) / shrink - 0.5])

    # --------------------------------------------------------------------------------------------------- the pose
    @property
    def _sides(self) -> tuple[int, int]:
        """(h, w) of the template."""
        scale = TEMPLATE / max(self.size)
        return max(8, round(self.size[0] * scale)), max(8, round(self.size[1] * scale))

    @cached_property
    def _template(self) -> NDArray[np.float32]:
        values = np.frombuffer(base64.b64decode(self.template, validate=True), np.uint8)
        return values.reshape(self._sides).astype(np.float32)

    def _posed(self, look: _Look, area: _Area) -> Pose:
        """Centre and angle of an area, that matches the template best."""
        starts = np.arange(ANGLES) * (2 * math.pi / ANGLES) if self.turned else area.angle + np.array([0, math.pi])
        poses = (self._matched(look, Pose(area.x, area.y, float(angle), 0.0)) for angle in starts)
        return self._refined(look, max(poses, key=lambda pose: pose.match))

    def _seen(self, look: _Look, pose: Pose) -> NDArray[np.float32]:
        """A part as the template shows it."""
        matrix = self._matrix(pose, self._sides, 1 / look.scale)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(look.grey, matrix, self._sides[::-1], flags=flags, borderValue=(look.ground,))
        return cast(NDArray[np.float32], seen.astype(np.float32))

    def _matched(self, look: _Look, pose: Pose) -> Pose:
        return Pose(pose.x, pose.y, pose.angle, _correlation(self._seen(look, pose), self._template))

    def _refined(self, look: _Look, pose: Pose) -> Pose:
        """Moved and turned a little to where it matches better; as it is where nothing near does."""
        seen, warp = self._seen(look, pose), np.eye(2, 3, dtype=np.float32)
        everywhere = np.ones(self._sides, np.uint8)
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-3)
        try:
            found = cv2.findTransformECC(self._template, seen, warp, cv2.MOTION_EUCLIDEAN, stop, everywhere, SMOOTH)[1]
        except cv2.error:  # it has no gradient to follow: the coarse pose stands
            return pose
        warp = np.asarray(found)
        turn, (high, wide) = math.atan2(float(warp[1, 0]), float(warp[0, 0])), self._sides
        middle = np.array([(wide - 1) / 2, (high - 1) / 2])
        shift = warp[:, :2] @ middle + warp[:, 2] - middle
        if abs(turn) > TURN or float(np.abs(shift).max()) > SHIFT * max(high, wide):
            return pose
        x, y = np.array([pose.x, pose.y]) + self._matrix(pose, self._sides, 1.0)[:, :2] @ shift
        moved = self._matched(look, Pose(float(x), float(y), pose.angle + turn, 0.0))
        return moved if moved.match > pose.match else pose

    def _narrowed(self, looks: Sequence[_Look], poses: Sequence[Pose]) -> float:
        """Variance among located good parts over that among the pictures, each as a share of all variance."""
        located = np.stack([self._seen(look, pose) for look, pose in zip(looks, poses, strict=True)])
        sides = self._sides[::-1]
        plain = np.stack([cv2.resize(look.grey, sides, interpolation=cv2.INTER_AREA) for look in looks])
        return _spread(located) / max(_spread(plain.astype(np.float32)), 1e-6)

    # ------------------------------------------------------------------------------------------------------- JSON
    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse; ConfigError where it is not understood."""
        try:
            typed: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            found = cls(**typed)
            _ = found._template
        except (TypeError, ValueError) as error:
            raise ConfigError(f"how a part is located is not understood ({error})") from None
        return found


class _Look(NamedTuple):
    """A picture as parts are looked for in it."""

    grey: Picture
    scale: float  # its pixels for one of the picture
    ground: float  # grey level of its border


def _look(image: NDArray[Any], longest: float) -> _Look:
    """An image (H, W[, 3]) shrunk by a whole number, which is fast, to a longer side of at least so many pixels."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image)
    times = max(1, int(max(grey.shape) // longest))
    high, wide = (max(1, side // times) for side in grey.shape)
    if times > 1:
        cut = grey[: high * times, : wide * times]
        grey = np.asarray(cv2.resize(cut, (wide, high), interpolation=cv2.INTER_AREA))
    ring = max(1, round(RING * min(grey.shape)))
    border = grey[:ring], grey[-ring:], grey[:, :ring], grey[:, -ring:]
    return _Look(cast(Picture, grey), 1 / times, float(np.median(np.concatenate([part.ravel() for part in border]))))


def _away(look: _Look) -> Picture:
    """Grey levels between a pixel and the background."""
    return cast(Picture, np.abs(look.grey.astype(np.int16) - round(look.ground)).astype(np.uint8))


def _contrast(looks: Sequence[_Look]) -> float:
    """The grey levels beyond which a pixel is no background: of the middle image, by Otsu's rule."""
    return max(float(np.median([cv2.threshold(_away(look), 0, 255, cv2.THRESH_OTSU)[0] for look in looks])), 4.0)


def _outlines(look: _Look, contrast: float) -> Sequence[Any]:
    """The outer outlines of what differs from the background."""
    near, thin = (np.ones((side, side), np.uint8) for side in (CLOSE, OPEN))
    mask = (_away(look) > contrast).view(np.uint8)
    mask = cast(Picture, cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, near), cv2.MORPH_OPEN, thin))
    return cast(Sequence[Any], cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])


def _areas(look: _Look, contrast: float) -> list[_Area]:
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


def _looks(images: Callable[[int], Picture], count: int, longest: Callable[[tuple[int, ...]], float]) -> list[_Look]:
    def one(number: int) -> _Look:
        image = images(number)
        return _look(image, longest(image.shape))

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(one, range(count)))


class _Seen(NamedTuple):
    """What moments alone say of pictures of one part each."""

    looks: list[_Look]
    contrast: float
    areas: list[_Area]  # of the parts
    others: list[float]  # areas of what else lies in the pictures
    turned: bool
    poses: list[Pose]
    size: tuple[float, float]  # (h, w) that holds every part

    @classmethod
    def of(cls, looks: list[_Look], names: Sequence[str]) -> Self:
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


def _check_one(look: _Look, areas: Sequence[_Area], name: str) -> None:
    if not areas or areas[0].area * look.scale**2 > FULL * look.grey.size:
        raise DataError("no part stands out from the background", path=name, hint="leave locate out (--locate)")
    if len(areas) > 1 and areas[1].area > AREA[0] * areas[0].area:
        raise DataError("shows more than one part", path=name, hint="learn from pictures of one part each")


def _extent(looks: Sequence[_Look], contrast: float, poses: Sequence[Pose], turned: bool) -> tuple[float, float]:
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


def _packed(template: NDArray[np.float32]) -> str:
    return base64.b64encode(np.rint(np.clip(template, 0, 255)).astype(np.uint8).tobytes()).decode("ascii")


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else 0.0


def _spread(images: NDArray[np.float32]) -> float:
    """Variance of a pixel among images, as a share of the variance of all pixels of all images."""
    return float(images.var(0).mean() / max(images.var(), 1e-6))
