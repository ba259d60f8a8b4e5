"""From records to a model: options are checked, records are chosen, `run.learn` does the rest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from blemish import config, methods
from blemish.data.image.areas import area_names
from blemish.data.image.modality import Images
from blemish.data.image.preprocess import parse_image_size
from blemish.errors import ConfigError, ExportError
from blemish.inspection.calibrate import in_best_format
from blemish.inspection.cloud_engine import ENGINES
from blemish.inspection.engines import calm_torch
from blemish.inspection.modelfile import Model
from blemish.learning import devices, effort
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.backbones.lit import for_lightings
from blemish.learning.chunks import Spread
from blemish.learning.fusing import check, costliest, learn_by_lighting, learn_fused, own_options
from blemish.learning.multiclass import fit_multiclass
from blemish.learning.options import FitOptions
from blemish.learning.placed import fit_placed
from blemish.learning.plan import FitPlan, head_of, load_backbone, recipe
from blemish.learning.run import Learned, describe, learn, tensors
from blemish.learning.sources.base import Learning
from blemish.learning.sources.image import AUTO, check_views
from blemish.learning.sources.registry import learning_for
from blemish.learning.splits import Split, choose, plan_calibration
from blemish.types import Record, Routing, Track, no_track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone


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
    to a model that a plain grey picture passes: to measure how weak it is, never for inspection.

    Raises DataError, ConfigError, BackboneError, ExportError, or CalibrationError for a model that sees nothing. Warns
    where the requested rate cannot be promised.
    """
    start = perf_counter()
    calm_torch()
    half, routing = _checked(options)
    fused = options.fused
    if not fused:  # otherwise each part has its levels
        backbone = (backbone or load_backbone(options.parts[0])) if half.backbone else None
    backbone = backbone and for_lightings(backbone, len(options.lightings))
    records = half.modality.completed(records, options.cut)
    good = choose(records, half.modality, by_category=routing is not None)
    cls = costliest(options)
    with ExitStack() as stack:
        if cache is None and (cls.fitted_modules or options.combine_lightings == "max"):  # the same features many times
            folder = stack.enter_context(TemporaryDirectory(prefix="blemish-features-"))
            cache = FeatureCache(Path(folder))
        split = Split(good) if routing else plan_calibration(good, options, cls, _areas(options))
        if fused:
            plan, learned = learn_fused(
                split, options, backbone=backbone, cache=cache, track=track, spread=spread, blind=blind
            )
            return _model(plan, good, split, learned, options, start)
        if options.combine_lightings == "max":
            plan, learned = learn_by_lighting(split, options, backbone=backbone, cache=cache, track=track, blind=blind)
            return _model(plan, good, split, learned, options, start)
        groups = len({r.group for r in split.learn}) if routing and routing.separate else 1
        options = effort.applied(options, len(split.learn) // groups)
        plan = FitPlan.of(split.learn, options, backbone=backbone, cache=cache, track=track, spread=spread, blind=blind)
        if routing:
            return fit_multiclass(plan, good, routing, start)
        if plan.modality.tile_heads:
            return fit_placed(plan, good, split, start)
        return _model(plan, good, split, learn(plan, split), options, start)


def _model(
    plan: FitPlan, good: Sequence[Record], split: Split, learned: Learned, options: FitOptions, start: float
) -> Model:
    """Of what was learned by these options, since `start`."""
    model = Model(
        meta=replace(describe(plan, good, split.learn, learned), fit_seconds=round(perf_counter() - start, 2)),
        calibrators=learned.calibrators,
        tensors=tensors(learned.method.fitted_state(), plan.config),
        graph=learned.graph,
        parity=learned.parity,
        run=recipe(options),
    )
    return in_best_format(model, learned.agreement)


def _areas(options: FitOptions) -> int:
    """Number of named areas in the region of interest."""
    return 0 if options.roi is None else len(area_names(options.roi, options.max_pixels))


def _checked(options: FitOptions) -> tuple[Learning, Routing | None]:
    """Check the options before any work: the learning half of the method's modality, and its routing, if any."""
    devices.chosen(options.device)
    if options.fused:
        check(options)
        return [_checked(part) for part in own_options(options)][0]
    if options.combine_lightings == "max":
        half, routing = _checked(options.parts[0])
        if not half.backbone or routing or head_of(options.parts[0])[0].needs.category:
            message = f"{options.method} tells categories apart or has no frozen network: it learns no single lightings"
            raise ConfigError(message, hint="--channels fuse, or another method")
        return half, routing
    method_class = methods.get(options.method)
    routing = method_class.routing(config.build(method_class.Config, options.options))
    head, settings = head_of(options)
    needs = head.wants(settings)
    half = learning_for(needs)
    if not needs.graph and needs.engine not in ENGINES:
        raise ExportError(f"{options.method} cannot be one graph: {needs.reason}")
    check_views(options.views)
    if options.textures is not None and half.backbone and not needs.twin:
        message = f"{options.method} learns from no synthetic defects, and takes no textures"
        raise ConfigError(message, hint="leave textures out (--textures)")
    if set(options.views) - {AUTO} and half.backbone and not head.takes_views():
        message = f"{options.method} is not trained, and takes no further views"
        raise ConfigError(message, hint="leave views out (--view)")
    if options.of_images and not issubclass(half.modality, Images):
        raise ConfigError(f"{options.of_images} is for images", hint="leave it out")
    parse_image_size(options.image_size)
    if options.tiles is not None and (not half.backbone or routing or options.multi_class):
        what = "one model of several categories" if half.backbone else options.method
        raise ConfigError(f"{what} inspects no tiles", hint="leave tiles out (--tiles)")
    if options.locate != "off" and (not half.backbone or routing or options.multi_class):
        what = "one model of several categories" if half.backbone else options.method
        raise ConfigError(f"{what} locates no parts", hint="leave locate out (--locate)")
    if len(options.lightings) > 1 and needs.image:
        message = f"{options.method} learns the picture itself beside its features, and of one lighting"
        raise ConfigError(message, hint="another method, or one lighting (--lighting)")
    routing = routing or (Routing(separate=needs.apart) if options.multi_class else None)
    if routing and not half.backbone:  # a router needs the features of a frozen network
        raise ConfigError(f"{options.method} learns no images, and only images are told apart by product")
    return half, routing
