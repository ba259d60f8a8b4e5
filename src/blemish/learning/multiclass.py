"""Multi-class models: which category is which, one head for all or one for each, and a promise for each.

    anchors   a few good images of each category, by name or by clustering, become anchors     (CAC)
    votes     anchors decide on the category of every other image, here as at inspection       (CIM)
    heads     one for all categories, or one for each that learns from its images alone        (LFR)
    promises  from held-out good images of each decided category; that of known products from more, see `splits`

The names in brackets are those of DFC (Wang et al. 2025), for which `methods.dfc` is the page; `ops.anchors` votes.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish import config, methods
from blemish.errors import DataError
from blemish.inspection.calibrate import in_best_format
from blemish.inspection.categories import Categories
from blemish.inspection.conformal import images_needed
from blemish.inspection.meta import VoteMeta
from blemish.inspection.modelfile import Model
from blemish.inspection.promises import promised
from blemish.inspection.routed import VOTE, head_name
from blemish.learning import export
from blemish.learning.fitted import ANCHORS
from blemish.learning.heads import Scaled, Vote
from blemish.learning.observing import seen_again
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan, recipe
from blemish.learning.run import Frozen, Learned, Taught, describe, freeze, learn, teach, tensors
from blemish.learning.splits import Part, Split, hold_out, new_to_the_router
from blemish.ops.anchors import Anchors, cluster
from blemish.ops.arrays import unit
from blemish.ops.draws import Draws
from blemish.types import FeatureSpec, Record, Routing

if TYPE_CHECKING:
    from blemish.methods.base import Method

STRIDE = 16  # of the routing level, or the one next to it: deeper levels tell products apart, finer ones textures
SHARE = 0.15  # maximum share of a category's good images whose names are read
POOLED = 0.1  # of all good images, where no name is read: those that are clustered
MOST = 16  # categories that clustering may find
FEWEST = 24  # images that are clustered, where there are as many


def fit_multiclass(plan: FitPlan, good: Sequence[Record], routing: Routing, start: float) -> Model:
    """A multi-class model of all these good records."""
    options = plan.options
    names, anchors, chosen = construct(plan, good, routing)
    vote = Vote(anchors, voting_level(plan.images.spec, plan.images.preprocess.size))
    owner = [chosen.get(r.id, k) for r, k in zip(good, decided(plan, vote, good), strict=True)]
    parts, judged = [], []  # parts of each category; records that show how strange good images look
    for k in range(len(names)):
        category_records = [r for r, o in zip(good, owner, strict=True) if o == k]
        part = hold_out(
            category_records, [r for r in category_records if r.id in chosen], options, len(plan.modality.areas)
        )
        parts.append(part)
        judged += new_to_the_router(category_records, part.held, chosen, options)
    learned_from = [r for part in parts for r in part.learn]
    held = [r for part in parts for r in part.held]
    state = {f"{ANCHORS}{name}": value for name, value in anchors.state().items()}
    heads: dict[str, bytes] = {}
    if routing.separate:
        heads[VOTE] = export.export_vote(vote, plan.images.spec)
        each = [head(replace(plan, share=1 / len(names)), part) for part in parts]
        for k, one in enumerate(each):
            heads[head_name(k)] = one.graph
            state |= {f"{head_name(k)}.{name}": value for name, value in one.method.fitted_state().items()}
        learned = together(each, names, plan.images.trunk)
    else:
        plan = plan.with_categories({r.id: k for r, k in zip(good, owner, strict=True)})
        learned = learn(plan, Split(learned_from), frozen=lambda method: freeze(plan, method, vote))
        state |= learned.method.fitted_state()
    meta = describe(plan, good, learned_from, learned)
    counts = VoteMeta(
        level=vote.level,
        anchors=anchors.count,
        learned_from=tuple(len(part.learn) for part in parts),
        held_out=tuple(len(part.held) for part in parts),
        names_read=len(chosen) if routing.labels == "few" else 0,
    )
    meta = replace(meta, data=replace(meta.data, categories=tuple(names)), vote=counts)
    model = Model(
        meta=replace(meta, fit_seconds=round(perf_counter() - start, 2)),
        calibrators={},
        tensors=tensors(state, config.build(methods.get(options.method).Config, options.options)),
        graph=learned.graph,
        parity=learned.parity,
        run=recipe(options),
        categories=Categories(tuple(names), {}),
        heads=heads,
    )
    if not held and options.calibration != "none":
        warnings.warn(_unpromised(good, options), stacklevel=3)
    if not (held or judged):
        return in_best_format(model, {})
    per_unit, rate = options.promise_per == "unit", options.false_alarm_rate
    made = promised(
        model,
        plan.modality,
        held,
        rate,
        per_unit,
        plan.track,
        learned=judged,
        blind=plan.blind,
        regions=options.regions,
        confidence=options.confidence,
    )
    return in_best_format(model.with_calibrators(made.calibrators, made.categories), made.agreement)


def head(plan: FitPlan, part: Part, *, keeps: bool = False) -> Learned:
    """A category's own head, or a place's; `graph` is the head alone, which follows the trunk. With `keeps` its scale
    is that of learned images that are left out, each in turn (`Method.left_out`)."""
    found: list[bytes] = []

    def frozen(method: Method[Any]) -> Frozen:
        scaled = comparable(plan, method, part.held or part.learn)
        found.append(export.export_head(scaled, trunk=plan.images.trunk))
        whole = export.merge(plan.images.trunk, found[-1])
        return Frozen(whole, lambda: export.reference_engine(plan.images.backbone, scaled))

    taught = partial(_kept, plan) if keeps else None
    learned = learn(plan, Split(part.learn), taught, frozen)
    return replace(learned, graph=found[-1])


def _kept(plan: FitPlan, records: Sequence[Record], share: float, _: bool) -> Taught:
    """A method that can leave what it has learned out again."""
    return teach(plan, records, share, keeps=True)


def together(heads: Sequence[Learned], names: Sequence[str], trunk: bytes) -> Learned:
    """One `Learned` for all heads after one trunk: all samples seen, the worst certificate."""
    parity: dict[str, Any] = {}
    for one in heads:
        parity = worse_parity(parity, one.parity)
    seen = frozenset().union(*(one.seen for one in heads))
    report = tuple(replace(p, category=name) for name, one in zip(names, heads, strict=True) for p in one.report)
    return replace(heads[-1], seen=seen, report=report, graph=trunk, parity=parity)


def _unpromised(good: Sequence[Record], options: FitOptions) -> str:
    needed = images_needed(options.false_alarm_rate, options.confidence)
    what = "good images" if options.promise_per == "image" else "units of good images"
    return (
        f"{len(good)} good images cannot promise any category a false-alarm rate of {options.false_alarm_rate:g}: the "
        f"model is saved without thresholds; it takes about {needed + needed // 2} {what} of a category"
    )


def voting_level(spec: FeatureSpec, size: tuple[int, int]) -> int:
    """The level of a stride of 16 pixels, or next to it."""
    grids = spec.grids[: spec.first]
    return min(range(len(grids)), key=lambda i: abs(np.log2(size[0] / grids[i][0] / STRIDE)))


def levels_of(plan: FitPlan, records: Sequence[Record]) -> NDArray[np.float32]:
    """(n, D, h, w): what votes, of these images."""
    level = voting_level(plan.images.spec, plan.images.preprocess.size)
    return np.concatenate([b.pyramid.maps[level] for b in plan.images.batches(records) if b.pyramid is not None])


def construct(plan: FitPlan, good: Sequence[Record], routing: Routing) -> tuple[list[str], Anchors, dict[str, int]]:
    """Category anchor construction: names, anchors, and the categories of the images that they are made of.

    Names of other records are never read. DataError where there are no categories.
    """
    draws = Draws(plan.options.seed)
    draw = random.Random(plan.options.seed)
    if routing.labels == "few":
        subsets = few_of_each_group(good, routing.shots, draw)
        names, levels = list(subsets), [levels_of(plan, records) for records in subsets.values()]
        chosen = {r.id: k for k, records in enumerate(subsets.values()) for r in records}
    else:
        order = sorted(good, key=lambda r: r.id)
        pool = draw.sample(order, min(len(order), max(round(POOLED * len(order)), FEWEST, routing.count * 4)))
        whole = levels_of(plan, pool)
        owner = cluster(described(whole), routing.count, min(MOST, len(pool) // 3), draws)
        names = [f"cluster {k + 1}" for k in range(int(owner.max()) + 1)]
        levels = [whole[owner == k] for k in range(len(names))]
        chosen = {r.id: k for r, k in zip(pool, owner.tolist(), strict=True)}
    if not names:
        raise DataError("there is no category to learn", hint="good images lie in a folder for each category")
    pixels = np.concatenate([level.transpose(1, 0, 2, 3).reshape(level.shape[1], -1) for level in levels], 1)
    mean = np.asarray(pixels.mean(1, dtype=np.float64), np.float32)
    deviation = np.asarray(pixels.std(1, ddof=1, dtype=np.float64), np.float32)
    anchors = Anchors(mean, deviation, count=routing.anchors, reliable=routing.reliable)
    anchors.add(levels, draws)
    return names, anchors, chosen


def few_of_each_group(good: Sequence[Record], shots: int, draw: random.Random) -> dict[str, list[Record]]:
    """A few good records of each category by its name; a record without one belongs to "good"."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(good, key=lambda r: r.id):
        groups.setdefault(record.group or "good", []).append(record)
    found = {}
    for name, records in sorted(groups.items()):
        count = min(shots, max(round(SHARE * len(records)), 1))
        found[name] = sorted(draw.sample(records, count), key=lambda r: r.id)
    return found


