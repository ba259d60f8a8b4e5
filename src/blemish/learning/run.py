"""One learning: records, method and options in, a fitted method and its frozen graph out."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish import config, methods
from blemish.data.image.preprocess import Preprocess
from blemish.data.modality import Modality
from blemish.errors import ConfigError
from blemish.inspection.calibrate import Scores, good_scores, unit_id
from blemish.inspection.engines import calm_torch
from blemish.inspection.modelfile import Model
from blemish.learning import footprint
from blemish.learning.backbones.cache import Blobs, FeatureCache
from blemish.learning.chunks import Chunk, Observed, Spread
from blemish.learning.code_digest import learning_sources
from blemish.learning.options import FitOptions, seconds
from blemish.learning.sources.features import BATCH, FeatureSource
from blemish.learning.sources.image import SCENE, ImageSamples, read_textures, scenes
from blemish.learning.sources.registry import learning_for
from blemish.learning.splits import apart
from blemish.types import Record, Track

if TYPE_CHECKING:
    from torch import Tensor

    from blemish.learning.backbones.base import Backbone
    from blemish.learning.export import Vote
    from blemish.learning.sampler import Samples
    from blemish.learning.training import Plan
    from blemish.methods.base import Method, Phase

GOLDEN = 4  # training images on which graph and PyTorch are compared, beside one of noise


class Run:
    """What stays the same through one fit; `learn` are the records that shape the model, without the held-out ones."""

    def __init__(
        self,
        good: Sequence[Record],
        learn: Sequence[Record],
        method_class: type[Method[Any]],
        settings: Any,
        options: FitOptions,
        backbone: Backbone | None,
        cache: FeatureCache | None,
        track: Track,
        spread: Spread | None = None,
        kind: Modality[Any] | None = None,
        blind: bool = False,
    ) -> None:
        calm_torch()
        self.options = options
        self.blind = blind  # a model that sees nothing gets its promise all the same
        self.backbone = backbone
        self.track = track
        self.good, self.learned_from = good, learn
        self.method_class, self.config = method_class, settings
        # what the short format costs is told behind learning, against scores in float32 (`calibrate.agreement`)
        precision = "bf16" if options.precision == "bf16" else "f32"
        self.needs = method_class.wants(settings)
        self.side = learning_for(self.needs)
        self.kind = kind or self.side.plan(learn, options, backbone)
        if backbone is not None:
            size = self.kind.size
            footprint.check(method_class.fitted_buffers, settings, backbone.spec(size), size, len(learn), BATCH)
        self.features = self.side.open(self.kind, backbone, cache, precision=precision, image=self.needs.image)
        self.cache = cache
        self.learned: set[str] = set()  # content ids of what the last learning has seen
        self.share = 1.0  # of the budget that one learning may take
        self.report: list[dict[str, Any]] = []  # of the phases of the last learning
        self.textures = read_textures(options.textures) if self.needs.twin else []
        self.chunk = Chunk(method_class, settings, options.seed, backbone, self.kind, self.features.precision, cache)
        self.spread = spread

    def freeze(self, method: Method[Any], vote: Vote | None = None) -> bytes:
        """The whole graph from a prepared sample to score and map."""
        return self.features.freeze(method, vote)

    @property
    def images(self) -> FeatureSource:
        """`features`, for what is there for images alone; ConfigError where the samples are others."""
        if not isinstance(self.features, FeatureSource):
            raise ConfigError(f"{self.options.method} learns no images, and only those are told apart by products")
        return self.features

    def learn(self, records: Sequence[Record]) -> Method[Any]:
        """The method, fitted on these records."""
        from blemish.learning import training

        self.features.seen.clear()
        self.learned = set()
        good, held = apart(records, self.needs.held, self.options.seed)
        method = self.chunk.method(self.features)
        size = training.CHUNK if method.mergeable() else max(len(good), 1)
        chunks = [good[i : i + size] for i in range(0, len(good), size)]
        if len(chunks) == 1:
            if self.spread is not None:
                self.spread.warm(self.chunk, good)
            batches = self.track(self.features.batches(good), "learn", math.ceil(len(good) / self.features.batch))
            training.observe(method, batches)
            self.learned = set(self.features.seen)
        else:
            done = self.spread.observe(self.chunk, chunks) if self.spread else self._one_by_one(chunks)
            training.merge(method, self.track(self._noted(done), "learn", len(chunks)))
        training.conclude(method)
        if method.fitted_modules:
            plan = self._plan(method)
            samples, rest = (self._samples(part) for part in (good, held))
            training.run_phases(method, samples, rest, plan)
            self.learned |= self.features.seen
            self.report = plan.report
        return method

    def go_on(self, method: Method[Any], records: Sequence[Record], known: int, share: float, rate: float) -> None:
        """Learn these records beside what a method knows from `known` others."""
        from blemish.learning import training

        self.features.seen.clear()
        good, held = apart(records, self.needs.held, self.options.seed)
        if method.fitted_modules:
            plan = replace(self._plan(method), store=None)  # short enough to do without snapshots
            samples, rest = (self._samples(part) for part in (good, held))
            training.go_on(method, samples, rest, plan, share, rate)
            self.report = plan.report
        else:
            method.recall(known)
            training.train(
                method, self.track(self.features.batches(good), "learn", math.ceil(len(good) / self.features.batch))
            )
        self.learned = set(self.features.seen)

    def _samples(self, records: Sequence[Record]) -> Samples:
        return self.side.samples(self.features, records, self.needs, self.options, self.textures)

    def _scenes(self) -> ImageSamples:
        """Made images of one size, so that what is learned from them serves images of any."""
        own = self.images
        source = FeatureSource(
            own.backbone, Preprocess(SCENE), self.cache, precision=own.precision, image=own.image, threads=own.threads
        )
        return ImageSamples(source, scenes(SCENE), self.needs)

    def _plan(self, method: Method[Any]) -> Plan:
        """How phases are carried out; the names in the cache say all that their outcome depends on."""
        from blemish.learning import training

        features, options = self.features, self.options
        same: list[Any] = [options.method, learning_sources(type(method)), features.identity, features.precision]
        bf16 = options.precision == "bf16"  # auto trains in float32 on every processor: docs/results/training_format.md
        same += [version("torch"), "bf16" if bf16 else "f32"]
        data = [sorted(self.learned), features.preprocess.to_json(), options.views]

        def shared(phase: Phase) -> str:
            own = {name: getattr(method.config, name) for name in phase.depends}
            return _name("phase", [*same, asdict(phase), own, data if phase.data == "good" else []])

        made = hashlib.sha256(b"".join(t.tobytes() for t in self.textures)).hexdigest()
        run = [*same, config.to_json(method.config), options.seed, *data, made, features.threads]
        return training.Plan(
            budget=None if options.budget is None else seconds(options.budget) * self.share,
            store=None if self.cache is None else Blobs(self.cache),
            name=_name("run", run),
            shared=shared,
            scenes=self._scenes() if any(phase.data == "scenes" for phase in method.phases()) else None,
            bf16=bf16,
            track=self.track,
        )

    def _one_by_one(self, chunks: Sequence[Sequence[Record]]) -> Iterator[Observed]:
        return (self.chunk.observe(self.features, records) for records in chunks)

    def _noted(self, done: Iterable[Observed]) -> Iterator[Method[Any]]:
        """The methods of the chunks; the images that they have seen are remembered."""
        for method, seen in done:
            self.learned |= seen
            yield method

    def scores(self, model: Model, good: Sequence[Record]) -> Scores:
        """Scores of these records through the model."""
        return good_scores(model, self.kind, good, self.track)

    def golden(self) -> Any:
        """A few prepared training samples spread over the set, and one of noise."""
        step = max(1, len(self.learned_from) // GOLDEN)
        some = [self.kind.ready(r)[1] for r in self.learned_from[::step][:GOLDEN]]
        return self.kind.stack([*some, self.kind.noise(np.random.default_rng(0))])

    def meta(self, method: Method[Any], seconds: float) -> dict[str, Any]:
        """The model's own description."""
        features = self.features
        name = self.options.backbone if self.backbone is not None else features.identity
        learned = self.learned_from
        ids = "\n".join(sorted(r.id for r in learned)).encode("utf-8", "surrogateescape")
        return {
            "method": self.options.method,
            "kind": self.kind.name,
            **({} if self.needs.graph else {"graph": False, "engine": self.needs.engine}),
            "config": config.to_json(method.config),
            "seed": self.options.seed,
            "training": self.report,
            "backbone": {"name": name, "identity": features.identity, "layers": list(features.layers)},
            "weights": self.options.weights,
            "preprocess": self.kind.preprocess.to_json(),
            **({} if self.options.roi is None else {"inspected": round(self.kind.preprocess.inspected, 4)}),
            "precision": self.features.precision,
            "data": {
                "good_images": len(self.good),
                "learned_from": len(learned),
                "ids_sha256": hashlib.sha256(ids).hexdigest(),
                "content_ids": sorted(self.learned),
                "units": sorted({unit_id(r) for r in learned if r.unit is not None}),
                "categories": sorted({r.group for r in self.good if r.group}),
            },
            "software": {name: version(name) for name in ("blemish", "torch", "timm", "openvino", "onnx", "numpy")}
            | {"python": platform.python_version()},
            "fit_seconds": round(seconds, 2),
        }


