"""A frozen network on each of several lightings: their features stand beside each other, by channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blemish.inspection.graph_parts import FEATURES
from blemish.learning.backbones.base import Backbone
from blemish.learning.onnx_parts import written
from blemish.types import FeatureSpec

_INNER = "lit/"  # prefix of what the network's own outputs are called inside


class LitBackbone(Backbone):
    """Images (B, H, W, 3 groups) -> at each level the features of each group, one after the other.

    The network sees one picture more often, and is the same: its weights are in the graph once.
    """

    def __init__(self, inner: Backbone, groups: int) -> None:
        self.inner, self.groups = inner, groups
        self.identity = f"{inner.identity}*{groups}"
        self.digest, self.licence = inner.digest, inner.licence
        self.layers, self.stride = inner.layers, inner.stride

    def spec(self, size: tuple[int, int]) -> FeatureSpec:
        one = self.inner.spec(size)
        channels = tuple(self.groups * count for count in one.channels)
        return replace(one, channels=channels, inputs=self.groups * one.inputs)

    def graph(self, size: tuple[int, int], *, image: bool = False) -> bytes:
        import onnx
        from onnx import helper, numpy_helper

        model = onnx.load_from_string(self.inner.graph(size, image=image))
        graph, (source,) = model.graph, model.graph.input
        each = [(one, grid) for one, grid in zip(self.spec(size).channels, self.inner.spec(size).grids, strict=True)]
        each += [(3 * self.groups, size)] * image
        shapes: dict[str, tuple[int, ...]] = {"split": (-1, *size, self.groups, 3), "apart": (-1, *size, 3)}
        shapes |= {f"joined_{i}": (-1, channels, *grid) for i, (channels, grid) in enumerate(each)}
        inner = source.name
        names = {inner: f"{_INNER}image", **{port.name: f"{_INNER}{port.name}" for port in graph.output}}
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
            node.name = names.get(node.name, node.name)
        before = [
            helper.make_node("Reshape", [inner, f"{_INNER}split"], [f"{_INNER}groups"], name=f"{_INNER}groups"),
            helper.make_node(
                "Transpose", [f"{_INNER}groups"], [f"{_INNER}each"], name=f"{_INNER}each", perm=[0, 3, 1, 2, 4]
            ),
            helper.make_node("Reshape", [f"{_INNER}each", f"{_INNER}apart"], [names[inner]], name=names[inner]),
        ]
        behind = [
            helper.make_node("Reshape", [f"{_INNER}{FEATURES}{i}", f"{_INNER}joined_{i}"], [f"{FEATURES}{i}"],
                             name=f"{FEATURES}{i}")
            for i in range(len(each))
        ]  # fmt: skip
        outputs = [
            helper.make_tensor_value_info(f"{FEATURES}{i}", onnx.TensorProto.FLOAT, ["batch", channels, *grid])
            for i, (channels, grid) in enumerate(each)
        ]
        constants = [numpy_helper.from_array(np.array(s, np.int64), f"{_INNER}{name}") for name, s in shapes.items()]
        made = helper.make_graph(
            [*before, *graph.node, *behind],
            graph.name,
            [helper.make_tensor_value_info(inner, onnx.TensorProto.UINT8, ["batch", *size, 3 * self.groups])],
            outputs,
            [*graph.initializer, *constants],
        )
        return written(helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version))

    def maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        return self._joined(self.inner.maps(self._apart(images)))

    def maps_of(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        return self._joined(self.inner.maps_of(x.reshape(-1, 3, *x.shape[2:])))

    def check(self) -> dict[str, float]:
        return self.inner.check()

    def normalised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._joined((self.inner.normalised(self._apart(images)),))[0]

    def _apart(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        high, wide = images.shape[1:3]
        return images.reshape(-1, high, wide, self.groups, 3).transpose(0, 3, 1, 2, 4).reshape(-1, high, wide, 3)

    def _joined(self, levels: tuple[NDArray[np.float32], ...]) -> tuple[NDArray[np.float32], ...]:
        return tuple(level.reshape(-1, self.groups * level.shape[1], *level.shape[2:]) for level in levels)


def for_lightings(backbone: Backbone, groups: int) -> Backbone:
    """The network for samples of so many lightings: itself for one, and where it is made for them already."""
    return backbone if groups < 2 or isinstance(backbone, LitBackbone) else LitBackbone(backbone, groups)
