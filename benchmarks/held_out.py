"""Held-out images, folds, or each image left out once: what each costs and promises. Writes docs/results/held_out.md.

    OPENBLAS_NUM_THREADS=1 python benchmarks/held_out.py [--trials 8]      # ten minutes of one core

In each trial n good training images are chosen at random. A model that learns from all of them gets its threshold from
folds, and from each image left out once; another one holds some out. The methods are those of the package, on patch
descriptors that are computed once for each set.
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish import config
from blemish.data import layouts
from blemish.evaluation.metrics.intervals import delong
from blemish.inspection.conformal import conformal_threshold, images_needed
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.fit import fit
from blemish.learning.options import FitOptions
from blemish.learning.plan import FitPlan, load_backbone
from blemish.learning.splits import FOLDS
from blemish.methods.base import Method
from blemish.methods.padim import PaDiM
from blemish.methods.patchcore import PatchCore
from blemish.types import Batch, FeatureSpec, Record

SETS = {
    "mtd": ("mtd", []),
    "ELPV mono": ("elpv", ["mono"]),
    "ELPV poly": ("elpv", ["poly"]),
    "deeppcb_s": ("deeppcb_s", []),
    "aws_aliens": ("aws_aliens", []),
}
SIZES = (20, 30, 60, 100, 200)
RATES = (0.05, 0.10)
MOST = 150  # test images of each kind, and fresh good ones
WAYS = ("split", "folds", "leave one out")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "held_out.md"
Floats = NDArray[np.float32]


class OfDescriptors:
    """A method that is given its patch descriptors, in `Batch.x`."""

    def _descriptors(self, batch: Batch, *_: Any) -> Any:
        return batch.x


class FastPaDiM(OfDescriptors, PaDiM):
    """PaDiM, given descriptors."""


class FastPatchCore(OfDescriptors, PatchCore):
    """PatchCore, given descriptors."""


METHODS: dict[str, type[Method[Any]]] = {"padim": FastPaDiM, "patchcore": FastPatchCore}


@dataclass
class Pictures:
    """Patch descriptors of a set: of its good training images, and of its test images."""

    good: Floats  # (N, P, C)
    test: Floats
    labels: NDArray[np.int64]  # of the test images
    spec: FeatureSpec
    size: tuple[int, int]

    @classmethod
    def of(cls, source: str, categories: list[str], data: Path) -> Pictures:
        """From the cache, or by the backbone."""
        records = layouts.select(layouts.index(source if source == "elpv" else data / source), categories)
        good = [r for r in records if r.split == "train" and r.label == 0]
        test = [
            r
            for label in (0, 1)
            for r in chosen_of([r for r in records if (r.split, r.label) == ("test", label)], MOST)
        ]
        options = config.build(FitOptions, {"method": "patchcore"})
        plan = FitPlan.of(good, options, backbone=load_backbone(options), cache=FeatureCache())
        method = plan.chunk.method(plan.source)
        found = [
            np.concatenate([method._descriptors(batch) for batch in plan.source.batches(part)]) for part in (good, test)
        ]
        labels = np.array([r.label for r in test])
        return cls(found[0], found[1], labels, plan.source.spec, plan.modality.size)

    def fitted(self, name: str, chosen: NDArray[np.int64], *, keeps: bool = False, seed: int = 0) -> Method[Any]:
        """The method after it has learned these good images."""
        method = METHODS[name](METHODS[name].Config(), self.spec, self.size, seed)
        for start in range(0, len(chosen), 16):
            method.observe(self.batch(chosen[start : start + 16]))
        method.keeps = keeps
        method.conclude()
        return method

    def batch(self, chosen: NDArray[np.int64]) -> Batch:
        """These good images."""
        return Batch(size=self.size, x=self.good[chosen], ids=tuple(map(str, chosen)))

    def scores(self, method: Method[Any], x: Floats) -> NDArray[np.float64]:
        """Of images (N, P, C)."""
        parts = [method.predict(Batch(size=self.size, x=x[i : i + 16])).score for i in range(0, len(x), 16)]
        return np.concatenate([np.zeros(0), *parts])

    def left_out(self, method: Method[Any], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each of these learned images as if it had not been learned."""
        batches = [self.batch(chosen[i : i + 1]) for i in range(len(chosen))]
        return np.array([float(method.left_out(batch, batch).score[0]) for batch in batches])


def chosen_of(records: list[Record], most: int) -> list[Record]:
    """A sample of the records of this maximum size, always the same one."""
    return random.Random(0).sample(records, min(most, len(records)))


class Trial(NamedTuple):
    """The results of one random choice of n images."""

    auroc: dict[str, float]  # of what has learned from a part, or from all
    fresh: dict[str, float]  # by way and rate: share of other good training images above the threshold
    test: dict[str, float]  # of good test images


