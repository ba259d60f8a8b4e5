"""How good is what method auto chooses? Writes docs/results/choosing.md.

    python benchmarks/choosing.py [--sets mtd,elpv_mono] [--seeds 0,1,2] [--budget 5m] [--page docs/results/choosing.md]

For each set and seed method auto chooses from the good training images, learns from them all, and judges the test images.
Beside its image AUROC stand that of the default method and of the best single one in the ledger, on the same seed; the
difference to the latter is the regret. Choosing sees no test image. Figures are kept in .bench/choosing/.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from kept import kept
from pyarrow import parquet
from ranks import DATA, SETS

from blemish import Detector
from blemish.data import layouts
from blemish.evaluation.metrics.ranking import auroc
from blemish.files import write_whole
from blemish.learning.options import FitOptions

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(".bench/choosing")
IN_LEDGER = {
    "mtd": ("mtd, by tile", None),
    "deeppcb_s": ("deeppcb_s", None),
    "aws_aliens": ("aws_aliens", None),
    "elpv_mono": ("ELPV, by block", "mono"),
    "elpv_poly": ("ELPV, by block", "poly"),
}


def measured(name: str, seed: int, budget: str, data: Path) -> dict[str, Any]:
    """What is chosen for a set, and its AUROC on the test images."""
    source, group = SETS[name]
    records = layouts.index(data / source if group is None else source, seed=seed)
    records = [r for r in records if group is None or r.group == group]
    detector = Detector("auto", calibration="none", seed=seed, budget=budget).fit(records)
    test = [r for r in records if r.split == "test"]
    scores = [result.score for result in detector.inspect_many([r.path for r in test])]
    area = auroc(np.array([r.label for r in test]), np.array(scores))
    return {"auroc": area, "chosen": list(detector.model.meta.chosen)}


def ledger(name: str, seed: int) -> dict[str, float]:
    """Image AUROC of each method in the ledger, on a set and seed; those of earlier versions of a method among them."""
    figures = parquet.read_table(ROOT / "docs/ledger/results.parquet").to_pylist()
    where, group = IN_LEDGER[name]
    names = {where if group is None else f"{where}: {group}"}
    return {
        str(row["label"]): float(row["value"])
        for row in figures
        if row["where"] in names and row["seed"] == seed and row["metric"] == "I-AUROC" and row["scope"] == "overall"
    }


def page(found: dict[tuple[str, int], dict[str, Any]], sets: list[str], seeds: list[int], budget: str) -> str:
    """The table."""
    lines = [
        "# What method auto chooses",
        "",
        f"Made by `python benchmarks/choosing.py --sets {','.join(sets)} --seeds {','.join(map(str, seeds))} --budget {budget}`. Image AUROC on test images,",
        "which choosing never sees. *Best* is the best method of the [ledger](../ledger.md) by the same test images, which nobody can know",
        "beforehand; regret is how much is lost against it, gain what is won against the default method.",
        "",
        "| set | seed | chosen | image AUROC | default | best | regret | gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    regrets, gains = [], []
    for (name, seed), each in found.items():
        first, known = each["chosen"][0], ledger(name, seed)
        size = first["image_size"] + (", located" if first["located"] else "")
        best = max(known, key=lambda m: known[m])
        regrets.append(known[best] - each["auroc"])
        gains.append(each["auroc"] - known[FitOptions.method])
        lines.append(
            f"| {name} | {seed} | `{first['method']}` {size} | {each['auroc']:.3f} | {known[FitOptions.method]:.3f} "
            f"| {known[best]:.3f} (`{best}`) | {regrets[-1]:+.3f} | {gains[-1]:+.3f} |"
        )
    lines += [
        "",
        f"Mean regret {np.mean(regrets):+.3f}, worst {max(regrets):+.3f}; mean gain over the default {np.mean(gains):+.3f}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    sets, seeds = args.sets.split(","), [int(seed) for seed in args.seeds.split(",")]
    if unknown := set(sets) - SETS.keys():
        raise SystemExit(f"no set of {sorted(SETS)}: {', '.join(sorted(unknown))}")
    found = {
        (name, seed): kept(
            OUT / f"{name}-{seed}-{args.budget}.json",
            lambda name=name, seed=seed: measured(name, seed, args.budget, args.data),  # type: ignore[misc]
        )
        for name in sets
        for seed in seeds
    }
    text = page(found, sets, seeds, args.budget)
    write_whole(args.page, text.encode()) if args.page else print(text)


if __name__ == "__main__":
    main()
