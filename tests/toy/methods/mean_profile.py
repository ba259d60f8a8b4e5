"""Mean profile: how far heights lie from those of the mean good profile.

Paper    none: it is an example.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blemish.methods.base import Method
from blemish.types import Batch, FeatureSpec, Needs, Prediction


@dataclass(frozen=True)
class Config:
    floor: float = 0.05  # least standard deviation of a height


class MeanProfile(Method[Config]):
    needs = Needs(source="profile", axes=1)
    fitted_buffers = ("mean", "spread")
    mean: Tensor  # (1, L)
    spread: Tensor  # (1, L)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self._seen: list[Tensor] = []

    def observe(self, batch: Batch) -> None:
        assert batch.x is not None
        self._seen.append(batch.x)

    def conclude(self) -> None:
        seen = torch.cat(self._seen)
        self.mean, self.spread = seen.mean(0), seen.std(0, correction=0).clamp_min(self.config.floor)

    def predict(self, batch: Batch) -> Prediction:
        assert batch.x is not None
        far = ((batch.x - self.mean) / self.spread).abs()[:, 0]
        return Prediction(far.amax(1), far)


METHOD = MeanProfile
