"""Several methods as one: a head for each behind one frozen network, put on one scale by good images, in one graph.

learn    each part learns as it would alone, from the levels that it asks for
scale    from what the part makes of good images that it has not learned: each left out where the method can do that
         (`Method.left_out`), else a share that it never sees
combine  score and map are the means of the parts' on that scale

The whole is a method like any other for what follows: one graph, one certificate, one threshold from the combined
scores of held-out good images. Combining detectors by the mean of standardised scores: Aggarwal and Sathe, Outlier
Ensembles, 2017; by p-values: Fisher's method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish import config, methods
from blemish.data.modality import Modality
from blemish.errors import ConfigError
from blemish.inspection.graph_parts import FEATURES
from blemish.learning import effort, export
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.chunks import Spread
from blemish.learning.onnx_parts import renamed, written
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan, load_backbone
from blemish.learning.run import Frozen, Learned, Taught, learn, teach
from blemish.learning.sources.registry import learning_for
from blemish.learning.splits import Split, by_unit, split_at_random
from blemish.methods.base import Method
from blemish.types import Batch, Needs, Prediction, Pyramid, Record, Track, no_track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone

APART = 0.2  # of what a part learns from, that it never sees where it cannot leave images out
EVERY = 4  # pixels, in either direction: of good images' maps these places make the scale
TAILS = (
    0.5,
    0.2,
    0.1,
    0.05,
    0.02,
    0.01,
    0.003,
    0.001,
    0.0003,
    0.0001,
)  # shares above, between which p-values are linear


class Scale(NamedTuple):
    """A rising function of scores: linear between places, and on as at the ends."""

    at: tuple[float, ...]
    slopes: tuple[float, ...]  # the first, and by how much it changes at each place

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of scores or maps, 0 at the first place."""
        out = (x - np.float32(self.at[0])) * np.float32(self.slopes[0])
        for at, slope in zip(self.at[1:], self.slopes[1:], strict=True):
            out = out + np.maximum(x - np.float32(at), np.float32(0)) * np.float32(slope)
        return out

    @classmethod
    def z(cls, good: NDArray[Any]) -> Scale:
        """Less the mean, over the standard deviation of what good images have."""
        values = np.asarray(good, np.float64)
        return cls((float(values.mean()),), (1 / _above_zero(values.std(), values),))

    @classmethod
    def p(cls, good: NDArray[Any]) -> Scale:
        """-log10 of twice the share of good ones above, 0 at their median; beyond the last share that they can tell
        the tail is exponential, as over the last power of ten."""
        values = np.sort(np.asarray(good, np.float64))
        tails = [tail for tail in TAILS if tail >= 1 / (len(values) + 1)] or [TAILS[0]]
        least = _above_zero(0.0, values)
        at: list[float] = []
        height: list[float] = []
        for tail in tails:
            place = float(np.quantile(values, 1 - tail))
            if not at or place > at[-1] + least:
                at.append(place)
                height.append(-np.log10(2 * tail))
            else:
                height[-1] = -np.log10(2 * tail)  # of equal values the share that is above them all
        if len(at) == 1:
            return cls(tuple(at), (1 / _above_zero(values.std(), values),))
        start = next(i for i, h in enumerate(height) if h >= min(height[-1] - 1, height[-2]))  # the last power of ten
        steps = [(b - a) / (y - x) for x, y, a, b in zip(at, at[1:], height, height[1:], strict=False)]
        steps.append((height[-1] - height[start]) / (at[-1] - at[start]))
        return cls(tuple(at), (steps[0], *(b - a for a, b in zip(steps, steps[1:], strict=False))))


def _above_zero(spread: float, values: NDArray[np.float64]) -> float:
    return max(float(spread), 1e-6 * max(float(np.abs(values).max()), 1e-6))


SCALES: dict[str, Callable[[NDArray[Any]], Scale]] = {"z": Scale.z, "p": Scale.p}


@dataclass(frozen=True)
class Config:
    """Of methods that are one: their names, how they are put on one scale, and the options of each."""

    parts: tuple[str, ...]
    combine: str
    options: Mapping[str, Any]


class Part(NamedTuple):
    """One of the methods, which has learned."""

    name: str
    method: Method[Any]
    levels: tuple[int, ...]  # of the common network, which it takes
    score: Scale
    map: Scale


class Fused(Method[Config]):
    """The parts as one method; not learned as such, but made of parts that have learned."""

    def __init__(self, settings: Config, spec: Any, size: tuple[int, int], parts: Sequence[Part] = ()) -> None:
        super().__init__(settings, spec, size)
        self.parts = tuple(parts)

    @classmethod
    def wants(cls, config: Config) -> Needs:
        image = any(methods.get(name).wants(_settings(name, config.options)).image for name in config.parts)
        return Needs(image=image)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """As each of them."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.method.computing())
            yield

    def predict(self, batch: Batch) -> Prediction:
        """The means of the parts' scores and maps on the common scale."""
        assert batch.pyramid is not None
        scores, maps = [], []
        for part in self.parts:
            levels = Pyramid(tuple(batch.pyramid.maps[level] for level in part.levels))
            found = part.method(replace(batch, pyramid=levels))
            scores.append(part.score(np.asarray(found.score)))
            maps.append(part.map(np.asarray(found.anomaly_map)))
        return Prediction(np.mean(scores, 0), np.mean(maps, 0))

    def fitted_state(self) -> dict[str, Any]:
        """That of each under its name, and its scale."""
        state: dict[str, Any] = {}
        for part in self.parts:
            state |= {f"{part.name}.{name}": value for name, value in part.method.fitted_state().items()}
            for what, scale in (("score", part.score), ("map", part.map)):
                state[f"scale.{part.name}.{what}"] = np.array([scale.at, scale.slopes], np.float32)
        return state


