"""What `predict` computes with: the same calls on numpy arrays, which compute, and on drawn ones, which draw.

Beside operators (`+ - * / @ >=`, slices, `reshape`, `transpose`) these are all that statistical methods need. Axes are
counted as in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.ops.drawing import Drawn

LARGEST = 1e30


def constant(value: NDArray[Any], like: Any) -> Any:
    """An array among drawn ones, where `like` is drawn: what is done with it is drawn too, and it is kept once."""
    return Drawn(like.graph, like.graph.constant(value), value.ndim) if isinstance(like, Drawn) else value


def sqrt(x: Any) -> Any:
    return x.elementwise("Sqrt") if isinstance(x, Drawn) else np.sqrt(x)


def exp(x: Any) -> Any:
    return x.elementwise("Exp") if isinstance(x, Drawn) else np.exp(x)


def total(x: Any, axis: int, keepdims: bool = False) -> Any:
    """Sum over one axis."""
    return x.reduced("ReduceSum", axis, keepdims) if isinstance(x, Drawn) else x.sum(axis, keepdims=keepdims)


def mean(x: Any, axis: int, keepdims: bool = False) -> Any:
    return x.reduced("ReduceMean", axis, keepdims) if isinstance(x, Drawn) else x.mean(axis, keepdims=keepdims)


def largest(x: Any, axis: int, keepdims: bool = False) -> Any:
    """Maximum over one axis."""
    return x.reduced("ReduceMax", axis, keepdims) if isinstance(x, Drawn) else x.max(axis, keepdims=keepdims)


def at_least(x: Any, low: float) -> Any:
    """max(x, low), element by element."""
    return x.graph.node("Max", [x, np.float32(low)], x.ndim) if isinstance(x, Drawn) else np.maximum(x, np.float32(low))


def joined(arrays: Sequence[Any], axis: int) -> Any:
    """Side by side along one axis."""
    if len(arrays) == 1:
        return arrays[0]
    if isinstance(arrays[0], Drawn):
        return arrays[0].graph.node("Concat", arrays, arrays[0].ndim, axis=axis)
    return np.concatenate(arrays, axis)


def top(x: Any, k: int, *, smallest: bool = False) -> tuple[Any, Any]:
    """(..., n) -> values and indices (..., k) of the k largest along the last axis, or of the smallest, best first."""
    if isinstance(x, Drawn):
        count = np.array([k], np.int64)
        found = x.graph.node("TopK", [x, count], x.ndim, outputs=2, axis=-1, largest=int(not smallest))
        return found[0], found[1]
    if k == 1:
        index = (x.argmin(-1) if smallest else x.argmax(-1))[..., None]
    else:
        index = np.argsort(x if smallest else -x, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, index, -1), index


def rows(table: Any, index: Any) -> Any:
    """Rows of a table (m, ...) by number (...): (..., ...)."""
    if isinstance(index, Drawn):
        return index.graph.node("Gather", [table, index], index.ndim + table.ndim - 1, axis=0)
    return table[index]


def columns(x: Any, chosen: NDArray[np.int64]) -> Any:
    """These elements of the last axis."""
    if isinstance(x, Drawn):
        return x.graph.node("Gather", [x, chosen], x.ndim, axis=-1)
    return x[..., chosen]


def repeated(x: Any, count: int, axis: int) -> Any:
    """An axis of length one, `count` long."""
    if isinstance(x, Drawn):
        counts = np.array([count if i == axis else 1 for i in range(x.ndim)], np.int64)
        return x.graph.node("Tile", [x, counts], x.ndim)
    return np.repeat(x, count, axis)


def picked(x: Any, index: Any) -> Any:
    """(..., n) and (..., k) -> the elements of the last axis at these numbers."""
    if isinstance(x, Drawn):
        return x.graph.node("GatherElements", [x, index], x.ndim, axis=-1)
    return np.take_along_axis(x, index, -1)


def where_equal(x: Any, values: Any) -> Any:
    """1.0 where x equals the values, 0.0 elsewhere."""
    if isinstance(x, Drawn):
        same = x.graph.node("Equal", [x, values], max(x.ndim, values.ndim))
        return x.graph.node("Cast", [same], same.ndim, to=1)
    return (x == values).astype(np.float32)


def as_float(x: Any) -> Any:
    """Of a comparison: 1.0 and 0.0."""
    return x.graph.node("Cast", [x], x.ndim, to=1) if isinstance(x, Drawn) else x.astype(np.float32)


def coarse_product(a: Any, b: Any) -> Any:
    """a @ b, in float32 here; an engine may run it in bf16: where the method needs an order, or a value to 3 digits.

    Its node carries `coarse` in its name, by which the engine finds it (`inspection.graph_parts`). Everything around
    stays float32.
    """
    if isinstance(a, Drawn):
        return a.labelled_product(b, "coarse_product")
    return b.labelled_product(a, "coarse_product") if isinstance(b, Drawn) else a @ b


def exact(x: Any) -> Any:
    """The border behind which everything is float32; what stands before may run in bf16 (as `nn.precision.Exact`)."""
    if not isinstance(x, Drawn):
        return x.clip(-LARGEST, LARGEST)
    return x.graph.node("Clip", [x, np.float32(-LARGEST), np.float32(LARGEST)], x.ndim, label="exact")


def unit(x: Any, axis: int) -> Any:
    """Of length one along an axis; zeros stay zeros."""
    return x / at_least(sqrt(total(x * x, axis, keepdims=True)), 1e-12)


def softmax(x: Any) -> Any:
    """Along the last axis."""
    raised = exp(x - largest(x, -1, keepdims=True))
    return raised / total(raised, -1, keepdims=True)
