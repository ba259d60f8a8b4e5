"""Ectopic heartbeats in the MIT-BIH Arrhythmia Database, found by a model that has seen normal ones only.

    python benchmarks/heartbeats.py [--data FOLDER] [--seeds 0 1 2] [--protocols A B] [--variants default ...]
    python benchmarks/heartbeats.py --seeds 0 1 2 --adapt --page docs/results/heartbeats.md [--collect]

Windows of 9.6 s, two leads, 125 Hz. A: inter-patient, learned from DS1, tested on DS2. B: patient-calibrated, normal
windows of the first ten minutes of each DS2 recording are learned from too, the rest is tested. Beside `mmae_ecg` stand
what needs no learning: how much RR intervals vary (from the annotations), each segment predicted by its two neighbours,
and by the mean normal segment. What every finished run came to lies in `.bench/heartbeats/`, named by its options: a run
that was stopped goes on, the training itself from its last snapshot. ECG5000 (`--smoke FOLDER`) only shows that the line
runs: single aligned beats of one patient say nothing of rhythm.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

from blemish import Detector, fitting
from blemish.backbones.cache import FeatureCache
from blemish.data import layouts
from blemish.data.beats import beat_mask, beats_in
from blemish.kinds import of
from blemish.kinds.signal import Signals
from blemish.metrics.intervals import delong, wilson
from blemish.metrics.ranking import auroc
from blemish.types import Batch, Record
from blemish.windows import WindowSource

METHOD = "mmae_ecg"
SPLITS = {"A": "inter-patient", "B": "patient-calibrated"}
OUT = Path(".bench/heartbeats")
REPLICAS = 2000  # of the bootstrap over recordings
RATE = 0.05  # of false alarms, promised
LEAST = 31  # normal windows of a patient whom a model is adapted to: half of ten minutes

# what is learned anew; how a learned model is inspected (scale, aggregation) is measured in the same run
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "global only": {"scales": "global"},
    "local only": {"scales": "local"},
    "no own positions": {"positions": "shared"},
    "raw targets": {"targets": "raw"},
    "leak guard": {"leak_guard": "union"},
    "theta 0.25": {"theta": 0.25},
    "theta 0.3": {"theta": 0.3},
    "theta 0.75": {"theta": 0.75},
}
PLAIN = "paired, normalised"  # the way of the comparison between variants
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "paired, raw": {"scale": "raw"},
    "full, normalised": {"aggregation": "full"},
    "full, raw": {"aggregation": "full", "scale": "raw"},
    "random 10, normalised": {"aggregation": "random", "passes": 10},
}
RULES: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "mean": lambda a: a.mean(1),
    "max": lambda a: a.max(1),
    "top 10 %": lambda a: np.sort(a, 1)[:, -max(round(a.shape[1] / 10), 1) :].mean(1),
}
Figures = dict[str, Any]


class Truth:
    """Labels of test windows and of their segments, and which recording each is of."""

    def __init__(self, test: Sequence[Record], segments: int) -> None:
        self.labels = np.array([r.label for r in test])
        self.names = np.array([r.path.stem for r in test])
        self.places = np.zeros((len(test), segments), bool)
        for row, record in enumerate(test):
            if record.mask is not None:
                assert record.span is not None
                assert isinstance(record.mask, Path)
                mask = beat_mask(record.mask, record.path, record.span, record.span[1] - record.span[0])
                edges = np.linspace(0, len(mask), segments + 1).round().astype(int)
                self.places[row] = [mask[a:b].mean() >= 0.5 for a, b in zip(edges, edges[1:], strict=False)]
        self.both = [n for n in np.unique(self.names) if 0 < self.labels[self.names == n].mean() < 1]

    def within(self, scores: NDArray[Any]) -> NDArray[Any]:
        """AUROC of each recording that has windows of both kinds."""
        rows = [self.names == name for name in self.both]
        return np.array([auroc(self.labels[row], scores[row]) for row in rows])

    def windows(self, scores: NDArray[Any]) -> Figures:
        """Pooled AUROC with DeLong's interval, and the mean within recordings with one by bootstrap over them."""
        rng = np.random.default_rng(0)
        each = self.within(scores)
        low, high = np.quantile(rng.choice(each, (REPLICAS, len(each))).mean(1), [0.025, 0.975])
        within = {"value": float(each.mean()), "low": float(low), "high": float(high)}
        return {"auroc": delong(self.labels, scores)._asdict(), "within": within}

    def segments(self, places: NDArray[Any]) -> Figures:
        """AUROC of segments of all test windows, with an interval by bootstrap over recordings."""
        rng = np.random.default_rng(0)
        rows = {name: np.flatnonzero(self.names == name) for name in np.unique(self.names)}
        names = sorted(rows)
        drawn = []
        for _ in range(REPLICAS // 40):
            chosen = np.concatenate([rows[name] for name in rng.choice(names, len(names))])
            drawn.append(auroc(self.places[chosen].ravel(), places[chosen].ravel()))
        low, high = np.quantile(drawn, [0.025, 0.975])
        value = auroc(self.places.ravel(), places.ravel())
        return {"value": float(value), "low": float(low), "high": float(high)}

    def all(self, places: NDArray[Any]) -> Figures:
        """Everything, of errors (windows, segments)."""
        rules = {name: self.windows(rule(places)) for name, rule in RULES.items()}
        return {"rules": rules, "segment": self.segments(places)}


def data(folder: Path, protocol: str) -> tuple[list[Record], list[Record]]:
    """(good records to learn from, test records)."""
    records = layouts.index(folder, "wfdb", SPLITS[protocol])
    return [r for r in records if r.split == "train"], [r for r in records if r.split == "test"]


def stacked(source: WindowSource, records: Sequence[Record]) -> torch.Tensor:
    """(n, K, L)."""
    return torch.from_numpy(np.stack([x for _, x in source.stream(records)]))


def learned(folder: Path, protocol: str, seed: int, variant: str, more: dict[str, Any]) -> Figures:
    """Fit one model and measure it in every way."""
    good, test = data(folder, protocol)
    place = OUT / f"{title(protocol, variant, seed, more)}.blemish"
    if not place.is_dir():
        options = {**VARIANTS[variant], **more}
        fresh = Detector(METHOD, seed=seed, calibration="split", false_alarm_rate=RATE, **options)
        fresh.fit(good, track=_told).save(place)
    detector = Detector.load(place)
    model = detector.model
    _, method = fitting.restore(model)
    kind = of(model.meta)
    assert isinstance(kind, Signals)
    source = WindowSource(kind, FeatureCache())
    truth = Truth(test, method.total)
    x = stacked(source, test)
    deployed = kind.open(model, batch=1)
    outputs = [deployed(window[None]) for window in x.numpy()]
    scores = np.concatenate([o[0] for o in outputs])
    places = np.concatenate([o[1] for o in outputs]).reshape(len(x), method.total, -1).mean(2)
    calibrator = model.calibrators["f32"]
    alarms = int((scores[truth.labels == 0] > calibrator.threshold).sum())
    found = int((scores[truth.labels == 1] > calibrator.threshold).sum())
    goods, bads = int((truth.labels == 0).sum()), int((truth.labels == 1).sum())
    ways = {}
    for name, options in WAYS.items() if variant == "default" else [(PLAIN, WAYS[PLAIN])]:
        levels = errors(other(method, **options, standard=False), x)
        ways[name] = truth.all(levels)
    return {
        "protocol": protocol,
        "seed": seed,
        "variant": variant,
        "learned_from": model.meta["data"]["learned_from"],
        "held_out": calibrator.n,
        "steps": [p["steps"] for p in model.meta["training"]],
        "loss": [p["last"] for p in model.meta["training"]],
        "parameters": sum(p.numel() for p in method.network.parameters()),
        "fit_seconds": model.meta["fit_seconds"],
        "milliseconds": timed(deployed, x.numpy()),
        "deployed": {"window": truth.windows(scores), "segment": truth.segments(places)},
        "promise": {
            "sentence": detector.promise,
            "alarms": [alarms, goods, *wilson(alarms, goods)],
            "found": [found, bads, *wilson(found, bads)],
        },
        "masked_error": masked_error(method, x[torch.from_numpy(truth.labels == 0)]),
        "ways": ways,
    }


def adapted(folder: Path, seed: int) -> Figures:
    """The model of protocol A, adapted to one patient after another (`blemish adapt`), and what it finds in each.

    Patients with windows of both kinds later, and a normal half of their first ten minutes.
    """
    good, test = data(folder, "B")
    whole = OUT / f"{title('A', 'default', seed, {})}.blemish"
    rows = {}
    for name in sorted({r.path.stem for r in test}):
        own, later = ([r for r in records if r.path.stem == name] for records in (good, test))
        labels = np.array([r.label for r in later])
        if len(own) < LEAST or not 0 < labels.sum() < len(labels):
            continue
        detector = Detector.load(whole)
        # ten minutes are one recording, of which no part can be held out to promise anything
        detector._model = replace(detector.model, run={**detector.model.run, "calibration": "none"})
        before = _scores(detector, later)
        after = _scores(detector.adapt(own, track=_told), later)
        rows[name] = {
            "learned": len(own),
            "auroc": [auroc(labels, scores) for scores in (before, after)],
            "windows": [int((labels == 0).sum()), int((labels == 1).sum())],
            "rr": auroc(labels, np.array([variation(r) for r in later])),
        }
    return rows


def _scores(detector: Detector, records: Sequence[Record]) -> NDArray[Any]:
    """Of windows, through the deployed graph."""
    kind = of(detector.model.meta)
    assert isinstance(kind, Signals)
    deployed = kind.open(detector.model, batch=1)
    return np.concatenate([deployed(x[None])[0] for _, x in WindowSource(kind, FeatureCache()).stream(records)])


def title(protocol: str, variant: str, seed: int, more: dict[str, Any]) -> str:
    """Of a run, by all that it depends on."""
    own = "".join(f"-{k}{v}" for k, v in more.items())
    return f"{protocol}-{variant.replace(' ', '_')}-seed{seed}{own}"


def other(method: Any, **options: Any) -> Any:
    """The same weights, inspected in another way; errors as they are, on no standard."""
    made = type(method)(replace(method.config, **options), method.spec, method.size, method.seed)
    made.load_fitted(method.fitted_state())
    if not made.config.standard:
        made.middle, made.spread = torch.zeros(made.total), torch.ones(made.total)
    return made


@torch.no_grad()
def errors(method: Any, x: torch.Tensor) -> NDArray[Any]:
    """(n, T): the error of each segment."""
    parts = [method._levels(Batch(size=method.size, x=some)).mean(2) for some in x.split(64)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def masked_error(method: Any, x: torch.Tensor) -> float:
    """Mean squared error of normalised hidden segments of the whole signal (of the run, where there is no other)."""
    total, count = 0.0, 0
    for some in x.split(64):
        for at in method.groups:
            wanted = at.inner if method.config.scales == "local" else ~at.inner
            found = method.errors(method.segments(some), at)[:, wanted]
            total, count = total + float(found.sum()), count + found.numel()
    return total / count


def timed(engine: Any, x: NDArray[Any]) -> float:
    """Median milliseconds of a window through the deployed graph."""
    taken = []
    for window in x[:200]:
        start = perf_counter()
        engine(window[None])
        taken.append(perf_counter() - start)
    return round(1000 * float(np.median(taken)), 2)


def baselines(folder: Path, protocol: str) -> Figures:
    """What needs no learning."""
    good, test = data(folder, protocol)
    kind = Signals.from_json(PLAN)
    source = WindowSource(kind, FeatureCache())
    method = _segmenter()
    x, normal = stacked(source, test), stacked(source, good)
    truth = Truth(test, method.total)
    segments = method.segments(x)
    wanted = method.targets(segments)
    before, behind = wanted[:, [1, *range(method.total - 1)]], wanted[:, [*range(1, method.total), -2]]
    constant = method.targets(method.segments(normal)).mean((0, 1))
    variance = segments.var(3, keepdim=True, correction=0) + method.config.floor
    out: Figures = {"protocol": protocol, "rr": truth.windows(np.array([variation(r) for r in test]))}
    normals = torch.from_numpy(truth.labels == 0)
    for name, guess in (("neighbours", (before + behind) / 2), ("mean segment", constant.expand_as(wanted))):
        plain = (guess - wanted).square()
        out[name] = {
            "normalised": truth.all(plain.mean((2, 3)).numpy()),
            "raw": truth.all((plain * variance).mean((2, 3)).numpy()),
            "masked_error": float(plain[normals].mean()),
        }
    return out


PLAN = {
    "leads": ["MLII", None], "rate": 125.0, "window": 9.6, "band": [0.5, 40.0], "file_rate": None, "size": [1200],
}  # fmt: skip


def _segmenter() -> Any:
    """The method for its segments and targets; its network is not used."""
    from blemish import methods
    from blemish.types import FeatureSpec

    cls = methods.get(METHOD)
    return cls(cls.Config(), FeatureSpec((), (), (), inputs=2), (1200,))


def variation(record: Record) -> float:
    """Standard deviation of a window's RR intervals over their mean, from the annotations."""
    assert record.span is not None
    samples, _ = beats_in(record.path.with_suffix(".atr"), *record.span)
    intervals = np.diff(samples)
    return float(intervals.std() / intervals.mean())


def _told(items: Any, what: str, count: int | None) -> Any:
    """A line on stderr now and then."""
    import sys

    begun = perf_counter()
    for number, item in enumerate(items):
        if number and number % 250 == 0:
            print(f"{what}: {number} of {count}, {perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        yield item


def kept(name: str, make: Callable[[], Figures]) -> Figures:
    """The figures of an earlier run, or those of a new one, written whole."""
    path = OUT / f"{name}.json"
    if not path.is_file():
        from blemish.files import write_whole

        write_whole(path, (json.dumps(make(), indent=1) + "\n").encode())
    return dict(json.loads(path.read_text(encoding="utf-8")))


def smoke(folder: Path) -> None:
    """ECG5000 through the line in seconds."""
    options = {"segment": 20, "local": 3, "width": 32, "depth": 2, "steps": 300, "shift": 4}
    line = Detector(METHOD, file_rate=125, band="none", calibration="split", cache=False, **options)
    found = line.fit(folder).evaluate(folder)
    print(json.dumps({"image": found.overall["image"]["auroc"], "false_alarms": found.overall["false_alarms"]}))


# -- the page ----------------------------------------------------------------------------------------------------------


def cell(metric: Figures) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def mean(metrics: Sequence[Figures]) -> str:
    """One run with its interval; of several the mean and the seeds' spread."""
    if len(metrics) == 1:
        return cell(metrics[0])
    values = [m["value"] for m in metrics]
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def row(name: str, runs: Sequence[Figures], segment: bool = True) -> str:
    """A line of the table: each rule's pooled AUROC, the mean within recordings by the best rule, segments."""
    pooled = [mean([r["rules"][rule]["auroc"] for r in runs]) for rule in RULES]
    best = max(RULES, key=lambda rule: np.mean([r["rules"][rule]["within"]["value"] for r in runs]))
    within = mean([r["rules"][best]["within"] for r in runs])
    places = mean([r["segment"] for r in runs]) if segment else ""
    return f"| {name} | {' | '.join(pooled)} | {within} ({best}) | {places} |"


HEAD = "| | window AUROC: mean | max | top 10 % | within recordings (best rule) | segment AUROC |\n|---|---|---|---|---|---|"


def page(bases: dict[str, Figures], runs: Sequence[Figures], rows: Figures, command: str) -> str:
    """The page of all that is there."""
    out = [
        "# Heartbeats",
        "",
        f"Made by `{command}`. MIT-BIH Arrhythmia Database (Moody and Mark 2001), windows of 9.6 s, two leads, 125 Hz;",
        "`mmae_ecg` learns from windows of normal beats alone. A: inter-patient (DS1, DS2). B: patient-calibrated, good",
        "windows of the first ten minutes of each tested recording are learned from too. Window AUROC with DeLong's interval,",
        "pooled over recordings: it mixes how patients differ with how beats do. So the mean AUROC within recordings that have",
        "both kinds of windows stands beside it, and the AUROC of segments of 192 ms (marked where half of one lies within",
        "-0.25 to +0.35 s of an ectopic beat); their intervals are a bootstrap over recordings, 95 %.",
        "",
    ]
    for protocol, base in bases.items():
        own = [r for r in runs if r["protocol"] == protocol]
        out += [f"## Protocol {protocol}", "", HEAD]
        rr = base["rr"]
        out.append(f"| RR intervals' variation (uses annotations) | {cell(rr['auroc'])} | | | {cell(rr['within'])} | |")
        for name in ("neighbours", "mean segment"):
            out += [row(f"{name}, {scale}", [base[name][scale]]) for scale in ("normalised", "raw")]
        plain = [r for r in own if r["variant"] == "default"]
        if plain:
            out += [row(f"`mmae_ecg`, {way}", [r["ways"][way] for r in plain]) for way in WAYS]
            out += ["", *told(plain, base)]
        others = [name for name in VARIANTS if name != "default" and any(r["variant"] == name for r in own)]
        if others:
            # a seed decides which recordings are held out: only runs of the same seeds are compared
            shared = set.intersection(*({r["seed"] for r in own if r["variant"] == name} for name in others))
            seeds = ", ".join(map(str, sorted(shared)))
            out += ["", f"Learned without a part, or with another ({PLAIN}; seeds {seeds}):", "", HEAD]
            by_seed = {(r["variant"], r["seed"]): r["ways"][PLAIN] for r in own}
            for name in ["default", *others]:
                some = [by_seed[name, seed] for seed in sorted(shared) if (name, seed) in by_seed]
                if some:
                    out.append(row(name, some))
            if all(("default", seed) in by_seed for seed in shared):
                out += ["", *apart(by_seed, others, sorted(shared))]
        out.append("")
    return "\n".join([*out, *(patients(rows) if rows else [])])


def apart(by_seed: dict[tuple[str, int], Figures], names: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """What a variant has more than the default under the same seed: the patients who are held out are the same."""

    def more(name: str, seed: int) -> tuple[float, float]:
        this, plain = by_seed[name, seed], by_seed["default", seed]
        window = [f["rules"]["mean"]["auroc"]["value"] for f in (this, plain)]
        segment = [f["segment"]["value"] for f in (this, plain)]
        return window[0] - window[1], segment[0] - segment[1]

    lines = [
        "More than the default under the same seed, by seed:",
        "",
        "| | window AUROC: mean | segment AUROC |",
        "|---|---|---|",
    ]
    for name in names:
        pairs = zip(*(more(name, seed) for seed in seeds), strict=True)
        lines.append(f"| {name} | " + " | ".join(", ".join(f"{v:+.3f}" for v in values) for values in pairs) + " |")
    return lines


def patients(rows: Figures) -> list[str]:
    """The section about patients whom a model was adapted to."""
    out = [
        "## One patient at a time",
        "",
        "The model of protocol A, first seed, adapted to each patient alone from the normal windows of the first ten minutes",
        "(`blemish adapt`, a fifth of the steps; no promise, since one recording cannot be split); window AUROC within the rest",
        "of it. Patients with both kinds of windows there and a normal half of the ten minutes. RR: the intervals' variation,",
        "which uses annotations.",
        "",
        "| patient | windows learned | tested: normal, abnormal | before | after | RR |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        before, after = r["auroc"]
        good, bad = r["windows"]
        out.append(f"| {name} | {r['learned']} | {good}, {bad} | {before:.3f} | {after:.3f} | {r['rr']:.3f} |")
    before, after = np.mean([r["auroc"] for r in rows.values()], 0)
    rr = np.mean([r["rr"] for r in rows.values()])
    return [*out, f"| mean | | | {before:.3f} | {after:.3f} | {rr:.3f} |", ""]


def told(runs: Sequence[Figures], base: Figures) -> list[str]:
    """What else there is to say of the default's runs."""
    errors = [r["masked_error"] for r in runs]
    lines = [
        f"Mean squared error on hidden segments of normal test windows: {np.mean(errors):.3f}; of the neighbours "
        f"{base['neighbours']['masked_error']:.3f}, of the mean segment {base['mean segment']['masked_error']:.3f}. "
        f"{runs[0]['parameters']:,} parameters, {runs[0]['steps'][0]:,} steps, "
        f"{np.median([r['milliseconds'] for r in runs]):.1f} ms a window.",
        "",
        "| seed | learned from | held out | deployed score: window AUROC | false alarms, promised 5 % | abnormal windows found |",
        "|---|---|---|---|---|---|",
    ]
    for r in runs:
        alarms, found = ([f"{100 * v:.1f} %" for v in r["promise"][key][2:]] for key in ("alarms", "found"))
        lines.append(
            f"| {r['seed']} | {r['learned_from']:,} | {r['held_out']:,} | {cell(r['deployed']['window']['auroc'])} | "
            f"{alarms[0]} [{alarms[1]}, {alarms[2]}] | {found[0]} [{found[1]}, {found[2]}] |"
        )
    return lines


def main() -> None:
    """Run what is missing, print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mitbih"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--protocols", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["default"])
    parser.add_argument("--steps", type=int, help="another number of training steps")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--adapt", action="store_true", help="protocol A's model to each patient, too")
    parser.add_argument("--collect", action="store_true", help="what is finished of what is asked for, nothing anew")
    parser.add_argument("--smoke", type=Path, help="folder of ECG5000; runs nothing else")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.smoke:
        smoke(asked.smoke)
        return
    more = {} if asked.steps is None else {"steps": asked.steps}
    bases = {p: kept(f"baselines-{p}", lambda p=p: baselines(asked.data, p)) for p in asked.protocols}
    runs = []
    for protocol in asked.protocols:
        for variant in asked.variants:
            for seed in asked.seeds:
                name = title(protocol, variant, seed, more)
                if asked.collect and not (OUT / f"{name}.json").is_file():
                    continue
                runs.append(kept(name, lambda a=(protocol, seed, variant): learned(asked.data, *a, more)))
    rows = {}
    if asked.adapt and not (asked.collect and not (OUT / "adapted.json").is_file()):
        rows = kept("adapted", lambda: adapted(asked.data, asked.seeds[0]))
    given = f" --seeds {' '.join(map(str, asked.seeds))}"
    given += "" if asked.protocols == list(SPLITS) else f" --protocols {' '.join(asked.protocols)}"
    given += "" if asked.variants == ["default"] else f" --variants {' '.join(repr(v) for v in asked.variants)}"
    given += "" if asked.steps is None else f" --steps {asked.steps}"
    given += " --adapt" if asked.adapt else ""
    missing = len(asked.protocols) * len(asked.variants) * len(asked.seeds) - len(runs)
    text = page(bases, runs, rows, f"python benchmarks/heartbeats.py{given}")
    text += f"\n{missing} of the runs of that command are not finished.\n" if missing else ""
    if asked.page:
        asked.page.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
