"""Frozen features on another device than the processor."""

from __future__ import annotations

import warnings
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray

from blemish.errors import BackboneError
from blemish.inspection.engines import Outputs, Precision
from blemish.learning.backbones.base import Backbone
from blemish.learning.backbones.torch_base import TorchBackbone


class DeviceEngine:
    """A backbone in PyTorch on a device, as an engine: images (B, H, W, 3) uint8 -> its maps, in float32."""

    precision: Precision = "f32"

    def __init__(self, backbone: TorchBackbone, size: tuple[int, int], device: str) -> None:
        backbone.prepare(size)
        self.name = f"torch-{torch.device(device).type}"
        self.network, self.device = deepcopy(backbone).to(device), device

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        levels = self.network(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
        return tuple(level.cpu().numpy() for level in levels)


def in_torch(backbone: Backbone) -> TorchBackbone | None:
    """The same network in PyTorch: itself, or of a shipped graph what the weights' package brings; None, with a
    warning, where that is not there."""
    if isinstance(backbone, TorchBackbone):
        return backbone
    from blemish.learning.backbones import timm_net

    name = backbone.identity.partition("@")[0]
    try:
        found = timm_net.load(name, layers=backbone.layers)
    except (BackboneError, ModuleNotFoundError) as error:
        why = str(error)
    else:
        if found.identity == backbone.identity:
            return found
        why = f"{found.identity} is another network than {backbone.identity}"
    warnings.warn(f"features are computed on the processor, as PyTorch does not have the network: {why}", stacklevel=2)
    return None
