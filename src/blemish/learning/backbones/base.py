"""What a backbone is: a frozen network that turns a uint8 image into a pyramid of features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from blemish.types import FeatureSpec, Pyramid


class Backbone(nn.Module, ABC):
    """Frozen, in eval mode, without gradients. Pixel normalisation is inside: input is (B, H, W, 3) uint8.

    `identity` = name + digest of the weights + layers: equal identities give equal features.
    `stride` is what the sides of the input have to be a multiple of.
    """

    identity: str
    layers: tuple[int, ...]
    stride: int

    @abstractmethod
    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) normalised float32 -> maps (B, C_l, h_l, w_l), finest first."""

    @property
    @abstractmethod
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """(mean, std), each (3,), in grey levels of 0..255."""

    def normalise(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, as the network wants it."""
        mean, std = self.normalisation
        return (images.float() - mean).div(std).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, H, W, 3) uint8 -> maps; this is what is exported as the first half of the graph."""
        return self.features(self.normalise(images))

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever is requested: the exporter puts a module back to the mode of its root."""
        return super().train(False)

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> Pyramid:
        """(B, H, W, 3) uint8 -> Pyramid."""
        return Pyramid(self(images))

    @torch.no_grad()
    def spec(self, size: tuple[int, int]) -> FeatureSpec:
        """Channels and grids for an input of (H, W)."""
        maps = self(torch.zeros(1, *size, 3, dtype=torch.uint8))
        return FeatureSpec(
            self.layers, tuple(int(m.shape[1]) for m in maps), tuple(tuple(int(s) for s in m.shape[2:]) for m in maps)
        )
