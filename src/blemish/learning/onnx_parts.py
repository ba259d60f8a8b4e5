"""Parts of ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blemish.errors import ExportError
from blemish.system import size_text

MOST = 2**31  # bytes of an ONNX file, less one


def leads_to(graph: Any, outputs: Sequence[str], *, given: str | None = None) -> tuple[list[Any], list[Any]]:
    """Nodes and constants of an ONNX graph that these outputs are computed from; but not what a `given` tensor is."""
    made = {name: node for node in graph.node for name in node.output if given not in node.output}
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in made and name not in needed:
            waiting += made[name].input
        needed.add(name)
    nodes = [node for node in graph.node if needed.difference([given]).intersection(node.output)]
    return nodes, [each for each in graph.initializer if each.name in needed]


def renamed(nodes: Any, names: Mapping[str, str]) -> None:
    """Nodes take other tensors in place of those that are named, in place."""
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


def written(model: Any) -> bytes:
    """An ONNX model's bytes; ExportError where they are more than such a file can hold."""
    from google.protobuf.message import EncodeError

    try:
        return bytes(model.SerializeToString())
    except EncodeError as error:
        raise too_large() from error


def too_large() -> ExportError:
    """The error for a graph of more bytes than ONNX files can hold."""
    return ExportError(
        f"the graph is larger than {size_text(MOST)}, and ONNX files are not",
        hint="choose a smaller network, fewer levels (--layer), fewer channels, or smaller images",
    )
