"""Parts of ONNX graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def leads_to(graph: Any, outputs: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Nodes and constants of an ONNX graph that these outputs are computed from."""
    made = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in made and name not in needed:
            waiting += made[name].input
        needed.add(name)
    nodes = [node for node in graph.node if needed.intersection(node.output)]
    return nodes, [each for each in graph.initializer if each.name in needed]
