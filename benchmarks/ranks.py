"""Do synthetic defects rank methods as real ones do? Writes docs/results/ranks.md.

    python benchmarks/ranks.py [--methods padim,patchcore,...] [--sets mtd,...] [--models .bench/ranks] [--repeats N]

Each method learns from about 80 % of the good training images of a set, whole groups, and scores the others, the same
with synthetic defects, and the test images. `--models` holds SET/METHOD/REPEAT/: the model, `held.json` (the images held
out, by their ids) and `scores.json`; what is there is kept, what is missing is made. Repeats hold out other images, as
many times as it takes to have held out 60, or `--repeats`. Real figures are those of the first repeat's model. With
`--frozen` fast scorers of frozen features (`frozen_scorers.py`) take the place of methods; no models are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from blemish import Detector
from blemish.data import layouts
from blemish.data.image.decode import read_image
from blemish.data.synthesis.graded import KINDS
from blemish.data.synthesis.image_set import StudioOptions, damage, maker
from blemish.data.synthesis.seeding import generator_for
from blemish.evaluation.metrics.intervals import delong_paired
from blemish.evaluation.metrics.ranking import auroc
from blemish.evaluation.synthetic import RULES, Trial, agreement, rank_correlation, rise
from blemish.files import write_whole
from blemish.learning.splits import good_training_records, split_at_random
from blemish.types import Record

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SETS: dict[str, tuple[str, str | None]] = {
    "mtd": ("mtd", None),
    "deeppcb_s": ("deeppcb_s", None),
    "aws_aliens": ("aws_aliens", None),
    "elpv_mono": ("elpv", "mono"),
    "elpv_poly": ("elpv", "poly"),
}
CONFIRMED_ON = ("elpv_mono", "elpv_poly")  # not seen while the kinds and the rule were made
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "padim-1": ("padim", {"windows": (1,)}),
    "padim-5": ("padim", {"windows": (5,)}),
    "padim-max": ("padim", {"top": 0.0}),
    "padim-stride16": ("padim", {"layers": (3,)}),
    "padim-stride32": ("padim", {"layers": (4,)}),
    "patchcore-1": ("patchcore", {"windows": (1,)}),
    "patchcore-5": ("patchcore", {"windows": (5,)}),
    "patchcore-max": ("patchcore", {"top": 0.0}),
    "patchcore-stride16": ("patchcore", {"layers": (3,)}),
    "patchcore-1percent": ("patchcore", {"coreset_ratio": 0.01}),
    "rd-150": ("rd", {"steps": 150}),
}
"""By name: a method with other options; any other name is a method with its own."""
METHODS = ("padim", "patchcore", *VARIANTS, "dfc", "pbas")
GENERATORS = {"perlin": ("",), "cutpaste": ("patch", "scar", "blur", "shift"), "graded": tuple(KINDS)}
EACH = {"perlin": 42, "cutpaste": 42, "graded": 84}  # defects of a repeat, over the kinds in turn
HELD = 0.2
MOST = 320  # good images of a set
TESTED = 200  # good images of a test set, and defective ones
GOOD = 60  # held-out images, where few enough repeats reach that
REPEATS = 3  # at most, where their number is not given
FROZEN = 2  # repeats of the fast scorers
CLEAR = 0.05  # p-value of DeLong's paired test, below which two methods differ
VERSION = 1  # of what is drawn and scored

Scores = dict[str, Any]


class Split(NamedTuple):
    """Of one set and repeat."""

    learn: list[Record]
    held: list[Record]
    test: list[Record]


def split(name: str, repeat: int, data: Path) -> Split:
    """What is learned, what is held out, and what is tested."""
    source, group = SETS[name]
    records = layouts.index(data / source if group is None else source)
    records = [r for r in records if group is None or r.group == group]
    good = good_training_records(records)
    good, _ = split_at_random(good, max(0.0, 1 - MOST / len(good)), seed=1 + 100 * repeat)
    learn, held = split_at_random(good, HELD, seed=2 + 100 * repeat)
    test: list[Record] = []
    for label in (0, 1):
        side = [r for r in records if r.split == "test" and r.label == label]
        order = np.random.default_rng(label).permutation(len(side))[:TESTED]
        test += [side[i] for i in sorted(order)]
    return Split(learn, held, test)


def repeats_of(name: str, data: Path) -> int:
    """How often a set is split anew, so that `GOOD` images were held out."""
    return min(math.ceil(GOOD / len(split(name, 0, data).held)), REPEATS)


def learned(folder: Path, name: str, parts: Split) -> tuple[Detector, list[str]]:
    """The model of a folder, and the ids of the images held out of it; learned now where the folder has none.
    SystemExit where a model is there without the list."""
    model, held = folder / "model.blemish", folder / "held.json"
    if not model.is_dir():
        method, options = VARIANTS.get(name, (name, {}))
        detector = Detector(method, calibration="none", **options).fit(parts.learn)
        write_whole(held, json.dumps([r.id for r in parts.held]).encode())
        detector.save(model)
    elif not held.is_file():
        raise SystemExit(f"{model} is there and {held} is not: which images were held out of it?")
    return Detector.load(model), json.loads(held.read_text(encoding="utf-8"))


class Drawn(NamedTuple):
    """Defects of one generator on the held-out images of a repeat; columns of equal length."""

    source: list[int]  # number of the good image
    kind: list[str]
    share: list[float]  # of the image
    image: list[Any]


def drawn(held: list[Record], generator: str, repeat: int) -> Drawn:
    """Each image and each kind as often as the others."""
    kinds, made = GENERATORS[generator], Drawn([], [], [], [])
    for k in range(EACH[generator]):
        number, kind = k % len(held), kinds[(k + k // len(held)) % len(kinds)]
        make = maker(generator, StudioOptions(variant=(kind,) if kind else ()))
        image = read_image(held[number].path)
        spoilt, mask = damage(image, make, generator_for(repeat, generator, held[number].id, k))
        for column, value in zip(made, (number, kind, float(mask.mean()), spoilt), strict=True):
            column.append(value)
    return made


def scored(folder: Path, name: str, parts: Split, repeat: int, threads: int, made: dict[str, Drawn]) -> Scores:
    """What a model gives, from `scores.json` where it is there. `made` keeps what was drawn, for the next model."""
    kept = folder / "scores.json"
    if kept.is_file():
        values = json.loads(kept.read_text(encoding="utf-8"))
        if values["version"] == VERSION:
            return dict(values)
    detector, ids = learned(folder, name, parts)
    if ids != [r.id for r in parts.held]:
        raise SystemExit(f"{folder / 'held.json'} names other images than repeat {repeat} holds out")
    line = detector.inspector(threads=threads)
    values = measured(lambda images: {name: [float(r.score) for r in line.inspect_many(images)]}, parts, repeat, made)
    write_whole(kept, json.dumps(values[name]).encode())
    return values[name]


def frozen(folder: Path, parts: Split, repeat: int, threads: int, made: dict[str, Drawn]) -> dict[str, Scores]:
    """What each of the fast scorers gives, by its name."""
    from frozen_scorers import Frozen

    kept = folder / "scores.json"
    if not kept.is_file():
        scorers = Frozen(parts.learn, threads).fit(read_image(r.path) for r in parts.learn)
        write_whole(kept, json.dumps(measured(scorers.scores, parts, repeat, made)).encode())
    return dict(json.loads(kept.read_text(encoding="utf-8")))


def measured(
    score: Callable[[Iterable[Any]], dict[str, list[float]]], parts: Split, repeat: int, made: dict[str, Drawn]
) -> dict[str, Scores]:
    """All that is scored, for each name that `score` gives a list of scores for."""
    values: dict[str, Scores] = {}
    for name, scores in score(read_image(r.path) for r in parts.held).items():
        values[name] = {"version": VERSION, "good": scores, "defects": {}, "labels": [], "test": []}
    for generator in GENERATORS:
        if generator not in made:
            made[generator] = drawn(parts.held, generator, repeat)
        columns = made[generator]._asdict()
        for name, scores in score(columns.pop("image")).items():
            values[name]["defects"][generator] = {"score": scores, **columns}
    if repeat == 0:
        for name, scores in score(read_image(r.path) for r in parts.test).items():
            values[name] |= {"labels": [r.label for r in parts.test], "test": scores}
    return values


def joined(repeats: list[Scores], generator: str, kind: str | None = None) -> Trial:
    """All repeats of one method as one trial."""
    good, score, source, start = [], [], [], 0
    for values in repeats:
        good += values["good"]
        made = values["defects"][generator]
        rows = [i for i, k in enumerate(made["kind"]) if kind in (None, k)]
        score += [made["score"][i] for i in rows]
        source += [start + made["source"][i] for i in rows]
        start += len(values["good"])
    return Trial.of(good, score, source)


Found = dict[str, dict[str, list[Scores]]]
"""Set -> method -> repeats."""


def _raised(trial: Trial) -> Any:
    """How far each defect raises its own image's score, in deviations of good ones; sorted."""
    return np.sort((trial.defects - trial.good[trial.source]) / trial.good.std(ddof=1))