def described(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D, h, w) -> (n, 2 D) unit vectors: mean and deviation of each channel, standardised over the images."""
    x = unit(levels.reshape(*levels.shape[:2], -1), 1)
    stack = np.concatenate([x.mean(2), x.std(2, ddof=1)], 1)
    found: NDArray[np.float32] = unit((stack - stack.mean(0)) / np.maximum(stack.std(0, ddof=1), np.float32(1e-6)), 1)
    return found


def decided(plan: FitPlan, vote: Vote, records: Sequence[Record]) -> list[int]:
    """Category information mining: the category that each image's positions elect."""
    found: list[int] = []
    for batch in plan.images.batches(records):
        assert batch.pyramid is not None
        found += vote.anchors(batch.pyramid.maps[vote.level])[0].argmax(1).tolist()
    return found


def comparable(plan: FitPlan, method: Method[Any], good: Sequence[Record]) -> Scaled:
    """A head with its scores on the scale of its good images.

    Scores of heads that learned apart are not comparable: (s - median) / (0.995 quantile - median) of good images makes
    them so, and keeps the order within a category. Maps likewise. A method that keeps what it has learned leaves each
    image out of that: of few images a Gaussian says of each learned one the same.
    """
    scores, peaks = [], []
    with method.computing():
        for batch in plan.images.batches(good, 1 if method.keeps else None):
            seen = seen_again(method, batch, plan.images.maps_of)
            prediction = method.left_out(method.placed(seen), method.placed(seen)) if method.keeps else method(seen)
            scores.append(np.asarray(prediction.score))
            peaks.append(np.asarray(prediction.anomaly_map)[:, ::8, ::8].ravel())
    return Scaled(method, *_scale(np.concatenate(scores)), *_scale(np.concatenate(peaks)))


def _scale(values: NDArray[np.float32]) -> tuple[float, float]:
    ordered = np.sort(values.astype(np.float64))
    low, high = np.quantile(ordered, [0.5, 0.995])
    return float(low), float(max(high - low, 1e-6 * max(abs(high), 1e-6)))


def worse_parity(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The certificate of two heads: the larger difference of each engine that both were compared in; they may come from
    different machines."""
    if not a:
        return b
    engines = {
        name: {key: max(value, a["engines"][name][key]) for key, value in entry.items()}
        for name, entry in b["engines"].items()
        if name in a["engines"]
    }
    return {**a, "engines": engines}