def head_of(options: FitOptions) -> tuple[type[Method[Any]], Any]:
    """The method that looks at the features, and its options: the one asked for, or that of its heads."""
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
    """The backbone that the options name, with the levels that the method wants; a pair where two are named, None where
    the method takes samples as they are.
    """
    from blemish.learning.backbones.pair import PairBackbone
    from blemish.learning.backbones.timm_net import load

    cls, settings = head_of(options)
    needs = cls.wants(settings)
    if not learning_for(needs).backbone:
        return None
    first = load(
        options.backbone,
        layers=tuple(options.layers) if options.layers is not None else None,
        weights=options.weights,
        allow_download=options.allow_download,
        strides=needs.strides,
    )
    if options.second_backbone is None:
        return first
    if not needs.second:
        raise ConfigError(f"{options.method} has no use for a second backbone", hint="leave second_backbone out")
    return PairBackbone(
        first,
        load(
            options.second_backbone,
            weights=options.second_weights,
            allow_download=options.allow_download,
            strides=needs.strides,
            blocks=len(needs.strides),
        ),
    )


def _name(kind: str, values: list[Any]) -> str:
    return f"{kind} {hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}"


def tensors(state: dict[str, Tensor], settings: Any) -> bytes:
    """Fitted state and options of a method as one file."""
    from safetensors.torch import save

    named = {k: v.contiguous() for k, v in state.items()}
    return save(named, metadata={"config": json.dumps(config.to_json(settings))})
