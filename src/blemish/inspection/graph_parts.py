"""A graph in parts: cut at its features and at the border of number formats, for OpenVINO.

With precision bf16 the part up to the features runs in bf16, then the networks of a method up to the border that it has
drawn (`nn.precision.Exact`), and after it only the products that it has marked as coarse
(`ops.arrays.coarse_product`); distances and maps stay float32. A method without a border is float32 but for those.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from blemish.errors import ModelFileError

FEATURES = "features_"
HEAD = "head/"  # prefix of the nodes behind the features
COARSE = "coarse"
EXACT = "exact"


@cache
def openvino_module() -> Any:
    """OpenVINO without its model converter, which nothing here uses.

    The converter brings a telemetry client and an HTTP stack: a tenth of a second at every start, and not wanted on
    an inspection station. Code that imports it afterwards gets it.
    """
    unused = "openvino.tools.ovc"
    if "openvino" in sys.modules or unused in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[unused] = None  # type: ignore[assignment]  # makes its import fail, which openvino allows for
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[unused]


def is_feature(port: Any) -> bool:
    return any(name.startswith(FEATURES) for name in port.get_names())


def cut_at_features(model: Any) -> list[Any]:
    """The model as [image -> features, features -> outputs], cut at the tensors named features_<level>."""
    openvino = openvino_module()
    opset15 = openvino.opset15

    found: dict[str, Any] = {}
    for node in model.get_ordered_ops():
        for output in node.outputs():
            for name in output.get_names():
                if name.startswith(FEATURES):
                    found[name] = output
    outputs = [found[name] for name in sorted(found, key=lambda n: int(n.removeprefix(FEATURES)))]
    if not outputs or any(model.output(i).get_names() & set(found) for i in range(len(model.outputs))):
        return [model]  # a backbone's own graph ends at its features
    inputs = []
    trunk_nodes = _above(outputs)
    for output in outputs:
        parameter = opset15.parameter(output.get_partial_shape(), output.get_element_type())
        inputs.append(parameter)
        for target in output.get_target_inputs():  # the trunk itself may go on from a shallow level to the next
            if target.get_node().get_friendly_name() not in trunk_nodes:
                target.replace_source_output(parameter.output(0))
    head = openvino.Model(model.get_results(), inputs, "head")
    trunk = openvino.Model([opset15.result(o) for o in outputs], model.get_parameters(), "trunk")
    return [trunk, head]


_BORDER = "the border between the graph's number formats is not understood"


def short_and_exact(head: Any) -> list[tuple[Any, str]]:
    """A head as (part, number format): its networks in bf16 up to the border, the rest in float32."""
    openvino = openvino_module()
    opset15 = openvino.opset15
    named = [n for n in head.get_ordered_ops() if EXACT in n.get_friendly_name()]
    border = [n for n in named if n.get_type_name() in ("Clamp", "Minimum")]
    if named and not border:
        raise ModelFileError(_BORDER)
    if not border:
        _mark_coarse(head)
        return [(head, "f32")]
    drawn = {n.get_friendly_name() for n in border}
    crossing = [(_clamped(node), node.output(0).get_target_inputs()) for node in border]
    for result in head.get_results():
        if drawn.isdisjoint(_above([result.input_value(0)])):  # all before the border: a router for the networks
            crossing.append((result.input_value(0), [result.input(0)]))
    outputs: list[Any] = []
    inputs: list[Any] = []

    def cross(source: Any, targets: Iterable[Any]) -> None:
        parameter = opset15.parameter(source.get_partial_shape(), source.get_element_type())
        outputs.append(source)
        inputs.append(parameter)
        for target in targets:
            target.replace_source_output(parameter.output(0))

    for source, targets in crossing:
        cross(source, targets)
    for source, targets in _past_the_border(head, outputs):
        cross(source, targets)
    exact = openvino.Model(head.get_results(), inputs, "exact")
    short = openvino.Model([opset15.result(o) for o in outputs], head.get_parameters(), "short")
    _mark_coarse(exact)
    return [(short, "bf16"), (exact, "f32")]


def _past_the_border(head: Any, drawn: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
    """What else the part behind the border takes of the part before it: a head without a border, beside one that has
    it, takes the features as they are, and the reader of graphs lets equal nodes of both be one."""
    before = _above(drawn)
    behind = _above([result.input_value(0) for result in head.get_results()]) - before
    computed = {parameter.get_friendly_name() for parameter in head.get_parameters()}
    found = []
    for node in [*head.get_parameters(), *head.get_ordered_ops()]:
        name = node.get_friendly_name()
        if any(value.get_node().get_friendly_name() in computed for value in node.input_values()):
            computed.add(name)
        if name in computed and name not in behind:  # constants stand on both sides
            for output in node.outputs():
                targets = [t for t in output.get_target_inputs() if t.get_node().get_friendly_name() in behind]
                found += [(output, targets)] if targets else []
    return found


def _clamped(node: Any) -> Any:
    """The input of a clamp: one node, or a minimum after a maximum where the exporter has cast the bounds."""
    if node.get_type_name() == "Clamp":
        return node.input(0).get_source_output()
    for value in node.input_values():
        if value.get_node().get_type_name() == "Maximum":
            return _clamped(value.get_node())
        if not _is_bound(value.get_node()):
            return value
    raise ModelFileError(_BORDER)


def _is_bound(node: Any) -> bool:
    """A constant, or one that is cast; what is clamped may be cast too."""
    if node.get_type_name() == "Convert":
        return _is_bound(node.input_value(0).get_node())
    return bool(node.get_type_name() == "Constant")


def _above(outputs: Sequence[Any]) -> set[str]:
    """Names of all nodes that these tensors are computed from; an importer's helper nodes have no name of their own in
    the file, so the nodes of the trunk are found by following their inputs."""
    found: set[str] = set()
    waiting = [output.get_node() for output in outputs]
    while waiting:
        node = waiting.pop()
        if (name := node.get_friendly_name()) not in found:
            found.add(name)
            waiting += [value.get_node() for value in node.input_values()]
    return found


def _mark_coarse(model: Any) -> None:
    """Run the products that a method marked as coarse in bf16, their results back in float32."""
    opset15 = openvino_module().opset15

    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul" and COARSE in node.get_friendly_name():
            for i in range(2):
                source = node.input(i).get_source_output()
                node.input(i).replace_source_output(opset15.convert(source, "bf16").output(0))
            node.validate_and_infer_types()
            targets = node.output(0).get_target_inputs()
            back = opset15.convert(node.output(0), "f32").output(0)
            for target in targets:
                target.replace_source_output(back)
    model.validate_nodes_and_infer_types()
