"""What registered parts give away: Gaussians that know the place, and whole covariances, against ones that do not.

    python benchmarks/places.py

Distances of frozen features to Gaussians of good images, from what `padim` knows down to what a plain distillation loss
knows; image AUROC by the mean of the map's highest hundredth. Writes docs/results/places.md. A diagnosis: no option was
chosen from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish import learning
from blemish.backbones.cache import FeatureCache
from blemish.bench import suite
from blemish.features import FeatureSource
from blemish.metrics.ranking import auroc
from blemish.ops.scoring import peak
from blemish.ops.smoothing import LevelMaps
from blemish.options import FitOptions
from blemish.types import Record

PAGE = Path("docs/results/places.md")
SIGMA, RIDGE, TOP = 4.0, 0.01, 0.01


def features(source: FeatureSource, records: list[Record]) -> Tensor:
    """(places, images, channels): all levels on the finest grid."""
    rows = []
    for record in records:
        levels = [torch.from_numpy(np.array(level))[None] for level in source.maps(record)]
        grid = levels[0].shape[2:]
        rows.append(torch.cat([F.interpolate(x, grid, mode="bilinear") for x in levels], 1).half().flatten(2))
    return torch.cat(rows).permute(2, 0, 1).contiguous()


def whitened(x: Tensor, y: Tensor) -> Tensor:
    """Mahalanobis distances of y (n, C) to the Gaussian of x (m, C)."""
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / (len(x) - 1) + RIDGE * torch.eye(x.shape[1])
    return ((y - mean) @ torch.linalg.inv(covariance) * (y - mean)).sum(1).sqrt()


def scaled(x: Tensor, y: Tensor) -> Tensor:
    """The same with variances alone."""
    return ((y - x.mean(0)).square() / (x.var(0) + RIDGE)).sum(1).sqrt()


def turned(x: Tensor, y: Tensor) -> Tensor:
    """1 - cosine to the mean."""
    return 1 - F.cosine_similarity(y, x.mean(0)[None], dim=1)


ROWS: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor], bool], ...] = (
    ("a Gaussian at each place, whole covariance (`padim`)", whitened, True),
    ("a Gaussian at each place, variances alone", scaled, True),
    ("1 − cosine to the mean at each place", turned, True),
    ("one Gaussian for all places, whole covariance", whitened, False),
    ("one Gaussian for all places, variances alone", scaled, False),
)


def figures(cell: suite.Cell) -> list[float]:
    """Image AUROC of each row."""
    records = cell.records()
    learn, test = ([r for r in records if r.split == side] for side in ("train", "test"))
    options = FitOptions(method=cell.method.name, calibration="none")
    backbone = learning.load_backbone(options)
    source = FeatureSource(backbone, learning.plan_preprocess(learn, options, backbone.stride), FeatureCache())
    x, y = features(source, learn), features(source, test)
    labels = [int(bool(r.label)) for r in test]
    size = source.preprocess.size
    maps = LevelMaps([source.spec.grids[0]], size, SIGMA)
    found = []
    for _, distance, by_place in ROWS:
        if by_place:
            places = torch.stack([distance(a.float(), b.float()) for a, b in zip(x, y, strict=True)], 1)
        else:  # of all places, every seventh vector
            places = distance(x.flatten(0, 1)[::7].float(), y.flatten(0, 1).float()).unflatten(0, y.shape[:2]).T
        anomaly_map = maps([places.unflatten(1, source.spec.grids[0])])
        found.append(auroc(labels, peak(anomaly_map, TOP).numpy()))
    return found


def main() -> None:
    """Measure, write the page."""
    plan = suite.read(Path(__file__).with_name("ledger.toml"), only_methods=["padim"], seeds=[0])
    cells = [c for c in plan.cells() if c.data.ranked and c.data.image_metrics and c.setting == "single"]
    table = []
    for cell in cells:
        table.append(figures(cell))
        print(cell.where, *(f"{value:.3f}" for value in table[-1]), flush=True)
    page = [
        "# What is known of a place",
        "",
        "Made by `python benchmarks/places.py`: image AUROC, first seed, of distances between frozen features (strides 8",
        "and 16) and Gaussians of good images. The first row is what `padim` knows. A distillation loss sums 1 − cosine",
        "over positions: it knows neither how much a place varies nor in which directions.",
        "",
        "| | " + " | ".join(cell.where for cell in cells) + " |",
        "|---|" + "---|" * len(cells),
        *(
            f"| {name} | " + " | ".join(f"{column[i]:.3f}" for column in table) + " |"
            for i, (name, _, _) in enumerate(ROWS)
        ),
    ]
    PAGE.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
