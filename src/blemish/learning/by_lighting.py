"""Each lighting learned by itself, and the most anomalous one decides: `--channels max`.

learn    a method of its own for each lighting, from that lighting's features alone
scale    less the mean, over the deviation, of what each makes of good images that it has not learned, so that one
         lighting's score can be compared with another's
combine  the largest, of scores and at each place of maps
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish import config
from blemish.inspection.graph_parts import FEATURES
from blemish.learning import effort, export
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.backbones.lit import for_lightings
from blemish.learning.fused import APART, EVERY, SCALES, Scale
from blemish.learning.onnx_parts import written
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan, load_backbone
from blemish.learning.run import Frozen, Learned, Taught, learn, teach
from blemish.learning.sources.features import FeatureSource
from blemish.learning.splits import Split, split_at_random
from blemish.methods.base import Method
from blemish.types import Batch, Needs, Prediction, Pyramid, Record, Track, no_track

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone


@dataclass(frozen=True)
class Config:
    """The lightings, and the options of the method that each is learned by."""

    lightings: tuple[str, ...]
    options: Mapping[str, Any]


class Part(NamedTuple):
    """The method of one lighting, which has learned, and its scales."""

    method: Method[Any]
    score: Scale
    map: Scale


class ByLighting(Method[Config]):
    """The parts as one method, in the order of the lightings; made of parts that have learned."""

    def __init__(self, settings: Config, spec: Any, size: tuple[int, int], parts: Sequence[Part] = ()) -> None:
        super().__init__(settings, spec, size)
        self.parts = tuple(parts)

    @classmethod
    def wants(cls, config: Config) -> Needs:  # noqa: ARG003
        return Needs()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """As each of them."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.method.computing())
            yield

    def predict(self, batch: Batch) -> Prediction:
        """The largest of the lightings, on their common scale."""
        assert batch.pyramid is not None
        scores, maps = [], []
        for number, part in enumerate(self.parts):
            levels = tuple(
                level[:, number * count : (number + 1) * count]
                for level, count in zip(batch.pyramid.maps, part.method.spec.channels, strict=True)
            )
            found = part.method(replace(batch, pyramid=Pyramid(levels)))
            scores.append(part.score(np.asarray(found.score)))
            maps.append(part.map(np.asarray(found.anomaly_map)))
        return Prediction(np.max(scores, 0), np.max(maps, 0))

    def fitted_state(self) -> dict[str, Any]:
        """That of each under its lighting's name, and its scale."""
        state: dict[str, Any] = {}
        for name, part in zip(self.config.lightings, self.parts, strict=True):
            state |= {f"{name}.{key}": value for key, value in part.method.fitted_state().items()}
            for what, scale in (("score", part.score), ("map", part.map)):
                state[f"scale.{name}.{what}"] = np.array([scale.at, scale.slopes], np.float32)
        return state


def learn_by_lighting(
    split: Split,
    options: FitOptions,
    *,
    backbone: Backbone | None = None,
    cache: FeatureCache | None = None,
    track: Track = no_track,
    blind: bool = False,
) -> tuple[FitPlan, Learned]:
    """The lightings learned, as one method; and the plan that describes it."""
    count = len(options.lightings)
    options = effort.applied(options.parts[0], len(split.learn))
    network = backbone or load_backbone(options)
    assert network is not None  # what has no frozen network is refused
    network = for_lightings(network, count)
    common = FitPlan.of(split.learn, options, backbone=network, cache=cache, track=track, blind=blind)
    share = 1 / count if common.method_class.fitted_modules else 1.0
    plans = [replace(common, source=_source(common, number), share=share) for number in range(count)]
    names = common.modality.lightings
    whole = replace(common, method_class=ByLighting, config=Config(names, config.to_json(common.config)), artefact=None)

    def taught(records: Sequence[Record], share: float, _: bool) -> Taught:
        return _taught(whole, plans, records, share)

    def frozen(method: Any) -> Frozen:
        return Frozen(
            export.merge(whole.images.trunk, joined(method)), lambda: export.reference_engine(network, method)
        )

    return whole, learn(whole, split, taught, frozen)


def _source(plan: FitPlan, number: int) -> FeatureSource:
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


def _taught(whole: FitPlan, plans: Sequence[FitPlan], records: Sequence[Record], share: float) -> Taught:
    """Each lighting's method, and its scale by good images that it has not learned."""
    learned, apart = split_at_random(records, APART, whole.options.seed)
    parts: list[Part] = []
    seen: set[str] = set()
    report = []
    for name, plan in zip(whole.config.lightings, plans, strict=True):
        found = teach(plan, learned, share * plan.share)
        scores, maps = [], []
        with found.method.computing():
            for batch in plan.source.batches(plan.modality.pieces(apart or learned)):
                prediction = found.method(batch)
                scores.append(np.asarray(prediction.score, np.float32))
                maps.append(np.asarray(prediction.anomaly_map, np.float32)[:, ::EVERY, ::EVERY].ravel())
        parts.append(Part(found.method, *(SCALES["z"](np.concatenate(values)) for values in (scores, maps))))
        seen |= found.seen | plan.source.seen  # what made the scale is known to the model too
        report += [replace(phase, category=name) for phase in found.report]
    method = ByLighting(whole.config, whole.source.spec, whole.modality.size, parts)
    return Taught(method, frozenset(seen), tuple(report))


def joined(method: ByLighting) -> bytes:
    """ONNX of features_0, … of all lightings -> score, anomaly_map."""
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []
    last: Any = None

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    axis = constant("lightings/axis", np.array([1], np.int64))
    for number, part in enumerate(method.parts):
        prefix = f"lighting{number}/"
        for level, channels in enumerate(part.method.spec.channels):
            own = f"{prefix}{FEATURES}{level}"
            ends = [
                constant(f"{own}/{what}", np.array([(number + step) * channels], np.int64))
                for step, what in enumerate(("from", "to"))
            ]
            nodes.append(helper.make_node("Slice", [f"{FEATURES}{level}", *ends, axis], [own], name=own))
        last = compose.add_prefix(onnx.load_from_string(export.export_head(part.method)), prefix, inplace=True)
        nodes.extend(last.graph.node)
        constants.extend(last.graph.initializer)
        for what, scale in (("score", part.score), ("anomaly_map", part.map)):
            name = f"{prefix}{what}"
            less = constant(f"{name}/mean", np.float32(scale.at[0]))
            by = constant(f"{name}/slope", np.float32(scale.slopes[0]))
            nodes.append(helper.make_node("Sub", [name, less], [f"{name}/centred"], name=f"{name}/centred"))
            nodes.append(helper.make_node("Mul", [f"{name}/centred", by], [f"{name}/z"], name=f"{name}/z"))
    outputs = []
    for what, shape in (("score", []), ("anomaly_map", list(method.size))):
        each = [f"lighting{number}/{what}/z" for number in range(len(method.parts))]
        nodes.append(helper.make_node("Max", each, [what], name=f"lightings/{what}"))
        outputs.append(helper.make_tensor_value_info(what, TensorProto.FLOAT, ["batch", *shape]))
    inputs = [
        helper.make_tensor_value_info(f"{FEATURES}{level}", TensorProto.FLOAT, ["batch", channels, *grid])
        for level, (channels, grid) in enumerate(zip(method.spec.channels, method.spec.grids, strict=True))
    ]
    graph = helper.make_graph(nodes, "head", inputs, outputs, constants)
    return written(helper.make_model(graph, opset_imports=last.opset_import, ir_version=last.ir_version))
