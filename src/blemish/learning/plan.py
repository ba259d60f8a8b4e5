"""What stays the same through one learning: options, method, modality, source of samples, frozen network, devices."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish import config, methods
from blemish.data.image.modality import Images
from blemish.data.modality import Modality
from blemish.errors import ConfigError
from blemish.inspection.engines import calm_torch
from blemish.inspection.measuring import Measuring
from blemish.learning import artefacts, devices, footprint, placing
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.backbones.lit import for_lightings
from blemish.learning.backbones.loading import load
from blemish.learning.chunks import Chunk, Spread
from blemish.learning.options import FitOptions
from blemish.learning.sources.base import Learning, Source
from blemish.learning.sources.features import BATCH, FeatureSource
from blemish.learning.sources.image import AUTO, read_textures
from blemish.learning.sources.registry import learning_for
from blemish.system import size_text
from blemish.types import Needs, Record, Track, no_track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.methods.base import Method


LARGE = 512 * 512  # pixels of a network's input: time and memory of a larger one are said before learning


@dataclass(frozen=True)
class FitPlan:
    """What stays the same through one learning."""

    options: FitOptions
    method_class: type[Method[Any]]
    config: Any  # of the method
    half: Learning  # of the modality
    modality: Modality[Any]  # with its preprocessing
    source: Source
    backbone: Backbone | None
    cache: FeatureCache | None
    track: Track = no_track
    spread: Spread | None = None
    textures: tuple[Any, ...] = ()
    artefact: bytes | None = None  # what the method's shared phase would learn
    blind: bool = False  # a model that sees nothing gets a promise nevertheless
    categories: Mapping[str, int] = field(default_factory=dict)  # decided ones by record id, of a multi-class model
    share: float = 1.0  # of the budget that one learning may take
    device: str = "cpu"  # where a method learns, and where features are computed
    features: str = "cpu"

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        options: FitOptions,
        *,
        backbone: Backbone | None,
        cache: FeatureCache | None,
        track: Track = no_track,
        spread: Spread | None = None,
        modality: Modality[Any] | None = None,
        blind: bool = False,
    ) -> FitPlan:
        """From the records that shape the model, without the held-out ones; or with a given modality.

        ConfigError where the device is not there, ResourceError where learning cannot fit into memory.
        """
        calm_torch()
        device = devices.chosen(options.device)
        method_class, settings = head_of(options)
        needs = method_class.wants(settings)
        half = learning_for(needs)
        backbone = backbone and for_lightings(backbone, len(options.lightings))
        artefact = _artefact(method_class, settings, backbone)
        if modality is None:
            modality = half.plan(records, options, backbone)
            if isinstance(modality, Images) and backbone is not None:
                each = footprint.of_a_head(method_class.fitted_buffers, settings, backbone.spec(modality.size))
                modality = placing.decided(modality, records, options.tile_places, method_class, each)
        Measuring.of(modality, options.regions, options.rules)  # before any work
        if backbone is not None:
            size = modality.size
            kept, heads = method_class.fitted_buffers, len(modality.tile_heads)
            footprint.check(kept, settings, backbone.spec(size), size, len(records), BATCH, heads)
        # the effect of the short format is measured after learning, against float32 (`calibrate.agreement`)
        precision = "bf16" if options.precision == "bf16" else "f32"
        source = half.open(modality, backbone, cache, precision=precision, image=needs.image)
        features = source.compute_on(device)
        if isinstance(source, FeatureSource) and math.prod(modality.size) > LARGE:
            _say(source, method_class, settings, modality.pieces(records))
        textures = tuple(read_textures(options.textures)) if needs.twin else ()
        if AUTO in options.views:
            options = replace(options, views=_views(options, method_class, source, modality.pieces(records)))
        return cls(
            options,
            method_class,
            settings,
            half,
            modality,
            source,
            backbone,
            cache,
            track,
            spread,
            textures,
            artefact,
            blind,
            device=device,
            features=features,
        )

    @property
    def needs(self) -> Needs:
        """What the method asks for with these options."""
        return self.method_class.wants(self.config)

    @property
    def images(self) -> FeatureSource:
        """`source`, for what only images have; ConfigError for samples of another modality."""
        if not isinstance(self.source, FeatureSource):
            raise ConfigError(f"{self.options.method} learns no images, and only images are told apart by product")
        return self.source

    @property
    def chunk(self) -> Chunk:
        """Everything needed to observe a part of a large set."""
        method, options, precision = self.method_class, self.options, self.source.precision
        return Chunk(
            method,
            self.config,
            options.seed,
            self.backbone,
            self.modality,
            precision,
            self.cache,
            dict(self.categories),
            self.device,
        )

    def with_categories(self, categories: Mapping[str, int]) -> FitPlan:
        """The plan where each record's category is decided."""
        self.source.categories = dict(categories)
        return replace(self, categories=categories)


