"""Learn, freeze, certify, calibrate: one function for every way of learning, on a plan that does not change.

teach       records -> a method that has learned them; `teach_more` goes on from one that knows others
learn       teach, freeze into the graph, compare it with its reference, score what is held out -> `Learned`
describe    what the model says of itself
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish import config
from blemish.data.image.preprocess import Preprocess
from blemish.data.modality import Modality
from blemish.errors import CalibrationError
from blemish.inspection.calibrate import (
    Deployed,
    More,
    Scores,
    agreement,
    calibrators,
    deployed_model,
    good_scores,
    unit_id,
)
from blemish.inspection.conformal import Calibrator, Kind
from blemish.inspection.engines import ISA_LIMITS, Engine, Precision
from blemish.inspection.measuring import Measuring
from blemish.inspection.meta import BackboneMeta, DataMeta, Meta
from blemish.inspection.modelfile import Model
from blemish.learning import devices, export, observing
from blemish.learning.backbones.cache import Blobs, FeatureCache
from blemish.learning.chunks import Observed
from blemish.learning.code_digest import learning_sources
from blemish.learning.options import seconds
from blemish.learning.plan import FitPlan
from blemish.learning.sources.features import FeatureSource
from blemish.learning.sources.image import SCENE, ImageSamples, scenes
from blemish.learning.splits import Split, by_unit, split_at_random
from blemish.system import release_memory
from blemish.types import PhaseReport, Prediction, Record

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.learning.heads import Vote
    from blemish.learning.sampler import Samples
    from blemish.learning.training import Plan
    from blemish.methods.base import Method, Phase

GOLDEN = 4  # training samples on which graph and reference are compared, beside one of noise


class Taught(NamedTuple):
    """A method that has learned."""

    method: Method[Any]
    seen: frozenset[str]  # content ids of its samples
    report: tuple[PhaseReport, ...]


class Frozen(NamedTuple):
    """A method as it will run, and what builds the same in PyTorch; neither where it cannot be one graph."""

    graph: bytes
    reference: Callable[[], Engine] | None


@dataclass(frozen=True)
class Learned:
    """A method that has learned, was frozen and certified, with the thresholds that what was held out allows."""

    method: Method[Any]
    seen: frozenset[str]
    report: tuple[PhaseReport, ...]
    graph: bytes
    parity: dict[str, Any]
    calibrators: dict[str, Calibrator]
    agreement: dict[str, Any]  # of the number formats, see `calibrate.agreement`


def learn(
    plan: FitPlan,
    split: Split,
    taught: Callable[[Sequence[Record], float, bool], Taught] | None = None,
    frozen: Callable[[Method[Any]], Frozen] | None = None,
) -> Learned:
    """Teach, freeze, certify, calibrate.

    `taught` gives a method that has learned the records with a share of the budget, and keeps what it needs to leave
    some of them out where it is told to; `frozen` what runs it; as in fit where they are not given.
    """
    taught = taught or (lambda records, share, keeps: teach(plan, records, share, keeps=keeps))
    frozen = frozen or (lambda method: freeze(plan, method))
    share, kind = plan.share / (len(split.folds) + 1), split.kind
    method, seen, report = taught(split.learn, share, kind == "leave_one_out")
    graph, reference = frozen(method)
    runs = deployed(plan, method, graph)
    scores: list[Scores] = []
    if kind == "leave_one_out" and not method.keeps:  # too much was condensed
        if not split.folds:
            message = (
                f"{len(split.learn)} {plan.modality.part}s do not fit into the pool: what was condensed keeps them all"
            )
            raise CalibrationError(message, hint="calibration split or folds, or a larger pool (--set pool)")
        kind = "cross"
    if kind == "leave_one_out":
        more = left_out(plan, method, split.learn, runs.engines)
        scores.append(good_scores(runs, split.learn, plan.track, more))
    elif kind == "split":
        scores.append(good_scores(runs, split.held, plan.track))
    else:
        for part in split.folds:
            fold = taught(part.learn, share, False).method
            scores.append(good_scores(deployed(plan, fold, frozen(fold).graph), part.held, plan.track))
    parity: dict[str, Any] = {}
    if reference is not None:
        parity = export.certify(runs.engines, reference(), _golden(plan.modality, split.learn))
        if plan.backbone is not None and (known := _checked(plan.backbone, plan.cache)):
            parity["backbone"] = known
    made = {} if kind is None else thresholds(plan, scores, kind)
    return Learned(method, seen, report, graph, parity, made, agreement(scores))


def thresholds(plan: FitPlan, scores: Sequence[Scores], kind: Kind) -> dict[str, Calibrator]:
    """By number format, from the scores of good images that were not learned."""
    options = plan.options
    return calibrators(
        scores,
        options.false_alarm_rate,
        kind,
        per_unit=options.promise_per == "unit",
        blind=plan.blind,
        regions=options.regions,
        confidence=options.confidence,
    )


def left_out(
    plan: FitPlan, method: Method[Any], records: Sequence[Record], formats: Iterable[Precision]
) -> dict[Precision, More]:
    """How much higher the score and the largest value of the map of each record are where its unit was not learned, by
    number format of the features; both sides in the method's own arithmetic.
    """
    learned, needs = plan.source, plan.needs
    sources = {
        p: learned
        if p == learned.precision
        else plan.half.open(plan.modality, plan.backbone, plan.cache, precision=p, image=needs.image)
        for p in formats
    }
    found: dict[Precision, More] = {p: {} for p in sources}
    units = by_unit(records).values()
    with method.computing():
        for unit in plan.track(units, "leave out", len(units)):
            known = method.converted(next(learned.batches(unit, len(unit))))
            for precision, source in sources.items():
                batch = known if source is learned else method.converted(next(source.batches(unit, len(unit))))
                further = _tops(method.left_out(known, batch)) - _tops(method.predict(batch))
                found[precision] |= {
                    name: (float(s), float(m)) for name, (s, m) in zip(batch.ids, further, strict=True)
                }
    return found


def _tops(prediction: Prediction) -> NDArray[Any]:
    """(B, 2): score, and largest value of the map."""
    score, anomaly_map = np.asarray(prediction.score), np.asarray(prediction.anomaly_map)
    return np.stack([score, anomaly_map.reshape(len(score), -1).max(1)], 1)


def teach(plan: FitPlan, records: Sequence[Record], share: float = 1.0, *, keeps: bool = False) -> Taught:
    """The method, fitted on these records; with `keeps` it can leave some of them out again (`Method.left_out`)."""
    source, chunk = plan.source, plan.chunk
    source.seen.clear()
    good, held = split_at_random(plan.modality.pieces(records), plan.needs.held, plan.options.seed)
    method = chunk.method(source)
    method.move(plan.device)
    size = observing.CHUNK if method.mergeable() else max(len(good), 1)
    chunks = [good[i : i + size] for i in range(0, len(good), size)]
    seen: set[str] = set()
    if len(chunks) == 1:
        if plan.spread is not None:
            plan.spread.warm(chunk, good)
        observing.observe(method, _batches(plan, good))
        seen |= source.seen
    else:
        done = plan.spread.observe(chunk, chunks) if plan.spread else (chunk.observe(source, part) for part in chunks)
        method.move("cpu")  # where chunks come back to
        observing.merge(method, plan.track(_noted(done, seen), "learn", len(chunks)))
        method.move(plan.device)
    method.keeps = keeps
    observing.conclude(method)
    release_memory()  # sums and pools are several times as large as what is kept of them
    report: tuple[PhaseReport, ...] = ()
    if method.fitted_modules:
        from blemish.learning import training

        schedule = _schedule(plan, method, seen, share)
        training.run_phases(method, _samples(plan, good), _samples(plan, held), schedule)
        seen, report = seen | source.seen, tuple(schedule.report)
    method.move("cpu")
    return Taught(method, frozenset(seen), report)


def teach_more(
    plan: FitPlan,
    method: Method[Any],
    records: Sequence[Record],
    known: int,
    share: float,
    rate: float,
    *,
    keeps: bool = False,
) -> Taught:
    """Learn these records beside what a method knows from `known` others, in a share of the steps, at a lower rate."""
    plan.source.seen.clear()
    good, held = split_at_random(plan.modality.pieces(records), plan.needs.held, plan.options.seed)
    report: list[PhaseReport] = []
    method.move(plan.device)
    if method.fitted_modules:
        from blemish.learning import training

        schedule = replace(_schedule(plan, method, set(), 1.0), store=None)  # short enough to do without snapshots
        training.go_on(method, _samples(plan, good), _samples(plan, held), schedule, share, rate)
        report = schedule.report
    else:
        method.recall(known)
        method.keeps = keeps
        observing.train(method, _batches(plan, good))
    method.move("cpu")
    return Taught(method, frozenset(plan.source.seen), tuple(report))


def freeze(plan: FitPlan, method: Method[Any], vote: Vote | None = None) -> Frozen:
    """The whole graph from a prepared sample to score and map, and its reference."""
    if not plan.needs.graph:
        return Frozen(b"", None)
    return Frozen(plan.source.freeze(method, vote), partial(plan.source.reference, method, vote))


def describe(plan: FitPlan, good: Sequence[Record], learned_from: Sequence[Record], learned: Learned) -> Meta:
    """The model's own description; `good` are all good records, the held-out ones too."""
    options, source = plan.options, plan.source
    name = options.backbone if plan.backbone is not None else source.identity
    ids = "\n".join(sorted(r.id for r in learned_from)).encode("utf-8", "surrogateescape")
    packages = ["blemish", "openvino", "onnx", "numpy", *(["torch"] if learned.method.arrays == "torch" else [])]
    return replace(
        _opening(plan, learned.method),
        seed=options.seed,
        training=learned.report,
        device=devices.title(plan.device),
        features_device=plan.features,
        backbone=BackboneMeta(name, source.identity, tuple(source.layers), *_weights(plan.backbone)),
        weights=options.weights,
        views=options.views if learned.method.takes_views() else (),
        inspected=None if options.roi is None else round(plan.modality.preprocess.inspected, 4),
        data=DataMeta(
            good_images=len(good),
            learned_from=len(learned_from),
            ids_sha256=hashlib.sha256(ids).hexdigest(),
            content_ids=tuple(sorted(learned.seen)),
            units=units_of(learned_from),
            categories=tuple(sorted({r.group for r in good if r.group})),
        ),
        software={name: version(name) for name in packages} | {"python": platform.python_version()},
    )


