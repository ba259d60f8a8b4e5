"""What a backbone is: a frozen network that turns a uint8 image into a pyramid of features."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from blemish.types import FeatureSpec

UNKNOWN = "unknown: see where the weights came from"
STRIDES = (8, 16)  # whose features carry most of the signal; stride 4 added nothing in our trials


class Backbone(ABC):
    """Frozen. Pixel normalisation is inside: input is (B, H, W, 3) uint8.

    `identity` = name + digest of the weights + layers: equal identities give equal features.
    `stride` is what the sides of the input have to be a multiple of; `digest` is that of the weights, `licence` what is
    known of theirs.
    """

    identity: str
    digest: str = ""
    licence: str = UNKNOWN
    layers: tuple[int, ...]
    stride: int

    @abstractmethod
    def spec(self, size: tuple[int, int]) -> FeatureSpec:
        """Channels and grids for an input of (H, W)."""

    @abstractmethod
    def graph(self, size: tuple[int, int], *, image: bool = False) -> bytes:
        """ONNX of image -> features_0, features_1, …, finest first; batch is free, H and W are fixed.

        With `image`, the normalised image (B, 3, H, W) comes behind the levels, as one more.
        """

    @abstractmethod
    def maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """(B, H, W, 3) -> maps (B, C_l, h_l, w_l) in float32, which graphs are compared with."""

    @abstractmethod
    def maps_of(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """The same of images that are normalised already, (B, 3, H, W)."""

    def check(self) -> dict[str, float]:
        """What this processor makes of it, where that was measured elsewhere: the largest relative difference by name.

        BackboneError where it is another network here.
        """
        return {}

    @abstractmethod
    def normalised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) -> (B, 3, H, W), as the network wants it."""


def normalised(images: NDArray[np.uint8], mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, H, W, 3) less the mean, over the standard deviation, both (3,) in grey levels of 0..255: (B, 3, H, W)."""
    return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))
