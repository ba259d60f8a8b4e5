"""How often does one model break its promise, on average and with a confidence? Writes docs/results/confidence.md.

    python -m benchmarks.confidence [--splits 2000]

Three ways of drawing, and a rate of 5 % everywhere. *Uniform*: scores from a generator, whose true rate above a
threshold is known. *Cells*: good solar cells that a model has not learned from, drawn with replacement, so that all of
them are the line that is promised for and the true rate is counted, not estimated. *Split*: cells drawn without
replacement, and the rate in the others: as a user would check, with the noise of a finite test set. Beside them the
chances in theory, of Beta(r + 1, n - r) and of the beta-binomial count in a finite test set, by SciPy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.promise import scores
from blemish.inspection.conformal import Calibrator, conformal_threshold

RATE = 0.05
SIZES = (59, 100, 152, 300)
CONFIDENCES = (None, 0.9, 0.95, 0.99)
UNIFORM = 10_000  # calibrations from uniform scores


def drawn(
    way: str, values: NDArray[np.float64], n: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """(n,) scores to calibrate from, and those whose rate is the true one; None = uniform ones without end."""
    if way == "uniform":
        return generator.random(n), None
    if way == "cells":
        return generator.choice(values, n), values
    order = generator.permutation(values)
    return order[:n], order[n:]


def rates(
    way: str, values: NDArray[np.float64], n: int, confidence: float | None, calibrations: int
) -> NDArray[np.float64]:
    """(calibrations,): the true rate of each one's threshold; the same draws whatever the confidence."""
    generator, out = np.random.default_rng(n), []
    for _ in range(calibrations):
        held, line = drawn(way, values, n, generator)
        threshold = conformal_threshold(held.tolist(), RATE, confidence=confidence)
        out.append(1 - threshold if line is None else float((line > threshold).mean()))
    return np.array(out)


def row(values: NDArray[np.float64], n: int, confidence: float | None, calibrations: int) -> str:
    """One row of the table; too few images for a confidence are said."""
    name = "on average" if confidence is None else f"{confidence:.0%} sure"
    if confidence is not None and (1 - RATE) ** n > 1 - confidence:
        return f"| {n} | {name} | refused | | | | | | |"
    points = [float(i) for i in range(n)]
    r = Calibrator.fit(points, points, RATE, confidence=confidence).above
    shares, means = [], []
    for way, count in (("uniform", UNIFORM), ("cells", calibrations), ("split", calibrations)):
        found = rates(way, values, n, confidence, count)
        shares.append(f"{(found > RATE).mean():.1%}")
        means.append(f"{found.mean():.1%}")
    chance = float(stats.beta.sf(RATE, r + 1, n - r))
    rest = len(values) - n
    checked = float(stats.betabinom.sf(int(RATE * rest), rest, r + 1, n - r))
    return f"| {n} | {name} | {r} | {chance:.1%} | {' | '.join(shares)} | {checked:.1%} | {means[1]} |"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=2000)
    parser.add_argument("--method", default="padim")
    parser.add_argument("--out", type=Path, default=Path("docs/results/confidence.md"))
    arguments = parser.parse_args()
    _, values = scores(arguments.method)
    lines = [
        "# The promise of one model",
        "",
        f"Made by `python -m benchmarks.confidence`: {arguments.splits:,} calibrations from good ELPV cells, {len(values)} of them",
        f"that `{arguments.method}` has not learned from, and {UNIFORM:,} from uniform scores. Asked: at most {RATE:.0%} of good parts rejected.",
        "",
        "How many calibrations gave a threshold whose rate is *above* the promise. *In theory* and *uniform* are the same number, computed",
        "and simulated: with a confidence of 95 % it is 5 % or less. *Cells*: drawn with replacement, the true rate counted over all of",
        "them. *Split*: the rate in the cells that were not drawn, which is the true one with the noise of so few; *a split, in theory* has",
        "the same noise, and may lie above 5 %. r is how many of the n held-out scores lie above the threshold; refused = too few.",
        "",
        "| n | promise | r | in theory | uniform | cells | split | a split, in theory | mean rate, cells |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(values, n, confidence, arguments.splits) for n in SIZES for confidence in CONFIDENCES),
    ]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