def _weights(backbone: Backbone | None) -> tuple[str, str]:
    """Digest and licence; empty where there is no frozen network."""
    return ("", "") if backbone is None else (backbone.digest, backbone.licence)


def units_of(records: Iterable[Record]) -> tuple[str, ...]:
    """Digests of the groups that these records are said to belong to."""
    return tuple(sorted({unit_id(r) for r in records if r.unit is not None}))


def tensors(state: Mapping[str, Any], settings: Any) -> bytes:
    """Fitted state and options of a method as one file."""
    from safetensors.numpy import save

    named = {k: np.require(np.asarray(v), requirements="C") for k, v in state.items()}
    return save(named, metadata={"config": json.dumps(config.to_json(settings))})


def deployed(plan: FitPlan, method: Method[Any], graph: bytes, heads: Mapping[str, bytes] | None = None) -> Deployed:
    """What will run: the whole graph, or a trunk and the heads behind it."""
    state = b"" if graph else tensors(method.fitted_state(), method.config)
    model = Model(_opening(plan, method), {}, state, graph, {}, {}, heads=dict(heads or {}))
    return deployed_model(model, plan.modality, Measuring.of(plan.modality, plan.options.regions, plan.options.rules))


def _opening(plan: FitPlan, method: Method[Any]) -> Meta:
    """The part of a model's description that is needed to open it."""
    needs = plan.needs
    return Meta(
        method=plan.options.method,
        preprocess=plan.modality.preprocess.to_json(),
        precision=plan.source.precision,
        kind=plan.modality.name,
        graph=needs.graph,
        engine=None if needs.graph else needs.engine,
        rules=plan.options.rules,
        config=config.to_json(method.config),
    )


