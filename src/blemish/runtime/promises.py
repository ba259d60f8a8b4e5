"""The promises of a model of several products, from good images through the deployed line. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

from blemish.calibration import Calibrator
from blemish.categories import Categories, Known, Row, of_rows
from blemish.kinds import SampleKind
from blemish.modelfile import Model
from blemish.runtime.engines import Engine, Precision
from blemish.runtime.scores import Track, formats, no_track, scored
from blemish.types import Record


class Seen(NamedTuple):
    """One good image through the deployed line."""

    record: str  # its id
    category: int  # decided
    strangeness: float
    row: Row  # of its score


def promised(
    model: Model,
    kind: SampleKind[Any],
    held: Sequence[Record],
    alpha: float,
    per_unit: bool,
    track: Track = no_track,
    *,
    learned: Sequence[Record] = (),
    only: int | None = None,
) -> tuple[dict[str, Calibrator], Categories]:
    """Calibrators over all categories, by number format, and the categories with their own ones.

    `learned` are good images that heads have learned and the vote has not: beside the held-out ones they tell how
    strange good images look. A category with too few held-out images has no threshold; a warning names it (of `only`
    one, where the images are of one).
    """
    assert model.categories is not None
    names, ids = model.categories.names, {r.id for r in held}
    found = decided_scores(lambda p: kind.open(model, precision=p), kind, [*held, *learned], track)
    rows = {p: [d.row for d in seen if d.record in ids] for p, seen in found.items()}
    made = {p: of_rows(own, alpha, per_unit=per_unit) for p, own in rows.items()}
    pooled = {p: calibrator for p, calibrator in made.items() if calibrator is not None}
    each = {p: known(seen, ids, len(names), alpha, per_unit=per_unit) for p, seen in found.items()}
    scores = next(iter(each.values())).scores
    missing = [k for k, calibrator in enumerate(scores) if calibrator is None and only in (None, k)]
    if held and (without := [names[k] for k in missing]):
        warnings.warn(f"too few held-out good images for a promise of {alpha:g}: {', '.join(without)}", stacklevel=4)
    return pooled, model.categories.with_known(each)


def decided_scores(
    open_in: Callable[[Precision], Engine], kind: SampleKind[Any], records: Sequence[Record], track: Track = no_track
) -> dict[str, list[Seen]]:
    """What a model of several products says of each image, by number format; copies of one file count once."""
    out: dict[str, list[Seen]] = {p: [] for p in formats()}
    for record, precision, (_, _, votes, strangeness), row in scored(open_in, kind, records, track):
        out[precision].append(Seen(record.id, int(votes[0].argmax()), float(strangeness[0]), row))
    return out


def known(found: Sequence[Seen], held: Container[str], count: int, alpha: float, *, per_unit: bool) -> Known:
    """The promises of `count` categories: thresholds from the `held` records, limits of strangeness from all."""
    scores, strangeness = [], []
    for k in range(count):
        own = [seen for seen in found if seen.category == k]
        scores.append(of_rows([seen.row for seen in own if seen.record in held], alpha, per_unit=per_unit))
        strange = [(seen.strangeness, seen.strangeness, *seen.row[2:]) for seen in own]
        strangeness.append(of_rows(strange, alpha, per_unit=per_unit))
    return Known(tuple(scores), tuple(strangeness))
