"""Fast scorers of frozen features, good ones and bad ones: many methods to compare rules on, in minutes.

PaDiM, PatchCore and plainer Gaussians at several strides, neighbourhoods and shares of the map's cells, and four that see a
whole image alone. No part of the package: what they show is which rule orders methods as real defects do (`ranks.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.inspection.engines import open_engine
from blemish.learning.backbones.loading import load
from blemish.learning.sources.image import plan_geometry
from blemish.ops.coreset import greedy_k_centre
from blemish.ops.gaussians import PositionGaussians, whitening
from blemish.types import Record

STRIDES = (4, 8, 16, 32)
BANK, POOL = 4_000, 60_000  # patches of a bank, and those that it is chosen from
PART = 32  # images at once
RIDGE = 0.01  # of a covariance, as a share of its mean variance


class Look(NamedTuple):
    """How cells are described: levels on one grid, each averaged over a window."""

    strides: tuple[int, ...] = (8, 16)
    window: int = 3
    padded: bool = True  # means at the border count the padding's zeros
    grid: int = 16

    def __call__(self, levels: list[Tensor]) -> np.ndarray:
        """(n, cells, channels)."""
        shape = levels[STRIDES.index(self.grid)].shape[2:]
        parts = []
        for stride in self.strides:
            x = levels[STRIDES.index(stride)]
            x = F.avg_pool2d(x, self.window, 1, self.window // 2, count_include_pad=self.padded)
            finer = x.shape[2] > shape[0]
            parts.append(F.adaptive_avg_pool2d(x, shape) if finer else F.interpolate(x, shape, mode="bilinear"))  # type: ignore[arg-type]
        return np.asarray(torch.cat(parts, 1).flatten(2).transpose(1, 2).contiguous().numpy(), np.float32)


LOOKS = {
    "": Look(), " unpadded": Look(padded=False), " 1x1": Look(window=1), " 5x5": Look(window=5),
    " stride 8": Look((8,), grid=8), " stride 16": Look((16,)), " stride 32": Look((32,), grid=32),
    " strides 4, 8": Look((4, 8)), " all strides": Look(STRIDES),
}  # fmt: skip
PLAN: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    *(("places", look, shares) for look, shares in {
        "": (0, 0.03, 0.1), " unpadded": (0.01,), " 1x1": (0.03,), " 5x5": (0.03,), " stride 16": (0.03,),
        " stride 8": (0, 0.03), " stride 32": (0.03,)}.items()),
    *(("bank", look, shares) for look, shares in {
        "": (0, 0.03, 0.1), " unpadded": (0,), " 1x1": (0.03,), " 5x5": (0.03,), " stride 16": (0.03,),
        " stride 32": (0.03,), " strides 4, 8": (0.03,), " all strides": (0.03,)}.items()),
    *((kind, "", (0.01,)) for kind in ("places, variances", "cosine", "one Gaussian", "one Gaussian, variances")),
)  # fmt: skip
WHOLE = ("brightness", "contrast", "mean features, stride 16", "mean features, stride 32")
NAMES = [
    f"{kind}{look}, {f'top {share:.0%}' if share else 'maximum'}" for kind, look, shares in PLAN for share in shares
]
NAMES += WHOLE


def _gaussian(x: np.ndarray, ridge: float = RIDGE) -> tuple[np.ndarray, np.ndarray]:
    covariance = np.cov(x.T)
    added = ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return x.mean(0), np.linalg.cholesky(np.linalg.inv(covariance + added))


class Frozen:
    """All scorers, learned from the same good images."""

    def __init__(self, learn: list[Record], threads: int) -> None:
        self.preprocess = plan_geometry(learn, "256", 16)
        graph = load("efficientnet_lite0", strides=STRIDES).graph(self.preprocess.size)
        self.engine = open_engine(graph, precision="f32", threads=threads)

    def levels(self, images: list[Any]) -> tuple[list[Tensor], np.ndarray]:
        """Of prepared images; and their mean and spread."""
        rows = [[torch.from_numpy(np.array(level)) for level in self.engine(image[None])] for image in images]
        plain = np.array([[image.mean(), image.std()] for image in images])
        return [torch.cat([row[i] for row in rows]) for i in range(len(STRIDES))], plain

    def fit(self, images: Iterable[Any]) -> Frozen:
        """Learn."""
        levels, plain = self.levels([self.preprocess(image) for image in images])
        self.plain = plain.mean(0), plain.std(0)
        self.means = [_gaussian(level.mean((2, 3)).numpy(), 0.05) for level in levels[2:]]
        self.fitted: dict[tuple[str, str], Any] = {}
        for kind, look, _ in PLAN:
            x = LOOKS[look](levels)
            flat = x.reshape(-1, x.shape[2])
            if kind == "places":
                statistics = PositionGaussians()
                statistics.add(x)
                covariance = statistics.covariance()
                added = RIDGE * float(covariance.diagonal(axis1=1, axis2=2).mean())
                self.fitted[kind, look] = statistics.mean().astype(np.float32), whitening(covariance, added)
            elif kind == "bank":
                pool = flat[np.random.default_rng(0).permutation(len(flat))[:POOL]]
                chosen, _ = greedy_k_centre(np.ascontiguousarray(pool), min(BANK, max(len(pool) // 10, 1)), start=0)
                self.fitted[kind, look] = pool[chosen]
            elif kind == "one Gaussian":
                self.fitted[kind, look] = _gaussian(flat)
            else:
                over = flat if kind.startswith("one") else x
                self.fitted[kind, look] = over.mean(0), over.var(0) + RIDGE * over.var(0).mean()
        return self

    def distances(self, kind: str, look: str, x: np.ndarray) -> np.ndarray:
        """(n, cells)."""
        fitted = self.fitted[kind, look]
        if kind == "bank":
            squares = (fitted**2).sum(1)
            nearest = [(squares - 2 * each @ fitted.T).min(1) + (each**2).sum(1) for each in x]
            return np.sqrt(np.maximum(np.array(nearest), 0))
        mean, other = fitted
        if kind == "places":
            return np.asarray(np.sqrt((((x - mean).transpose(1, 0, 2) @ other) ** 2).sum(2)).T)
        if kind == "one Gaussian":
            return np.asarray(np.sqrt((((x - mean) @ other) ** 2).sum(2)))
        if kind == "cosine":
            return np.asarray(1 - (x * mean).sum(2) / np.linalg.norm(x, axis=2) / np.linalg.norm(mean, axis=1))
        return np.asarray(np.sqrt(((x - mean) ** 2 / other).sum(2)))

    def scores(self, images: Iterable[Any]) -> dict[str, list[float]]:
        """Of each scorer by its name, one for each image."""
        rows: list[np.ndarray] = []
        prepared = [self.preprocess(image) for image in images]
        for start in range(0, len(prepared), PART):
            levels, plain = self.levels(prepared[start : start + PART])
            rows.append(np.stack(list(self._columns(levels, plain)), 1))
        return {name: column.tolist() for name, column in zip(NAMES, np.concatenate(rows).T, strict=True)}

    def _columns(self, levels: list[Tensor], plain: np.ndarray) -> Iterator[np.ndarray]:
        described: dict[str, np.ndarray] = {}
        for kind, look, shares in PLAN:
            if look not in described:
                described[look] = LOOKS[look](levels)
            falling = -np.sort(-self.distances(kind, look, described[look]), 1)
            for share in shares:
                yield falling[:, : max(1, round(share * falling.shape[1]))].mean(1)
        yield from (np.abs(plain - self.plain[0]) / self.plain[1]).T
        for level, (mean, factor) in zip(levels[2:], self.means, strict=True):
            yield np.sqrt((((level.mean((2, 3)).numpy() - mean) @ factor) ** 2).sum(1))
