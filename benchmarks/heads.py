"""What it is worth that an image goes to the right head: oracle, vote and chance. Writes docs/results/heads.md.

    python benchmarks/heads.py [--head padim --head own] [--out PAGE]

One model of six products, with a head for each (`dfc`). Every test image goes through all heads; then its score is taken
from the head of its own product (oracle), of the product that the router elects (as inspected), or of any product
(chance, mean over draws). Image AUROC within each product; means are over the five whose image labels can be used.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray
from products import SOURCES, as_category

from blemish import Detector, config
from blemish.data.image.modality import Images
from blemish.data.registry import of
from blemish.evaluation.metrics.ranking import auroc
from blemish.inspection.engines import Head
from blemish.inspection.routed import VOTE, head_name
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.options import FitOptions
from blemish.learning.plan import load_backbone
from blemish.learning.sources.features import FeatureSource
from blemish.types import Record

PAGE = Path("docs/results/heads.md")
SEEDS = (0, 1, 2)
DRAWS = 20
UNUSED = {"bsdata_s"}  # image labels follow the date of the shot
HEADS: dict[str, dict[str, Any]] = {"own": {}, **{name: {"head": name} for name in ("padim", "patchcore", "protoot")}}
SHOWN = ("own", "padim", "patchcore")  # protoot takes a quarter of an hour a seed
WAYS = ("oracle", "vote", "chance")


def through(detector: Detector, test: list[Record]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(images, heads) scores of every head, on the common scale, and the category that the router elects."""
    model = detector.model
    kind = of(model.meta)
    assert isinstance(kind, Images)
    assert model.categories is not None
    backbone = load_backbone(config.build(FitOptions, model.run))
    source = FeatureSource(backbone, kind.preprocess, FeatureCache(), threads=1, precision="f32")
    vote = Head(model.heads[VOTE], precision="f32")
    heads = [Head(model.heads[head_name(k)], precision="f32") for k in range(len(model.categories.names))]
    scores, elected = [], []
    for _, maps in source.stream(test):
        elected.append(int(vote(maps)[0][0].argmax()))
        scores.append([float(head(maps)[0][0]) for head in heads])
    return np.array(scores), np.array(elected)


def areas(
    scores: NDArray[np.float64], elected: NDArray[np.int64], category: NDArray[np.int64], labels: NDArray[Any]
) -> Any:
    """(ways, products) image AUROC."""
    generator, rows = np.random.default_rng(0), np.arange(len(scores))

    def each(head: NDArray[np.int64]) -> list[float]:
        taken = scores[rows, head]
        return [auroc(labels[category == k], taken[category == k]) for k in range(scores.shape[1])]

    chance = np.mean([each(generator.integers(scores.shape[1], size=len(scores))) for _ in range(DRAWS)], 0)
    return np.array([each(category), each(elected), chance.tolist()])


def figures(head: str, every: list[Record]) -> tuple[list[str], Any]:
    """Products in the model's order, and (seeds, ways, products)."""
    learn, test = ([r for r in every if r.split == side] for side in ("train", "test"))
    found = []
    for seed in SEEDS:
        options = HEADS[head]
        detector = Detector("dfc", image_size="256sq", seed=seed, calibration="none", cache=FeatureCache(), **options)
        detector.fit(learn)
        assert detector.model.categories is not None
        names = list(detector.model.categories.names)
        category = np.array([names.index(str(r.group)) for r in test])
        found.append(areas(*through(detector, test), category, np.array([int(bool(r.label)) for r in test])))
        print(head, seed, found[-1].round(3).tolist(), flush=True)
    return names, np.array(found)


def cell(values: NDArray[np.float64]) -> str:
    """Mean and half the range over seeds."""
    return f"{values.mean():.3f} ± {np.ptp(values) / 2:.3f}"


def main() -> None:
    """Measure, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--head", choices=list(HEADS), action="append")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    every, lines, names = [r for name in SOURCES for r in as_category(name)], [], []
    for head in arguments.head or SHOWN:
        names, found = figures(head, every)
        used = [k for k, name in enumerate(names) if name not in UNUSED]
        for way, label in enumerate(WAYS):
            cells = [cell(found[:, way, k]) for k in used]
            lines.append(f"| {head} | {label} | {' | '.join(cells)} | {cell(found[:, way, used].mean(1))} |")
    shown = [name for name in names if name not in UNUSED]
    page = [
        "# What the right head is worth",
        "",
        "Made by `python benchmarks/heads.py`: one model of six products with a head for each; every test image goes through",
        "the head of its own product (oracle), of the one that the router elects (vote), or of any (chance, mean of",
        f"{DRAWS} draws). Image AUROC within each product, mean over three seeds ± half their range.",
        "",
        f"| head | sent by | {' | '.join(shown)} | mean |",
        "|---|---|" + "---|" * (len(shown) + 1),
        *lines,
    ]
    arguments.out.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
