"""The frozen network run once more in a graph, on an image that a method makes of what it saw (`Needs.again`).

through   puts the network, from the normalised image on, into a head behind its first part: one graph stays one graph
sharing   lets both runs use one copy of the weights

`learning.observing.seen_again` does the same for a batch.
"""

from __future__ import annotations

from typing import Any

from blemish.inspection.graph_parts import FEATURES
from blemish.learning.onnx_parts import leads_to, renamed, written

AGAIN = "again/"  # prefix of what belongs to the second run
MADE = "made"  # the image that a head's first part makes


def behind_image(trunk: bytes) -> Any:
    """ONNX model of the normalised image -> features_0, …: a backbone's graph that gives both, without what comes
    before the image."""
    import onnx

    whole = onnx.load_from_string(trunk)
    graph = whole.graph
    made = {name: node for node in graph.node for name in node.output}
    *levels, last = graph.output
    image = last.name
    while image in made and made[image].op_type == "Identity":
        image = made[image].input[0]
    nodes, constants = leads_to(graph, [level.name for level in levels], given=image)
    sides = [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim[1:3]]
    source = onnx.helper.make_tensor_value_info(image, onnx.TensorProto.FLOAT, ["batch", 3, *sides])
    part = onnx.helper.make_graph(nodes, "again", [source], levels, constants)
    return onnx.helper.make_model(part, opset_imports=whole.opset_import, ir_version=whole.ir_version)


def again_names(count: int) -> list[str]:
    """Inputs of a head for the levels of the second run, as `behind_image` gives them under the prefix."""
    return [f"{AGAIN}{FEATURES}{i}" for i in range(count)]


def through(head: bytes, trunk: bytes) -> bytes:
    """A head features_0, …, again/features_0, … -> score, …, made as one of features_0, … -> score, …: the network runs
    on what was made."""
    import onnx
    from onnx import compose

    model, second = onnx.load_from_string(head), behind_image(trunk)
    second = compose.add_prefix(second, AGAIN, inplace=True)
    renamed(second.graph.node, {second.graph.input[0].name: MADE})
    graph = model.graph
    before, _ = leads_to(graph, [MADE])
    early = {name for node in before for name in node.output}
    behind = [node for node in graph.node if early.isdisjoint(node.output)]
    _replace(graph.node, [*before, *second.graph.node, *behind])
    _replace(graph.input, [port for port in graph.input if not port.name.startswith(AGAIN)])
    _replace(graph.output, [port for port in graph.output if port.name != MADE])
    graph.initializer.extend(second.graph.initializer)
    return written(model)


def sharing(graph: Any, constants: Any, prefix: str) -> None:
    """The second run in a graph, whose names have a further prefix, takes the first one's constants."""
    doubled = {f"{prefix}{AGAIN}{each.name}": each.name for each in constants}
    if not doubled.keys() & {each.name for each in graph.initializer}:
        return
    renamed(graph.node, doubled)
    _replace(graph.initializer, [each for each in graph.initializer if each.name not in doubled])


def _replace(field: Any, values: list[Any]) -> None:
    """The values of a repeated field, which hands out references to what is inside."""
    kept = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(kept)
