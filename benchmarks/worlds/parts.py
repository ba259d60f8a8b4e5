"""The parts of `worlds.PartsWorld`: how they are drawn, where they lie, and the rules that they keep or break."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.config import nearest
from blemish.errors import ConfigError

Field = NDArray[np.float32]
Profile = tuple[NDArray[Any], NDArray[Any]]


# ------------------------------------------------------- parts: (x, y) in units from the middle -> depth inside, height
def _screw(x: Field, y: Field) -> Profile:
    thread = 4.1 + 0.7 * np.abs((x * 0.42 + y * 0.09) % 2 - 1)
    wide = np.where(x < -15, np.minimum(9.5, 8 + (x + 22)), np.where(x < 14, thread, (24 - x) * 0.42))
    inside = np.minimum(np.minimum(wide - np.abs(y), x + 22), 24 - x)
    slot = (x < -18.5) & (np.abs(y) < 1.6)
    return inside, np.sqrt(np.maximum(wide**2 - y**2, 0)) - 3 * slot


def _nut(x: Field, y: Field) -> Profile:
    r = np.hypot(x, y)
    sides = np.max([np.abs(x * math.cos(k * math.pi / 3) + y * math.sin(k * math.pi / 3)) for k in range(3)], 0)
    inside = np.minimum(10.5 - sides, r - 5.4)
    return inside, 6 * np.clip(np.minimum(inside / 2.2, (13 - r) / 3), 0, 1)


def _washer(x: Field, y: Field) -> Profile:
    r = np.hypot(x, y)
    inside = np.minimum(10.5 - r, r - 4.6)
    return inside, 2.6 * np.sqrt(np.clip(inside / 1.8, 0, 1))


def _pin(x: Field, y: Field) -> Profile:
    distance = np.hypot(np.maximum(np.abs(x) - 17, 0), y)
    groove = np.clip(1 - np.abs(np.abs(x) - 13) / 1.3, 0, 1)
    return 4.2 - distance, np.sqrt(np.maximum(4.2**2 - distance**2, 0)) - 1.2 * groove


def _label(x: Field, y: Field) -> Profile:
    inside = np.minimum(23 - np.abs(x), 15 - np.abs(y))
    return inside, 1.2 * np.clip(inside, 0, 1)


def _cable(x: Field, y: Field) -> Profile:
    """A coil of two and a half turns and its straight end."""
    turn, r = np.arctan2(y, x) / (2 * math.pi), np.hypot(x, y)
    winding = np.clip(np.rint((r - 9) / 5.4 - turn), 0, 2)
    distance = np.abs(r - 9 - 5.4 * (winding + turn))
    end = np.hypot(x + 22.4, np.maximum(np.abs(y + 10) - 10, 0))
    distance = np.minimum(distance, end)
    return 2.6 - distance, np.sqrt(np.maximum(2.6**2 - distance**2, 0)) + 0.5


@dataclass(frozen=True)
class Kind:
    """How a kind of part looks and how much room it takes, in units of 1/256 of the image's side."""

    draw: Callable[[Field, Field], Profile]
    colour: tuple[int, int, int]
    gloss: float
    count: int  # in a good tray, all in one compartment
    half: float  # half of its length without the rounded ends
    radius: float


KINDS = {
    "screw": Kind(_screw, (150, 152, 158), 0.8, 2, 15, 10),
    "nut": Kind(_nut, (200, 158, 72), 0.7, 3, 0, 12.5),
    "washer": Kind(_washer, (172, 176, 180), 0.9, 4, 0, 11),
    "pin": Kind(_pin, (186, 112, 78), 0.8, 3, 18, 5),
    "label": Kind(_label, (0, 0, 0), 0.1, 1, 8, 17),
    "cable": Kind(_cable, (0, 0, 0), 0.35, 1, 0, 30),
}
LOOSE = ("screw", "nut", "washer", "pin")  # the kinds that get lost and mixed up
PAIRED = {"red": (196, 44, 38), "blue": (36, 84, 178), "yellow": (226, 180, 36), "green": (38, 132, 72)}
BOXES = [(20 + 73 * column, 20 + 110 * row, 70, 106) for row in range(2) for column in range(3)]  # x, y, w, h; by KINDS
DAMAGES = ("scratch", "stain", "chip")
BREACHES = ("extra", "missing", "wrong_kind", "swapped", "wrong_colour")
SHARP = 2  # drawn so many times larger
TRIES = 120  # places that are tried for a part at once
ROOM = 5  # units between parts whose places are nests
PLAY = 1.0, 0.05  # units and radians that a part in its nest may be off


@dataclass(frozen=True)
class Part:
    """One part in the tray: position in units, angle in radians; `colour` names one of `PAIRED`, or is empty."""

    kind: str
    box: int
    x: float
    y: float
    angle: float
    colour: str = ""


def paint(part: Part, x: Field, y: Field) -> Field:
    """The part's colour at its own coordinates."""
    plain = np.broadcast_to(np.array(PAIRED.get(part.colour, KINDS[part.kind].colour), np.float32), (*x.shape, 3))
    if part.kind == "label":
        paper = (np.abs(x) < 20) & (np.abs(y + 2.5) < 9)
        ink = paper & (np.abs(y + 2.5) < 6.5) & (np.abs(x) < 17) & (np.sin(x * 1.7) + np.sin(x * 2.9 + 1) > 0.25)
        return np.where(ink[..., None], 30, np.where(paper[..., None], 238, plain)).astype(np.float32)
    if part.kind == "cable":  # its bare end
        return np.where(((x < -19) & (y < -15))[..., None], np.float32(205), plain)
    return plain