def held(n: int) -> int:
    """As many as are held out of n: a fifth, or as many as a rate needs, where half or more is left."""
    needed = [images_needed(rate) for rate in RATES if images_needed(rate) <= n // 2]
    return max(round(0.2 * n), *needed)


def one(pictures: Pictures, name: str, n: int, seed: int) -> Trial:
    """Choose n good images at random, learn and calibrate in every way, measure on images that no model has seen."""
    order = np.random.default_rng([seed, n]).permutation(len(pictures.good))
    chosen, fresh = order[:n], order[n : n + MOST]
    out, rest = chosen[: held(n)], chosen[held(n) :]
    part, whole = pictures.fitted(name, rest), pictures.fitted(name, chosen, keeps=True)
    calibration = {WAYS[0]: pictures.scores(part, pictures.good[out]), WAYS[2]: pictures.left_out(whole, chosen)}
    folds = [chosen[k::FOLDS] for k in range(FOLDS)]
    learned = [pictures.fitted(name, np.setdiff1d(chosen, fold)) for fold in folds]
    in_folds = [pictures.scores(one, pictures.good[fold]) for one, fold in zip(learned, folds, strict=True)]
    calibration[WAYS[1]] = np.concatenate(in_folds)
    seen = [
        (pictures.scores(model, pictures.test), pictures.scores(model, pictures.good[fresh])) for model in (part, whole)
    ]
    above: list[dict[str, float]] = [{}, {}]
    for way, values in calibration.items():
        test, new = seen[way != WAYS[0]]
        for rate in (rate for rate in RATES if len(values) >= images_needed(rate)):
            threshold = conformal_threshold(values.tolist(), rate)
            for found, scores in zip(above, (new, test[pictures.labels == 0]), strict=True):
                if len(scores):
                    found[f"{way} {rate:g}"] = float((scores > threshold).mean())
    areas = [delong(pictures.labels, test).value for test, _ in seen]
    return Trial(dict(zip(("part", "all"), areas, strict=True)), *above)


def all_trials(sets: dict[str, Pictures], count: int, kept: Path) -> dict[tuple[str, str, int], list[Trial]]:
    """So many of each method, set and size; results that are in the file are not repeated."""
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    trials: dict[tuple[str, str, int], list[Trial]] = {}
    for name in METHODS:
        for title, pictures in sets.items():
            for n in (n for n in SIZES if n <= len(pictures.good)):
                found = [Trial(*each) for each in known.get(f"{name}, {title}, {n}", [])]
                most = max(count // 2, 2) if n == max(SIZES) else count
                found += [one(pictures, name, n, seed) for seed in range(len(found), most)]
                trials[name, title, n], known[f"{name}, {title}, {n}"] = found, found
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(known))
                print(name, title, n, f"{process_time():.0f} s", flush=True)
    return trials


def mean(values: list[float], unit: float = 1.0) -> str:
    """With its standard error."""
    if len(values) < 2:
        return "–"
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values) * unit:.1f} ± {error * unit:.1f}" if unit > 1 else f"{np.mean(values):.3f} ± {error:.3f}"


def accuracy(trials: dict[tuple[str, str, int], list[Trial]]) -> Iterator[str]:
    """Image AUROC of a model that has learned from all, and of one that has not."""
    yield "| method | set | images | held out | AUROC, rest learned | AUROC, all learned | difference, paired |"
    yield "|---|---|---|---|---|---|---|"
    for (name, title, n), found in trials.items():
        part, whole = ([d.auroc[key] for d in found] for key in ("part", "all"))
        more = [b - a for a, b in zip(part, whole, strict=True)]
        yield (
            f"| `{name}` | {title} | {n} | {held(n)} | {np.mean(part):.3f} | {np.mean(whole):.3f} | "
            f"{'+' if np.mean(more) >= 0 else ''}{mean(more)} |"
        )


def promise(trials: dict[tuple[str, str, int], list[Trial]], where: str) -> Iterator[str]:
    """Share of good images above the threshold, over sets and trials."""
    yield "| method | images | asked | " + " | ".join(WAYS) + " | " + " | ".join(f"{w}, one model" for w in WAYS) + " |"
    yield "|---|---|---|" + "---|" * 2 * len(WAYS)
    for name in METHODS:
        for n in SIZES:
            found = [d for (m, _, k), each in trials.items() if (m, k) == (name, n) for d in each]
            for rate in RATES:
                shares = [
                    [v for d in found if (v := getattr(d, where).get(f"{way} {rate:g}")) is not None] for way in WAYS
                ]
                spread = [f"{np.quantile(s, 0.1):.0%} to {np.quantile(s, 0.9):.0%}" if s else "" for s in shares]
                cells = [*(f"{mean(s, 100)} %" if s else "refused" for s in shares), *spread]
                yield f"| `{name}` | {n} | {rate:.0%} | " + " | ".join(cells) + " |"


