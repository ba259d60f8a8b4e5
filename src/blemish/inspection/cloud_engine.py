"""What runs models of point clouds: numpy and SciPy on the model's tensors, where an image model has a graph. No torch.

Takes (B, N, 6) float32, points and what points out of the material, and gives score (B,) and anomaly map (B, N). Rows
of NaN are no points; the map is 0 there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.inspection.engines import Engine, Outputs, Precision
from blemish.ops.histograms import Radii, look, spread

Floats = NDArray[np.float32]

_BLOCK = 1024  # points whose products with the bank are in memory at once


class HistogramBank:
    """A bank of point feature histograms: distance to it, score and map, step by step as the method itself has them."""

    name = "numpy"
    precision: Precision = "f32"

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        self.config = config
        self.radii = Radii(**{name: config[name] for name in Radii._fields})
        self.voxel = float(tensors["voxel"])
        self.centre, self.memory = tensors["centre"], tensors["memory"]
        self.support = tensors["support"]
        self.norms = (self.memory**2).sum(1)

    def __call__(self, images: NDArray[Any]) -> Outputs:
        """See the module."""
        maps = np.zeros(images.shape[:2], np.float32)
        scores = np.empty(len(images), np.float32)
        for k, sample in enumerate(images):
            present = np.isfinite(sample).all(1)
            scores[k], maps[k, present] = self._one(sample[present].astype(np.float64))
        return scores, maps

    def _one(self, sample: NDArray[np.float64]) -> tuple[float, Floats]:
        seen = look(sample[:, :3], sample[:, 3:], self.voxel, self.radii)
        x = seen.features - self.centre
        distance, index = self._nearest(x)
        blur = self.config["sigma"] * self.voxel
        judged = spread(distance, seen.points, seen.points, blur) if self.config["score"] == "map" else distance
        score = float(np.sort(judged)[-self.config["top"] :].mean()) * self._weight(x, judged, index)
        return score, spread(distance, seen.points, sample[:, :3], blur)

    def _nearest(self, x: Floats) -> tuple[Floats, NDArray[np.intp]]:
        """Distance to, and index of, each row's nearest row of the bank."""
        index = np.empty(len(x), np.intp)
        for at in range(0, len(x), _BLOCK):
            index[at : at + _BLOCK] = (self.norms - 2 * x[at : at + _BLOCK] @ self.memory.T).argmin(1)
        return np.sqrt(((x - self.memory[index]) ** 2).sum(1)), index

    def _weight(self, x: Floats, judged: Floats, index: NDArray[np.intp]) -> float:
        """Small where the nearest row's own neighbours are just as near to the worst point (PatchCore, Eq. 7)."""
        if self.support.shape[1] == 1:
            return 1.0
        worst = int(judged.argmax())
        far = np.sqrt(((x[worst] - self.memory[self.support[index[worst]]]) ** 2).sum(1)) / np.sqrt(x.shape[1])
        shares = np.exp(far - far.max())
        return float(1 - shares[0] / shares.sum())


ENGINES: dict[str, Callable[[Mapping[str, Any], Mapping[str, NDArray[Any]]], Engine]] = {
    "histogram bank": HistogramBank
}
"""By `Needs.engine`."""
