"""How well anchors tell six products apart, and what each part of that is worth. Writes docs/results/routing.md.

    python benchmarks/routing.py

Anchors are made as in `learning.multiclass`, from a few good training images, by name or by clustering; every other image gets its
category by vote. Names of clusters are matched to products afterwards (Hungarian), to count with, and nowhere else.
"""

from __future__ import annotations

import argparse
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray
from products import SOURCES, records_of
from scipy.optimize import linear_sum_assignment

from blemish.data.image.preprocess import Preprocess
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.multiclass import described, voting_level
from blemish.learning.options import FitOptions
from blemish.learning.plan import load_backbone
from blemish.learning.sources.features import FeatureSource
from blemish.ops.anchors import Anchors, cluster
from blemish.ops.draws import Draws
from blemish.types import Record

PAGE = Path("docs/results/routing.md")
SEEDS = (0, 1, 2)
SIDES = ("learn", "good", "defective")  # training images, good test images, defective ones
Floats = NDArray[np.float32]
Parts = dict[str, list[Floats]]


def features(level: int | None = None) -> Parts:
    """Voting features (n, D, h, w) of each product, by side; `level` counts the backbone's levels, None = as in use."""
    backbone = load_backbone(FitOptions())
    assert backbone is not None
    source = FeatureSource(backbone, Preprocess((256, 256)), FeatureCache())
    at = voting_level(source.spec, (256, 256)) if level is None else level

    def of(records: list[Record]) -> Floats:
        return np.concatenate([b.pyramid.maps[at] for b in source.batches(records) if b.pyramid is not None])

    out: Parts = {side: [] for side in SIDES}
    for name in SOURCES:
        records = records_of(name)
        out["learn"].append(of([r for r in records if r.split == "train" and r.label == 0]))
        for side, label in (("good", 0), ("defective", 1)):
            out[side].append(of([r for r in records if r.split == "test" and r.label == label]))
    return out


def by_name(parts: Parts, seed: int, shots: int = 8, count: int = 16, reliable: bool = True) -> Anchors:
    """Anchors of a few images of each product."""
    draw = random.Random(seed)
    levels = []
    for category_levels in parts["learn"]:
        size = min(shots, max(round(0.15 * len(category_levels)), 1))
        levels.append(category_levels[sorted(draw.sample(range(len(category_levels)), size))])
    return _made(levels, seed, count, reliable)


def by_cluster(parts: Parts, seed: int, count: int = 0) -> Anchors:
    """Anchors of clusters of a tenth of all images, no name read; 0 = as many clusters as the silhouette says."""
    every = np.concatenate(parts["learn"])
    sample = every[sorted(random.Random(seed).sample(range(len(every)), round(0.1 * len(every))))]
    owner = cluster(described(sample), count, 16, Draws(seed))
    return _made([sample[owner == k] for k in range(int(owner.max()) + 1)], seed, 16, True)


def _made(levels: list[Floats], seed: int, count: int, reliable: bool) -> Anchors:
    pixels = np.concatenate(levels).astype(np.float64)
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), ddof=1)
    anchors = Anchors(mean.astype(np.float32), deviation.astype(np.float32), count=count, reliable=reliable)
    anchors.add(levels, Draws(seed))
    return anchors


def accuracies(anchors: Anchors, parts: Parts) -> list[float]:
    """Share of images that are told right, by side."""
    tables = []
    for side in SIDES:
        table = np.zeros((len(SOURCES), max(len(anchors), len(SOURCES))))
        for k, side_levels in enumerate(parts[side]):
            blocks = (side_levels[at : at + 64] for at in range(0, len(side_levels), 64))
            votes = np.concatenate([anchors(block)[0].argmax(1) for block in blocks])
            table[k] = np.bincount(votes, minlength=table.shape[1])
        tables.append(table)
    rows, columns = linear_sum_assignment(-tables[0])  # of the training images; by name it is the identity
    return [float(table[rows, columns].sum() / table.sum()) for table in tables]


VARIANTS: dict[str, Callable[[Parts, int], Anchors]] = {
    "as it is: 8 images by name, 16 anchors": by_name,
    "1 image": lambda p, s: by_name(p, s, shots=1),
    "2 images": lambda p, s: by_name(p, s, shots=2),
    "4 images": lambda p, s: by_name(p, s, shots=4),
    "16 images": lambda p, s: by_name(p, s, shots=16),
    "1 anchor": lambda p, s: by_name(p, s, count=1),
    "4 anchors": lambda p, s: by_name(p, s, count=4),
    "64 anchors": lambda p, s: by_name(p, s, count=64),
    "plain vote": lambda p, s: by_name(p, s, reliable=False),
    "no name, 6 clusters": lambda p, s: by_cluster(p, s, 6),
    "no name, clusters by silhouette": by_cluster,
}


def row(label: str, parts: Parts, make: Callable[[Parts, int], Anchors]) -> str:
    """A line of the table."""
    made = [make(parts, seed) for seed in SEEDS]
    found = np.array([accuracies(anchors, parts) for anchors in made])
    counts = ", ".join(str(len(anchors)) for anchors in made)
    cells: list[Any] = [f"{m:.3f} ± {s:.3f}" for m, s in zip(found.mean(0), np.ptp(found, 0) / 2, strict=True)]
    print(label, *cells, counts, flush=True)
    return f"| {label} | {' | '.join(cells)} | {counts} |"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = features()
    rows = [row(label, parts, make) for label, make in VARIANTS.items()]
    rows.append(row("finer features: stride 8", features(0), by_name))
    page = [
        "# How well products are told apart",
        "",
        "Made by `python benchmarks/routing.py`: six products, share of images whose category is told right, mean over three",
        "seeds ± half their range. A seed draws the images that anchors are made of. Clusters are matched to products",
        "afterwards, to count with; a product without a cluster of its own counts as told wrong.",
        "",
        "| | training images | good test images | defective test images | categories |",
        "|---|---|---|---|---|",
        *rows,
    ]
    arguments.out.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
