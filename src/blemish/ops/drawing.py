"""Arrays that are drawn: what is computed with them becomes the nodes of an ONNX graph.

A method's `predict` is written once, with operators and the functions of `ops.arrays`. With numpy arrays it computes;
with these it draws. Each operation is one node of ONNX's own operators, and constants are kept once each.

Why not a library: of `ndonnx` every product came with a branch for empty arrays and every maximum with a test for NaN,
68 nodes where 17 do, drawn in two seconds; `spox` has no numpy to compare with. docs/architecture.md says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET = 18
_END = 2**31 - 1  # of a slice that goes on to the end


class Graph:
    """Nodes and constants in the order in which they were drawn."""

    def __init__(self) -> None:
        self.inputs: list[tuple[str, tuple[int, ...], type]] = []
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._names: dict[int, tuple[str, Any]] = {}  # of arrays that are constants already, which are kept alive

    def input(self, name: str, shape: tuple[int, ...], kind: type = np.float32) -> Drawn:
        """An input (B, *shape); B is free."""
        self.inputs.append((name, shape, kind))
        return Drawn(self, name, 1 + len(shape))

    def constant(self, value: Any) -> str:
        """The name of a constant; one array is one constant, however often it is used. Doubles become floats."""
        if id(value) in self._names:
            return self._names[id(value)][0]
        array = np.asarray(value)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        if isinstance(value, np.ndarray):
            self._names[id(value)] = (name, value)
        return name

    def node(
        self, kind: str, inputs: Sequence[Any], ndim: int, *, outputs: int = 1, label: str = "", **attributes: Any
    ) -> Any:
        """Draw one operation; its output, or several. `label` stands in the node's name."""
        from onnx import helper

        number = len(self.nodes)
        names = [f"{label or kind}_{number}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        given = [each.name if isinstance(each, Drawn) else self.constant(each) for each in inputs]
        self.nodes.append(helper.make_node(kind, given, names, name=f"{label or kind}_{number}", **attributes))
        found = tuple(Drawn(self, name, ndim) for name in names)
        return found if outputs > 1 else found[0]

    def model(self, outputs: dict[str, tuple[Drawn, tuple[int, ...], type]]) -> onnx.ModelProto:
        """The ONNX model of these outputs by name: each with its shape behind B, and its type."""
        import onnx
        from onnx import helper

        def port(name: str, shape: tuple[int, ...], kind: type) -> Any:
            number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
            return helper.make_tensor_value_info(name, number, ["batch", *shape])

        model = onnx.ModelProto(ir_version=9, opset_import=[helper.make_opsetid("", OPSET)])
        graph = model.graph
        graph.name = "drawn"
        graph.node.extend(self.nodes)
        graph.input.extend(port(*each) for each in self.inputs)
        for name, (value, shape, kind) in outputs.items():
            graph.node.append(helper.make_node("Identity", [value.name], [name], name=name))
            graph.output.append(port(name, shape, kind))
        for name, array in self.constants.items():  # written in place: banks and covariances are large
            kept = graph.initializer.add(name=name, dims=array.shape)
            kept.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
            kept.raw_data = array.tobytes()
        return model


class Drawn:
    """One value of a graph. Operators take drawn values, numpy arrays and numbers on either side."""

    __array_ufunc__ = None  # numpy's operators leave the work to the ones below

    def __init__(self, graph: Graph, name: str, ndim: int) -> None:
        self.graph, self.name, self.ndim = graph, name, ndim

    def _with(self, kind: str, other: Any, *, swapped: bool = False, label: str = "") -> Drawn:
        if not isinstance(other, Drawn):  # a number of Python's own is float32
            other = np.asarray(other, None if isinstance(other, np.ndarray | np.generic) else np.float32)
        sides = (other, self) if swapped else (self, other)
        drawn: Drawn = self.graph.node(kind, sides, max(self.ndim, other.ndim), label=label)
        return drawn

    def __add__(self, other: Any) -> Drawn:
        return self._with("Add", other)

    def __radd__(self, other: Any) -> Drawn:
        return self._with("Add", other, swapped=True)

    def __sub__(self, other: Any) -> Drawn:
        return self._with("Sub", other)

    def __rsub__(self, other: Any) -> Drawn:
        return self._with("Sub", other, swapped=True)

    def __mul__(self, other: Any) -> Drawn:
        return self._with("Mul", other)

    def __rmul__(self, other: Any) -> Drawn:
        return self._with("Mul", other, swapped=True)

    def __truediv__(self, other: Any) -> Drawn:
        return self._with("Div", other)

    def __rtruediv__(self, other: Any) -> Drawn:
        return self._with("Div", other, swapped=True)

    def __matmul__(self, other: Any) -> Drawn:
        return self._with("MatMul", other)

    def __rmatmul__(self, other: Any) -> Drawn:
        return self._with("MatMul", other, swapped=True)

    def __ge__(self, other: Any) -> Drawn:
        return self._with("GreaterOrEqual", other)

    def labelled_product(self, other: Any, label: str) -> Drawn:
        """`self @ other` under a name that an engine looks for."""
        return self._with("MatMul", other, label=label)

    def reshape(self, *shape: int) -> Drawn:
        """One entry may be -1."""
        drawn: Drawn = self.graph.node("Reshape", [self, np.array(shape, np.int64)], len(shape))
        return drawn

    def transpose(self, *axes: int) -> Drawn:
        drawn: Drawn = self.graph.node("Transpose", [self], self.ndim, perm=axes)
        return drawn

    def __getitem__(self, at: Any) -> Drawn:
        """Slices, numbers and None, as of numpy."""
        given = at if isinstance(at, tuple) else (at,)
        value, axis = self, 0
        dropped: list[int] = []
        added: list[int] = []
        for place, one in enumerate(given):
            if one is None:
                added.append(place - len(dropped))
                continue
            if isinstance(one, int):
                value = value._slice(axis, one, one + 1 if one != -1 else _END, 1)
                dropped.append(axis)
            elif one != slice(None):
                value = value._slice(axis, one.start or 0, _END if one.stop is None else one.stop, one.step or 1)
            axis += 1
        if dropped:
            value = value.graph.node("Squeeze", [value, np.array(dropped, np.int64)], value.ndim - len(dropped))
        if added:
            value = value.graph.node("Unsqueeze", [value, np.array(added, np.int64)], value.ndim + len(added))
        return value

    def _slice(self, axis: int, start: int, stop: int, step: int) -> Drawn:
        bounds = [np.array([each], np.int64) for each in (start, stop, axis, step)]
        drawn: Drawn = self.graph.node("Slice", [self, *bounds], self.ndim)
        return drawn

    def reduced(self, kind: str, axis: int, keepdims: bool) -> Drawn:
        axis %= self.ndim
        ndim = self.ndim - (not keepdims)
        drawn: Drawn = self.graph.node(kind, [self, np.array([axis], np.int64)], ndim, keepdims=int(keepdims))
        return drawn

    def elementwise(self, kind: str) -> Drawn:
        """Square root, exponential and the like."""
        drawn: Drawn = self.graph.node(kind, [self], self.ndim)
        return drawn


def is_drawn(x: Any) -> bool:
    return isinstance(x, Drawn)


Array = NDArray[Any] | Drawn
