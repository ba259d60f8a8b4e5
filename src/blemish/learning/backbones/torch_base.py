"""A frozen network in PyTorch."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish.errors import BackboneError
from blemish.learning.backbones.base import Backbone, normalised
from blemish.types import FeatureSpec, Pyramid


class TorchBackbone(nn.Module, Backbone):
    """In eval mode, without gradients."""

    def prepare(self, size: tuple[int, int]) -> None:  # noqa: B027  (most networks take any size)
        """Called before images of (H, W) are seen or the network is traced for them."""

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
        self.prepare((int(images.shape[1]), int(images.shape[2])))
        return self.features(self.normalise(images))

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whoever asks: the exporter puts a module back to the mode of its root."""
        return super().train(False)

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> Pyramid:
        """(B, H, W, 3) uint8 -> Pyramid."""
        return Pyramid(self(images))

    def graph(self, size: tuple[int, int], *, image: bool = False) -> bytes:
        from blemish.learning.trace import trace_backbone

        self.prepare(size)
        try:
            return trace_backbone(self, size, image=image)
        except torch.onnx.errors.OnnxExporterError as error:
            raise BackboneError(
                f"{self.identity} cannot be drawn as a graph: {error}", hint="choose another network"
            ) from error

    @torch.no_grad()
    def maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        return tuple(level.numpy() for level in self(torch.from_numpy(np.array(images))))

    @torch.no_grad()
    def maps_of(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        self.prepare((int(x.shape[2]), int(x.shape[3])))
        return tuple(level.numpy() for level in self.features(torch.from_numpy(np.array(x))))

    def normalised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean, std = (values.numpy() for values in self.normalisation)
        return normalised(images, mean, std)

    @torch.no_grad()
    def spec(self, size: tuple[int, int]) -> FeatureSpec:
        """Channels and grids for an input of (H, W)."""
        maps = self(torch.zeros(1, *size, 3, dtype=torch.uint8))
        return FeatureSpec(
            self.layers, tuple(int(m.shape[1]) for m in maps), tuple(tuple(int(s) for s in m.shape[2:]) for m in maps)
        )