def _golden(modality: Modality[Any], records: Sequence[Record]) -> Any:
    """A few prepared training samples spread over the set, and one of noise."""
    step = max(1, len(records) // GOLDEN)
    samples = [modality.example(r) for r in records[::step][:GOLDEN]]
    return modality.stack([*samples, modality.noise(np.random.default_rng(0))])


def _checked(backbone: Backbone, cache: FeatureCache | None) -> dict[str, float]:
    """`Backbone.check`, once for each machine and engine that uses a cache."""
    if cache is None:
        return backbone.check()
    limits = [os.environ.get(name, "") for name in ISA_LIMITS]
    where = [platform.node(), platform.machine(), platform.processor(), *limits, version("openvino")]
    name = _name("backbone checked", [backbone.identity, *where])
    if (kept := cache.get_blob(name)) is None:
        kept = json.dumps(backbone.check()).encode()
        cache.put_blob(name, kept)
    found: dict[str, float] = json.loads(kept)
    return found


def _batches(plan: FitPlan, records: Sequence[Record]) -> Iterable[Any]:
    whole = plan.source.batches(records)
    if plan.options.views and plan.needs.views:
        whole = chain(whole, *(_seen_as(plan, records, view) for view in plan.options.views if view != "same"))
    return plan.track(whole, "learn", math.ceil(len(records) / plan.source.batch))


def _seen_as(plan: FitPlan, records: Sequence[Record], view: str) -> Iterator[Any]:
    """The images turned, for a method that observes them so too."""
    samples = plan.half.samples(plan.source, records, plan.needs, plan.options, plan.textures)
    assert isinstance(samples, ImageSamples)
    size = plan.source.batch
    return (samples.seen_as(view, start, start + size) for start in range(0, len(records), size))


def _noted(done: Iterable[Observed], seen: set[str]) -> Iterator[Method[Any]]:
    """The methods of the chunks; the ids of their samples are added to `seen`."""
    for method, sample_ids in done:
        seen |= sample_ids
        yield method


def _samples(plan: FitPlan, records: Sequence[Record]) -> Samples:
    return plan.half.samples(plan.source, records, plan.needs, plan.options, plan.textures)


def _scenes(plan: FitPlan) -> ImageSamples:
    """Synthetic images of one size, so that what is learned from them serves images of any size."""
    images = plan.images
    height, width = (max(side // images.backbone.stride, 1) * images.backbone.stride for side in SCENE)
    source = FeatureSource(
        images.backbone,
        Preprocess((height, width)),
        plan.cache,
        precision=images.precision,
        image=images.image,
        threads=images.threads,
    )
    source.compute_on(plan.device)
    groups = images.preprocess.groups
    return ImageSamples(source, scenes((height, width), groups=groups), plan.needs)


def _schedule(plan: FitPlan, method: Method[Any], seen: set[str], share: float) -> Plan:
    """How phases are carried out; the names in the cache are digests of all that their outcome depends on."""
    from blemish.learning import training

    source, options = plan.source, plan.options
    same: list[Any] = [options.method, learning_sources(type(method)), source.identity, source.precision]
    bf16 = options.precision == "bf16"  # auto trains in float32 on every processor: docs/results/training_format.md
    same += [version("torch"), "bf16" if bf16 else "f32"]
    data = [sorted(seen), source.preprocess.to_json(), options.views]

    def shared(phase: Phase) -> str:
        phase_options = {name: getattr(method.config, name) for name in phase.depends}
        return _name("phase", [*same, asdict(phase), phase_options, data if phase.data == "good" else []])

    made = hashlib.sha256(b"".join(t.tobytes() for t in plan.textures)).hexdigest()
    artefact = "" if plan.artefact is None else hashlib.sha256(plan.artefact).hexdigest()
    run = [*same, config.to_json(method.config), options.seed, *data, made, artefact, source.threads]
    return training.Plan(
        budget=None if options.budget is None else seconds(options.budget) * share,
        store=None if plan.cache is None else Blobs(plan.cache),
        name=_name("run", run),
        shared=shared,
        scenes=_scenes(plan) if _draws_scenes(plan, method) else None,
        artefact=plan.artefact,
        bf16=bf16,
        track=plan.track,
    )


def _draws_scenes(plan: FitPlan, method: Method[Any]) -> bool:
    """Whether a phase that is to be run learns from them."""
    return any(phase.data == "scenes" and not (phase.shared and plan.artefact) for phase in method.phases())


def _name(kind: str, values: list[Any]) -> str:
    return f"{kind} {hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}"
