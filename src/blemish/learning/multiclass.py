"""Several products in one model: which is which, one head for all or one for each, and a promise for each.

    anchors   a few good images of each category, by name or by clustering, become anchors     (CAC)
    votes     anchors decide on the category of every other image, here as at inspection       (CIM)
    heads     one for all categories, or one for each that learns from its images alone        (LFR)
    promises  from held-out good images of each decided category; that of known products from more, see `holdout`

The names in brackets are those of DFC (Wang et al. 2025), for which `methods.dfc` is the page; `nn.anchors` votes.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish import config, methods
from blemish.data import registry
from blemish.errors import DataError
from blemish.inspection.calibrate import in_best_format
from blemish.inspection.categories import Categories
from blemish.inspection.conformal import images_needed
from blemish.inspection.modelfile import Model
from blemish.inspection.promises import promised
from blemish.inspection.routed import VOTE, head_name
from blemish.learning import export
from blemish.learning.export import Vote
from blemish.learning.options import FitOptions
from blemish.learning.run import Run, head_of, tensors
from blemish.learning.sources.registry import learning_for
from blemish.learning.splits import hold_out, new_to_the_vote
from blemish.types import FeatureSpec, Record, Routing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from blemish.learning.backbones.base import Backbone
    from blemish.methods.base import Method
    from blemish.nn.anchors import Anchors

STRIDE = 16  # of the level that votes, or the one next to it: what is deeper knows products, what is finer textures
SHARE = 0.15  # of a category's good images whose names are read, at most
POOLED = 0.1  # of all good images, where no name is read: those that are clustered
MOST = 16  # categories that clustering may find
FEWEST = 24  # images that are clustered, where there are as many
ANCHORS = "anchors."  # prefix of their tensors in a model


def fit_several(run: Run, routing: Routing, start: float) -> Model:
    """A model of several products; `run` holds all of their good records."""
    options, good = run.options, run.good
    names, anchors, chosen = construct(run, good, routing)
    vote = Vote(anchors, voting_level(run.images.spec, run.images.preprocess.size))
    owner = [chosen.get(r.id, k) for r, k in zip(good, mine(run, vote, good), strict=True)]
    parts, learned = [], []
    for k in range(len(names)):
        own = [r for r, o in zip(good, owner, strict=True) if o == k]
        part = hold_out(own, [r for r in own if r.id in chosen], options)
        parts.append(part)
        learned += new_to_the_vote(own, part[1], chosen, options)
    learn = [own for own, _ in parts]
    heads: dict[str, bytes] = {}
    parity: dict[str, Any] = {}
    state = {f"{ANCHORS}{name}": value for name, value in anchors.state_dict().items()}
    if routing.separate:
        heads[VOTE] = export.export_vote(vote, run.images.spec)
        graph, seen = run.images.trunk, set[str]()
        for k, (records, (_, held)) in enumerate(zip(learn, parts, strict=True)):
            one = _run(run, records, 1 / len(names))
            method = one.learn(records)
            heads[head_name(k)], entry = frozen_head(one, method, held or records)
            parity = worse(parity, entry)
            state |= {f"{head_name(k)}.{name}": value for name, value in method.fitted_state().items()}
            seen |= one.learned
            run.report += [{**phase, "category": names[k]} for phase in one.report]
        run.learned |= seen
    else:
        run.images.categories = {r.id: k for r, k in zip(good, owner, strict=True)}
        run.chunk = replace(run.chunk, categories=run.images.categories)
        run.learned_from = [r for part in learn for r in part]
        method = run.learn(run.learned_from)
        graph = run.freeze(method, vote)
        state |= method.fitted_state()
        parity = export.certify(graph, export.torch_engine(run.images.backbone, method, vote), run.golden())
    run.learned_from = [r for part in learn for r in part]
    held = [r for _, part in parts for r in part]
    meta = run.meta(method, perf_counter() - start)
    meta["method"] = options.method
    meta["data"]["categories"] = list(names)
    meta["vote"] = {
        "level": vote.level,
        "anchors": anchors.count,
        "learned_from": [len(part) for part in learn],
        "held_out": [len(part) for _, part in parts],
        "names_read": len(chosen) if routing.labels == "few" else 0,
    }
    settings = config.build(methods.get(options.method).Config, options.options)
    model = Model(
        meta=meta,
        calibrators={},
        tensors=tensors(state, settings),
        graph=graph,
        parity=parity,
        run={**config.to_json(options), "options": config.to_json(settings)},
        categories=Categories(tuple(names), {}),
        heads=heads,
    )
    if not held and options.calibration != "none":
        warnings.warn(_unpromised(good, options), stacklevel=3)
    if not (held or learned):
        return in_best_format(model, {})
    per_unit = options.promise_per == "unit"
    rate = options.false_alarm_rate
    made = promised(model, run.kind, held, rate, per_unit, run.track, learned=learned, blind=run.blind)
    return in_best_format(model.with_calibrators(made.calibrators, made.categories), made.agreement)


def _unpromised(good: Sequence[Record], options: FitOptions) -> str:
    needed = images_needed(options.false_alarm_rate)
    what = "good images" if options.promise_per == "image" else "units of good images"
    return (
        f"{len(good)} good images cannot promise any category a false-alarm rate of {options.false_alarm_rate:g}: the "
        f"model is saved without thresholds; it takes about {needed + needed // 2} {what} of a category"
    )


def drawing(seed: int) -> torch.Generator:
    """A generator under a seed."""
    import torch

    return torch.Generator().manual_seed(seed)


def voting_level(spec: FeatureSpec, size: tuple[int, int]) -> int:
    """The level of a stride of 16 pixels, or next to it."""
    grids = spec.grids[: spec.first]
    return min(range(len(grids)), key=lambda i: abs(np.log2(size[0] / grids[i][0] / STRIDE)))


def levels_of(run: Run, records: Sequence[Record]) -> Tensor:
    """(n, D, h, w): what votes, of these images."""
    import torch

    level = voting_level(run.images.spec, run.images.preprocess.size)
    return torch.cat([b.pyramid.maps[level] for b in run.images.batches(records) if b.pyramid is not None])


def construct(run: Run, good: Sequence[Record], routing: Routing) -> tuple[list[str], Anchors, dict[str, int]]:
    """Category anchor construction: names, anchors, and the categories of the images that they are made of.

    Names of other records are never read. DataError where there is nothing to tell apart.
    """
    import torch

    from blemish.nn.anchors import Anchors, cluster

    generator = drawing(run.options.seed)
    draw = random.Random(run.options.seed)
    if routing.labels == "few":
        subsets = few(good, routing.shots, draw)
        names, levels = list(subsets), [levels_of(run, records) for records in subsets.values()]
        chosen = {r.id: k for k, records in enumerate(subsets.values()) for r in records}
    else:
        order = sorted(good, key=lambda r: r.id)
        some = draw.sample(order, min(len(order), max(round(POOLED * len(order)), FEWEST, routing.count * 4)))
        whole = levels_of(run, some)
        owner = cluster(described(whole), routing.count, min(MOST, len(some) // 3), generator)
        names = [f"cluster {k + 1}" for k in range(int(owner.max()) + 1)]
        levels = [whole[owner == k] for k in range(len(names))]
        chosen = {r.id: k for r, k in zip(some, owner.tolist(), strict=True)}
    if not names:
        raise DataError("there is no category to learn", hint="good images lie in a folder for each category")
    pixels = torch.cat(levels).double().transpose(0, 1).flatten(1)
    anchors = Anchors(pixels.mean(1).float(), pixels.std(1).float(), count=routing.anchors, reliable=routing.reliable)
    anchors.add(levels, generator)
    return names, anchors, chosen


def few(good: Sequence[Record], shots: int, draw: random.Random) -> dict[str, list[Record]]:
    """A few good records of each category by its name; a record without one belongs to "good"."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(good, key=lambda r: r.id):
        groups.setdefault(record.group or "good", []).append(record)
    found = {}
    for name, records in sorted(groups.items()):
        count = min(shots, max(round(SHARE * len(records)), 1))
        found[name] = sorted(draw.sample(records, count), key=lambda r: r.id)
    return found