def _discs(kind: str, x: NDArray[Any], y: NDArray[Any], angle: NDArray[Any]) -> NDArray[Any]:
    """(N, 5, 2): centres of five discs of the kind's radius that cover each of N such parts."""
    along = np.linspace(-KINDS[kind].half, KINDS[kind].half, 5)
    return np.stack([x[:, None] + along * np.cos(angle)[:, None], y[:, None] + along * np.sin(angle)[:, None]], 2)


def _placed(
    kind: str,
    box: int,
    others: Sequence[Part],
    generator: np.random.Generator,
    colour: str = "",
    near: Part | None = None,
    gap: float = 1,
) -> list[Part]:
    """One part within its compartment, `gap` units from the others, where `near` is if it can be; none without room."""
    (left, top, w, h), radius = BOXES[box], KINDS[kind].radius
    x, y = generator.uniform((left, top), (left + w, top + h), (TRIES, 2)).T
    angle = generator.uniform(-1, 1, TRIES) * (0.15 if kind == "label" else math.pi)
    if near:
        x[: TRIES // 4], y[: TRIES // 4] = near.x, near.y
    discs = _discs(kind, x, y, angle)
    edge = radius + 2
    free = ((discs >= (left + edge, top + edge)) & (discs <= (left + w - edge, top + h - edge))).all((1, 2))
    for other in (o for o in others if o.box == box):
        theirs = _discs(other.kind, *(np.array([v]) for v in (other.x, other.y, other.angle)))
        gaps = np.sqrt(((discs[:, :, None] - theirs[:, None]) ** 2).sum(3)).min((1, 2))
        free &= gaps >= radius + KINDS[other.kind].radius + gap
    return [Part(kind, box, float(x[i]), float(y[i]), float(angle[i]), colour) for i in np.flatnonzero(free)[:1]]


def layout(generator: np.random.Generator, gap: float = 1) -> tuple[Part, ...]:
    """The parts of a good tray, each somewhere in its compartment."""
    colour = str(generator.choice(list(PAIRED)))
    parts: list[Part] = []
    for box, (name, kind) in enumerate(KINDS.items()):
        inside: list[Part] = []
        while len(inside) < kind.count:
            added = _placed(name, box, inside, generator, "" if name in LOOSE else colour, gap=gap)
            inside = inside + added if added else []  # no room left: this compartment is filled anew
        parts += inside
    return tuple(parts)


def nested(nests: Sequence[Part], generator: np.random.Generator) -> tuple[Part, ...]:
    """The parts of a good tray in which each has its place and angle, with a little play; one colour is drawn."""
    colour = str(generator.choice(list(PAIRED)))
    moves = generator.uniform(-1, 1, (len(nests), 3)) * (PLAY[0], *PLAY)
    return tuple(
        replace(p, x=p.x + float(dx), y=p.y + float(dy), angle=p.angle + float(turn), colour=p.colour and colour)
        for p, (dx, dy, turn) in zip(nests, moves, strict=True)
    )


def breached(parts: Sequence[Part], name: str, generator: np.random.Generator) -> tuple[Part, ...]:
    """The parts of a good tray with a rule broken, one of `BREACHES`; where nothing has to move, nothing does."""
    known(name, BREACHES)
    if name == "wrong_colour":
        cable = next(p for p in parts if p.kind == "cable")
        other = generator.choice([c for c in PAIRED if c != cable.colour])
        return tuple(replace(p, colour=str(other)) if p is cable else p for p in parts)
    loose = [p for p in parts if p.kind in LOOSE]
    while True:  # until what is to be put in has found room
        one = loose[generator.integers(len(loose))]
        two = loose[generator.integers(len(loose))]
        if name == "missing":
            return tuple(p for p in parts if p is not one)
        if name == "extra":
            if added := _placed(one.kind, one.box, parts, generator):
                return (*parts, *added)
            continue
        if one.kind == two.kind:
            continue
        gone = [one] if name == "wrong_kind" else [one, two]
        kept = [p for p in parts if all(p is not g for g in gone)]
        added = [
            q
            for p, k in ((one, two.kind), (two, one.kind))
            if p in gone
            for q in _placed(k, p.box, kept, generator, near=p)
        ]
        if len(added) == len(gone):
            return (*kept, *added)


def known(kind: str, kinds: Sequence[str]) -> str:
    if kind not in kinds:
        raise ConfigError(f"unknown kind '{kind}'", hint=nearest(kind, list(kinds)))
    return kind


def within(x: Field, y: Field, left: float, top: float, w: float, h: float) -> Field:
    """Depth inside a box with round corners."""
    u, v = np.abs(x - left - w / 2) - w / 2 + 5, np.abs(y - top - h / 2) - h / 2 + 5
    depth = 5 - np.hypot(np.maximum(u, 0), np.maximum(v, 0)) - np.minimum(np.maximum(u, v), 0)
    return np.asarray(depth, np.float32)
