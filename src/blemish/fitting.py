"""From records to a model: plan geometry, hold good images out, learn, freeze into one graph, certify, calibrate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from blemish import config, export, methods
from blemish.backbones.cache import FeatureCache
from blemish.calibration import Calibrator, Kind
from blemish.chunks import Spread
from blemish.data.geometry import parse_image_size
from blemish.errors import ConfigError, ExportError
from blemish.holdout import good_training_records, plan_calibration, without_copies
from blemish.learning import Run, head_of, load_backbone, tensors
from blemish.modelfile import Model
from blemish.options import FitOptions
from blemish.runtime.routed import head_name
from blemish.runtime.scores import Track, calibrators, no_track
from blemish.samples import check_views
from blemish.several import empty, fit_several, load_vote, state_of
from blemish.types import Record, Routing

if TYPE_CHECKING:
    from blemish.backbones.base import Backbone
    from blemish.export import Vote
    from blemish.methods.base import Method


def fit(
    records: Sequence[Record],
    options: FitOptions,
    *,
    backbone: Backbone | None = None,
    cache: FeatureCache | None = None,
    track: Track = no_track,
    spread: Spread | None = None,
) -> Model:
    """Learn from the good training records and return the finished model, calibrated where the numbers allow it.

    `spread` observes chunks of a large set elsewhere; the model is the same, bit for bit.

    Raises DataError, ConfigError, BackboneError or ExportError. Warns where the asked rate cannot be promised.
    """
    start = perf_counter()
    method_class = methods.get(options.method)
    if not method_class.needs.graph:
        raise ExportError(f"{options.method} cannot be one graph: {method_class.needs.reason}")
    settings = config.build(method_class.Config, options.options)
    head_of(options)
    check_views(options.views)
    parse_image_size(options.image_size)  # what is asked for is checked before any work
    backbone = backbone or load_backbone(options)
    good = without_copies(good_training_records(records))
    routing = method_class.routing(settings) or (Routing() if options.multi_class else None)
    costly = bool(method_class.fitted_modules) or method_class.needs.costly
    kind, parts = (None, []) if routing else plan_calibration(good, options, costly=costly)
    learn = parts[0][0] if kind == "split" else good
    with ExitStack() as stack:
        if cache is None and method_class.fitted_modules:  # steps ask for the same features again and again
            folder = stack.enter_context(TemporaryDirectory(prefix="blemish-features-"))
            cache = FeatureCache(Path(folder))
        head_class, head_settings = head_of(options)
        run = Run(good, learn, head_class, head_settings, options, backbone, cache, track, spread)
        return fit_several(run, routing, start) if routing else _fitted(run, kind, parts, learn, start)


def _fitted(
    run: Run, kind: Kind | None, parts: list[tuple[list[Record], list[Record]]], learn: list[Record], start: float
) -> Model:
    """Learn, freeze, certify, calibrate."""
    options = run.options
    made: dict[str, Calibrator] = {}
    per_unit = options.promise_per == "unit"
    run.share = 1 / (len(parts) + 1) if kind == "cross" else 1.0
    if kind == "cross":
        scores = [run.scores(run.freeze(run.learn(rest)), fold) for rest, fold in parts]
        made = calibrators(scores, options.false_alarm_rate, kind, per_unit=per_unit)
    method = run.learn(learn)
    graph = run.freeze(method)
    if kind == "split":
        made = calibrators([run.scores(graph, parts[0][1])], options.false_alarm_rate, kind, per_unit=per_unit)
    parity = export.certify(graph, export.torch_engine(run.features.backbone, method), run.golden())
    return Model(
        meta=run.meta(method, perf_counter() - start),
        calibrators=made,
        tensors=tensors(method.fitted_state(), method.config),
        graph=graph,
        parity=parity,
        run={**config.to_json(options), "options": config.to_json(run.config)},
    )


def restore(model: Model, backbone: Backbone | None = None, head: int = 0) -> tuple[Backbone, Method[Any]]:
    """Backbone and fitted method of a model, in PyTorch; for the reference engine and for going on learning.

    `head` is the number of the category, where each has a head of its own.
    """
    from safetensors.torch import load

    options = config.build(FitOptions, model.run)
    backbone = backbone or load_backbone(options)
    if backbone.identity != model.meta["backbone"]["identity"]:
        raise ConfigError(f"the model was made with {model.meta['backbone']['identity']}, not {backbone.identity}")
    state = load(model.tensors)
    method = empty(model, backbone)
    if model.heads:
        state = state_of(state, head_name(head))
    method.load_fitted(state)
    return backbone, method


def restore_vote(model: Model) -> Vote | None:
    """Who decides on the category; None in a model of one product."""
    from safetensors.torch import load

    return None if model.categories is None else load_vote(model, load(model.tensors))
