"""Ectopic heartbeats in the MIT-BIH Arrhythmia Database, found by a model that has seen normal ones only.

    python benchmarks/heartbeats.py [--data FOLDER] [--seeds 0 1 2] [--protocols A B] [--variants default ...]
    python benchmarks/heartbeats.py --seeds 0 1 2 --adapt --page docs/results/heartbeats.md [--collect]

Windows of 9.6 s, two leads, 125 Hz. A: inter-patient, learned from DS1, tested on DS2. B: patient-calibrated, normal
windows of the first ten minutes of each DS2 recording are learned from too, the rest is tested. Beside `mmae_ecg` stand
what needs no learning: how much RR intervals vary (from the annotations), each segment predicted by its two neighbours,
and by the mean normal segment. What every finished run came to lies in `.bench/heartbeats/`, named by its options: a run
that was stopped resumes, the training itself from its last snapshot. Figures of the deployed model alone, of these or
other recordings, are cells of the ledger: `blemish bench FOLDER --methods mmae_ecg --out OUT`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from heartbeats_page import PLAIN, Figures, page
from kept import kept
from numpy.typing import NDArray

from blemish import Detector
from blemish.cli.progress import track
from blemish.data import layouts
from blemish.data.registry import of
from blemish.data.signal.beats import beat_mask, beats_in
from blemish.data.signal.modality import Signals
from blemish.evaluation.metrics.intervals import delong, wilson
from blemish.evaluation.metrics.ranking import auroc
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.fitted import restore
from blemish.learning.sources.signal import WindowSource
from blemish.types import Batch, Record

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


def stacked(kind: Signals, records: Sequence[Record]) -> torch.Tensor:
    """(n, K, L)."""
    source = WindowSource(kind, FeatureCache())
    return torch.from_numpy(np.stack([x for _, x in source.stream(records)]))


def learned(folder: Path, protocol: str, seed: int, variant: str, more: dict[str, Any]) -> Figures:
    """Fit one model and measure it in every way."""
    good, test = data(folder, protocol)
    place = OUT / f"{title(protocol, variant, seed, more)}.blemish"
    if not place.is_dir():
        options = {**VARIANTS[variant], **more}
        fresh = Detector(METHOD, seed=seed, calibration="split", false_alarm_rate=RATE, **options)
        fresh.fit(good, track=track).save(place)
    detector = Detector.load(place)
    model = detector.model
    _, method = restore(model)
    truth = Truth(test, method.total)
    x = stacked(everything(model), test)
    scores, maps, milliseconds = deployed(model, x)
    places = maps.reshape(len(x), method.total, -1).mean(2)
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
        "learned_from": model.meta.data.learned_from,
        "held_out": calibrator.n,
        "steps": [p.steps for p in model.meta.training],
        "loss": [p.last for p in model.meta.training],
        "parameters": sum(p.numel() for p in method.network.parameters()),
        "fit_seconds": model.meta.fit_seconds,
        "milliseconds": milliseconds,
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
        good_beats, later = ([r for r in records if r.path.stem == name] for records in (good, test))
        labels = np.array([r.label for r in later])
        if len(good_beats) < LEAST or not 0 < labels.sum() < len(labels):
            continue
        detector = Detector.load(whole)
        # ten minutes are one recording, of which no part can be held out to promise anything
        detector._model = replace(detector.model, run={**detector.model.run, "calibration": "none"})
        x = stacked(everything(detector.model), later)
        before = deployed(detector.model, x)[0]
        after = deployed(detector.adapt(good_beats, track=track).model, x)[0]
        rows[name] = {
            "learned": len(good_beats),
            "auroc": [auroc(labels, scores) for scores in (before, after)],
            "windows": [int((labels == 0).sum()), int((labels == 1).sum())],
            "rr": auroc(labels, np.array([variation(r) for r in later])),
        }
    return rows


def deployed(model: Model, x: torch.Tensor) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Scores and maps of windows through the deployed graph, and the median milliseconds of one."""
    engine, outputs, taken = open_model(model), [], []
    for window in x.numpy():
        start = perf_counter()
        outputs.append(engine(window[None]))
        taken.append(perf_counter() - start)
    scores, maps = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return scores, maps, round(1000 * float(np.median(taken)), 2)


def everything(model: Model) -> Signals:
    """The windows of a model, those too that it would refuse since a lead hardly moves: all of the protocol's count."""
    kind = of(model.meta)
    assert isinstance(kind, Signals)
    return Signals(replace(kind.preprocess, least=None))


def title(protocol: str, variant: str, seed: int, more: dict[str, Any]) -> str:
    """Of a run, by all that it depends on."""
    changed_options = "".join(f"-{k}{v}" for k, v in more.items())
    return f"{protocol}-{variant.replace(' ', '_')}-seed{seed}{changed_options}"


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
    parts = [method._levels(Batch(size=method.size, x=block)).mean(2) for block in x.split(64)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def masked_error(method: Any, x: torch.Tensor) -> float:
    """Mean squared error of normalised hidden segments of the whole signal (of the run, where there is no other)."""
    total, count = 0.0, 0
    for block in x.split(64):
        for at in method.groups:
            wanted = at.inner if method.config.scales == "local" else ~at.inner
            found = method.errors(method.segments(block), at)[:, wanted]
            total, count = total + float(found.sum()), count + found.numel()
    return total / count


def baselines(folder: Path, protocol: str) -> Figures:
    """What needs no learning."""
    good, test = data(folder, protocol)
    kind = Signals.from_json(PLAN)
    method = _segmenter()
    x, normal = stacked(kind, test), stacked(kind, good)
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


def main() -> None:
    """Run what is missing, print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mitbih"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--protocols", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=["default"], help="learned under the last protocol"
    )
    parser.add_argument("--steps", type=int, help="another number of training steps")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--adapt", action="store_true", help="protocol A's model to each patient, too")
    parser.add_argument("--collect", action="store_true", help="what is finished of what is asked for, nothing anew")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    more = {} if arguments.steps is None else {"steps": arguments.steps}
    bases = {
        p: kept(OUT / f"baselines-{p}.json", lambda p=p: baselines(arguments.data, p)) for p in arguments.protocols
    }
    runs = []
    wanted = [
        (protocol, variant, seed)
        for protocol in arguments.protocols
        for variant in arguments.variants
        if variant == "default" or protocol == arguments.protocols[-1]
        for seed in arguments.seeds
    ]
    for protocol, variant, seed in wanted:
        path = OUT / f"{title(protocol, variant, seed, more)}.json"
        if arguments.collect and not path.is_file():
            continue
        runs.append(kept(path, lambda a=(protocol, seed, variant): learned(arguments.data, *a, more)))
    rows = {}
    if arguments.adapt and not (arguments.collect and not (OUT / "adapted.json").is_file()):
        rows = kept(OUT / "adapted.json", lambda: adapted(arguments.data, arguments.seeds[0]))
    missing = len(wanted) - len(runs)
    given = [word for word in sys.argv[1:] if word != "--collect"]
    text = page(bases, runs, rows, shlex.join(["python", "benchmarks/heartbeats.py", *given]))
    text += f"\n{missing} of the runs of that command are not finished.\n" if missing else ""
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
