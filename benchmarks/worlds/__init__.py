"""Drawn parts whose anomalies are known, for tests and ablations; nothing here stands for a figure on real parts.

`stripes`          a texture with a blotch
`disc_and_square`  two objects whose anomalies are normal everywhere when seen closely
`PartsWorld`       a tray of counted, placed and paired parts, with damages and with broken rules

Bergmann et al., Beyond Dents and Scratches, IJCV 2022, tell apart structural and logical anomalies, as is done here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from blemish.data.synthesis.masks import Mask, Shape, thread_mask
from blemish.data.synthesis.perlin import fractal, perlin
from blemish.data.synthesis.texture import Image, checked
from blemish.errors import ConfigError
from blemish.files import write_whole

from .parts import (
    BOXES,
    BREACHES,
    DAMAGES,
    KINDS,
    LOOSE,
    ROOM,
    SHARP,
    Field,
    Part,
    breached,
    known,
    layout,
    nested,
    paint,
    within,
)

Drawn = tuple[Image, Mask]

NESTS = layout(np.random.default_rng(0), ROOM)
SWAPS = ("both_discs", "missing_square", "swapped")


def stripes(generator: np.random.Generator, size: Shape = (64, 64), kind: str = "good", blotch: int = 6) -> Drawn:
    """Noisy stripes, uint8 (H, W, 3), and a mask; `kind` "blotch" has a light square of `blotch` pixels a side."""
    known(kind, ("good", "blotch"))
    phase = np.arange(size[0])[:, None, None] / 3
    image = np.clip(120 + 40 * np.sin(phase) + generator.normal(0, 6, (*size, 3)), 0, 255)
    mask = np.zeros(size, bool)
    if kind == "blotch":
        y, x = (int(generator.integers(max(n - blotch, 0) + 1)) for n in size)
        mask[y : y + blotch, x : x + blotch] = True
        image[mask] = np.minimum(image[mask] * 0.3 + 170, 255)
    return image.astype(np.uint8), mask


def disc_and_square(generator: np.random.Generator, size: Shape = (64, 64), kind: str = "good") -> Drawn:
    """A disc in the left half and a square in the right one, uint8 (H, W, 3), and a mask.

    kind   "good", or one of `SWAPS`: "both_discs" (another disc for the square), "missing_square", "swapped"

    Both are of one colour and of about one size, and lie anywhere in their halves. The mask covers what is wrong and
    what should be there instead.
    """
    known(kind, ("good", *SWAPS))
    radius = min(size[0], size[1] // 2) * 0.27
    y, x = np.ogrid[: size[0], : size[1]]
    shapes: list[dict[str, Mask]] = []
    for left in (0.25, 0.75):
        free = np.array([size[0] / 2, size[1] / 4]) - radius - 2
        cy, cx = np.array([size[0] / 2, size[1] * left]) - 0.5 + generator.uniform(-1, 1, 2) * np.maximum(free, 0)
        square = np.maximum(np.abs(y - cy), np.abs(x - cx)) <= radius * 0.9
        shapes.append({"disc": np.hypot(y - cy, x - cx) <= radius, "square": square, "": np.zeros(size, bool)})
    shown = {"both_discs": ("disc", "disc"), "missing_square": ("disc", ""), "swapped": ("square", "disc")}
    usual = ("disc", "square")
    names = shown.get(kind, usual)
    image = 90 + 80.0 * (shapes[0][names[0]] | shapes[1][names[1]])[..., None] + generator.normal(0, 5, (*size, 3))
    mask = np.zeros(size, bool)
    for side, name, due in zip(shapes, names, usual, strict=True):
        if name != due:
            mask |= side[name] | side[due]
    return np.clip(image, 0, 255).astype(np.uint8), mask


@dataclass
class _Maps:
    """What the light falls on, SHARP times the image's size."""

    colour: Field  # (H, W, 3), 0 to 255
    height: Field
    gloss: Field


@dataclass(frozen=True)
class _Shot:
    """What differs from photo to photo besides the parts: where the textures lie, the light, the noise."""

    offset: tuple[int, int]
    light: Field
    noise: Field


