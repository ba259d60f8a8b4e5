"""The promises of a model of several products, from good images through the deployed line. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from blemish.calibration import Calibrator
from blemish.categories import Categories, Known, Row, of_rows
from blemish.kinds import SampleKind
from blemish.modelfile import Model
from blemish.runtime.engines import Engine, Precision
from blemish.runtime.scores import Track, formats, no_track, scored
from blemish.types import Record


def promised(
    model: Model,
    kind: SampleKind[Any],
    good: Sequence[Record],
    alpha: float,
    per_unit: bool,
    track: Track = no_track,
    *,
    only: int | None = None,
) -> tuple[dict[str, Calibrator], Categories]:
    """Calibrators over all categories, by number format, and the categories with their own ones.

    A category with too few of the images has none; a warning names it (of `only` one, where the images are of one).
    """
    assert model.categories is not None
    names = model.categories.names
    found = decided_scores(lambda p: kind.open(model, precision=p), kind, good, track)
    made = {p: of_rows([row for _, _, row in rows], alpha, per_unit=per_unit) for p, rows in found.items()}
    pooled = {p: calibrator for p, calibrator in made.items() if calibrator is not None}
    each = {p: known(rows, len(names), alpha, per_unit=per_unit) for p, rows in found.items()}
    scores = next(iter(each.values())).scores
    missing = [k for k, calibrator in enumerate(scores) if calibrator is None and only in (None, k)]
    if without := [names[k] for k in missing]:
        warnings.warn(f"too few held-out good images for a promise of {alpha:g}: {', '.join(without)}", stacklevel=4)
    return pooled, model.categories.with_known(each)


def decided_scores(
    open_in: Callable[[Precision], Engine], kind: SampleKind[Any], records: Sequence[Record], track: Track = no_track
) -> dict[str, list[tuple[int, float, Row]]]:
    """Of a model of several products: (decided category, strangeness, row of its score) of each image.

    By number format; copies of one file count once.
    """
    out: dict[str, list[tuple[int, float, Row]]] = {p: [] for p in formats()}
    for precision, (_, _, votes, strangeness), row in scored(open_in, kind, records, track):
        out[precision].append((int(votes[0].argmax()), float(strangeness[0]), row))
    return out


def known(found: Sequence[tuple[int, float, Row]], count: int, alpha: float, *, per_unit: bool) -> Known:
    """The promises of `count` categories from what `decided_scores` has found."""
    scores, strangeness = [], []
    for k in range(count):
        own = [(strange, row) for category, strange, row in found if category == k]
        scores.append(of_rows([row for _, row in own], alpha, per_unit=per_unit))
        strange = [(value, value, *row[2:]) for value, row in own]
        strangeness.append(of_rows(strange, alpha, per_unit=per_unit))
    return Known(tuple(scores), tuple(strangeness))
