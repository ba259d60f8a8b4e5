"""Learn several methods as one (`--method padim+protoot`), or a method for each lighting (`--channels max`).

Each part learns as it would alone, from the levels or the lighting that are its own. Its scale comes from what it makes
of good images that it has not learned: each left out where the method can do that (`Method.left_out`), else a share
that it never sees. What follows (one graph, its certificate, one threshold from the combined scores of held-out good
images) is that of any method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish import config, methods
from blemish.data.modality import Modality
from blemish.errors import ConfigError
from blemish.learning import effort, export
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.backbones.lit import for_lightings
from blemish.learning.chunks import Spread
from blemish.learning.fused import SCALES, Config, Fused, Part, joined, settings_of
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan, load_backbone
from blemish.learning.run import Frozen, Learned, Taught, learn, teach
from blemish.learning.sources.features import FeatureSource
from blemish.learning.sources.registry import learning_for
from blemish.learning.splits import Split, by_unit, split_at_random
from blemish.methods.base import Method
from blemish.types import Batch, Record, Track, no_track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone

APART = 0.2  # of what a part learns from, that it never sees where it cannot leave images out
EVERY = 4  # pixels, in either direction: of good images' maps these places make the scale


class _Own(NamedTuple):
    """What a part learns by."""

    name: str
    plan: FitPlan
    lighting: int | None = None


def costliest(options: FitOptions) -> type[Method[Any]]:
    """The method by which it is decided how many images are held out: one that is trained by gradient if any is."""
    classes = [methods.get(part.method) for part in options.parts]
    return max(classes, key=lambda cls: bool(cls.fitted_modules) or cls.needs.costly)


def own_options(options: FitOptions) -> list[FitOptions]:
    """Those of each part, without the views and textures that it does not take where another one does."""
    classes = {part.method: methods.get(part.method) for part in options.parts}
    views = any(cls.takes_views() for cls in classes.values())
    twins = any(settings_of(name, options.options, wants=True).twin for name in classes)
    out = []
    for part in options.parts:
        cls = classes[part.method]
        if views and not cls.takes_views():
            part = replace(part, views=FitOptions.views)
        if twins and not cls.wants(config.build(cls.Config, part.options)).twin:
            part = replace(part, textures=None)
        out.append(part)
    return out


def check(options: FitOptions) -> None:
    """ConfigError where a part cannot be one of several in a graph."""
    for part in options.parts:
        cls = methods.get(part.method)
        settings = config.build(cls.Config, part.options)
        needs = cls.wants(settings)
        if (
            not learning_for(needs).backbone
            or not needs.graph
            or needs.again
            or needs.category
            or cls.routing(settings)
        ):
            why = "makes an image that the network sees again" if needs.again else "is no head behind a frozen network"
            why = "tells categories apart" if needs.category or cls.routing(settings) else why
            raise ConfigError(
                f"{part.method} {why}, and cannot be one of several methods", hint="such as padim+protoot"
            )


def learn_fused(
    split: Split,
    options: FitOptions,
    *,
    backbone: Backbone | None = None,
    cache: FeatureCache | None = None,
    track: Track = no_track,
    spread: Spread | None = None,
    blind: bool = False,
) -> tuple[FitPlan, Learned]:
    """The parts learned, as one method; and the plan that describes it."""
    each = [effort.applied(part, len(split.learn)) for part in own_options(options)]
    own = [backbone or load_backbone(part) for part in each]
    common = backbone or load_backbone(options)
    assert common is not None  # `check` has refused what has none
    half = learning_for(methods.get(each[0].method).needs)
    modality = half.plan(split.learn, options, common)
    plans = [
        FitPlan.of(
            split.learn, part, backbone=network, cache=cache, track=track, spread=spread, modality=modality, blind=blind
        )
        for part, network in zip(each, own, strict=True)
    ]
    trained = sum(bool(plan.method_class.fitted_modules) for plan in plans)
    plans = [replace(plan, share=1 / max(trained, 1)) for plan in plans]
    settings = Config(
        tuple(plan.options.method for plan in plans),
        options.fusion.combine,
        {plan.options.method: config.to_json(plan.config) for plan in plans},
    )
    plan = _whole(plans, options, settings, common, modality)
    return _learned(plan, [_Own(one.options.method, one) for one in plans], split)


def learn_by_lighting(
    split: Split,
    options: FitOptions,
    *,
    backbone: Backbone | None = None,
    cache: FeatureCache | None = None,
    track: Track = no_track,
    blind: bool = False,
) -> tuple[FitPlan, Learned]:
    """The method learned from each lighting by itself, as one method; and the plan that describes it."""
    count = len(options.lightings)
    options = effort.applied(options.parts[0], len(split.learn))
    network = backbone or load_backbone(options)
    assert network is not None  # what has no frozen network is refused
    network = for_lightings(network, count)
    common = FitPlan.of(split.learn, options, backbone=network, cache=cache, track=track, blind=blind)
    share = 1 / count if common.method_class.fitted_modules else 1.0
    names = common.modality.lightings
    settings = Config(names, "z", config.to_json(common.config), lightings=True)
    whole = replace(common, method_class=Fused, config=settings, artefact=None)
    own = [
        _Own(name, replace(common, source=_of_lighting(common, number), share=share), number)
        for number, name in enumerate(names)
    ]
    return _learned(whole, own, split)


def _of_lighting(plan: FitPlan, number: int) -> FeatureSource:
    """The features of one lighting alone."""
    known = plan.images
    one = FeatureSource(
        known.backbone,
        known.preprocess,
        known.cache,
        threads=known.threads,
        precision=known.precision,
        lighting=number,
    )
    one.compute_on(plan.device)
    return one


def _learned(whole: FitPlan, own: Sequence[_Own], split: Split) -> tuple[FitPlan, Learned]:
    network = whole.images.backbone

    def taught(records: Sequence[Record], share: float, _: bool) -> Taught:
        return _taught(whole, own, records, share)

    def frozen(method: Any) -> Frozen:
        graph = export.merge(whole.images.trunk, joined(method))
        return Frozen(graph, lambda: export.reference_engine(network, method))

    return whole, learn(whole, split, taught, frozen)


def _whole(
    plans: Sequence[FitPlan], options: FitOptions, settings: Config, common: Backbone, modality: Modality[Any]
) -> FitPlan:
    """The plan of the whole: that of a part, with what is common in place of what is its own."""
    first = plans[0]
    image = Fused.wants(settings).image
    source = first.half.open(modality, common, first.cache, precision=first.source.precision, image=image)
    views = tuple(
        dict.fromkeys(view for plan in plans for view in plan.options.views if plan.method_class.takes_views())
    )
    return replace(
        first,
        options=replace(options, views=views),
        method_class=Fused,
        config=settings,
        backbone=common,
        source=source,
        features=source.compute_on(first.device),
        artefact=None,
    )


def _taught(whole: FitPlan, own: Sequence[_Own], records: Sequence[Record], share: float) -> Taught:
    """Each part, and its scale."""
    parts: list[Part] = []
    seen: set[str] = set()
    report = []
    scale = SCALES[whole.config.combine]
    for name, plan, lighting in own:
        taught, scores, maps = _judged(plan, records, share * plan.share)
        levels = tuple(whole.source.layers.index(layer) for layer in plan.source.layers)
        parts.append(Part(name, taught.method, levels, scale(scores), scale(maps), lighting))
        seen |= taught.seen
        report += [replace(phase, category=name) for phase in taught.report]
    method = Fused(whole.config, whole.source.spec, whole.modality.size, parts)
    return Taught(method, frozenset(seen), tuple(report))


def _judged(
    plan: FitPlan, records: Sequence[Record], share: float
) -> tuple[Taught, NDArray[np.float32], NDArray[np.float32]]:
    """A part that has learned, and what it makes of good images that it has not: scores, and places of maps."""
    if plan.method_class.leaves_out() and plan.options.tiles is None:
        taught = teach(plan, records, share, keeps=True)
        if taught.method.keeps:
            batches = (next(plan.source.batches(unit, len(unit))) for unit in by_unit(records).values())
            return _scored(plan, taught, (taught.method.converted(batch) for batch in batches), left_out=True)
    learned, apart = split_at_random(records, APART, plan.options.seed)
    taught = teach(plan, learned, share)
    return _scored(plan, taught, plan.source.batches(plan.modality.pieces(apart or learned)), left_out=False)


def _scored(
    plan: FitPlan, taught: Taught, batches: Iterator[Batch], *, left_out: bool
) -> tuple[Taught, NDArray[np.float32], NDArray[np.float32]]:
    method = taught.method
    scores, maps = [], []
    with method.computing():
        for batch in batches:
            found = method.left_out(batch, batch) if left_out else method(batch)
            scores.append(np.asarray(found.score, np.float32))
            maps.append(np.asarray(found.anomaly_map, np.float32)[:, ::EVERY, ::EVERY].ravel())
    seen = taught.seen | frozenset(plan.source.seen)  # what made the scale is known to the model too
    return taught._replace(seen=seen), np.concatenate(scores), np.concatenate(maps)
