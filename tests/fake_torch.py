"""The tiny backbone of the tests in PyTorch: `tests/fake_backbone.onnx` is its graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blemish.learning.backbones.torch_base import TorchBackbone


class FakeTorchBackbone(TorchBackbone):
    """Three levels (strides 4, 8, 16) of a random convolutional network with fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = (0, 1, 2)
        self.stride = 16
        self.identity = "fake@0/0,1,2"
        generator = torch.Generator().manual_seed(0)
        channels = [3, 6, 8, 10]
        self.stages = nn.ModuleList()
        for i, (a, b) in enumerate(zip(channels, channels[1:], strict=False)):
            conv = nn.Conv2d(a, b, 5, stride=4 if i == 0 else 2, padding=2)
            with torch.no_grad():
                conv.weight.normal_(0, (2 / (25 * a)) ** 0.5, generator=generator)
                conv.bias.zero_()
            self.stages.append(conv)
        self.requires_grad_(False)
        self.eval()

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        return torch.full((3,), 127.0), torch.full((3,), 64.0)

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage in self.stages:
            x = stage(x).relu()
            maps.append(x)
        return tuple(maps)