def described(levels: Tensor) -> Tensor:
    """(n, D, h, w) -> (n, 2 D) unit vectors: mean and deviation of each channel, standardised over the images."""
    import torch
    import torch.nn.functional as F

    x = levels.float().flatten(2)
    both = F.normalize(x, dim=1)
    stack = torch.cat([both.mean(2), both.std(2)], 1)
    return F.normalize((stack - stack.mean(0)) / stack.std(0).clamp_min(1e-6), dim=1)


def mine(run: Run, vote: Vote, records: Sequence[Record]) -> list[int]:
    """Category information mining: the category that each image's positions elect."""
    import torch

    found: list[int] = []
    with torch.no_grad():
        for batch in run.images.batches(records):
            assert batch.pyramid is not None
            found += vote.anchors(batch.pyramid.maps[vote.level])[0].argmax(1).tolist()
    return found


def _run(run: Run, records: Sequence[Record], share: float) -> Run:
    """The same line for one category, with its share of the budget."""
    one = Run(
        records,
        records,
        run.method_class,
        run.config,
        run.options,
        run.backbone,
        run.cache,
        run.track,
        run.spread,
        kind=run.kind,
    )
    one.share = share
    return one


def frozen_head(run: Run, method: Method[Any], good: Sequence[Record]) -> tuple[bytes, dict[str, Any]]:
    """A category's head with its scores on the scale of its good images, and its certificate.

    Scores of heads that learned apart are not comparable: (s - median) / (0.995 quantile - median) of good images makes
    them so, and changes no order within a category. Maps alike.
    """
    import torch

    scores, peaks = [], []
    with torch.no_grad():
        for batch in run.images.batches(good):
            prediction = method(batch)
            scores.append(prediction.score)
            peaks.append(prediction.anomaly_map[:, ::8, ::8].flatten(1))
    scaled = export.Scaled(method, *_scale(torch.cat(scores)), *_scale(torch.cat(peaks).flatten()))
    head = export.export_head(scaled)
    whole = export.merge(run.images.trunk, head)
    return head, export.certify(whole, export.torch_engine(run.images.backbone, scaled), run.golden())


