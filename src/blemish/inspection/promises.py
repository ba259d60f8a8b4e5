"""The promises of a multi-class model, from good images through the deployed line. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from blemish.data.modality import Modality
from blemish.inspection.calibrate import Deployed, check_blank, check_varied, compared, deployed_model
from blemish.inspection.categories import Categories, Known, Row, of_rows
from blemish.inspection.conformal import Calibrator, Regions
from blemish.inspection.measuring import Measuring
from blemish.inspection.modelfile import Model
from blemish.types import Record, Track, no_track


class Promised(NamedTuple):
    """What good images allow to promise."""

    calibrators: dict[str, Calibrator]  # over all categories, by number format
    categories: Categories  # with their own
    agreement: dict[str, Any]  # of the number formats, see `scores.agreement`


class Seen(NamedTuple):
    """One good image through the deployed line."""

    record: str  # its id
    category: int  # decided
    strangeness: float
    row: Row  # of its score


def promised(
    model: Model,
    kind: Modality[Any],
    held: Sequence[Record],
    alpha: float,
    per_unit: bool,
    track: Track = no_track,
    *,
    learned: Sequence[Record] = (),
    only: int | None = None,
    blind: bool = False,
    regions: Regions = Regions(),  # noqa: B008 (frozen)
    confidence: float | None = None,
) -> Promised:
    """Calibrators over all categories, by number format, and the categories with their own ones.

    `learned` are good images that heads have learned and the router has not: beside the held-out ones they tell how
    strange good images look. A category with too few held-out images has no threshold; a warning names it (of `only`
    one, where the images are of one).

    CalibrationError, without `blind`, where the scores of the held-out images do not vary, and where a plain grey
    picture would be called good.
    """
    assert model.categories is not None
    names, ids = model.categories.names, {r.id for r in held}
    deployed = deployed_model(model, kind, Measuring.of(kind, regions, model.meta.rules))
    found = decided_scores(deployed, [*held, *learned], track)
    rows = {p: [d.row for d in seen if d.record in ids] for p, seen in found.items()}
    for format_rows in () if blind else rows.values():
        check_varied([row[0] for row in format_rows])
    each_row = rows.items()
    made = {p: of_rows(r, alpha, per_unit=per_unit, regions=regions, confidence=confidence) for p, r in each_row}
    pooled = {p: calibrator for p, calibrator in made.items() if calibrator is not None}
    each = {
        p: known(seen, ids, len(names), alpha, per_unit=per_unit, regions=regions, confidence=confidence)
        for p, seen in found.items()
    }
    scores = next(iter(each.values())).scores
    missing = [k for k, calibrator in enumerate(scores) if calibrator is None and only in (None, k)]
    if held and (without := [names[k] for k in missing]):
        warnings.warn(f"too few held-out good images for a promise of {alpha:g}: {', '.join(without)}", stacklevel=4)
    categories = model.categories.with_known(each)
    for precision, (score, _, votes, strangeness) in deployed.blank().items():
        decided = categories.decide(votes[0].tolist(), float(strangeness[0]), precision)
        if not (blind or decided.unknown):
            check_blank(float(score[0]), decided.calibrator)
    return Promised(pooled, categories, compared([[row[0] for row in format_rows] for format_rows in rows.values()]))


def decided_scores(deployed: Deployed, records: Sequence[Record], track: Track = no_track) -> dict[str, list[Seen]]:
    """What a multi-class model says of each image, by number format; copies of one image count once."""
    out: dict[str, list[Seen]] = {p: [] for p in deployed.engines}
    for record, precision, (_, _, votes, strangeness), row in deployed.scored(records, track):
        out[precision].append(Seen(record.id, int(votes[0].argmax()), float(strangeness[0]), row))
    return out


def known(
    found: Sequence[Seen],
    held: Container[str],
    count: int,
    alpha: float,
    *,
    per_unit: bool,
    regions: Regions = Regions(),  # noqa: B008 (frozen)
    confidence: float | None = None,
) -> Known:
    """The promises of `count` categories: thresholds from the `held` records, limits of strangeness from all."""
    scores, strangeness = [], []
    for k in range(count):
        in_category = [seen for seen in found if seen.category == k]
        rows = [seen.row for seen in in_category if seen.record in held]
        scores.append(of_rows(rows, alpha, per_unit=per_unit, regions=regions, confidence=confidence))
        strange = [Row(seen.strangeness, seen.strangeness, seen.row.unit, seen.row.content) for seen in in_category]
        strangeness.append(of_rows(strange, alpha, per_unit=per_unit, confidence=confidence))
    return Known(tuple(scores), tuple(strangeness))
