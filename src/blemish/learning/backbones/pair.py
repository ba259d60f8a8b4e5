"""Two frozen networks on the same image, as one backbone: the levels of the second follow those of the first."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from blemish.learning.backbones.torch_base import TorchBackbone
from blemish.types import FeatureSpec


class PairBackbone(TorchBackbone):
    """The image is normalised for the first network, and brought to what the second one wants inside."""

    def __init__(self, first: TorchBackbone, second: TorchBackbone) -> None:
        super().__init__()
        self.one, self.two = first, second
        self.layers = (*first.layers, *second.layers)
        self.identity = f"{first.identity}+{second.identity}"
        self.digest = f"{first.digest}+{second.digest}"
        self.licence = " + ".join(dict.fromkeys((first.licence, second.licence)))
        self.stride = math.lcm(first.stride, second.stride)
        self.eval()

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        return self.one.normalisation

    def prepare(self, size: tuple[int, int]) -> None:
        self.one.prepare(size)
        self.two.prepare(size)

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        mean, std = (v[:, None, None] for v in self.one.normalisation)
        other_mean, other_std = (v[:, None, None] for v in self.two.normalisation)
        return (*self.one.features(x), *self.two.features((x * std + mean - other_mean) / other_std))

    def spec(self, size: tuple[int, int]) -> FeatureSpec:
        """As of one network; `second` says how many levels are the second one's."""
        return replace(super().spec(size), second=len(self.two.layers))
