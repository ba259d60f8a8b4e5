"""Several methods, or one method for each of several lightings, as one method: what it is, and its graph.

scale    score and map of each part on a scale of good images (`Scale`)
combine  the means of the parts', or of lightings the largest, in which case the graph gives each part's too

Combining detectors by the mean or maximum of standardised scores: Aggarwal and Sathe, Outlier Ensembles, 2017; by
p-values: Fisher's method. `learning.fusing` learns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish import config, methods
from blemish.inspection.graph_parts import FEATURES
from blemish.learning import export
from blemish.learning.onnx_parts import renamed, written
from blemish.methods.base import Method
from blemish.types import Batch, Needs, Prediction, Pyramid

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
    """Of what is one: the names of its parts, how they are put on one scale, and their options."""

    parts: tuple[str, ...]  # of methods, or of lightings
    combine: str
    options: Mapping[str, Any]  # by method; of lightings those of their method
    lightings: bool = False


class Part(NamedTuple):
    """One of the methods, or the method of one of the lightings, which has learned."""

    name: str
    method: Method[Any]
    levels: tuple[int, ...]  # of the common network, which it takes
    score: Scale
    map: Scale
    lighting: int | None = None  # whose channels of each level it takes

    def of(self, levels: Sequence[Any]) -> Pyramid:
        """What it takes of the common network's levels (B, C, *grid)."""
        own = [levels[level] for level in self.levels]
        if self.lighting is not None:
            counts = self.method.spec.channels
            own = [x[:, self.lighting * n : (self.lighting + 1) * n] for x, n in zip(own, counts, strict=True)]
        return Pyramid(tuple(own))


class Fused(Method[Config]):
    """The parts as one method; not learned as such, but made of parts that have learned."""

    def __init__(self, settings: Config, spec: Any, size: tuple[int, int], parts: Sequence[Part] = ()) -> None:
        super().__init__(settings, spec, size)
        self.parts = tuple(parts)

    @classmethod
    def wants(cls, config: Config) -> Needs:
        if config.lightings:
            return Needs()
        return Needs(image=any(settings_of(name, config.options, wants=True).image for name in config.parts))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """As each of them."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.method.computing())
            yield

    def predict(self, batch: Batch) -> Prediction:
        """The means, or the largest, of the parts' scores and maps on the common scale."""
        assert batch.pyramid is not None
        scores, maps = [], []
        for part in self.parts:
            found = part.method(replace(batch, pyramid=part.of(batch.pyramid.maps)))
            scores.append(part.score(np.asarray(found.score)))
            maps.append(part.map(np.asarray(found.anomaly_map)))
        together = np.max if self.config.lightings else np.mean
        return Prediction(together(scores, 0), together(maps, 0))

    def fitted_state(self) -> dict[str, Any]:
        """That of each under its name, and its scale."""
        state: dict[str, Any] = {}
        for part in self.parts:
            state |= {f"{part.name}.{name}": value for name, value in part.method.fitted_state().items()}
            for what, scale in (("score", part.score), ("map", part.map)):
                state[f"scale.{part.name}.{what}"] = np.array([scale.at, scale.slopes], np.float32)
        return state


def settings_of(name: str, options: Mapping[str, Any], *, wants: bool = False) -> Any:
    """The options of a part by its method's name; or what the method wants with them."""
    cls = methods.get(name)
    settings = config.build(cls.Config, options.get(name, {}))
    return cls.wants(settings) if wants else settings


def joined(fused: Fused) -> bytes:
    """ONNX of features_0, … of the common network -> score, anomaly_map; of lightings also -> scores (B, n), maps
    (B, n, H, W), one for each."""
    import onnx
    from onnx import compose, helper

    nodes: list[Any] = []
    constants: list[Any] = []
    inputs: dict[str, Any] = {}
    last: Any = None
    for number, part in enumerate(fused.parts):
        prefix = f"part{number}/"
        last = compose.add_prefix(onnx.load_from_string(export.export_head(part.method)), prefix, inplace=True)
        image = len(part.levels)  # the input behind the levels, where a part takes the image too
        taken = {}
        for port in last.graph.input:
            own = int(port.name.removeprefix(f"{prefix}{FEATURES}"))
            level = len(fused.spec.channels) if own == image else part.levels[own]
            name = f"{FEATURES}{level}"
            if part.lighting is None:
                taken[port.name] = name
                inputs[name] = helper.make_value_info(name, port.type)
                continue
            taking = ["batch", fused.spec.channels[level], *fused.spec.grids[level]]
            inputs[name] = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, taking)
            count = part.method.spec.channels[own]
            _add(nodes, constants, _slice(name, port.name, part.lighting * count, count))
        renamed(last.graph.node, taken)
        nodes.extend(last.graph.node)
        constants.extend(last.graph.initializer)
        for what, scale in (("score", part.score), ("anomaly_map", part.map)):
            _add(nodes, constants, _scaled(f"{prefix}{what}", scale))
    outputs = []
    shapes: dict[str, list[int]] = {"score": [], "anomaly_map": list(fused.size)}
    for what, shape in shapes.items():
        each = [f"part{number}/{what}/scaled" for number in range(len(fused.parts))]
        together = "Max" if fused.config.lightings else "Mean"
        nodes.append(helper.make_node(together, each, [what], name=f"fused/{what}"))
        outputs.append(helper.make_tensor_value_info(what, onnx.TensorProto.FLOAT, ["batch", *shape]))
    if fused.config.lightings:
        for what, all_of in (("score", "scores"), ("anomaly_map", "maps")):
            each = [f"part{number}/{what}/scaled" for number in range(len(fused.parts))]
            _add(nodes, constants, _stacked(each, all_of))
            whole = ["batch", len(each), *shapes[what]]
            outputs.append(helper.make_tensor_value_info(all_of, onnx.TensorProto.FLOAT, whole))
    ports = [inputs[name] for name in sorted(inputs, key=lambda name: int(name.removeprefix(FEATURES)))]
    graph = helper.make_graph(nodes, "head", ports, outputs, constants)
    return written(helper.make_model(graph, opset_imports=last.opset_import, ir_version=last.ir_version))


def _add(nodes: list[Any], constants: list[Any], more: tuple[list[Any], list[Any]]) -> None:
    nodes.extend(more[0])
    constants.extend(more[1])


def _slice(name: str, to: str, start: int, count: int) -> tuple[list[Any], list[Any]]:
    """Nodes and constants of name -> to, some of its channels."""
    from onnx import helper, numpy_helper

    values = {"from": start, "to": start + count, "axis": 1}
    constants = [numpy_helper.from_array(np.array([v], np.int64), f"{to}/{k}") for k, v in values.items()]
    return [helper.make_node("Slice", [name, *(one.name for one in constants)], [to], name=to)], constants


def _stacked(names: Sequence[str], to: str) -> tuple[list[Any], list[Any]]:
    """Nodes and constants of names -> to, side by side on a new axis behind the batch's."""
    from onnx import helper, numpy_helper

    axis = numpy_helper.from_array(np.array([1], np.int64), f"{to}/axis")
    nodes = [helper.make_node("Unsqueeze", [n, axis.name], [f"{n}/{to}"], name=f"{n}/{to}") for n in names]
    nodes.append(helper.make_node("Concat", [f"{n}/{to}" for n in names], [to], name=f"fused/{to}", axis=1))
    return nodes, [axis]


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
