"""Tiles that know their places: one trunk, and a head for each place that learns from that tile of every picture.

Heads are those of `multiclass`, on one scale (`multiclass.comparable`); the tile's number decides in place of a vote.
The promise is that of whole pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

from blemish.inspection.calibrate import Deployed, agreement, good_scores, in_best_format
from blemish.inspection.modelfile import Model
from blemish.inspection.routed import head_name
from blemish.learning.multiclass import head, together
from blemish.learning.plan import FitPlan, recipe
from blemish.learning.run import Learned, deployed, describe, tensors, thresholds
from blemish.learning.splits import Part, Split
from blemish.types import Record


class _Heads(NamedTuple):
    """What all heads together have learned; its graph is the trunk."""

    learned: Learned
    graphs: dict[str, bytes]
    state: dict[str, Any]


def fit_placed(plan: FitPlan, good: Sequence[Record], split: Split, start: float) -> Model:
    """A model of tiles that know their places, calibrated on whole pictures as the split says."""
    share = plan.share / (len(split.folds) + 1)
    made = _taught(plan, split.learn, share)
    scores = [good_scores(_deployed(plan, made), split.held, plan.track)] if split.kind == "split" else []
    for part in split.folds:
        scores.append(good_scores(_deployed(plan, _taught(plan, part.learn, share)), part.held, plan.track))
    calibrators = {} if split.kind is None else thresholds(plan, scores, split.kind)
    model = Model(
        meta=replace(describe(plan, good, split.learn, made.learned), fit_seconds=round(perf_counter() - start, 2)),
        calibrators=calibrators,
        tensors=tensors(made.state, plan.config),
        graph=made.learned.graph,
        parity=made.learned.parity,
        run=recipe(plan.options),
        heads=made.graphs,
    )
    return in_best_format(model, agreement(scores))


def _taught(plan: FitPlan, records: Sequence[Record], share: float) -> _Heads:
    """A head for each place, of the same tile of these pictures."""
    numbers, pieces = plan.modality.tile_heads, plan.modality.pieces(records)
    plan = replace(plan, share=share / len(numbers))
    graphs: dict[str, bytes] = {}
    state: dict[str, Any] = {}
    each = []
    leaves_out = plan.method_class.leaves_out()
    for number in numbers:
        one = head(plan, Part([record for record in pieces if record.tile == number], []), keeps=leaves_out)
        graphs[head_name(number)] = one.graph
        state |= {f"{head_name(number)}.{name}": value for name, value in one.method.fitted_state().items()}
        each.append(one)
    names = [f"tile {number}" for number in numbers]
    return _Heads(together(each, names, plan.images.trunk), graphs, state)


def _deployed(plan: FitPlan, made: _Heads) -> Deployed:
    return deployed(plan, made.learned.method, made.learned.graph, made.graphs)
