"""From PyTorch to ONNX, by tracing: networks, and the heads of methods in PyTorch."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch

from blemish.inspection.graph_parts import FEATURES
from blemish.learning.again import MADE, again_names
from blemish.learning.heads import CATEGORY, Scaled
from blemish.learning.onnx_parts import too_large
from blemish.nn.precision import Exact
from blemish.ops.drawing import OPSET
from blemish.types import Batch, Needs, Pyramid


def trace_backbone(backbone: Any, size: tuple[int, int], *, image: bool = False) -> bytes:
    """ONNX of image -> features_0, features_1, …; batch is free, H and W are fixed.

    With `image`, the normalised image (B, 3, H, W) comes behind the levels, as one more.
    """
    names = [f"{FEATURES}{i}" for i in range(len(backbone.layers) + image)]
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    return _to_onnx(_Trunk(backbone) if image else backbone, (example,), ["image"], names)


class _Trunk(torch.nn.Module):
    """A backbone as a function of uint8 images, which gives the normalised one too."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.backbone.normalise(images)
        return (*self.backbone.features(x), x)


def bordered(method: Any) -> bool:
    """Whether the method draws a border between number formats."""
    return any(isinstance(part, Exact) for part in method.modules())


def trace_head(of: Any, *, category: bool = False) -> bytes:
    """ONNX of features_0, … [and the category] -> score, anomaly_map: of a `TorchMethod`, or one that is `Scaled`.

    Of one that makes an image, ONNX of features_0, …, again/features_0, … -> score, anomaly_map, made.
    """
    method = of.method if isinstance(of, Scaled) else of
    needs = method.wants(method.config)
    shapes = [(c, *g) for c, g in zip(method.spec.channels, method.spec.grids, strict=True)]
    if needs.image:
        shapes.append((3, *method.size))
    names = [f"{FEATURES}{i}" for i in range(len(shapes))]
    outputs = ["score", "anomaly_map"]
    if needs.again:
        shapes += shapes[: len(method.spec.channels)]
        names += again_names(len(method.spec.channels))
        outputs.append(MADE)
    generator = torch.Generator().manual_seed(0)
    given = [torch.rand(2, *shape, generator=generator) for shape in shapes]
    if category:
        names.append(CATEGORY)
        given.append(torch.zeros(2, dtype=torch.int64))
    return _to_onnx(_Head(of, needs, category), tuple(given), names, outputs)


class _Head(torch.nn.Module):
    """A method as a function of feature maps, and of the normalised image, features of what it makes of it, and the
    category where it asks for them."""

    def __init__(self, of: Any, needs: Needs, category: bool) -> None:
        super().__init__()
        self.scaled = of if isinstance(of, Scaled) else None
        self.method = of.method if isinstance(of, Scaled) else of
        self.needs, self.category = needs, category
        self.eval()

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        levels = list(given)
        category = levels.pop() if self.category else None
        count = len(self.method.spec.channels)
        again = Pyramid(tuple(levels[-count:])) if self.needs.again else None
        x = levels[count] if self.needs.image else None
        batch = Batch(self.method.size, Pyramid(tuple(levels[:count])), x=x, again=again, category=category)
        prediction = self.method(batch)
        found = (prediction.score, prediction.anomaly_map)
        if self.scaled is not None:
            found = self.scaled.rescaled(*found)
        return (*found, self.method.remade(batch)) if self.needs.again else found


def trace_plain(method: Any) -> bytes:
    """ONNX of signal (B, K, L) float32 -> score, anomaly_map: of a method without a frozen network before it."""
    shape = (2, method.spec.inputs, *method.size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return _to_onnx(_Plain(method).eval(), (x,), ["signal"], ["score", "anomaly_map"])


class _Plain(torch.nn.Module):
    """A method that takes samples as they are, as a function of them."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        prediction = self.method(Batch(size=self.method.size, x=x))
        return prediction.score, prediction.anomaly_map


def _to_onnx(module: torch.nn.Module, arguments: tuple[Any, ...], inputs: list[str], outputs: list[str]) -> bytes:
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The tracing exporter is deprecated but takes a second where the new one takes eight, and it keeps the
            # module path in the node names, by which an engine finds the coarse products.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                arguments,
                buffer,  # type: ignore[arg-type]  # a file object is documented and works
                dynamo=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in inputs + outputs},
                do_constant_folding=False,  # engines fold when they load; folded copies of a bank would double the file
            )
    except RuntimeError as error:
        if "2GiB" not in str(error):
            raise
        raise too_large() from error
    return buffer.getvalue()
