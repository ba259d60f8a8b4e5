"""Multiply-adds of a graph: of its convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from blemish.inspection.graph_parts import cut_at_features, openvino_module


def macs(graph: bytes, head: bytes | None = None) -> tuple[float, float]:
    """Billions of one sample: before the features (0 where there are none) and behind them.

    `head` is what stands behind a graph that ends at its features.
    """
    parts = cut_at_features(_read(graph))
    if head is not None:
        parts.append(_read(head))
    counts = [round(sum(map(_count, part.get_ordered_ops())) / 1e9, 7) for part in parts]
    return (counts[0], counts[1]) if len(counts) == 2 else (0.0, counts[0])


def _read(graph: bytes) -> Any:
    model = openvino_module().Core().read_model(graph)
    model.reshape({port: [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    return model


def _count(node: Any) -> int:
    kind = node.get_type_name()
    if kind not in ("Convolution", "GroupConvolution", "MatMul"):
        return 0
    outputs = int(np.prod(node.output(0).get_shape()))
    if kind == "MatMul":
        a = list(node.input_value(0).get_shape())
        return outputs * int(a[-2] if node.get_attributes()["transpose_a"] and len(a) > 1 else a[-1])
    weight = list(node.input_value(1).get_shape())  # (out, in, h, w), or (groups, out, in, h, w)
    return outputs * int(np.prod(weight[1 if kind == "Convolution" else 2 :]))