def again(sets: dict[str, Pictures], n: int) -> Iterator[str]:
    """Left-out scores beside those of models that have really learned without the image."""
    yield "| method | set | images | rank correlation | mean difference | mean absolute | the same, two starts |"
    yield "|---|---|---|---|---|---|---|"
    for name in METHODS:
        for title in ("ELPV poly", "deeppcb_s"):
            pictures = sets[title]
            chosen = np.random.default_rng(n).permutation(len(pictures.good))[:n]
            left = pictures.left_out(pictures.fitted(name, chosen, keeps=True), chosen)
            truth, other = (
                np.array(
                    [
                        pictures.scores(pictures.fitted(name, np.setdiff1d(chosen, i), seed=seed), pictures.good[[i]])[
                            0
                        ]
                        for i in chosen
                    ]
                )
                for seed in (0, 1)
            )
            figures = [
                f"{np.corrcoef(a.argsort().argsort(), truth.argsort().argsort())[0, 1]:.3f} | "
                f"{(a - truth).mean() / truth.std():+.1%} | {np.abs(a - truth).mean() / truth.std():.1%}"
                for a in (left, other)
            ]
            yield f"| `{name}` | {title} | {n} | {figures[0]} | {figures[1].replace(' | ', ', ')} |"


def cost(counts: tuple[int, ...] = (30, 60), repeats: int = 2) -> Iterator[str]:
    """Processor time of a whole fit, as a ratio to a split; features are in the cache."""
    yield "| method | images | folds | leave one out | split, seconds |"
    yield "|---|---|---|---|---|"
    good = [r for r in layouts.select(layouts.index("elpv"), ["poly"]) if r.split == "train" and r.label == 0]
    for name in METHODS:
        for n in counts:
            times: dict[str, list[float]] = {}
            for _ in range(repeats + 1):
                for way in ("split", "folds", "leave_one_out"):
                    given = {"method": name, "calibration": way, "false_alarm_rate": 0.1, "held_out": 0.3}
                    start = process_time()
                    fit(chosen_of(good, n), config.build(FitOptions, given), cache=FeatureCache())
                    times.setdefault(way, []).append(process_time() - start)
            seconds = {way: float(np.median(each[1:])) for way, each in times.items()}
            ratios = [f"{seconds[way] / seconds['split']:.2f}" for way in ("folds", "leave_one_out")]
            yield f"| `{name}` | {n} | {ratios[0]} | {ratios[1]} | {seconds['split']:.1f} |"


def page(
    trials: dict[tuple[str, str, int], list[Trial]], count: int, again: Iterable[str], cost: Iterable[str]
) -> list[str]:
    """Its lines."""
    return [
        *HEAD.format(trials=count, half=max(count // 2, 2), most=MOST).splitlines(),
        *WHICH.splitlines(),
        "",
        "## The promise",
        PROMISE,
        "",
        *promise(trials, "fresh"),
        "",
        "The same of good *test* images, which are other tiles, blocks of cells and circuits than the training images:",
        "",
        *promise(trials, "test"),
        "",
        "## Accuracy",
        "On the test images, shown and not chosen by:",
        "",
        *accuracy(trials),
        "",
        "## Left out, or learned again",
        AGAIN,
        "",
        *again,
        "",
        "## Cost",
        "Processor time of a whole `fit` with features in the cache, as a ratio to a split; median of two, interleaved.",
        "",
        *cost,
    ]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the sets")
    parser.add_argument(
        "--kept",
        type=Path,
        default=Path(".bench/held_out.json"),
        help="results of earlier trials, which are not repeated",
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        raise SystemExit(f"{arguments.data} is not there: give the folder of the real sets (--data)")
    warnings.simplefilter("ignore")
    sets = {title: Pictures.of(*where, arguments.data) for title, where in SETS.items()}
    trials = all_trials(sets, arguments.trials, arguments.kept)
    lines = page(trials, arguments.trials, again(sets, 30), cost())
    arguments.page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


HEAD = """# Held-out images
Made by `python benchmarks/held_out.py`: {trials} random choices of n good training images ({half} of the largest n) from each set
that has enough, default options. *Split* holds a fifth out, or as many as 5 % needs (19), or as many as 10 % needs (9), at
most half. *Folds* and *leave one out* learn from all. Up to {most} test images of each kind, and {most} fresh good ones.
"""
WHICH = """## What `auto` does
A split where a fifth of the images is as many as the rate needs (at 5 %: 93 images, of which 19 are held out), since its promise
is exact and enough is left to learn from. With fewer, each image is left out once where the method can do that: good parts are
then rejected about as often as asked, on average as with a split, and all images are learned from. In folds far fewer are
rejected than asked, because what has learned a fifth less judges more strictly, most of all with one Gaussian at each
place: a threshold that is too high costs defects. Folds are left for methods that cannot leave images out. The rule
follows from theory and from the first table; test images had no part in it.
"""
PROMISE = """Share of good images above the threshold: of fresh good ones from the pool that the n were chosen from, so that
all are exchangeable. Mean ± standard error over sets and choices; then the middle 80 % of single models."""
AGAIN = """Scores of each chosen image, left out of what was learned, beside those by a method that has learned all the
others. Differences are shares of the standard deviation of the latter. The last column compares two that have learned
again, whose coresets start at other patches."""


if __name__ == "__main__":
    main()
