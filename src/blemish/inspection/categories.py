"""What a multi-class model knows of each category: its name, and the good images behind its two promises.

Conformal prediction within categories (Mondrian: Vovk, Gammerman and Shafer 2005, section 4.5): a threshold is made of
the good images that were *decided* to be of a category, by the same router as at inspection, so that the promise holds
in every category and not only over all of them. The second promise is that of the alarm for unknown products, from how
strange good images look to the router: the held-out ones and, as it has learned a few images alone, others too. It is
counted by units wherever images have them: a new unit of a known product is stranger than further images of the
units seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from blemish.errors import CalibrationError
from blemish.inspection.conformal import Calibrator, Further, Kind, Regions, sure, uncertain


class Row(NamedTuple):
    """One good image through the deployed line."""

    score: float
    peak: float  # largest value of the map
    unit: str
    content: str  # its id
    further: Further = Further()


@dataclass(frozen=True)
class Decided:
    """What the router decided."""

    category: str
    confidence: float  # how far the first category is ahead of the second, in [0, 1]
    unknown: bool | None  # None where the category has no promise
    calibrator: Calibrator | None  # of this category


@dataclass(frozen=True)
class Known:
    """The promises of one number format, by category; None where too few good images were held out."""

    scores: tuple[Calibrator | None, ...]
    strangeness: tuple[Calibrator | None, ...]


@dataclass(frozen=True)
class Categories:
    """Names in the order of the votes, and the promises of each number format."""

    names: tuple[str, ...]
    known: dict[str, Known]

    def decide(self, votes: Sequence[float], strangeness: float, precision: str) -> Decided:
        """The category with the most votes; its threshold; whether the image is stranger than the good images of that
        category."""
        order = sorted(range(len(votes)), key=lambda k: (-votes[k], k))
        ahead = votes[order[0]] - votes[order[1]] if len(order) > 1 else 1.0
        known = self.known.get(precision)
        calibrator = known.scores[order[0]] if known else None
        limit = known.strangeness[order[0]] if known else None
        unknown = None if limit is None else bool(strangeness > limit.wide_threshold)
        return Decided(self.names[order[0]], float(ahead), unknown, calibrator)

    def with_known(self, known: dict[str, Known]) -> Categories:
        """The same categories with other promises."""
        return replace(self, known=known)

    def again(self, alpha: float, regions: Regions | None = None, confidence: float | None = None) -> Categories:
        """The same held-out images under another rate, with regions cut as before or otherwise, and with another
        confidence where one is given; a category that has too few of them loses its promise."""

        def each(made: tuple[Calibrator | None, ...], given: Regions | None) -> tuple[Calibrator | None, ...]:
            return tuple(c and _fitted(c, alpha, given, confidence) for c in made)

        known = {p: Known(each(k.scores, regions), each(k.strangeness, None)) for p, k in self.known.items()}
        return replace(self, known=known)

    @property
    def promise(self) -> str | None:
        """The sentence for people; None where nothing is promised."""
        known = next(iter(self.known.values()), None)
        if known is None:
            return None
        parts = (
            _sentence(known.scores, "of good parts rejected", "held-out good images"),
            _sentence(known.strangeness, "of good parts called unknown", "good images"),
        )
        return "; ".join(part for part in parts if part) or None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""

        def each(made: tuple[Calibrator | None, ...]) -> list[Any]:
            return [c and c.to_json() for c in made]

        known = {
            p: {"scores": each(k.scores), "strangeness": each(k.strangeness)} for p, k in sorted(self.known.items())
        }
        return {"names": list(self.names), "known": known}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Categories:
        """The inverse of `to_json`."""

        def each(made: list[Any]) -> tuple[Calibrator | None, ...]:
            return tuple(c and Calibrator.from_json(c) for c in made)

        known = {p: Known(each(k["scores"]), each(k["strangeness"])) for p, k in values["known"].items()}
        return cls(tuple(values["names"]), known)


def _sentence(made: Sequence[Calibrator | None], what: str, images: str) -> str | None:
    calibrators = [c for c in made if c is not None]
    if not calibrators:
        return None
    words = "at most" if all(c.exact for c in calibrators) else "about"
    rate = f"{calibrators[0].alpha:.3g}"
    if (confidence := calibrators[0].confidence) is not None:
        words, rate = f"{sure(confidence)} of each: at most", f"{100 * calibrators[0].alpha:.3g} %"
    counts = sorted(c.n for c in calibrators)
    number = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else f"{counts[0]}"
    which = "each category" if len(calibrators) == len(made) else f"{len(calibrators)} of {len(made)} categories"
    return f"{words} {rate} {what} in {which}, from {number} {images} of each"


def _fitted(
    calibrator: Calibrator, alpha: float, regions: Regions | None, confidence: float | None
) -> Calibrator | None:
    if confidence is not None and not calibrator.exact:
        raise uncertain(confidence, by_units=True)
    try:
        return calibrator.again(alpha, regions, confidence)
    except CalibrationError:
        return None


def calibrator_of(
    rows: Sequence[Row],
    alpha: float,
    kind: Kind = "split",
    *,
    per_unit: bool,
    regions: Regions = Regions(),  # noqa: B008 (frozen)
    confidence: float | None = None,
) -> Calibrator:
    """The calibrator of these good images; CalibrationError where they are too few for a promise."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(row.unit for row in rows))}
    return Calibrator.fit(
        [row.score for row in rows],
        [row.peak for row in rows],
        alpha,
        kind,
        [numbers[row.unit] for row in rows],
        per_unit,
        [row.content for row in rows],
        regions,
        [row.further for row in rows],
        confidence,
    )


def of_rows(
    rows: Sequence[Row],
    alpha: float,
    *,
    per_unit: bool,
    regions: Regions = Regions(),  # noqa: B008 (frozen)
    confidence: float | None = None,
) -> Calibrator | None:
    """The same, None where they are too few; CalibrationError where no number of them would give the confidence."""
    if confidence is not None and not per_unit and len({row.unit for row in rows}) < len(rows):
        raise uncertain(confidence, by_units=True)
    try:
        return calibrator_of(rows, alpha, per_unit=per_unit, regions=regions, confidence=confidence)
    except CalibrationError:
        return None
