"""Does inspection get slower with the number of categories? Writes docs/results/categories.md.

    python benchmarks/categories.py

A `dfc` model of one real product (`aws_aliens`) is widened to 6, 60 and 600 categories: the further ones are synthetic,
random anchors with copies of the real head. The same images go through all of them, in turns, on one thread, so every
image is of the real product; what a station sees that changes products for each part is not measured here.
"""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from blemish import Detector
from blemish.data import layouts
from blemish.inspection.categories import Categories, Known
from blemish.inspection.inspector import Inspector
from blemish.inspection.modelfile import Model
from blemish.inspection.routed import VOTE, head_name
from blemish.learning import export
from blemish.learning.fitted import restore, restore_vote
from blemish.ops.arrays import unit

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "aws_aliens"
PAGE = Path("docs/results/categories.md")
COUNTS = (1, 6, 60, 600)
ROUNDS = 5


def widened(model: Model, count: int) -> Model:
    """The same model among `count` categories, all but the first one synthetic."""
    _, method = restore(model)
    vote = restore_vote(model)
    assert vote is not None
    assert model.categories is not None
    generator = np.random.default_rng(0)
    anchors = vote.anchors
    for name, shape in (
        ("anchors", (count - 1, *anchors.anchors.shape[1:])),
        ("centres", (count - 1, len(anchors.mean))),
    ):
        more = unit(generator.standard_normal(shape, np.float32), -1)
        setattr(anchors, name, np.concatenate([getattr(anchors, name), more]))
    anchors.weight = np.concatenate([anchors.weight, np.ones((count - 1, anchors.count), np.float32)])
    heads = {VOTE: export.export_vote(vote, method.spec)}
    heads |= {head_name(k): model.heads[head_name(0)] for k in range(count)}
    none = (None,) * (count - 1)
    known = {p: Known((*k.scores, *none), (*k.strangeness, *none)) for p, k in model.categories.known.items()}
    names = (*model.categories.names, *(f"synthetic {k}" for k in range(1, count)))
    return replace(model, heads=heads, categories=Categories(names, known))


def main() -> None:
    """Widen, time in turns, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    detector = Detector("dfc", image_size="256sq").fit(DATA)
    paths = [r.path for r in layouts.index(DATA) if r.split == "test"][:24]
    lines, loads, decided = {}, {}, {}
    for count in COUNTS:
        model = widened(detector.model, count)
        before = perf_counter()
        lines[count] = Inspector(model, threads=1)
        lines[count].inspect(paths[0])
        loads[count] = perf_counter() - before
    times: dict[int, list[float]] = {count: [] for count in COUNTS}
    for turn in range(ROUNDS + 1):
        for path in paths:
            for count, line in lines.items():
                start = process_time()
                result = line.inspect(path)
                if turn:  # the first round warms up
                    times[count].append(1000 * (process_time() - start))
                decided.setdefault(count, set()).add(result.category)
    base = median(times[COUNTS[0]])
    rows = [
        f"| {count} | {median(times[count]):.1f} | {median(times[count]) / base:.2f} | {loads[count]:.2f} "
        f"| {', '.join(sorted(decided[count]))} |"
        for count in COUNTS
    ]
    page = [
        "# Inspection time and the number of categories",
        "",
        "Made by `python benchmarks/categories.py`: `dfc` learned one real product; the further categories are synthetic",
        f"(random anchors, copies of its head). Processor milliseconds from file to result on one thread, median of {len(paths)}",
        f"images of the real product in {ROUNDS} rounds, all models in turns; seconds to open a model and inspect a first image.",
        "",
        "| categories | ms | × one category | seconds to open | decided |",
        "|---|---|---|---|---|",
        *rows,
    ]
    arguments.out.write_text("\n".join(page) + "\n", encoding="utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    main()
