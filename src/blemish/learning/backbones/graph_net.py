"""A frozen network out of an ONNX file: no PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from blemish.errors import BackboneError
from blemish.inspection.engines import Engine, open_engine
from blemish.inspection.graph_parts import FEATURES
from blemish.learning.again import behind_image
from blemish.learning.backbones.base import UNKNOWN, Backbone, normalised
from blemish.learning.backbones.weights import Packaged
from blemish.learning.onnx_parts import leads_to, written
from blemish.types import FeatureSpec

LEVEL = "level_"  # outputs of a network's file: level_<layer>
GOLDEN_LIMIT = 1e-3  # largest relative difference of a golden figure; 1e-6 is what we saw
NORMALISED = "normalised"  # the image as the network wants it, inside


def golden_image() -> NDArray[np.uint8]:
    """(1, 32, 48, 3) of noise, on which a shipped network is compared with the one that it was made from."""
    return np.random.RandomState(0).randint(0, 256, (1, 32, 48, 3)).astype(np.uint8)


def golden_figures(maps: Sequence[NDArray[np.float32]]) -> list[float]:
    """Mean and standard deviation of each level."""
    return [float(value) for level in maps for value in (level.mean(dtype=np.float64), level.std(dtype=np.float64))]


class GraphBackbone(Backbone):
    """A network whose file is ONNX of image (B, H, W, 3) uint8 -> level_0, level_1, …, with H and W free.

    Args:
        network: the file's bytes.
        name, digest: of the trained weights.
        layers: indices of the levels in use.
        strides: of all levels; layer i has a stride of strides[i].
        mean, std: in grey levels.
        golden: of all levels, what PyTorch makes of `golden_image` (`golden_figures`).
        licence: of the trained weights.
    """

    def __init__(
        self,
        network: bytes,
        *,
        name: str,
        digest: str,
        layers: tuple[int, ...],
        strides: tuple[int, ...],
        mean: float,
        std: float,
        golden: tuple[float, ...] = (),
        licence: str = UNKNOWN,
    ) -> None:
        self.network, self.layers, self.strides, self.golden = network, layers, strides, golden
        self.digest, self.licence = digest, licence
        self.identity = f"{name}@{digest[:16]}/{','.join(map(str, layers))}"
        self.stride = strides[max(layers)]
        self.mean, self.std = mean, std

    def spec(self, size: tuple[int, int]) -> FeatureSpec:
        strides = [self.strides[layer] for layer in self.layers]
        return FeatureSpec(
            self.layers,
            _channels(self.network, self.layers),
            tuple((-(-size[0] // stride), -(-size[1] // stride)) for stride in strides),
        )

    def graph(self, size: tuple[int, int], *, image: bool = False) -> bytes:
        return _cut(self.network, self.layers, size, image)

    def maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        height, width = images.shape[1:3]
        engine = _opened(self.network, self.layers, (height, width))
        levels = [engine(image[None]) for image in images]
        return tuple(np.concatenate(level) for level in zip(*levels, strict=True))

    def maps_of(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        height, width = x.shape[2:]
        engine = _opened_behind(self.network, self.layers, (height, width))
        levels = [engine(image[None]) for image in x]
        return tuple(np.concatenate(level) for level in zip(*levels, strict=True))

    def check(self) -> dict[str, float]:
        if not self.golden:
            return {}
        difference = _difference(self.network, tuple(range(len(self.strides))), self.golden)
        if difference > GOLDEN_LIMIT:
            raise BackboneError(
                f"{self.identity} gives other features on this processor than where it was made ({difference:.2g})",
                hint="update openvino, or ask for fewer instructions with ONEDNN_MAX_CPU_ISA",
            )
        return {"golden": difference}

    def normalised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return normalised(images, np.full(3, self.mean, np.float32), np.full(3, self.std, np.float32))


@lru_cache(4)
def _opened(network: bytes, layers: tuple[int, ...], size: tuple[int, int]) -> Engine:
    return open_engine(_cut(network, layers, size, False))


@lru_cache(4)
def _opened_behind(network: bytes, layers: tuple[int, ...], size: tuple[int, int]) -> Engine:
    return open_engine(written(behind_image(_cut(network, layers, size, True))))


@lru_cache(4)
def _difference(network: bytes, layers: tuple[int, ...], golden: tuple[float, ...]) -> float:
    image = golden_image()
    height, width = image.shape[1:3]
    got = np.array(golden_figures(open_engine(_cut(network, layers, (height, width), False))(image)))
    return float(np.abs(got / np.array(golden) - 1).max())


@lru_cache(4)
def _channels(network: bytes, layers: tuple[int, ...]) -> tuple[int, ...]:
    import onnx

    ports = {port.name: port for port in onnx.load_from_string(network).graph.output}
    return tuple(ports[f"{LEVEL}{layer}"].type.tensor_type.shape.dim[1].dim_value for layer in layers)


@lru_cache(8)
def _cut(network: bytes, layers: tuple[int, ...], size: tuple[int, int], image: bool) -> bytes:
    """The part of a network up to its deepest level in use, for images of one size."""
    import onnx

    whole = onnx.load_from_string(network)
    graph = whole.graph
    wanted = [f"{LEVEL}{layer}" for layer in layers] + [NORMALISED] * image
    nodes, values = leads_to(graph, wanted)
    channels = {port.name: port.type.tensor_type.shape.dim[1].dim_value for port in graph.output} | {NORMALISED: 3}
    outputs = []
    for name, new in zip(wanted, (f"{FEATURES}{i}" for i in range(len(wanted))), strict=True):
        nodes.append(onnx.helper.make_node("Identity", [name], [new], name=new))
        shape = ["batch", channels[name], None, None]
        outputs.append(onnx.helper.make_tensor_value_info(new, onnx.TensorProto.FLOAT, shape))
    source = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", *size, 3])
    part = onnx.helper.make_graph(nodes, "backbone", [source], outputs, values)
    model = onnx.helper.make_model(part, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return bytes(model.SerializeToString())


def shipped(name: str, entry: Packaged, layers: tuple[int, ...]) -> GraphBackbone:
    """A network that comes with this package. BackboneError where its file is missing or altered."""
    assert entry.graph is not None
    try:
        network = (files(__package__) / entry.graph.file).read_bytes()
    except OSError as error:
        raise BackboneError(f"{entry.graph.file} is missing", hint="install blemish again") from error
    if hashlib.sha256(network).hexdigest() != entry.graph.sha256:
        raise BackboneError(f"{entry.graph.file} is not the file that came with blemish", hint="install blemish again")
    return GraphBackbone(
        network,
        name=name,
        digest=entry.sha256,
        layers=layers,
        strides=entry.graph.strides,
        mean=entry.mean,
        std=entry.std,
        golden=entry.graph.golden,
        licence=entry.licence,
    )
