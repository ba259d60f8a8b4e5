"""One product more for a model whose categories have heads of their own."""

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
from blemish.inspection.modelfile import Model
from blemish.inspection.promises import promised
from blemish.inspection.routed import VOTE, head_name
from blemish.learning import export
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.multiclass import ANCHORS, drawing, few, frozen_head, levels_of, load_vote, worse
from blemish.learning.options import FitOptions
from blemish.learning.run import Run, head_of, tensors
from blemish.learning.splits import hold_out, new_to_the_vote
from blemish.types import Record, Routing, Track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone


def extend(
    model: Model, good: Sequence[Record], name: str, *, backbone: Backbone, cache: FeatureCache | None, track: Track
) -> Model:
    """One category more, from its good images; anchors, heads and promises that are there stay as they are to the bit.

    ConfigError where the model has one head for all, or knows the name.
    """
    from safetensors.torch import load

    options = config.build(FitOptions, model.run)
    if model.categories is None or not model.heads:
        raise ConfigError(
            "one head learned all categories together: fit again",
            hint="models with a head for each category take new ones",
        )
    if not name.strip() or not name.isprintable():
        raise ConfigError(f"{name!r} is no name of a category", hint="give --category a name")
    if name in model.categories.names:
        raise ConfigError(f"the model has a category '{name}'", hint="give another --category")
    k, state = len(model.categories.names), load(model.tensors)
    vote = load_vote(model, state)
    cls, settings = head_of(options)
    settled = registry.of(model.meta)
    run = Run(good, good, cls, settings, options, backbone, cache, track, kind=settled)
    routing = methods.get(options.method).routing(config.build(methods.get(options.method).Config, options.options))
    shots = (routing or Routing()).shots
    subset = next(iter(few([replace(r, group=name) for r in good], shots, random.Random(options.seed)).values()))
    vote.anchors.add([levels_of(run, subset)], drawing(options.seed))
    learn, held = hold_out(good, subset, options)
    method = run.learn(learn)
    head, parity = frozen_head(run, method, held or learn)
    state |= {f"{ANCHORS}{key}": value for key, value in vote.anchors.state_dict().items()}
    state |= {f"{head_name(k)}.{key}": value for key, value in method.fitted_state().items()}
    heads = {**model.heads, VOTE: export.export_vote(vote, run.images.spec), head_name(k): head}
    known = {p: Known((*e.scores, None), (*e.strangeness, None)) for p, e in model.categories.known.items()}
    data = dict(model.meta["data"])
    data["content_ids"] = sorted({*data["content_ids"], *run.learned})
    data["categories"] = [*data["categories"], name]
    data["learned_from"] += len(learn)
    data["good_images"] += len(good)
    own = model.meta["vote"]
    told = {
        **own,
        "learned_from": [*own["learned_from"], len(learn)],
        "held_out": [*own["held_out"], len(held)],
        "names_read": own["names_read"] + len(subset),
    }
    wider = replace(
        model,
        meta={**model.meta, "data": data, "vote": told},
        tensors=tensors(state, settings),
        parity=worse(model.parity, parity),
        heads=heads,
        categories=Categories((*model.categories.names, name), known),
    )
    if not held:
        warnings.warn(f"too few good images for a promise of {options.false_alarm_rate:g}: {name}", stacklevel=3)
    learned = new_to_the_vote(good, held, {r.id for r in subset}, options)
    if not (held or learned):
        return wider
    per_unit = options.promise_per == "unit"
    assert wider.categories is not None
    made = promised(wider, settled, held, options.false_alarm_rate, per_unit, track, learned=learned, only=k)
    for p, entry in made.categories.known.items():
        before = known.get(p) or Known((None,) * (k + 1), (None,) * (k + 1))
        known[p] = Known((*before.scores[:k], entry.scores[k]), (*before.strangeness[:k], entry.strangeness[k]))
    wider = replace(wider, categories=wider.categories.with_known(known))
    if held and not made.agreement.get("harmless"):  # what was harmless for the others need not be for this one
        return in_best_format(wider, made.agreement)
    return wider
