"""Mean and spread of channels over all places of all images."""

from __future__ import annotations

import torch
from torch import Tensor


class ChannelMoments:
    """Collected batch by batch in float64; two of them merge (Chan et al. 1979)."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)  # summed distances from the mean, squared

    def add(self, x: Tensor) -> None:
        """Take in (B, C, h, w)."""
        values = x.transpose(0, 1).flatten(1).double()
        mean = values.mean(1)
        self._combine(values.shape[1], mean, (values - mean[:, None]).square().sum(1))

    def merge(self, other: ChannelMoments) -> None:
        """Take over what another one has collected."""
        self._combine(other.count, other.mean, other.squares)

    def _combine(self, count: int, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        apart = mean - self.mean
        self.mean = self.mean + apart * (count / total)
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.count = total

    def spread(self, least: float = 0.05) -> Tensor:
        """(C,): standard deviations, none below a share `least` of their mean: what hardly moves is not blown up.

        1 where nothing varies at all.
        """
        deviation = (self.squares / self.count).sqrt()
        deviation = deviation.clamp_min(float(least * deviation.mean()))
        return torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)).float()