def _scale(values: Tensor) -> tuple[float, float]:
    ordered = np.sort(values.double().numpy())
    low, high = np.quantile(ordered, [0.5, 0.995])
    return float(low), float(max(high - low, 1e-6 * max(abs(high), 1e-6)))


def worse(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The certificate of two heads: the larger difference of each engine."""
    if not a:
        return b
    engines = {
        name: {key: max(value, a["engines"][name][key]) for key, value in entry.items()}
        for name, entry in b["engines"].items()
    }
    return {**a, "engines": engines}


def state_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}


def empty(model: Model, backbone: Backbone | None) -> Method[Any]:
    """The method of a model, or of its heads, before it knows anything."""
    cls, settings = head_of(config.build(FitOptions, model.run))
    kind = registry.of(model.meta)
    spec = (
        learning_for(cls.wants(settings)).open(kind, backbone, None).spec
        if backbone is None
        else backbone.spec(kind.size)
        if backbone is None
        else backbone.spec(kind.size)
    )
    return cls(settings, spec, kind.size, model.meta["seed"])


def load_vote(model: Model, state: dict[str, Tensor]) -> Vote:
    """The anchors of a model's tensors."""
    from blemish.nn.anchors import Anchors

    own = state_of(state, ANCHORS.removesuffix("."))
    anchors = Anchors(own["mean"], own["deviation"], count=model.meta["vote"]["anchors"])
    anchors.anchors, anchors.weight, anchors.centres = own["anchors"], own["weight"], own["centres"]
    return Vote(anchors, model.meta["vote"]["level"])
