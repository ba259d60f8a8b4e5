"""From a method to the one graph: backbone once, head per model, merged; and the certificate that they agree.

A method in numpy draws its head (`ops.drawing`), one in PyTorch is traced (`learning.trace`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ExportError
from blemish.inspection.engines import Engine, Outputs, Precision, ReferenceEngine
from blemish.inspection.graph_parts import FEATURES, HEAD
from blemish.learning.again import sharing, through
from blemish.learning.heads import CATEGORY, Scaled, Vote
from blemish.learning.observing import seen_again
from blemish.learning.onnx_parts import leads_to, written
from blemish.ops.arrays import exact, top
from blemish.ops.drawing import Drawn, Graph
from blemish.types import Batch, FeatureSpec, Pyramid

if TYPE_CHECKING:
    from blemish.learning.backbones.base import Backbone
    from blemish.methods.base import Method

SCORE_LIMIT = 1e-3  # largest |graph - reference| allowed, as a share of the spread of the golden maps
MAP_LIMIT = 1e-3


def export_head(of: Method[Any] | Scaled, vote: Vote | None = None, *, trunk: bytes = b"") -> bytes:
    """ONNX of features_0, … -> score, anomaly_map; with a vote also -> votes, strangeness.

    `trunk` is the backbone's graph with the image, for a method that asks for the features of an image that it makes.
    """
    method = of.method if isinstance(of, Scaled) else of
    needs = method.wants(method.config)
    if method.arrays == "numpy":
        head, bordered = _draw_head(of, category=vote is not None), False
    else:
        from blemish.learning import trace

        head, bordered = trace.trace_head(of, category=vote is not None), trace.bordered(method)
        head = through(head, trunk) if needs.again else head
    if vote is None:
        return head
    # Where a method draws a border between number formats, the router lies behind it too, but where networks in front
    # of it go by the router.
    return _beside(_draw_vote(vote, method.spec, category=True, behind=bordered and not needs.category), head)


def export_vote(vote: Vote, spec: FeatureSpec) -> bytes:
    """ONNX of features_<level> -> votes, strangeness."""
    return _draw_vote(vote, spec)


def _draw_head(of: Method[Any] | Scaled, *, category: bool = False) -> bytes:
    method = of.method if isinstance(of, Scaled) else of
    method.check_fitted()
    graph = Graph()
    shapes = [(c, *g) for c, g in zip(method.spec.channels, method.spec.grids, strict=True)]
    levels = tuple(graph.input(f"{FEATURES}{i}", shape) for i, shape in enumerate(shapes))
    decided = graph.input(CATEGORY, (), np.int64) if category else None
    prediction = method.predict(Batch(method.size, Pyramid(levels), category=decided))
    found = (prediction.score, prediction.anomaly_map)
    score, anomaly_map = of.rescaled(*found) if isinstance(of, Scaled) else found
    return _drawn(graph, score, anomaly_map, method.size)


def _drawn(graph: Graph, score: Drawn, anomaly_map: Drawn, size: tuple[int, ...]) -> bytes:
    outputs: dict[str, tuple[Drawn, tuple[int, ...], type]]
    outputs = {"score": (score, (), np.float32), "anomaly_map": (anomaly_map, tuple(size), np.float32)}
    return written(graph.model(outputs))


def _draw_vote(vote: Vote, spec: FeatureSpec, *, category: bool = False, behind: bool = False) -> bytes:
    """The router; with `category` its decision too, and `behind` the border between number formats."""
    graph = Graph()
    grid = spec.grids[vote.level]
    level = graph.input(f"{FEATURES}{vote.level}", (spec.channels[vote.level], *grid))
    votes, strangeness = vote.anchors(exact(level) if behind else level, (grid[0], grid[1]))
    outputs: dict[str, tuple[Drawn, tuple[int, ...], type]] = {
        "votes": (votes, (len(vote.anchors),), np.float32),
        "strangeness": (strangeness, (), np.float32),
    }
    if category:
        outputs[CATEGORY] = (top(votes, 1)[1][:, 0], (), np.int64)
    return written(graph.model(outputs))


def export_plain(method: Method[Any]) -> bytes:
    """ONNX of signal (B, K, L) float32 -> score, anomaly_map: of a method without a frozen network before it."""
    if method.arrays == "torch":
        from blemish.learning.trace import trace_plain

        return trace_plain(method)
    graph = Graph()
    prediction = method.predict(Batch(method.size, x=graph.input("signal", (method.spec.inputs, *method.size))))
    return _drawn(graph, prediction.score, prediction.anomaly_map, method.size)


def _beside(router: bytes, head: bytes) -> bytes:
    """Router and head on the same features, as one graph; the head may take the category that the router gives."""
    import onnx

    first, second = _prefixed(onnx.load_from_string(router), "vote/"), onnx.load_from_string(head)
    inputs = {port.name: port for port in (*second.graph.input, *first.graph.input) if port.name != CATEGORY}
    decided = [port for port in first.graph.output if port.name != CATEGORY]
    graph = onnx.helper.make_graph(
        [*first.graph.node, *second.graph.node],
        "head",
        [inputs[name] for name in sorted(inputs, key=lambda name: int(name.removeprefix(FEATURES)))],
        [*second.graph.output, *decided],
        [*first.graph.initializer, *second.graph.initializer],
    )
    model = onnx.helper.make_model(graph, opset_imports=second.opset_import, ir_version=second.ir_version)
    return written(model)


def merge(backbone: bytes, head: bytes) -> bytes:
    """One graph from image to score and map, without what leads to no output; the features keep their names inside."""
    import onnx

    first, second = onnx.load_from_string(backbone), _prefixed(onnx.load_from_string(head), HEAD)
    graph = second.graph  # the larger one is changed in place
    used, constants = leads_to(first.graph, [port.name for port in graph.input])
    nodes = [*used, *graph.node]
    for mine, theirs in ((graph.node, nodes), (graph.input, [*first.graph.input])):
        del mine[:]
        mine.extend(theirs)
    sharing(graph, constants, HEAD)
    graph.initializer.extend(constants)
    del graph.value_info[:]  # the exporter gives unlike dimensions one name, and ONNX Runtime believes it
    second.producer_name = "blemish"
    return written(second)


def _prefixed(model: Any, prefix: str) -> Any:
    """A model whose inner names have a prefix; inputs and outputs keep theirs."""
    from onnx import compose

    return compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False, inplace=True)


def reference_engine(
    backbone: Backbone, of: Method[Any] | Scaled, vote: Vote | None = None, *, engine: Engine | None = None
) -> ReferenceEngine:
    """What the graph is compared with: the same chain in numpy or PyTorch, float32.

    `engine` gives the backbone's maps of one image, where it is compiled already and would be compiled again.
    """
    method = of.method if isinstance(of, Scaled) else of
    needs = method.wants(method.config)

    def run(images: NDArray[np.uint8]) -> Outputs:
        maps = backbone.maps(images) if engine is None else engine(images)
        decided: tuple[Any, ...] = () if vote is None else vote.anchors(maps[vote.level])
        category = decided[0].argmax(1) if decided else None
        x = backbone.normalised(images) if needs.image else None
        batch = Batch(method.size, Pyramid(maps), x=x, category=category)
        return (*_predicted(of, seen_again(method, batch, backbone.maps_of)), *decided)

    return ReferenceEngine(run)


def plain_engine(method: Method[Any]) -> ReferenceEngine:
    """The same of a method that takes samples as they are."""
    return ReferenceEngine(lambda samples: _predicted(method, Batch(size=method.size, x=samples)))


def _predicted(of: Method[Any] | Scaled, batch: Batch) -> Outputs:
    method = of.method if isinstance(of, Scaled) else of
    with method.computing():
        prediction = method(batch)
        found: Sequence[Any] = (prediction.score, prediction.anomaly_map)
        if isinstance(of, Scaled):
            found = of.rescaled(*found)
        return tuple(np.asarray(values) for values in found)


def certify(engines: Mapping[Precision, Engine], reference: Engine, golden: NDArray[Any]) -> dict[str, Any]:
    """The parity certificate: the graph, in each number format, against its reference on golden inputs, (N, H, W, 3)
    uint8 or (N, K, L) float32.

    Differences are shares of the spread (largest - smallest) of the reference's maps. In float32 they have
    to stay under the limits, else ExportError; the differences in the short format of this processor are stated too.
    """
    expected = [reference(g[None]) for g in golden]
    scores, maps = np.concatenate([e[0] for e in expected]), np.concatenate([e[1] for e in expected])
    if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise ExportError("the method gives scores that are not finite on the golden inputs")
    spread = max(float(np.ptp(maps)), 1e-12)
    certificate: dict[str, Any] = {
        "golden": {"count": len(golden), "sha256": hashlib.sha256(golden.tobytes()).hexdigest()},
        "limit": {"score": SCORE_LIMIT, "map": MAP_LIMIT},
        "spread": spread,
        "engines": {},
    }
    for precision, engine in engines.items():
        got = [engine(g[None]) for g in golden]
        entry = {
            "score": float(np.abs(np.concatenate([g[0] for g in got]) - scores).max()) / spread,
            "map": float(np.abs(np.concatenate([g[1] for g in got]) - maps).max()) / spread,
        }
        certificate["engines"][f"openvino-{precision}"] = entry
        if precision == "f32" and not (entry["score"] <= SCORE_LIMIT and entry["map"] <= MAP_LIMIT):
            raise ExportError(f"graph and reference disagree: {json.dumps(entry)} of the spread of the golden maps")
    return certificate
