"""Where a part lies that was cut out of one good picture: on any background, at any angle, at the border too.

find   the template at all angles on a small picture -> its best places on a larger one -> refined by ECC

What is black or transparent in the template is cropped and inspected, but not looked for.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data.image.locate import Locator
from blemish.data.image.posing import (
    LEARNED,
    MATCH,
    ROUNDS,
    TEMPLATE,
    Look,
    Picture,
    Posing,
    look_at,
    looks_at,
    packed,
)
from blemish.errors import ConfigError, DataError, PartNotFound
from blemish.types import Pose

ANGLES = 24  # of the first look
FIRST = 24  # pixels of the template's longer side in it
CANDIDATES = 5  # places of it that are looked at more closely
BETWEEN = (-5.0, 0.0, 5.0)  # degrees about the angle of a candidate
APART = 0.5  # of the template's shorter side: places that are nearer are one
FLAT = 4.0  # grey levels of standard deviation: a template with less says nothing
LEAST = 0.4  # match of a typical good picture
KEPT = 0.75  # of the least match of a good part: what matches less is no part
CLOSE = 0.7  # of the best match: places that match less are not refined
FEWEST = 64  # pixels of the small template that have to count


@dataclass(frozen=True)
class TemplateLocator(Posing):
    """A drawn part, and how well good images match it.

    Attributes:
        size: (h, w) of the drawn part, which is what is cropped.
        template: the mean good part in its pose, as in `Posing`.
        looked_for: which pixels of it count, a bit each, as base64.
        match: correlation with the template that a part has at least: no less than midway between that of the worst
            good part and the best that good pictures show beside it.
        narrowed, several: as in `Posing`.
    """

    size: tuple[float, float]
    template: str
    looked_for: str
    match: float
    narrowed: float = 1.0
    several: bool = False

    @classmethod
    def learn(
        cls, drawn: Picture, images: Callable[[int], Picture], names: Sequence[str], *, several: bool = False
    ) -> Self:
        """From a part that was cut out of a good picture, (H, W[, 3]), and good images by number, of these names.

        DataError, where one of them is named, for one that does not show the part, or shows it at two places.
        """
        draft = cls._drawn(drawn, several)
        looks = looks_at(images, len(names), draft._longest)
        chosen = range(0, len(looks), -(-len(looks) // LEARNED))
        for _ in range(ROUNDS):
            aligned = [(looks[i], draft._candidates(looks[i])[0]) for i in chosen]
            typical = float(np.median([pose.match for _, pose in aligned]))
            if typical < LEAST:
                message = f"is matched by {typical:.2f} in a typical good picture, and {LEAST} is needed"
                raise DataError(message, hint="cut it out of a good picture, without changing its scale")
            close = [(look, pose) for look, pose in aligned if pose.match >= MATCH * typical]
            draft = replace(draft, template=packed(np.mean([draft.seen(look, pose) for look, pose in close], 0)))
        found = [draft._candidates(look) for look in looks]
        least, beside = min(poses[0].match for poses in found), max((p.match for f in found for p in f[1:]), default=0)
        worst = int(np.argmin([poses[0].match for poses in found]))
        if least < MATCH * float(np.median([poses[0].match for poses in found])):
            message = f"does not show what the template shows: it matches by {least:.2f} at most"
            raise DataError(message, path=names[worst], hint="leave it out, or draw what all good pictures show")
        if beside >= least:
            twice = int(np.argmax([max((p.match for p in poses[1:]), default=0) for poses in found]))
            there = f"by {beside:.2f} beside the part, and the part in {names[worst]} matches by {least:.2f}"
            message = f"shows what matches the template {there}"
            raise DataError(message, path=names[twice], hint="draw a larger piece, or one that there is once")
        limit = max(KEPT * least, (least + beside) / 2)
        return replace(draft, match=limit, narrowed=draft.narrowed_by(looks, [poses[0] for poses in found]))

    @classmethod
    def _drawn(cls, drawn: Picture, several: bool) -> Self:
        counts = (drawn if drawn.ndim == 2 else drawn.max(2)) > 0
        grey = np.asarray(cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY) if drawn.ndim == 3 else drawn)
        made = cls((float(grey.shape[0]), float(grey.shape[1])), "", "", -1.0, several=several)
        sides = made.sides[::-1]
        small = cv2.resize(grey, sides, interpolation=cv2.INTER_AREA).astype(np.float32)
        counted = cv2.resize(counts.astype(np.float32), sides, interpolation=cv2.INTER_AREA) > 0.99
        if counted.sum() < FEWEST:
            raise DataError(f"shows less than {FEWEST} of {counted.size} small pixels", hint="black does not count")
        if small[counted].std() < FLAT:
            raise DataError("is of one grey level", hint="draw a piece that has edges")
        bits = base64.b64encode(np.packbits(counted).tobytes()).decode("ascii")
        return replace(made, template=packed(small), looked_for=bits)

    def find_all(self, image: Picture) -> list[Pose]:
        """See `Posing`."""
        poses = self._candidates(look_at(image, self._longest(image.shape)))
        found = [pose for pose in poses if pose.match >= self.match]
        if not found:
            raise PartNotFound(
                f"no part found: the best place matches the template by {poses[0].match:.2f}, and {self.match:.2f} is "
                "needed",
                hint="is the part whole and in the picture, and at the same scale?",
            )
        return sorted(found, key=lambda pose: (pose.x, pose.y))

    def covered(self, image: Picture) -> NDArray[np.bool_]:
        """See `Posing`: what is looked for of each part."""
        shape = image.shape[0], image.shape[1]
        counted = self.counted.astype(np.float32)
        covered = np.zeros(shape, np.bool_)
        for pose in self.find_all(image):
            covered |= self.back(counted, pose, shape) > 0.5
        return covered

    def _longest(self, shape: tuple[int, ...]) -> float:
        return TEMPLATE * max(shape[:2]) / max(self.size)

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """(h, w): which pixels of the template are compared."""
        high, wide = self.sides
        bits = np.frombuffer(base64.b64decode(self.looked_for, validate=True), np.uint8)
        if bits.size != -(-high * wide // 8):
            raise ValueError(f"{bits.size} bytes for {wide} x {high} pixels")
        return np.unpackbits(bits, count=high * wide).astype(bool).reshape(high, wide)

    @cached_property
    def _turned(self) -> tuple[list[NDArray[np.float32]], int]:
        """The template of the first look at all angles, without its mean and of length 1; and how many of its pixels
        count."""
        high, wide = self.sides
        factor = FIRST / TEMPLATE
        side = 2 * math.ceil(factor * math.hypot(high, wide) / 2) + 1
        out, count = [], 1
        for number in range(ANGLES):
            turn = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), -360 * number / ANGLES, factor)
            turn[:, 2] += np.array([(side - wide) / 2, (side - high) / 2])
            smooth = cv2.GaussianBlur(self._template, (0, 0), 0.5 / factor)
            values = cv2.warpAffine(smooth, turn, (side, side)).astype(np.float32)
            inside = cv2.warpAffine(self.counted.astype(np.float32), turn, (side, side)) > 0.5
            count = max(int(inside.sum()), 1)
            values = np.where(inside, values - values[inside].mean(), 0) if inside.any() else values * 0
            out.append((values / max(float(np.linalg.norm(values)), 1e-6)).astype(np.float32))
        return out, count

    def _candidates(self, look: Look) -> list[Pose]:
        """Places that match, the best first, refined: one at least, and none at the place of a better one."""
        rough = sorted((self._closer(look, pose) for pose in self._first(look)), key=lambda pose: -pose.match)
        out: list[Pose] = []
        for pose in rough:
            if out and pose.match < CLOSE * out[0].match:
                break
            better = self.refined(look, pose)
            near = APART * min(self.size)
            if all(math.hypot(better.x - p.x, better.y - p.y) >= near for p in out):
                out.append(better)
        return sorted(out, key=lambda pose: -pose.match)

    def _closer(self, look: Look, pose: Pose) -> Pose:
        angles = [pose.angle + math.radians(more) for more in BETWEEN]
        return max((self.matched(look, replace(pose, angle=a)) for a in angles), key=lambda each: each.match)

    def _first(self, look: Look) -> list[Pose]:
        """The best places of a small picture, each at the angle that it matches best."""
        scale = FIRST / max(self.size)  # pixels of the small picture for one of the picture
        templates, count = self._turned
        middle = templates[0].shape[0] // 2
        wide, high = (max(1, round(side / look.scale * scale)) for side in look.grey.shape[::-1])
        small = cv2.resize(look.grey, (wide, high), interpolation=cv2.INTER_AREA)
        padded = cv2.copyMakeBorder(small, middle, middle, middle, middle, cv2.BORDER_REPLICATE).astype(np.float32)
        window = 2 * (round(math.sqrt(count)) // 2) + 1
        mean = cv2.blur(padded, (window, window))
        spread = np.sqrt(np.maximum(cv2.blur(padded * padded, (window, window)) - mean * mean, 4.0) * count)
        inner = slice(middle, middle + high), slice(middle, middle + wide)
        matches = np.stack([cv2.matchTemplate(padded, turned, cv2.TM_CCORR) for turned in templates])
        best = matches.max(0) / spread[inner]
        near = 2 * max(1, round(APART * scale * min(self.size) / 2)) + 1
        peaks = np.where(best >= cv2.dilate(best, np.ones((near, near), np.uint8)), best, -np.inf).ravel()
        poses = []
        for place in np.argsort(-peaks, kind="stable")[:CANDIDATES]:
            if np.isfinite(peaks[place]):
                y, x = divmod(int(place), wide)
                turn = int(matches[:, y, x].argmax()) * 2 * math.pi / ANGLES
                # both axes were rounded to whole pixels of the small picture
                across, down = look.grey.shape[1] / look.scale / wide, look.grey.shape[0] / look.scale / high
                poses.append(Pose((x + 0.5) * across - 0.5, (y + 0.5) * down - 0.5, turn, 0.0))
        return poses

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """See `Posing`."""
        found = super().from_json(values)
        try:
            _ = found.counted
        except ValueError as error:
            raise ConfigError(f"how a part is located is not understood ({error})") from None
        return found


def locator_of(values: Mapping[str, Any]) -> Posing:
    """What finds the part, from `Posing.to_json`; ConfigError where it is not understood."""
    kind: type[Posing] = TemplateLocator if "looked_for" in values else Locator
    return kind.from_json(values)
