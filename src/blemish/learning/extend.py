"""One more category for a multi-class model whose categories have heads of their own."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from blemish import config, methods
from blemish.data import registry
from blemish.errors import ConfigError
from blemish.inspection.calibrate import in_best_format
from blemish.inspection.categories import Categories, Known
from blemish.inspection.modelfile import Model, arrays
from blemish.inspection.promises import promised
from blemish.inspection.routed import VOTE, head_name
from blemish.learning import devices, export
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.fitted import ANCHORS, load_vote
from blemish.learning.multiclass import few_of_each_group, head, levels_of, worse_parity
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan
from blemish.learning.run import tensors, units_of
from blemish.learning.splits import hold_out, new_to_the_router
from blemish.ops.draws import Draws
from blemish.types import Record, Routing, Track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone


def extend(
    model: Model, good: Sequence[Record], name: str, *, backbone: Backbone, cache: FeatureCache | None, track: Track
) -> Model:
    """One more category, from its good images; anchors, heads and promises that are there stay as they are to the bit.

    ConfigError where the model has one head for all, or knows the name.
    """
    _check(model, name)
    assert model.categories is not None
    assert model.meta.vote is not None
    options = config.build(FitOptions, model.run)
    options = replace(options, device=devices.of_model(options.device), confidence=model.confidence)
    k, state = len(model.categories.names), arrays(model.tensors)
    vote = load_vote(model, state)
    modality = registry.of(model.meta)
    plan = FitPlan.of(good, options, backbone=backbone, cache=cache, track=track, modality=modality)
    routing = methods.get(options.method).routing(config.build(methods.get(options.method).Config, options.options))
    shots = (routing or Routing()).shots
    grouped = [replace(r, group=name) for r in good]
    subset = next(iter(few_of_each_group(grouped, shots, random.Random(options.seed)).values()))
    vote.anchors.add([levels_of(plan, subset)], Draws(options.seed))
    part = hold_out(good, subset, options, len(registry.of(model.meta).areas))
    learned = head(plan, part)
    state |= {f"{ANCHORS}{key}": value for key, value in vote.anchors.state().items()}
    state |= {f"{head_name(k)}.{key}": value for key, value in learned.method.fitted_state().items()}
    known = {p: Known((*e.scores, None), (*e.strangeness, None)) for p, e in model.categories.known.items()}
    data, counts = model.meta.data, model.meta.vote
    data = replace(
        data,
        content_ids=tuple(sorted({*data.content_ids, *learned.seen})),
        units=tuple(sorted({*data.units, *units_of(part.learn)})),
        categories=(*data.categories, name),
        learned_from=data.learned_from + len(part.learn),
        good_images=data.good_images + len(good),
    )
    counts = replace(
        counts,
        learned_from=(*counts.learned_from, len(part.learn)),
        held_out=(*counts.held_out, len(part.held)),
        names_read=counts.names_read + len(subset),
    )
    wider = replace(
        model,
        meta=replace(model.meta, data=data, vote=counts),
        tensors=tensors(state, plan.config),
        parity=worse_parity(model.parity, learned.parity),
        heads={**model.heads, VOTE: export.export_vote(vote, plan.images.spec), head_name(k): learned.graph},
        categories=Categories((*model.categories.names, name), known),
    )
    if not part.held:
        warnings.warn(f"too few good images for a promise of {options.false_alarm_rate:g}: {name}", stacklevel=3)
    judged = new_to_the_router(good, part.held, {r.id for r in subset}, options)
    if not (part.held or judged):
        return wider
    per_unit = options.promise_per == "unit"
    made = promised(
        wider,
        modality,
        part.held,
        options.false_alarm_rate,
        per_unit,
        track,
        learned=judged,
        only=k,
        regions=options.regions,
        confidence=options.confidence,
    )
    for p, entry in made.categories.known.items():
        before = known.get(p) or Known((None,) * (k + 1), (None,) * (k + 1))
        known[p] = Known((*before.scores[:k], entry.scores[k]), (*before.strangeness[:k], entry.strangeness[k]))
    wider = replace(wider, categories=Categories((*model.categories.names, name), known))
    if part.held and not made.agreement.get("harmless"):  # what is harmless for the others may not be for this one
        return in_best_format(wider, made.agreement)
    return wider


def _check(model: Model, name: str) -> None:
    if model.categories is None or not model.heads:
        raise ConfigError(
            "one head learned all categories together: fit again",
            hint="models with a head for each category take new ones",
        )
    if not name.strip() or not name.isprintable():
        raise ConfigError(f"{name!r} is no name of a category", hint="give the category a name (--category)")
    if name in model.categories.names:
        raise ConfigError(f"the model has a category '{name}'", hint="give another name (--category)")
