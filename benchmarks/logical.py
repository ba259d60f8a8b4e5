"""What the logical module finds: drawn worlds whose parts are whole and whose rules are broken.

    python benchmarks/logical.py [--world tray]

Writes the worlds into .bench/logical and the table into docs/results/logical.md. Per world 100 good images to learn from
and 60 each to test with: good, structural (damages) and logical (broken rules). The same method with both modules and
with one of them, three seeds; which channels the teacher learns is the same in all.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import worlds
from worlds.parts import BREACHES, DAMAGES

from blemish import Detector
from blemish.evaluation.metrics.ranking import auroc
from blemish.learning.backbones.cache import FeatureCache

ROOT = Path(".bench/logical")
PAGE = Path("docs/results/logical.md")
SIDE = 128  # pixels of an image
SEEDS = (0, 1, 2)
METHOD = "mudenet"
VARIANTS: dict[str, dict[str, Any]] = {
    "both modules": {},
    "structural alone": {"logical": False},
    "logical alone": {"structural": False},
}
OPTIONS: dict[str, Any] = {"steps": 500, "logical_steps": 1000}


def spotted(kind: str, generator: np.random.Generator) -> worlds.Drawn:
    """Disc and square; "spot" is a good image with a light spot of 10 pixels a side."""
    if kind != "spot":
        return worlds.disc_and_square(generator, (SIDE, SIDE), kind)
    image, mask = worlds.disc_and_square(generator, (SIDE, SIDE))
    y, x = generator.integers(SIDE - 10, size=2)
    mask[y : y + 10, x : x + 10] = True
    image[mask] = image[mask] // 2 + 110
    return image, mask


def named() -> dict[str, tuple[Callable[..., worlds.Drawn], Sequence[str], Sequence[str]]]:
    """Worlds by name: how to draw, and their structural and logical kinds."""
    return {
        "tray": (worlds.PartsWorld(size=SIDE).draw, DAMAGES, BREACHES),
        "tray with nests": (worlds.PartsWorld(size=SIDE, nests=True).draw, DAMAGES, BREACHES),
        "disc and square": (spotted, ("spot",), worlds.SWAPS),
    }


def written(name: str) -> Path:
    """The data set of a world, drawn once."""
    draw, structural, logical = named()[name]
    root = ROOT / name.replace(" ", "_")
    if not (root / "test").is_dir():
        for part, kinds, train, good in (("", structural, 100, 60), ("more", logical, 0, 0)):
            generator = np.random.default_rng([len(part), SIDE])
            worlds.write_dataset(root, draw, kinds, generator, train=train, good=good, each=60 // len(kinds))
    return root


def figures(root: Path, detector: Detector, kinds: Sequence[str]) -> float:
    """Image AUROC of good images against these kinds."""
    score = partial(_scores, detector, root)
    good, bad = score(["good"]), score(kinds)
    return auroc([0] * len(good) + [1] * len(bad), good + bad)


def _scores(detector: Detector, root: Path, kinds: Sequence[str]) -> list[float]:
    files = [path for kind in kinds for path in sorted((root / "test" / kind).glob("*.png"))]
    return [result.score for result in detector.inspect_many(files)]


def rows(name: str) -> list[str]:
    """A line of the table for each variant."""
    root, (_, structural, logical) = written(name), named()[name]
    lines = []
    for label, options in VARIANTS.items():
        start, found = time.process_time(), []
        for seed in SEEDS:
            # same size of the network's input as of the images
            detector = Detector(
                METHOD, image_size=SIDE, seed=seed, calibration="none", cache=FeatureCache(), **OPTIONS, **options
            )
            detector.fit(root / "train" / "good")
            found.append([figures(root, detector, kinds) for kinds in (structural, logical)])
            print(name, label, seed, *(f"{value:.3f}" for value in found[-1]), flush=True)
        seconds = (time.process_time() - start) / len(SEEDS)
        means, spreads = np.mean(found, 0), np.std(found, 0, ddof=1)
        cells = " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(means, spreads, strict=True))
        lines.append(f"| {name} | {label} | {cells} | {seconds:.0f} |")
    return lines


def main() -> None:
    """Draw, learn, inspect, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--world", choices=list(named()), action="append")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = [line for name in arguments.world or named() for line in rows(name)]
    options = ", ".join(f"{key} = {value}" for key, value in OPTIONS.items())
    page = [
        "# What the logical module finds",
        "",
        f"Made by `python benchmarks/logical.py`: drawn worlds of {SIDE} x {SIDE} pixels, 100 good images to learn from,",
        "60 good, 60 structural and 60 logical ones to test with; mean image AUROC and standard deviation over",
        f"{len(SEEDS)} seeds. `{METHOD}` with {options}. Every part of a logical image looks as on good ones; a rule is",
        "broken: one too many or too few, the wrong kind, swapped places, the wrong colour.",
        "",
        "| world | modules | structural | logical | CPU s of fit and test |",
        "|---|---|---|---|---|",
        *table,
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
