"""How well methods find synthetic defects that they were not taught with: what options are compared by.

    python benchmarks/synthetic_defects.py --sets deeppcb_s protoot "protoot:variety=0.2,most=8"

A method learns from about 80 % of at most 320 good images of a set, as `ranks.py` divides them; the others are scored as they
are and with the 84 `graded` defects that `ranks.py` draws on them (repeat 0). One line for each: AUROC of the image
scores, AUPRO@0.3 of the maps, processor seconds of the fit. No test image is read. Options stand behind a colon; `+` joins
the values of a tuple.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from time import process_time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from ranks import DATA, SETS, drawn, split

from blemish import Detector
from blemish.data.image.decode import read_image
from blemish.evaluation.metrics.aupro import aupro
from blemish.evaluation.synthetic import Trial, separation

SIDE = 128  # pixels of a map's shorter side, about, on which AUPRO is taken


def value(text: str) -> Any:
    """An option's value as it was typed."""
    if "+" in text:
        return tuple(value(part) for part in text.split("+"))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def measured(name: str, method: str, options: dict[str, Any], seed: int, data: Path) -> tuple[float, float, float]:
    """AUROC, AUPRO and processor seconds of a method on a set."""
    parts = split(name, 0, data)
    made = drawn(parts.held, "graded", 0)
    start = process_time()
    detector = Detector(method, calibration="none", seed=seed, precision="f32", **options).fit(parts.learn)
    seconds = process_time() - start
    good = [r.score for r in detector.inspect_many([record.path for record in parts.held])]
    found = list(detector.inspect_many(made.image))
    maps, masks = [], []
    for result, number, image in zip(found, made.source, made.image, strict=True):
        changed = np.asarray(image) != read_image(parts.held[number].path)
        mask = changed.any(2) if changed.ndim == 3 else changed
        step = max(1, min(mask.shape) // SIDE)
        masks.append(mask[::step, ::step].astype(np.uint8))
        maps.append(result.anomaly_map[::step, ::step])
    return separation(Trial.of(good, [r.score for r in found], made.source)), aupro(maps, masks), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", help="NAME or NAME:option=value,option=value")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    if unknown := set(args.sets.split(",")) - SETS.keys():
        raise SystemExit(f"no set of {sorted(SETS)}: {', '.join(sorted(unknown))}")
    for name in args.sets.split(","):
        for spec in args.methods:
            method, _, typed = spec.partition(":")
            options = {key: value(text) for key, text in (pair.split("=", 1) for pair in typed.split(",") if pair)}
            for seed in map(int, args.seeds.split(",")):
                found, places, seconds = measured(name, method, options, seed, args.data)
                print(f"{name} {spec} seed {seed}: AUROC {found:.3f}, AUPRO {places:.3f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