def head_of(options: FitOptions) -> tuple[type[Method[Any]], Any]:
    """The method that works on the features, and its options: the requested one, or that of its heads.

    ConfigError where several are one.
    """
    if options.combine_lightings == "max":
        message = "lightings that are learned each by itself (channels max) are neither taken apart nor learned further"
        raise ConfigError(message, hint="fit again with all images, or learn them together (--channels fuse)")
    if options.fused:
        message = f"{options.method} is several methods as one, which are neither taken apart nor learned further"
        raise ConfigError(message, hint="fit again with all images, or name one of them (--method)")
    cls = methods.get(options.method)
    settings = config.build(cls.Config, options.options)
    routing = cls.routing(settings)
    if routing is None or routing.head is None:
        return cls, settings
    head = methods.get(routing.head)
    if head.routing(config.build(head.Config, routing.head_options)) is not None:
        raise ConfigError(f"{routing.head} routes by itself and cannot be a head")
    return head, config.build(head.Config, routing.head_options)


def load_backbone(options: FitOptions) -> Backbone | None:
    """The backbone that the options name, with the levels that the method wants, or several as one together; a pair
    where two are named, None where the method takes samples as they are.
    """
    if options.fused:
        each = [load_backbone(part) for part in options.parts]
        layers = tuple(sorted({layer for network in each if network is not None for layer in network.layers}))
        chosen: dict[str, Any] = {"weights": options.weights, "allow_download": options.allow_download}
        return for_lightings(load(options.backbone, layers=layers, **chosen), len(options.lightings))
    cls, settings = head_of(options)
    needs = cls.wants(settings)
    if not learning_for(needs).backbone:
        return None
    chosen = {
        "layers": tuple(options.layers) if options.layers is not None else None,
        "weights": options.weights,
        "allow_download": options.allow_download,
        "strides": needs.strides,
    }
    groups = max(len(options.lightings), 1)
    if options.second_backbone is None:
        return for_lightings(load(options.backbone, **chosen), groups)
    if not needs.second:
        raise ConfigError(f"{options.method} has no use for a second backbone", hint="leave second_backbone out")
    from blemish.learning.backbones import timm_net
    from blemish.learning.backbones.pair import PairBackbone

    pair = PairBackbone(
        timm_net.load(options.backbone, **chosen),
        timm_net.load(
            options.second_backbone,
            weights=options.second_weights,
            allow_download=options.allow_download,
            strides=needs.strides,
        ),
    )
    return for_lightings(pair, groups)


def recipe(options: FitOptions) -> dict[str, Any]:
    """The options as in `run.json`, with all of the method's own."""
    if options.fused:
        each = {part.method: recipe(part)["options"] for part in options.parts}
        return {**config.to_json(options), "options": {**config.to_json(options.fusion), **each}}
    method_options = config.build(methods.get(options.method).Config, options.options)
    return {**config.to_json(options), "options": config.to_json(method_options)}


def _say(source: FeatureSource, method: type[Method[Any]], settings: Any, records: Sequence[Record]) -> None:
    """Before any work at a large size, a warning that says how long it takes and how much memory it needs at least."""
    high, wide = source.preprocess.size
    blank = np.zeros((high, wide, 3), np.uint8)
    source.extracted(blank)  # the first call takes longer
    start = perf_counter()
    source.extracted(blank)
    each = perf_counter() - start
    source.computed -= 2
    least, _ = footprint.needed(method.fitted_buffers, settings, source.spec, len(records), BATCH)
    steps = "; training steps come on top" if method.fitted_modules else ""
    message = (
        f"at {wide}x{high} the network takes {each:.2g} s an image, about {each * len(records):.0f} s for "
        f"{len(records)} images{steps}; learning needs at least {size_text(least)} of memory"
    )
    warnings.warn(message, stacklevel=4)


def _artefact(method_class: type[Method[Any]], settings: Any, backbone: Backbone | None) -> bytes | None:
    """What is read in place of learning it, where the method's options name it."""
    name = method_class.wants(settings).artefact
    if not name or backbone is None:
        return None
    method = method_class.__module__.rpartition(".")[2]
    return artefacts.read(name, method=method, backbone=backbone.identity, options=config.to_json(settings))


def _views(
    options: FitOptions, method: type[Method[Any]], source: Source, records: Sequence[Record]
) -> tuple[str, ...]:
    """The views that are asked for, with those that the good images suggest; none of what has or takes none."""
    named = tuple(view for view in options.views if view != AUTO)
    if not method.takes_views() or not isinstance(source, FeatureSource):
        return named
    from blemish.learning.views import suggested

    seen = set(source.seen)  # looking does not mean that the model has learned it
    found = suggested(source, records, options.seed)
    source.seen.clear()
    source.seen |= seen
    return tuple(dict.fromkeys((*named, *found)))