def _quartiles(trial: Trial) -> float:
    low, high = np.quantile(trial.good, [0.25, 0.75])
    return float(np.median(trial.defects - trial.good[trial.source]) / (high - low))


TRIED: dict[str, Callable[[Trial], float]] = {
    "mean rise": lambda trial: float(_raised(trial).mean()),
    "interquartile mean of the rises": lambda t: float(_raised(t)[len(t.source) // 4 : -(len(t.source) // 4)].mean()),
    "70th percentile of the rises": lambda trial: float(np.quantile(_raised(trial), 0.7)),
    "40th percentile of the rises": lambda trial: float(np.quantile(_raised(trial), 0.4)),
    "rise in quartile ranges of good scores": _quartiles,
    "rise of squared scores": lambda t: rise(Trial(t.good * abs(t.good), t.defects * abs(t.defects), t.source)),
    "share above all but 20 % of good images": lambda t: float((t.defects > np.quantile(t.good, 0.8)).mean()),
}


def worst_kind(repeats: list[Scores]) -> float:
    """AUROC on the kind of `graded` that is found worst."""
    return min(RULES["AUROC"](joined(repeats, "graded", kind)) for kind in KINDS)


def correlations(found: Found, figure: Callable[[list[Scores]], float]) -> list[float]:
    """Of a figure with the real AUROC, over methods, for each set."""
    return [
        rank_correlation([figure(m) for m in methods.values()], [real(m) for m in methods.values()])
        for methods in found.values()
    ]


def clear_pairs(methods: dict[str, list[Scores]]) -> list[tuple[str, str]]:
    """(better, worse): pairs of methods whose real AUROCs differ clearly."""
    pairs = []
    for a, b in combinations(methods, 2):
        first, second = methods[a][0], methods[b][0]
        difference = delong_paired(first["labels"], first["test"], second["test"])
        if difference.p_value < CLEAR:
            pairs.append((a, b) if difference.value > 0 else (b, a))
    return pairs


def ordered(found: Found, figure: Callable[[list[Scores]], float]) -> list[float]:
    """Share of the clear pairs that a figure orders rightly, for each set; equal figures count half."""
    shares = []
    for methods in found.values():
        figures = {name: figure(scores) for name, scores in methods.items()}
        rightly = [0.5 * (1 + np.sign(figures[a] - figures[b])) for a, b in clear_pairs(methods)]
        shares.append(float(np.mean(rightly)) if rightly else math.nan)
    return shares


def real(repeats: list[Scores]) -> float:
    """AUROC on the test images."""
    return auroc(repeats[0]["labels"], repeats[0]["test"])


def bound(repeats: list[Scores]) -> float:
    """AUROC of the real defects against held-out good images: as if the generator drew real ones."""
    defects = [s for label, s in zip(repeats[0]["labels"], repeats[0]["test"], strict=True) if label]
    good = repeats[0]["good"]
    return auroc([0] * len(good) + [1] * len(defects), [*good, *defects])


def page(found: Found, fast: bool) -> str:
    """The page, in Markdown."""
    names = list(found)
    methods = list(next(iter(found.values())))
    confirmed = [i for i, name in enumerate(names) if name in CONFIRMED_ON]

    def row(title: str, values: list[float]) -> str:
        developed = [v for i, v in enumerate(values) if i not in confirmed]
        parts = [values, developed, [values[i] for i in confirmed]]
        means = [float(np.nanmean(v)) if np.isfinite(v).any() else math.nan for v in parts]
        return f"| {title} | " + " | ".join("–" if math.isnan(v) else f"{v:.2f}" for v in (*values, *means)) + " |"

    def by(generator: str, rule: str, kind: str | None = None) -> Callable[[list[Scores]], float]:
        return lambda scores: RULES[rule](joined(scores, generator, kind))

    head = "| | " + " | ".join(names) + " | mean | developed on | confirmed on |"
    lines = [
        "# Do synthetic defects rank fast scorers as real ones do?"
        if fast
        else "# Do synthetic defects rank methods as real ones do?",
        "",
        f"Made by `python benchmarks/ranks.py{' --frozen' if fast else ''}`: {len(methods)} {'fast scorers of frozen features' if fast else 'methods and variants of them'}, each learned",
        f"from about {1 - HELD:.0%} of at most {MOST} good images; the others are held out, in whole groups.",
        "Spearman's rank correlation over methods between a figure on synthetic defects (made on held-out good images) and",
        "the AUROC on real ones. Nothing but good images enters the first. The kinds of `graded` were made while figures of",
        "the sets under *developed on* were seen, and not changed after those under *confirmed on* were. All defects are drawn",
        "on the image as it is: grey images stay grey.",
        "",
        head,
        "|---|" + "---|" * (len(names) + 3),
    ]
    for generator in GENERATORS:
        lines += [row(f"`{generator}`, {rule}", correlations(found, by(generator, rule))) for rule in RULES]
    lines += [
        row("*real defects* against held-out good images, AUROC", correlations(found, bound)),
        "",
        "The last row is what a perfect generator would reach with AUROC: what it lacks comes of the held-out good images,",
        "which are few, and of few groups. `rise`: how far a defect raises the score of its own image, median, in standard",
        "deviations of good images; `overtaken`: the same in places among good images; `found`: share above all but 5 % of",
        "good images (`blemish.evaluation.synthetic`). A figure that is the same for all methods counts as 0.",
        "",
        "## `graded`, AUROC, with intervals",
        "95 %, bootstrap over good images with what was made of them, and over test images.",
        "",
        "| set | correlation | good scores | defects | pairs of methods | of them clear |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        trials = [joined(scores, "graded") for scores in each.values()]
        first = next(iter(each.values()))[0]
        estimate = agreement(trials, first["labels"], [np.array(scores[0]["test"]) for scores in each.values()])
        lines.append(
            f"| {name} | {estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f}) | {len(trials[0].good)} "
            f"| {len(trials[0].defects)} | {math.comb(len(each), 2)} | {len(clear_pairs(each))} |"
        )
    lines += [
        "",
        "## Clear pairs",
        "Where all methods are about as good, their order is chance, and no correlation can be high. So: of the pairs of",
        f"methods whose real AUROCs differ clearly (DeLong's paired test, p < {CLEAR:g}), the share that is ordered rightly;",
        "chance is 0.50.",
        "",
        head,
        "|---|" + "---|" * (len(names) + 3),
    ]
    for generator in GENERATORS:
        lines += [row(f"`{generator}`, {rule}", ordered(found, by(generator, rule))) for rule in RULES]
    lines.append(row("*real defects* against held-out good images, AUROC", ordered(found, bound)))
    lines += ["", "## Each kind of `graded`, AUROC", "", head, "|---|" + "---|" * (len(names) + 3)]
    lines += [row(kind, correlations(found, by("graded", "AUROC", kind))) for kind in GENERATORS["graded"]]
    lines += ["", "## Other rules", "On `graded`; tried, and not clearly better in all sets.", ""]
    lines += [head, "|---|" + "---|" * (len(names) + 3)]
    for title, rule in TRIED.items():
        lines.append(row(title, correlations(found, lambda scores, rule=rule: rule(joined(scores, "graded")))))
    lines.append(row("AUROC on the kind that is found worst", correlations(found, worst_kind)))
    for name, each in found.items():
        lines += [
            "",
            f"## {name}",
            "",
            "| method | real AUROC | graded, rise | graded, AUROC | cutpaste, AUROC | perlin, AUROC |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for method, scores in sorted(each.items(), key=lambda item: -real(item[1])):
            values = [by("graded", "rise"), by("graded", "AUROC"), by("cutpaste", "AUROC"), by("perlin", "AUROC")]
            lines.append(f"| {method} | {real(scores):.3f} | " + " | ".join(f"{v(scores):.3f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Learn and score what is missing, then write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets that are no package")
    parser.add_argument("--models", type=Path, default=Path(".bench/ranks"))
    parser.add_argument("--repeats", type=int, help="of every set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frozen", action="store_true", help="fast scorers in place of methods")
    parser.add_argument("--out", type=Path, help="docs/results/ranks.md, or ranks_frozen.md")
    arguments = parser.parse_args()
    out = arguments.out or Path("docs/results/ranks_frozen.md" if arguments.frozen else "docs/results/ranks.md")
    found: Found = {}
    for set_ in arguments.sets.split(","):
        least = FROZEN if arguments.frozen else repeats_of(set_, arguments.data)
        for repeat in range(arguments.repeats or least):
            parts, made = split(set_, repeat, arguments.data), dict[str, Drawn]()
            if arguments.frozen:
                scorers = frozen(
                    arguments.models / set_ / "frozen" / str(repeat), parts, repeat, arguments.threads, made
                )
                for name, scores in scorers.items():
                    found.setdefault(set_, {}).setdefault(name, []).append(scores)
                print(set_, "frozen", repeat, flush=True)
                continue
            for name in arguments.methods.split(","):
                folder = arguments.models / set_ / name / str(repeat)
                scores = scored(folder, name, parts, repeat, arguments.threads, made)
                found.setdefault(set_, {}).setdefault(name, []).append(scores)
                print(set_, name, repeat, flush=True)
    text = page(found, arguments.frozen)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
