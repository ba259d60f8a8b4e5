"""A part in one pose, however it was found: matched with a template, refined, cropped, and maps brought back.

refined  by ECC (Evangelidis and Psarakis, PAMI 2008)
crop     the part turned to the learned pose, in pixels of the network's input or of the picture
back     an anomaly map of that crop in the pixels of the picture
"""

from __future__ import annotations

import base64
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from typing import Any, NamedTuple, Self, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import ConfigError, PartNotFound
from blemish.system import cores
from blemish.types import Pose

Picture = NDArray[np.uint8]

TEMPLATE = 64  # pixels of the template's longer side
RING = 0.02  # of the shorter side: the border of a picture that shows the background
SMOOTH = 3  # pixels of the Gaussian before a refinement
SHIFT, TURN = 0.15, 0.2  # how far a refinement may move a part, as a share of the template, and in radians
ROUNDS = 2  # of aligning good parts with their mean
LEARNED = 64  # good images that the template is made from
MATCH = 0.5  # of the least match of a good part: what matches less is no part


class Look(NamedTuple):
    """A picture as parts are looked for in it."""

    grey: Picture
    scale: float  # its pixels for one of the picture
    ground: float  # grey level of its border


def look_at(image: NDArray[Any], longest: float) -> Look:
    """An image (H, W[, 3]) shrunk by a whole number, which is fast, to a longer side of at least so many pixels."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image)
    times = max(1, int(max(grey.shape) // longest))
    high, wide = (max(1, side // times) for side in grey.shape)
    if times > 1:
        cut = grey[: high * times, : wide * times]
        grey = np.asarray(cv2.resize(cut, (wide, high), interpolation=cv2.INTER_AREA))
    ring = max(1, round(RING * min(grey.shape)))
    border = grey[:ring], grey[-ring:], grey[:, :ring], grey[:, -ring:]
    return Look(cast(Picture, grey), 1 / times, float(np.median(np.concatenate([part.ravel() for part in border]))))


class Posing(ABC):
    """What finds a part; a dataclass with these fields. All lengths are in pixels of the picture."""

    size: tuple[float, float]  # (h, w) of what is cropped
    template: str  # the mean good part in its pose, grey, as base64 of (TEMPLATE pixels at its longer side)
    narrowed: float  # spread of good images that was left by locating; 1 = it narrowed nothing
    several: bool  # a picture that is inspected may show several parts

    @abstractmethod
    def find_all(self, image: Picture) -> list[Pose]:
        """All parts of an image (H, W[, 3]), from left to right. PartNotFound where there is none."""

    @abstractmethod
    def covered(self, image: Picture) -> NDArray[np.bool_]:
        """Which pixels of an image (H, W[, 3]) show its parts."""

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

    @property
    def pixels(self) -> tuple[int, int]:
        """(h, w) of a crop in pixels of the picture."""
        return max(1, round(self.size[0])), max(1, round(self.size[1]))

    def crop(self, image: NDArray[Any], pose: Pose, size: tuple[int, int]) -> NDArray[Any]:
        """The part of an image (H, W[, 3]) in the learned pose, (*size[, 3]); what lies outside of the image shows its
        border."""
        shrink = max(1, math.floor(min(self.size[0] / size[0], self.size[1] / size[1])))
        if shrink > 1:  # mean over areas, so that fine structure is not aliased
            high, wide = (max(1, side // shrink) for side in image.shape[:2])
            image = np.asarray(
                cv2.resize(image[: high * shrink, : wide * shrink], (wide, high), interpolation=cv2.INTER_AREA)
            )
        matrix, flags = self.matrix(pose, size, shrink), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(image, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE))

    def back(self, anomaly_map: NDArray[np.float32], pose: Pose, shape: tuple[int, int]) -> NDArray[np.float32]:
        """An anomaly map of a crop in the pixels of its picture (H, W); outside of the crop its lowest value."""
        matrix = self.matrix(pose, cast(tuple[int, int], anomaly_map.shape), 1)
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

    def matrix(self, pose: Pose, size: tuple[int, int], shrink: float) -> NDArray[np.float64]:
        """(2, 3): from pixels of a crop of `size` to those of a picture that was shrunk so many times."""
        high, wide = (side / pixels for side, pixels in zip(self.size, size, strict=True))
        cos, sin = math.cos(pose.angle), math.sin(pose.angle)
        turn = np.array([[cos * wide, -sin * high], [sin * wide, cos * high]])
        middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
        # a pixel's middle lies half a pixel from its corner, in both
        centre = np.array([pose.x, pose.y]) + 0.5
        return np.column_stack([turn / shrink, (centre - turn @ middle) / shrink - 0.5])

    @property
    def sides(self) -> tuple[int, int]:
        """(h, w) of the template."""
        scale = TEMPLATE / max(self.size)
        return max(8, round(self.size[0] * scale)), max(8, round(self.size[1] * scale))

    @cached_property
    def _template(self) -> NDArray[np.float32]:
        values = np.frombuffer(base64.b64decode(self.template, validate=True), np.uint8)
        return values.reshape(self.sides).astype(np.float32)

    @property
    def counted(self) -> NDArray[np.bool_] | None:
        """(h, w): which pixels of the template are compared; None = all."""
        return None

    def seen(self, look: Look, pose: Pose) -> NDArray[np.float32]:
        """A part as the template shows it."""
        matrix = self.matrix(pose, self.sides, 1 / look.scale)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(look.grey, matrix, self.sides[::-1], flags=flags, borderValue=(look.ground,))
        return cast(NDArray[np.float32], seen.astype(np.float32))

    def matched(self, look: Look, pose: Pose) -> Pose:
        """A pose with its correlation with the template."""
        return Pose(pose.x, pose.y, pose.angle, self._correlated(self.seen(look, pose)))

    def _correlated(self, seen: NDArray[np.float32]) -> float:
        counted = self.counted
        if counted is None:
            return correlation(seen, self._template)
        return correlation(seen[counted], self._template[counted])

    def refined(self, look: Look, pose: Pose) -> Pose:
        """Moved and turned a little to where it matches better; as it is where nothing near does."""
        seen, warp = self.seen(look, pose), np.eye(2, 3, dtype=np.float32)
        counted = np.ones(self.sides, np.uint8) if self.counted is None else self.counted.astype(np.uint8)
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-3)
        try:
            found = cv2.findTransformECC(self._template, seen, warp, cv2.MOTION_EUCLIDEAN, stop, counted, SMOOTH)[1]
        except cv2.error:  # it has no gradient to follow: the coarse pose stands
            return pose
        warp = np.asarray(found)
        turn, (high, wide) = math.atan2(float(warp[1, 0]), float(warp[0, 0])), self.sides
        middle = np.array([(wide - 1) / 2, (high - 1) / 2])
        shift = warp[:, :2] @ middle + warp[:, 2] - middle
        if abs(turn) > TURN or float(np.abs(shift).max()) > SHIFT * max(high, wide):
            return pose
        x, y = np.array([pose.x, pose.y]) + self.matrix(pose, self.sides, 1.0)[:, :2] @ shift
        moved = self.matched(look, Pose(float(x), float(y), pose.angle + turn, 0.0))
        return moved if moved.match > pose.match else pose

    def narrowed_by(self, looks: Sequence[Look], poses: Sequence[Pose]) -> float:
        """Variance among located good parts over that among the pictures, each as a share of all variance."""
        located = np.stack([self.seen(look, pose) for look, pose in zip(looks, poses, strict=True)])
        sides = self.sides[::-1]
        plain = np.stack([cv2.resize(look.grey, sides, interpolation=cv2.INTER_AREA) for look in looks])
        return _spread(located) / max(_spread(plain.astype(np.float32)), 1e-6)

    # ------------------------------------------------------------------------------------------------------- JSON
    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}  # type: ignore[call-overload]

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


def looks_at(images: Callable[[int], Picture], count: int, longest: Callable[[tuple[int, ...]], float]) -> list[Look]:
    """`look_at` of so many images by number; `longest` is asked with the shape of each."""

    def one(number: int) -> Look:
        image = images(number)
        return look_at(image, longest(image.shape))

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(one, range(count)))


def packed(template: NDArray[np.float32]) -> str:
    """A template as text."""
    return base64.b64encode(np.rint(np.clip(template, 0, 255)).astype(np.uint8).tobytes()).decode("ascii")


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of the values of two arrays; 0 where one is constant."""
    x, y = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else 0.0


def _spread(images: NDArray[np.float32]) -> float:
    """Variance of a pixel among images, as a share of the variance of all pixels of all images."""
    return float(images.var(0).mean() / max(images.var(), 1e-6))
