"""Is the promised false-alarm rate kept? Writes docs/results/promise.md.

    python benchmarks/promise.py [--splits 200]

The good solar cells are drawn anew many times into a part to calibrate from and a part to test on, by cell and by block
of 64 neighbouring file numbers (cells of one module stand side by side). One model, learned from a third of the blocks
that is in neither part, gives every score once; a split only draws which of them calibrate. Beside the conformal
threshold, counted per cell and per block, stands the plain empirical quantile, numpy's default, that most tools use.
Then the same of windows of normal heartbeats, drawn by window and by recording, from people whom the model has not seen;
the model is the one that `benchmarks/heartbeats.py --protocols A` leaves.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from blemish import Detector
from blemish.data import layouts
from blemish.data.layouts import Query, elpv
from blemish.data.signal.preprocess import Window
from blemish.inspection.conformal import conformal_threshold, images_needed
from blemish.types import Record

RATES = (0.01, 0.05, 0.10)
SIZES = {"cell": (20, 100, 300), "block": (9, 19), "window": (20, 100, 300), "recording": (9, 15)}  # calibrated from
HEARTS = Path(".bench/heartbeats/A-MLII-default-seed0.blemish")


def scores(method: str) -> tuple[list[Record], np.ndarray]:
    """Good cells that the model has not learned from, and their scores."""
    good = [r for r in elpv.index(elpv.locate(), Query()) if r.label == 0 and r.split != "held"]
    blocks = sorted({str(r.unit) for r in good})
    random.Random(0).shuffle(blocks)
    learn = set(blocks[: len(blocks) // 3])
    test = [r for r in good if str(r.unit) not in learn]
    training = [replace(r, split="train") for r in good if str(r.unit) in learn]
    detector = Detector(method, calibration="none").fit(training)
    return test, np.array([result.score for result in detector.inspect_many(r.path for r in test)])


def hearts(folder: Path) -> tuple[list[Record], np.ndarray]:
    """Normal windows of tested recordings, and their scores. SystemExit where the model is not there."""
    if not HEARTS.is_dir():
        raise SystemExit(f"{HEARTS} is not there: python benchmarks/heartbeats.py --protocols A makes it")
    records = [r for r in layouts.index(folder, "wfdb", "inter-patient") if r.split == "test" and r.label == 0]
    records = [replace(r, unit=r.path.stem) for r in records]
    results = Detector.load(HEARTS).inspect_many(Window(r.path, r.span) for r in records)
    return records, np.array([result.score for result in results])


def by_image(records: list[Record], n: int, generator: random.Random) -> tuple[list[int], list[int]]:
    """Calibrate from n cells, test on the others."""
    order = list(range(len(records)))
    generator.shuffle(order)
    return order[:n], order[n:]


def by_block(records: list[Record], n: int, generator: random.Random) -> tuple[list[int], list[int]]:
    """Calibrate from n whole blocks, test on the others."""
    blocks = sorted({str(r.unit) for r in records})
    generator.shuffle(blocks)
    taken = set(blocks[:n])
    sides: tuple[list[int], list[int]] = ([], [])
    for i, record in enumerate(records):
        sides[str(record.unit) not in taken].append(i)
    return sides


def rows(method: str, records: list[Record], values: np.ndarray, names: tuple[str, str], splits: int) -> list[str]:
    """One row per way of drawing, size and rate; `names` of a sample and of a unit."""
    out = []
    numbers = {unit: i for i, unit in enumerate(sorted({str(r.unit) for r in records}))}
    ways: dict[str, Callable[[list[Record], int, random.Random], tuple[list[int], list[int]]]] = {
        names[0]: by_image,
        names[1]: by_block,
    }
    for way, draw in ways.items():
        for n in SIZES[way]:
            for rate in RATES:
                generator = random.Random(1)
                ours, per_block, plain = [], [], []
                for _ in range(splits):
                    held, test = draw(records, n, generator)
                    calibration, fresh = values[held].tolist(), values[test]
                    units = [numbers[str(records[i].unit)] for i in held] if way == names[1] else []
                    plain.append(float((fresh > np.quantile(calibration, 1 - rate)).mean()))
                    if len(held) >= images_needed(rate):
                        ours.append(float((fresh > conformal_threshold(calibration, rate)).mean()))
                    if units and n >= images_needed(rate):
                        per_block.append(float((fresh > conformal_threshold(calibration, rate, units)).mean()))
                out.append(
                    f"| {method} | {way} | {n} | {rate:.0%} | {_mean(ours)} | {_range(ours)} "
                    f"| {_mean(per_block) if way == names[1] else ''} | {_mean(plain)} |"
                )
    return out


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.2%} ± {np.std(values) / np.sqrt(len(values)):.2%}" if values else "refused"


def _range(values: list[float]) -> str:
    return f"{np.quantile(values, 0.05):.1%} to {np.quantile(values, 0.95):.1%}" if values else ""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--methods", default="padim,patchcore")
    parser.add_argument("--hearts", type=Path, default=Path("../shared/data/mitbih"), help="recordings")
    parser.add_argument("--out", type=Path, default=Path("docs/results/promise.md"))
    arguments = parser.parse_args()
    records, windows = hearts(arguments.hearts)  # first: it may not be there
    lines = [
        "# The promise",
        "",
        f"Made by `python benchmarks/promise.py`: {arguments.splits} random splits of ELPV's good cells.",
        "A conformal threshold promises that the *mean* over splits is at most the asked rate; one split may lie above or",
        "below it. Drawn by block, cells are not exchangeable: counted per cell the promise holds about, counted per block",
        "(`--promise-per unit`) it is exact, at the price of strictness. Mean ± standard error; the middle 90 % of splits; refused =",
        "too few to promise that rate.",
        "",
        "| method | drawn by | calibrated from | asked | conformal, per cell | 90 % of splits | per block | plain quantile |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in arguments.methods.split(","):
        lines += rows(method, *scores(method), ("cell", "block"), arguments.splits)
    people = len({r.unit for r in records})
    lines += [
        "",
        f"Normal windows of heartbeats ({len(records):,} windows of {people} people whom the model has not seen), drawn by",
        "window and by recording:",
        "",
        "| method | drawn by | calibrated from | asked | conformal, per window | 90 % of splits | per recording | plain quantile |",
        "|---|---|---|---|---|---|---|---|",
        *rows("mmae_ecg", records, windows, ("window", "recording"), arguments.splits),
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
