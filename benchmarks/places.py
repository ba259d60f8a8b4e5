"""What registered parts give away: Gaussians that know the place, and whole covariances, against ones that do not.

    python benchmarks/places.py

Distances of frozen features to Gaussians of good images, from what `padim` knows down to what a plain distillation loss
knows; image AUROC by the mean of the map's highest hundredth. Then the same of what a small teacher has learned of such
features, which is all that its students can tell. Writes docs/results/places.md. A diagnosis: no option was chosen from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from blemish.learning.sources.image import plan_preprocess

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish import Detector
from blemish.data.image.modality import Images
from blemish.data.registry import of
from blemish.evaluation.bench import suite
from blemish.evaluation.metrics.ranking import auroc
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.fitted import restore
from blemish.learning.options import FitOptions
from blemish.learning.plan import load_backbone
from blemish.learning.sources.features import FeatureSource
from blemish.nn.level_maps import LevelMaps
from blemish.nn.scoring import peak
from blemish.types import Batch, Pyramid, Record

PAGE = Path("docs/results/places.md")
SIGMA, RIDGE, TOP = 4.0, 0.01, 0.01
TAUGHT = "mudenet"  # whose teacher is inspected
FEW = 50  # good images that the share of variance is taken of, at most

Maps = Callable[[Record], list[Tensor]]
"""The levels of an image, (1, C, h, w) each."""


def features(levels: Maps, records: list[Record], grid: tuple[int, ...]) -> Tensor:
    """(places, images, channels): all levels on one grid; finer ones by means, coarser ones bilinear."""
    rows = []
    for record in records:
        parts = [
            F.adaptive_avg_pool2d(x, grid) if x.shape[2] > grid[0] else F.interpolate(x, grid, mode="bilinear")  # type: ignore[arg-type]
            for x in levels(record)
        ]
        rows.append(torch.cat(parts, 1).half().flatten(2))
    return torch.cat(rows).permute(2, 0, 1).contiguous()


def tensors(source: FeatureSource, record: Record) -> list[Tensor]:
    """Frozen features of an image."""
    return [torch.from_numpy(np.array(level))[None] for level in source.maps(record)]


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


def sides(cell: suite.Cell) -> tuple[list[Record], list[Record]]:
    """(learned from, tested) of a cell."""
    records = cell.records()
    return [r for r in records if r.split == "train"], [r for r in records if r.split == "test"]


def figures(x: Tensor, y: Tensor, test: list[Record], grid: tuple[int, int], size: tuple[int, int]) -> list[float]:
    """Image AUROC of each row, of features as `features` gives them."""
    labels = [int(bool(r.label)) for r in test]
    maps = LevelMaps([grid], size, SIGMA)
    found = []
    for _, distance, by_place in ROWS:
        if by_place:
            places = torch.stack([distance(a.float(), b.float()) for a, b in zip(x, y, strict=True)], 1)
        else:  # of all places, every seventh vector
            places = distance(x.flatten(0, 1)[::7].float(), y.flatten(0, 1).float()).unflatten(0, y.shape[:2]).T
        found.append(auroc(labels, peak(maps([places.unflatten(1, grid)]), TOP).numpy()))
    return found


def frozen(cell: suite.Cell) -> list[float]:
    """Of the backbone's features."""
    learn, test = sides(cell)
    options = FitOptions(method=cell.method.name, calibration="none")
    backbone = load_backbone(options)
    source = FeatureSource(backbone, plan_preprocess(learn, options, backbone.stride), FeatureCache())
    grid = (source.spec.grids[0][0], source.spec.grids[0][1])
    levels = partial(tensors, source)
    x, y = features(levels, learn, grid), features(levels, test, grid)
    return figures(x, y, test, grid, source.preprocess.size)


@torch.no_grad()
def taught(cell: suite.Cell) -> tuple[list[float], list[float]]:
    """Of the small teacher's maps; and the share of its target's variance that each of them explains, on good images.

    The target's channels lose their means first, since students do not see them: maps are standardised for them.
    """
    learn, test = sides(cell)
    with torch.enable_grad():
        detector = Detector(TAUGHT, calibration="none", cache=FeatureCache(), steps=1, logical_steps=1).fit(learn)
    backbone, method = restore(detector.model)
    kind = of(detector.model.meta)
    assert backbone is not None
    assert isinstance(kind, Images)
    source = FeatureSource(backbone, kind.preprocess, FeatureCache())

    def levels(record: Record) -> list[Tensor]:
        image = torch.from_numpy(source.normalised(kind.prepare(kind.load(record)[1])))[None]
        return method.descriptors(Batch(method.size, x=image))  # type: ignore[no-any-return]

    def target(record: Record) -> Tensor:
        return method.target(Batch(method.size, Pyramid(tuple(tensors(source, record)))))[0]  # type: ignore[no-any-return]

    good_test = [r for r in test if not r.label][:FEW]
    wanted = torch.stack([target(r) for r in good_test]).transpose(0, 1).flatten(1)  # (C, N)
    shares = []
    for level in range(len(method.config.levels)):
        predicted = torch.stack([levels(r)[level][0] for r in good_test]).transpose(0, 1).flatten(1)
        both = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(wanted, predicted, strict=True)])
        shares.append(float(both.square().nanmean()))
    grid = (method.grid[0] // 2, method.grid[1] // 2)
    x, y = features(levels, learn, grid), features(levels, test, grid)
    return figures(x, y, test, grid, method.size), shares


def main() -> None:
    """Measure, write the page."""
    plan = suite.read(Path(__file__).with_name("ledger.toml"), only_methods=["padim"], seeds=[0])
    cells = [c for c in plan.cells() if c.data.ranked and c.data.image_metrics and c.setting == "single"]
    table = []
    for cell in cells:
        table.append([frozen(cell), *taught(cell)])
        print(cell.where, *(f"{value:.3f}" for part in table[-1] for value in part), flush=True)
    head = ["| | " + " | ".join(cell.where for cell in cells) + " |", "|---|" + "---|" * len(cells)]

    def rows(names: Sequence[str], part: int) -> list[str]:
        return [
            f"| {name} | " + " | ".join(f"{column[part][i]:.3f}" for column in table) + " |"
            for i, name in enumerate(names)
        ]

    names = [name for name, _, _ in ROWS]
    page = [
        "# What is known of a place",
        "",
        "Made by `python benchmarks/places.py`: image AUROC, first seed, of distances between frozen features (strides 8",
        "and 16) and Gaussians of good images. The first row is what `padim` knows. A distillation loss sums 1 − cosine",
        "over positions: it knows neither how much a place varies nor in which directions.",
        "",
        *head,
        *rows(names, 0),
        "",
        "## What a small teacher knows",
        "",
        f"The same of the maps that the teacher of `{TAUGHT}` has learned, by means over 2 × 2 cells: its students see",
        "nothing else. Below, how much of its target the teacher says: the squared correlation on good test images,",
        "mean over channels.",
        "",
        *head,
        *rows(names, 1),
        *rows([f"of the target, {field} field" for field in ("the smallest", "the middle", "the widest")], 2),
    ]
    PAGE.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