@dataclass(frozen=True, eq=False)
class PartsWorld:
    """A tray of screws, nuts, washers, pins, a label and a cable, seen from above.

    textures   uint8 (H, W) or (H, W, 3): the first is the bench, the second the tray's floor; drawn ones otherwise
    size       pixels of a side of the image
    nests      parts lie in nests: each has its place and angle, the same in all images but for a little play

    In a good image each kind lies in its own compartment, in its number (`KINDS`), and the cable is of the label's
    colour; places and angles (without `nests`), that colour, light and noise vary. `DAMAGES` are structural:
    something that is never seen on good parts. `BREACHES` are logical: every part of the image looks as good ones
    do, and a rule is broken. A mask covers what is wrong, and what is missing where it lay in the good image that
    the anomalous one was made of; an anomalous image differs from that one inside the mask only.
    """

    textures: Sequence[Image] | None = field(default=None, repr=False)
    size: int = 256
    nests: bool = False
    _ground: tuple[Image, ...] = field(init=False, repr=False)
    _tray: tuple[Field, Field, Field] = field(init=False, repr=False)  # of whole, of its compartments, its height

    def __post_init__(self) -> None:
        if self.size < 64:
            raise ConfigError(f"parts cannot be told apart in {self.size} pixels", hint="a size of 64 or more")
        given = [checked(np.repeat(t[..., None], 3, 2) if t.ndim == 2 else t) for t in self.textures or ()]
        grounds = [given[0], given[1 % len(given)]] if given else _drawn_grounds()
        side = self.size * SHARP * 5 // 4
        way = cv2.INTER_AREA if self._unit < 1 else cv2.INTER_CUBIC
        wide = [cv2.resize(g, None, fx=self._unit, fy=self._unit, interpolation=way) for g in grounds]
        tiled = [cv2.copyMakeBorder(g, 0, side, 0, side, cv2.BORDER_REFLECT)[:side, :side] for g in wide]
        object.__setattr__(self, "_ground", tuple(np.asarray(t, np.uint8) for t in tiled))
        at = ((np.arange(self.size * SHARP, dtype=np.float32) + 0.5) / np.float32(self._unit))[:, None]
        boxes, whole = np.max([within(at.T, at, *box) for box in BOXES], 0), within(at.T, at, 10, 10, 236, 236)
        tray, inner = (np.clip(depth * self._unit + 0.5, 0, 1)[..., None] for depth in (whole, boxes))
        rim = np.float32(9) * np.clip(-boxes / 2, 0, 1) * np.clip(whole / 2, 0, 1)
        object.__setattr__(self, "_tray", (tray, inner, rim))

    def _layout(self, generator: np.random.Generator) -> tuple[Part, ...]:
        return nested(NESTS, generator) if self.nests else layout(generator)

    @property
    def _unit(self) -> float:
        return self.size * SHARP / 256

    def good(self, generator: np.random.Generator) -> Image:
        """uint8 (size, size, 3)"""
        shot = self._shot(generator)
        return self._lit(self._maps(self._layout(generator), shot), shot)

    def structural(self, generator: np.random.Generator, name: str | None = None) -> tuple[Image, Mask, str]:
        """An image with a damaged part, its mask, and which of `DAMAGES` it is; at random unless named."""
        name = known(name or DAMAGES[generator.integers(len(DAMAGES))], DAMAGES)
        shot, parts = self._shot(generator), self._layout(generator)
        maps = self._maps(parts, shot)
        before = self._lit(maps, shot)
        loose = [p for p in parts if p.kind in LOOSE]
        for part in (loose[i] for i in generator.permutation(len(loose))):
            self._damage(maps, self._maps((), shot), part, name, generator)
            image, mask = _only(before, self._lit(maps, shot), np.zeros(before.shape[:2], bool))
            if np.count_nonzero(mask) >= max(self.size**2 // 4000, 4):
                break
        return image, mask, name

    def logical(self, generator: np.random.Generator, name: str | None = None) -> tuple[Image, Mask, str]:
        """An image with a broken rule, its mask, and which of `BREACHES` it is; at random unless named."""
        name = known(name or BREACHES[generator.integers(len(BREACHES))], BREACHES)
        shot, parts = self._shot(generator), self._layout(generator)
        others = breached(parts, name, generator)
        wrong = np.zeros((self.size, self.size), bool)
        for part in set(parts) ^ set(others):
            window, x, y = self._local(part, 1)
            wrong[window] |= KINDS[part.kind].draw(x, y)[0] > 0
        before, after = (self._lit(self._maps(p, shot), shot) for p in (parts, others))
        return *_only(before, after, wrong), name

    def draw(self, kind: str, generator: np.random.Generator) -> Drawn:
        """The image and mask of "good", or of any of `DAMAGES` and `BREACHES`."""
        if known(kind, ("good", *DAMAGES, *BREACHES)) == "good":
            return self.good(generator), np.zeros((self.size, self.size), bool)
        image, mask, _ = (self.structural if kind in DAMAGES else self.logical)(generator, kind)
        return image, mask

    def _shot(self, generator: np.random.Generator) -> _Shot:
        y, x = generator.integers(0, self.size * SHARP // 5, 2)
        side = np.linspace(-1, 1, self.size, dtype=np.float32)
        gain, tilt = generator.uniform(0.95, 1.05), generator.uniform(-0.05, 0.05, 2)
        light = (gain + tilt[0] * side[:, None] + tilt[1] * side[None]).astype(np.float32)
        noise = generator.standard_normal((self.size, self.size, 3), np.float32) * np.float32(1.6)
        return _Shot((int(y), int(x)), light, noise)

    def _local(self, part: Part, sharp: int) -> tuple[tuple[slice, slice], Field, Field]:
        """A window around a part, and the part's own coordinates of its pixels, in units."""
        unit, side = self.size * sharp / 256, self.size * sharp
        spans = [slice(max(int((c - 36) * unit), 0), min(math.ceil((c + 36) * unit), side)) for c in (part.y, part.x)]
        y, x = ((np.arange(s.start, s.stop, dtype=np.float32) + 0.5) / np.float32(unit) for s in spans)
        y, x = y[:, None] - np.float32(part.y), x[None] - np.float32(part.x)
        c, s = np.float32(math.cos(part.angle)), np.float32(math.sin(part.angle))
        return (spans[0], spans[1]), c * x + s * y, c * y - s * x

    def _maps(self, parts: Sequence[Part], shot: _Shot) -> _Maps:
        side, unit = self.size * SHARP, self._unit
        y, x = shot.offset
        bench, floor = (np.asarray(g[y : y + side, x : x + side], np.float32) for g in self._ground)
        tray, inner, rim = self._tray
        colour = bench * np.float32(0.8) * (1 - tray) + np.array([58, 64, 72], np.float32) * tray
        colour = colour * (1 - inner) + (floor * np.float32(0.45) + 70) * inner
        maps = _Maps(colour, rim.copy(), np.full((side, side), 0.08, np.float32))
        for part in parts:
            window, px, py = self._local(part, SHARP)
            inside, height = KINDS[part.kind].draw(px, py)
            cover = np.clip(inside * unit + 0.5, 0, 1)
            maps.colour[window] += cover[..., None] * (paint(part, px, py) - maps.colour[window])
            maps.height[window] = np.maximum(maps.height[window], cover * (height + 1))
            maps.gloss[window] += cover * (KINDS[part.kind].gloss - maps.gloss[window])
        return maps

    def _damage(self, maps: _Maps, bare: _Maps, part: Part, name: str, generator: np.random.Generator) -> None:
        window, x, y = self._local(part, SHARP)
        inside, _ = KINDS[part.kind].draw(x, y)
        shape = (x.shape[0], x.shape[1])
        rough = fractal(shape, 14, generator, 3)
        if name == "scratch":
            marks = [thread_mask(shape, generator, length=(0.5, 0.9), width=(0.012, 0.02)) for _ in range(12)]
            where = max(marks, key=lambda m: int(np.count_nonzero(m & (inside > 0)))) & (inside > 0)
            maps.colour[window][where] = maps.colour[window][where] * 0.3 + 165
            maps.height[window][where] -= 1.5
            return
        rim = np.argwhere(np.abs(inside) < max(0.5, 1 / self._unit))
        cy, cx = rim[generator.integers(len(rim))] / self._unit
        u, v = (np.arange(n, dtype=np.float32) / np.float32(self._unit) for n in shape)
        reach = generator.uniform(4.5, 7) if name == "chip" else generator.uniform(7, 12)
        near = np.clip((reach - np.hypot(u[:, None] - cy, v[None] - cx) + 5 * rough) / 1.5, 0, 1) * (inside > -0.5)
        if name == "chip":
            for of, to in ((maps.colour, bare.colour), (maps.height, bare.height), (maps.gloss, bare.gloss)):
                weight = near[..., None] if of.ndim == 3 else near
                of[window] += weight * (to[window] - of[window])
            return
        rust = np.array([112, 56, 24], np.float32) * (1 + 0.5 * rough[..., None])
        maps.colour[window] += 0.85 * near[..., None] * (rust - maps.colour[window])
        maps.gloss[window] *= 1 - 0.9 * near

    def _lit(self, maps: _Maps, shot: _Shot) -> Image:
        """Lit from the upper left: shading, cast shadows, mirrors in what is glossy; at the image's size."""
        unit, height = self._unit, cv2.GaussianBlur(maps.height, (0, 0), 0.35 * self._unit)
        gy, gx = (cv2.Sobel(height, cv2.CV_32F, dx, dy, ksize=3, scale=unit / 8) for dx, dy in ((0, 1), (1, 0)))
        nz = 1 / np.sqrt(1 + gx**2 + gy**2)
        nx, ny = -gx * nz, -gy * nz
        facing = np.maximum(0.42 * -nx + 0.5 * -ny + 0.76 * nz, 0)
        shade = np.zeros_like(height)
        for k in range(1, 6):
            step = max(round(1.6 * k * unit), 1)
            moved = cv2.copyMakeBorder(height, step, 0, step, 0, cv2.BORDER_REPLICATE)[:-step, :-step]
            shade = np.maximum(shade, np.clip((moved - 1.5 * k - height) / 2, 0, 1))
        shade = cv2.GaussianBlur(shade, (0, 0), 1.2 * unit)
        nook = np.clip((cv2.blur(height, (int(10 * unit) | 1,) * 2) - height) / 14, 0, 0.35)
        mirror = 0.5 + 0.5 * np.sin(3.4 * ny + 2.2 * nx + 1.2 * nz)
        glint = np.maximum(0.25 * -nx + 0.32 * -ny + 0.914 * nz, 0) ** 60
        lit = (0.38 + 0.8 * facing) * (1 - maps.gloss) + maps.gloss * (0.3 + 0.95 * mirror)
        lit *= (1 - 0.6 * shade) * (1 - nook)
        spark = 110 * maps.gloss * glint * (1 - shade) * (maps.height > 1)
        out = maps.colour * lit[..., None] + spark[..., None]
        small = cv2.resize(out, (self.size, self.size), interpolation=cv2.INTER_AREA)
        exposed = np.asarray(small, np.float32) * shot.light[..., None] + shot.noise
        return np.asarray(np.clip(exposed, 0, 255), np.uint8)


def write_dataset(
    root: str | Path,
    draw: Callable[[str, np.random.Generator], Drawn],
    kinds: Sequence[str],
    generator: np.random.Generator,
    *,
    train: int = 40,
    good: int = 20,
    each: int = 10,
) -> Path:
    """Write PNGs in MVTec AD's layout below `root`, and return it.

    draw     `(kind, generator) -> (image, mask)`, as `PartsWorld().draw`; is asked for "good" too
    kinds    of anomalies, a folder each
    train    number of good images to learn from; `good` and `each` are those to test with, good and per kind

    DataError where a file cannot be written.
    """
    root = Path(root)
    for folder, count in (("train/good", train), ("test/good", good)):
        for i in range(count):
            write_whole(root / folder / f"{i:03d}.png", _png(draw("good", generator)[0]))
    for kind in kinds:
        for i in range(each):
            image, mask = draw(kind, generator)
            write_whole(root / "test" / kind / f"{i:03d}.png", _png(image))
            write_whole(root / "ground_truth" / kind / f"{i:03d}_mask.png", _png(mask.astype(np.uint8) * np.uint8(255)))
    return root


def _png(image: Image) -> bytes:
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _only(before: Image, after: Image, wrong: Mask) -> Drawn:
    """The anomalous image and its mask: what is wrong, and where the two differ by more than the noise hides."""
    mask = wrong | (np.abs(after.astype(np.int16) - before).max(2) > 5)
    return np.where(mask[..., None], after, before).astype(np.uint8), mask


def _drawn_grounds() -> list[Image]:
    """Wood for the bench and grey felt for the floor: the same in every world without textures."""
    generator, shape = np.random.default_rng(0), (256, 256)
    grain = np.sin(26 * perlin(shape, (1.5, 3), generator) + 6 * fractal(shape, (40, 2), generator, 2))
    fine = fractal(shape, (128, 6), generator, 2)
    wood = np.array([164, 122, 82]) + (11 * grain + 26 * fine)[..., None] * (1, 0.85, 0.6)
    cloth = np.array([128, 134, 140]) + (44 * fractal(shape, 48, generator, 3, 0.8))[..., None]
    return [np.clip(g, 0, 255).astype(np.uint8) for g in (wood, cloth)]
