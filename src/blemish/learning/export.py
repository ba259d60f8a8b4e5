"""From PyTorch to the one graph: backbone once, head per model, merged; and the certificate that they agree."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ExportError
from blemish.inspection.engines import Engine, Outputs, TorchEngine, best_precision, open_engine
from blemish.inspection.graph_parts import FEATURES, HEAD

if TYPE_CHECKING:
    import torch

    from blemish.learning.backbones.base import Backbone
    from blemish.methods.base import Method
    from blemish.nn.anchors import Anchors
    from blemish.types import FeatureSpec

OPSET = 18


class Vote(NamedTuple):
    """The router that decides on the category, and by which level of the features."""

    anchors: Anchors
    level: int


SCORE_LIMIT = 1e-3  # largest |graph - PyTorch| allowed, as a share of the spread of the golden maps
MAP_LIMIT = 1e-3


def export_backbone(backbone: Backbone, size: tuple[int, int], *, image: bool = False) -> bytes:
    """ONNX of image -> features_0, features_1, …; batch is free, H and W are fixed.

    With `image`, the normalised image (B, 3, H, W) follows as one more level.
    """
    import torch

    names = [f"{FEATURES}{i}" for i in range(len(backbone.layers) + image)]
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    return _to_onnx(_trunk(backbone, image), (example,), ["image"], names)


def _trunk(backbone: Backbone, image: bool) -> torch.nn.Module:
    """A backbone as a function of uint8 images."""
    import torch

    class Trunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            x = self.backbone.normalise(images)
            return (*self.backbone.features(x), x)

    return Trunk() if image else backbone


class Scaled(NamedTuple):
    """A method whose scores and maps are rescaled: a middle is subtracted, and a span divided by."""

    method: Method[Any]
    score_middle: float
    score_span: float
    map_middle: float
    map_span: float


def export_head(of: Method[Any] | Scaled, vote: Vote | None = None) -> bytes:
    """ONNX of features_0, … -> score, anomaly_map; with a vote also -> votes, strangeness."""
    import torch

    method = of.method if isinstance(of, Scaled) else of

    shapes = [(c, *g) for c, g in zip(method.spec.channels, method.spec.grids, strict=True)]
    if method.wants(method.config).image:
        shapes.append((3, *method.size))
    outputs = ["score", "anomaly_map", *(["votes", "strangeness"] if vote else [])]
    names = [f"{FEATURES}{i}" for i in range(len(shapes))]
    generator = torch.Generator().manual_seed(0)
    maps = tuple(torch.rand(2, *shape, generator=generator) for shape in shapes)
    return _to_onnx(_head(of, vote), maps, names, outputs)


def export_vote(vote: Vote, spec: FeatureSpec) -> bytes:
    """ONNX of features_<level> -> votes, strangeness."""
    import torch

    shape = (spec.channels[vote.level], *spec.grids[vote.level])
    maps = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    return _to_onnx(vote.anchors, (maps,), [f"{FEATURES}{vote.level}"], ["votes", "strangeness"])


def _head(of: Method[Any] | Scaled, vote: Vote | None = None) -> torch.nn.Module:
    import torch

    from blemish.nn.precision import Exact
    from blemish.types import Batch, Pyramid

    scaled = of if isinstance(of, Scaled) else None
    method: Method[Any] = of.method if isinstance(of, Scaled) else of
    image = method.wants(method.config).image

    class Head(torch.nn.Module):
        """A method as a function of feature maps, and of the normalised image where it asks for it."""

        def __init__(self) -> None:
            super().__init__()
            self.method = method
            self.anchors = vote.anchors if vote else None
            # Where a method draws a border between number formats, the router lies after it too, unless networks
            # before it depend on the router.
            bordered = any(isinstance(part, Exact) for part in method.modules())
            early = method.wants(method.config).category
            self.exact_level: torch.nn.Module = Exact() if bordered and not early else torch.nn.Identity()

        def forward(self, *maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
            levels, x = (maps[:-1], maps[-1]) if image else (maps, None)
            decided: tuple[torch.Tensor, ...] = ()
            category = None
            if vote is not None and self.anchors is not None:
                decided = self.anchors(self.exact_level(levels[vote.level]))
                category = decided[0].argmax(1)
            prediction = self.method(Batch(size=self.method.size, pyramid=Pyramid(levels), x=x, category=category))
            outputs = (prediction.score, prediction.anomaly_map)
            if scaled is not None:
                score, anomaly_map = outputs
                outputs = (
                    (score - scaled.score_middle) / scaled.score_span,
                    (anomaly_map - scaled.map_middle) / scaled.map_span,
                )
            return (*outputs, *decided)

    return Head().eval()


def _to_onnx(module: torch.nn.Module, arguments: tuple[Any, ...], inputs: list[str], outputs: list[str]) -> bytes:
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The tracing exporter is deprecated but takes a second where the new one takes eight, and it keeps the
        # module path in the node names, by which an engine finds the coarse products.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            arguments,
            buffer,  # type: ignore[arg-type]  # a file object is documented and works
            dynamo=False,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in inputs + outputs},
            do_constant_folding=False,  # engines fold when they load; folded copies of a bank would double the file
        )
    return buffer.getvalue()


def merge(backbone: bytes, head: bytes) -> bytes:
    """One graph from image to score and map; the features keep their names inside."""
    import onnx
    from onnx import compose

    first, second = onnx.load_from_string(backbone), onnx.load_from_string(head)
    used = [i.name for i in second.graph.input]  # a head need not look at every level
    outputs = [o.name for o in second.graph.output]
    second = compose.add_prefix(second, HEAD, rename_inputs=False, rename_outputs=False)
    merged = compose.merge_models(first, second, io_map=[(n, n) for n in used], outputs=outputs)
    del merged.graph.value_info[:]  # the exporter gives different dimensions one name, and ONNX Runtime relies on it
    merged.producer_name = "blemish"
    return bytes(merged.SerializeToString())


def torch_engine(backbone: Backbone, of: Method[Any] | Scaled, vote: Vote | None = None) -> TorchEngine:
    """The reference: the same chain in PyTorch, float32."""
    import torch

    method = of.method if isinstance(of, Scaled) else of
    head, trunk = _head(of, vote), _trunk(backbone, method.wants(method.config).image)

    def run(images: NDArray[np.uint8]) -> Outputs:
        with torch.no_grad():
            outputs = head(*trunk(torch.from_numpy(images)))
        return tuple(output.numpy() for output in outputs)

    return TorchEngine(run)


def _plain(method: Method[Any]) -> torch.nn.Module:
    """A method that takes samples as they are, as a function of them."""
    import torch

    from blemish.types import Batch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.method = method

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            prediction = self.method(Batch(size=self.method.size, x=x))
            return prediction.score, prediction.anomaly_map

    return Plain().eval()


def export_plain(method: Method[Any]) -> bytes:
    """ONNX of signal (B, K, L) float32 -> score, anomaly_map: of a method without a frozen network before it."""
    import torch

    shape = (2, method.spec.inputs, *method.size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return _to_onnx(_plain(method), (x,), ["signal"], ["score", "anomaly_map"])


def plain_engine(method: Method[Any]) -> TorchEngine:
    """The reference of such a method."""
    import torch

    plain = _plain(method)

    def run(samples: NDArray[np.float32]) -> Outputs:
        with torch.no_grad():
            outputs = plain(torch.from_numpy(samples))
        return tuple(output.numpy() for output in outputs)

    return TorchEngine(run)


def certify(graph: bytes, reference: Engine, golden: NDArray[Any]) -> dict[str, Any]:
    """The parity certificate: the graph against PyTorch on golden inputs, (N, H, W, 3) uint8 or (N, K, L) float32.

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
    for precision in dict.fromkeys(("f32", best_precision())):
        engine = open_engine(graph, precision=precision)
        got = [engine(g[None]) for g in golden]
        entry = {
            "score": float(np.abs(np.concatenate([g[0] for g in got]) - scores).max()) / spread,
            "map": float(np.abs(np.concatenate([g[1] for g in got]) - maps).max()) / spread,
        }
        certificate["engines"][f"openvino-{precision}"] = entry
        if precision == "f32" and not (entry["score"] <= SCORE_LIMIT and entry["map"] <= MAP_LIMIT):
            raise ExportError(f"graph and PyTorch disagree: {json.dumps(entry)} of the spread of the golden maps")
    return certificate
