"""Acceptance rules: which regions a part may have.

    rule       [name ":"] condition {"and" condition} ["in" area]
    condition  ("length" | "width" | "area") comparison number unit
               "count" (">" | ">=") number
    comparison ">" | ">=" | "<" | "<="
    unit       mm, um, cm, px; of an area mm2, um2, cm2, px2

A rule fires where one region, of the area if one is named, meets all of its conditions; with a count, where that many
regions meet the others. An area whose name is no word stands in quotes. A part is rejected if any rule fires.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from blemish.config import nearest
from blemish.errors import ConfigError

if TYPE_CHECKING:
    from blemish.types import Region, RuleResult

QUANTITIES = ("length", "width", "area", "count")
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
}
LENGTHS = {"mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "cm": 10.0}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<sign>[<>]=?)|(?P<colon>:)"""
    r"""|(?P<text>"[^"]*"|'[^']*')|(?P<word>[^\W\d][\w²-]*))"""
)
_EXAMPLE = 'such as "length > 0.3mm", "count > 3" or "scratch: length > 0.3mm and width < 0.1mm in seal"'


class Condition(NamedTuple):
    """One comparison; lengths in mm or px, areas in their squares."""

    quantity: str
    comparison: str
    number: float
    unit: str = ""  # mm or px; none of a count

    def of(self, region: Region) -> float:
        """The quantity of a region that was measured."""
        if self.quantity == "area":
            return float(region.area_px) if self.unit == "px" else region.area_mm2 or 0.0
        if self.unit == "px":
            return (region.length_px if self.quantity == "length" else region.width_px) or 0.0
        return (region.length_mm if self.quantity == "length" else region.width_mm) or 0.0

    def holds(self, value: float) -> bool:
        """Whether a value meets it."""
        return COMPARISONS[self.comparison](value, self.number)


@dataclass(frozen=True)
class Rule:
    """One rule as it was written, and what it says."""

    text: str
    conditions: tuple[Condition, ...]
    count: Condition | None = None
    area: str | None = None

    def judge(self, regions: Sequence[Region]) -> RuleResult:
        """Whether it fires, and what decided: the number of regions, or of those that meet its other conditions the
        first quantity of the one that comes nearest to breaking it, or breaks it most."""
        from blemish.types import RuleResult  # loads numpy, and the command line reads rules without it

        here = [r for r in regions if self.area is None or r.area == self.area]
        if self.count is not None:
            number = sum(all(c.holds(c.of(r)) for c in self.conditions) for r in here)
            return RuleResult(self.text, self.count.holds(number), float(number))
        first, *others = self.conditions
        values = [first.of(r) for r in here if all(c.holds(c.of(r)) for c in others)]
        if not values:
            return RuleResult(self.text, False, None)
        value = max(values) if first.comparison.startswith(">") else min(values)
        return RuleResult(self.text, first.holds(value), value)

    @property
    def scaled(self) -> bool:
        """Whether it needs the size of a pixel."""
        return any(c.unit == "mm" for c in self.conditions)


def parse_rule(text: str) -> Rule:
    """ConfigError, naming what is wrong and where, for a text that is no rule."""
    return _Parser(text).rule()


def check_rules(rules: Sequence[Rule], *, scaled: bool, areas: Sequence[str]) -> None:
    """ConfigError where a rule asks for millimetres without a scale, or for an area that there is not."""
    for rule in rules:
        if rule.scaled and not scaled:
            message = f"rule '{rule.text}' is in millimetres, and the size of a pixel is not known"
            raise ConfigError(message, hint="give it (--scale 0.05mm), or write px")
        if rule.area is not None and rule.area not in areas:
            message = f"rule '{rule.text}': no area '{rule.area}'"
            raise ConfigError(message, hint=nearest(rule.area, list(areas)) if areas else "name areas with --roi")


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = str(text).strip()
        self.tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(self.text):
            found = _TOKEN.match(self.text, place)
            if found is None or not found.group().strip():
                self.wrong(f"'{self.text[place:].split()[0]}' is not understood")
            kind = found.lastgroup or ""
            self.tokens.append((kind, found[kind]))
            place = found.end()
            while place < len(self.text) and self.text[place].isspace():
                place += 1
        self.at = 0

    def wrong(self, what: str, hint: str = _EXAMPLE) -> NoReturn:
        raise ConfigError(f"rule '{self.text}': {what}", hint=hint)

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else ("end", "")

    def take(self, kind: str, what: str) -> str:
        found, token = self.peek()
        if found != kind:
            self.wrong(f"{what} is wanted, not '{token}'" if token else f"ends where {what} is wanted")
        self.at += 1
        return token

    def rule(self) -> Rule:
        if self.peek(1)[0] == "colon":
            self.at += 2
        conditions = [self.condition()]
        while self.peek()[1].lower() == "and":
            self.at += 1
            conditions.append(self.condition())
        area = None
        if self.peek()[1].lower() == "in":
            self.at += 1
            kind, token = self.peek()
            area = self.take(kind if kind in ("text", "word") else "word", "the name of an area").strip("\"'")
        if self.at < len(self.tokens):
            self.wrong(f"'{self.peek()[1]}' is too much, 'and' or 'in' is wanted")
        counts = [c for c in conditions if c.quantity == "count"]
        if len(counts) > 1:
            self.wrong("has more than one count")
        plain = tuple(c for c in conditions if c.quantity != "count")
        return Rule(self.text, plain, counts[0] if counts else None, area)

    def condition(self) -> Condition:
        quantity = self.take("word", "length, width, area or count").lower()
        if quantity not in QUANTITIES:
            self.wrong(f"'{quantity}' is no quantity", nearest(quantity, list(QUANTITIES)))
        comparison = self.take("sign", "a comparison (>, >=, <, <=)")
        number = float(self.take("number", "a number"))
        if quantity == "count":
            if comparison.startswith("<") or (comparison == ">=" and number == 0):
                self.wrong(f"count {comparison} {number:g} rejects a part without any region", "count > 3")
            if self.peek()[0] == "word" and self.peek()[1].lower() not in ("and", "in"):
                self.wrong(f"'{self.peek()[1]}' is no unit of a count", "a count has none")
            return Condition(quantity, comparison, number)
        return Condition(quantity, comparison, *self.unit(quantity, number))

    def unit(self, quantity: str, number: float) -> tuple[float, str]:
        kind, token = self.peek()
        unit = token.lower()
        if kind != "word" or unit in ("and", "in"):
            units = "mm2, um2, cm2 or px2" if quantity == "area" else "mm, um, cm or px"
            self.wrong(f"the unit of {quantity} {number:g} is missing", units)
        self.at += 1
        power = 2 if quantity == "area" else 1
        root = unit.removesuffix("2").removesuffix("²") if power == 2 else unit
        if root == "px":
            return number, "px"
        if root not in LENGTHS or (power == 2 and root == unit):
            known = [*(f"{name}{'2' if power == 2 else ''}" for name in LENGTHS), "px"]
            self.wrong(f"'{token}' is no unit of {quantity}", nearest(unit, known))
        return number * LENGTHS[root] ** power, "mm"