def costliest(options: FitOptions) -> type[Method[Any]]:
    """The method by which it is decided how many images are held out: one that is trained by gradient if any is."""
    classes = [methods.get(part.method) for part in options.parts]
    return max(classes, key=lambda cls: bool(cls.fitted_modules) or cls.needs.costly)


def own_options(options: FitOptions) -> list[FitOptions]:
    """Those of each part, without the views and textures that it does not take where another one does."""
    classes = {part.method: methods.get(part.method) for part in options.parts}
    views = any(cls.takes_views() for cls in classes.values())
    twins = any(cls.wants(_settings(name, options.options)).twin for name, cls in classes.items())
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

    def taught(records: Sequence[Record], share: float, _: bool) -> Taught:
        return _taught(plan, plans, records, share)

    def frozen(method: Any) -> Frozen:
        return Frozen(export.merge(plan.images.trunk, joined(method)), lambda: export.reference_engine(common, method))

    return plan, learn(plan, split, taught, frozen)


def _settings(name: str, options: Mapping[str, Any]) -> Any:
    return config.build(methods.get(name).Config, options.get(name, {}))


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


def _taught(whole: FitPlan, plans: Sequence[FitPlan], records: Sequence[Record], share: float) -> Taught:
    """Each part, and its scale."""
    parts: list[Part] = []
    seen: set[str] = set()
    report = []
    scale = SCALES[whole.config.combine]
    for plan in plans:
        taught, scores, maps = _judged(plan, records, share * plan.share)
        levels = tuple(whole.source.layers.index(layer) for layer in plan.source.layers)
        parts.append(Part(plan.options.method, taught.method, levels, scale(scores), scale(maps)))
        seen |= taught.seen
        report += [replace(phase, category=plan.options.method) for phase in taught.report]
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


def joined(fused: Fused) -> bytes:
    """ONNX of features_0, … of the common network -> score, anomaly_map."""
    import onnx
    from onnx import compose, helper

    nodes: list[Any] = []
    constants: list[Any] = []
    inputs: dict[str, Any] = {}
    last: Any = None
    for part in fused.parts:
        prefix = f"{part.name}/"
        last = compose.add_prefix(onnx.load_from_string(export.export_head(part.method)), prefix, inplace=True)
        image = len(part.levels)  # the input behind the levels, where a part takes the image too
        taken = {}
        for port in last.graph.input:
            own = int(port.name.removeprefix(f"{prefix}{FEATURES}"))
            taken[port.name] = name = f"{FEATURES}{len(fused.spec.channels) if own == image else part.levels[own]}"
            inputs[name] = helper.make_value_info(name, port.type)
        renamed(last.graph.node, taken)
        nodes.extend(last.graph.node)
        constants.extend(last.graph.initializer)
        for what, scale in (("score", part.score), ("anomaly_map", part.map)):
            more, kept = _scaled(f"{prefix}{what}", scale)
            nodes.extend(more)
            constants.extend(kept)
    outputs = []
    for what, shape in (("score", []), ("anomaly_map", list(fused.size))):
        each = [f"{part.name}/{what}/scaled" for part in fused.parts]
        nodes.append(helper.make_node("Mean", each, [what], name=f"fused/{what}"))
        outputs.append(helper.make_tensor_value_info(what, onnx.TensorProto.FLOAT, ["batch", *shape]))
    ports = [inputs[name] for name in sorted(inputs, key=lambda name: int(name.removeprefix(FEATURES)))]
    graph = helper.make_graph(nodes, "head", ports, outputs, constants)
    return written(helper.make_model(graph, opset_imports=last.opset_import, ir_version=last.ir_version))


def _scaled(name: str, scale: Scale) -> tuple[list[Any], list[Any]]:
    """Nodes and constants of name -> name/scaled."""
    from onnx import helper, numpy_helper

    nodes, constants, terms = [], [], []
    for k, (at, slope) in enumerate(zip(scale.at, scale.slopes, strict=True)):
        here = f"{name}/{k}"
        constants += [
            numpy_helper.from_array(np.float32(value), f"{here}/{what}") for what, value in (("at", at), ("by", slope))
        ]
        nodes.append(helper.make_node("Sub", [name, f"{here}/at"], [f"{here}/beyond"], name=f"{here}/sub"))
        if k:
            nodes.append(helper.make_node("Relu", [f"{here}/beyond"], [f"{here}/above"], name=f"{here}/relu"))
        nodes.append(
            helper.make_node(
                "Mul", [f"{here}/{'above' if k else 'beyond'}", f"{here}/by"], [f"{here}/term"], name=f"{here}/mul"
            )
        )
        terms.append(f"{here}/term")
    nodes.append(helper.make_node("Sum", terms, [f"{name}/scaled"], name=f"{name}/sum"))
    return nodes, constants
