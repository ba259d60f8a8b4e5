"""Mean profile: how far heights lie from those of the mean good profile.

Paper    none: it is an example.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blemish.methods.base import Method
from blemish.ops.arrays import largest, sqrt
from blemish.types import Batch, FeatureSpec, Needs, Prediction


@dataclass(frozen=True)
class Config:
    floor: float = 0.05  # least standard deviation of a height


class MeanProfile(Method[Config]):
    needs = Needs(source="profile", axes=1)
    fitted_buffers = ("mean", "spread")
    mean: NDArray[np.float32]  # (1, L)
    spread: NDArray[np.float32]  # (1, L)

    def __init__(self, config: Config, spec: FeatureSpec, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__(config, spec, size, seed)
        self._seen: list[NDArray[np.float32]] = []

    def observe(self, batch: Batch) -> None:
        assert batch.x is not None
        self._seen.append(batch.x)

    def conclude(self) -> None:
        seen = np.concatenate(self._seen)
        self.mean, self.spread = seen.mean(0), np.maximum(seen.std(0), np.float32(self.config.floor))

    def predict(self, batch: Batch) -> Prediction:
        assert batch.x is not None
        apart = (batch.x - self.mean) / self.spread
        far = sqrt(apart * apart)[:, 0]
        return Prediction(largest(far, 1), far)


METHOD = MeanProfile
