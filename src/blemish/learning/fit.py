"""From records to a model: plan geometry, hold good images out, learn, freeze into one graph, certify, calibrate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from blemish import config, methods
from blemish.data import registry
from blemish.data.image.modality import Images
from blemish.data.image.preprocess import parse_image_size
from blemish.data.layouts import by_folder
from blemish.errors import ConfigError, ExportError
from blemish.inspection.calibrate import Scores, agreement, calibrators, in_best_format
from blemish.inspection.cloud_engine import ENGINES
from blemish.inspection.conformal import Calibrator, Kind
from blemish.inspection.engines import calm_torch
from blemish.inspection.modelfile import Model
from blemish.inspection.routed import head_name
from blemish.learning import export
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.chunks import Spread
from blemish.learning.multiclass import empty, fit_several, load_vote, state_of
from blemish.learning.options import FitOptions
from blemish.learning.run import Run, head_of, load_backbone, tensors
from blemish.learning.sources.image import check_views
from blemish.learning.sources.registry import learning_for, learning_of
from blemish.learning.splits import good_training_records, plan_calibration, without_copies
from blemish.types import Record, Routing, Track, no_track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.learning.export import Vote
    from blemish.methods.base import Method


def fit(
    records: Sequence[Record],
    options: FitOptions,
    *,
    backbone: Backbone | None = None,
    cache: FeatureCache | None = None,
    track: Track = no_track,
    spread: Spread | None = None,
    blind: bool = False,
) -> Model:
    """Learn from the good training records and return the finished model, calibrated where the numbers allow it.

    `spread` observes chunks of a large set elsewhere; the model is the same, bit for bit. `blind` gives a promise even
    to a model that a plain grey picture passes: to measure how weak it is, never to inspect with it.

    Raises DataError, ConfigError, BackboneError, ExportError, or CalibrationError for a model that sees nothing. Warns
    where the asked rate cannot be promised.
    """
    start = perf_counter()
    calm_torch()
    method_class = methods.get(options.method)
    settings = config.build(method_class.Config, options.options)
    head_class, head_settings = head_of(options)
    needs = head_class.wants(head_settings)
    side = learning_for(needs)
    if not needs.graph and needs.engine not in ENGINES:
        raise ExportError(f"{options.method} cannot be one graph: {needs.reason}")
    check_views(options.views)
    parse_image_size(options.image_size)  # what is asked for is checked before any work
    backbone = (backbone or load_backbone(options)) if side.backbone else None
    routing = method_class.routing(settings) or (Routing() if options.multi_class else None)
    good = good_training_records(records)
    good = without_copies(by_folder(good) if routing else good, side.modality)
    if routing and side.modality is not Images:
        raise ConfigError(f"{options.method} learns no images, and only those are told apart by products")
    costly = bool(method_class.fitted_modules) or method_class.needs.costly
    kind, parts = (None, []) if routing else plan_calibration(good, options, costly=costly)
    learn = parts[0][0] if kind == "split" else good
    with ExitStack() as stack:
        if cache is None and method_class.fitted_modules:  # steps ask for the same features again and again
            folder = stack.enter_context(TemporaryDirectory(prefix="blemish-features-"))
            cache = FeatureCache(Path(folder))
        run = Run(good, learn, head_class, head_settings, options, backbone, cache, track, spread, blind=blind)
        return fit_several(run, routing, start) if routing else _fitted(run, kind, parts, learn, start)


def _fitted(
    run: Run, kind: Kind | None, parts: list[tuple[list[Record], list[Record]]], learn: list[Record], start: float
) -> Model:
    """Learn, freeze, certify, calibrate."""
    options = run.options
    scores: list[Scores] = []
    run.share = 1 / (len(parts) + 1) if kind == "cross" else 1.0
    if kind == "cross":
        scores = [run.scores(_model(run, run.learn(rest)), fold) for rest, fold in parts]
    method = run.learn(learn)
    model = _model(run, method)
    if kind == "split":
        scores = [run.scores(model, parts[0][1])]
    parity = {}
    if run.needs.graph:
        parity = export.certify(model.graph, run.features.reference(method), run.golden())
    made: dict[str, Calibrator] = {}
    if kind:
        per_unit = options.promise_per == "unit"
        made = calibrators(scores, options.false_alarm_rate, kind, per_unit=per_unit, blind=run.blind)
    model = replace(model, calibrators=made, parity=parity, meta=run.meta(method, perf_counter() - start))
    return in_best_format(model, agreement(scores))


def _model(run: Run, method: Method[Any]) -> Model:
    """A learned method as a model that runs, without promises and without a certificate."""
    return Model(
        meta=run.meta(method, 0.0),
        calibrators={},
        tensors=tensors(method.fitted_state(), method.config),
        graph=run.freeze(method) if run.needs.graph else b"",
        parity={},
        run={**config.to_json(run.options), "options": config.to_json(run.config)},
    )


def restore(model: Model, backbone: Backbone | None = None, head: int = 0) -> tuple[Backbone | None, Method[Any]]:
    """Backbone (None where there is none) and fitted method of a model, in PyTorch; for the reference engine and for
    going on learning.

    `head` is the number of the category, where each has a head of its own.
    """
    from safetensors.torch import load

    options = config.build(FitOptions, model.run)
    if not learning_of(model.meta.get("kind", registry.DEFAULT)).backbone:
        method = empty(model, None)
        method.load_fitted(load(model.tensors))
        return None, method
    backbone = backbone or load_backbone(options)
    assert backbone is not None
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
