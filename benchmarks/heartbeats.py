"""Heartbeats of the MIT-BIH Arrhythmia Database that are not normal, found by a model that has seen normal ones only.

    python benchmarks/heartbeats.py [--task ectopic morphology] [--folds 4] [--seeds 0 1 2]
    python benchmarks/heartbeats.py --protocols A B --variants default 'global only' --adapt --page PAGE [--collect]

Windows of 9.6 s, 125 Hz, lead MLII (`--leads`). Tasks: ectopic beats, or beats of another shape on their usual rhythm
(bundle branch blocks, paced ones). Protocols: folds, each recording tested once by a model that has not seen the person
(`--folds`; both tasks learn from the same windows, so one model serves both); A: inter-patient, learned from DS1,
tested on DS2; B: patient-calibrated, normal windows of the first ten minutes of each DS2 recording are learned from
too, the rest is tested (ectopic beats alone).

Beside `mmae_ecg` stand what needs no learning: how much RR intervals vary and how wide beats are (from the
annotations), where the spectrum lies, each segment predicted by its two neighbours; and what learns a mean alone: the
mean normal segment, the mean normal spectrum. What every finished run came to lies in `.bench/heartbeats/`, named by
its options: a run that was stopped resumes, the training itself from its last snapshot. Figures of the deployed model
alone, of these or other recordings, are cells of the ledger: `blemish bench FOLDER --methods mmae_ecg --out OUT`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from heartbeats_page import PLAIN, Figures, page
from kept import kept
from numpy.typing import NDArray

from blemish import Detector
from blemish.cli.progress import track
from blemish.data import layouts
from blemish.data.layouts import wfdb
from blemish.data.registry import of
from blemish.data.signal.beats import beat_mask, beats_in
from blemish.data.signal.modality import Signals
from blemish.data.signal.recordings import extent, read_recording, recordings_in
from blemish.evaluation.metrics.intervals import wilson
from blemish.evaluation.metrics.ranking import auroc
from blemish.files import write_whole
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.fitted import restore
from blemish.learning.sources.signal import WindowSource
from blemish.types import Batch, Record

METHOD = "mmae_ecg"
SPLITS = {"A": "inter-patient", "B": "patient-calibrated"}
TASKS: tuple[wfdb.Task, ...] = ("ectopic", "morphology")
LEAD = "MLII"  # the second lead differs from recording to recording
OUT = Path(".bench/heartbeats")
REPLICAS = 2000  # of the bootstrap over recordings
RATE = 0.05  # of false alarms, promised
LEAST = 31  # normal windows of a patient whom a model is adapted to: half of ten minutes
BANDS = 16  # of a spectrum, up to 40 Hz
REACH = 0.16  # seconds around an R peak that a beat's width is measured in

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
    "paired, normalised": {"scale": "normalised"},
    "paired, raw": {"scale": "raw"},
    "full, weighted": {"aggregation": "full"},
    "random 10, weighted": {"aggregation": "random", "passes": 10},
}
RULES: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "mean": lambda a: a.mean(1),
    "max": lambda a: a.max(1),
    "top 10 %": lambda a: np.sort(a, 1)[:, -max(round(a.shape[1] / 10), 1) :].mean(1),
}


class Part(NamedTuple):
    """One model's data: the windows it learns from, and those it is tested on."""

    name: str  # of what is learned from
    good: list[Record]
    test: list[Record]


class Setting(NamedTuple):
    """What is asked, of which recordings and leads."""

    folder: Path
    task: wfdb.Task
    leads: tuple[str, ...] | None
    folds: int | None

    def parts(self, protocol: str) -> list[Part]:
        """The models of a protocol; together they test each recording of it once."""
        if protocol == "folds":
            assert self.folds is not None
            names = [f"fold{k}of{self.folds}" for k in range(self.folds)]
            splits = [wfdb.fold(self.folder, self.task, k, self.folds) for k in range(self.folds)]
        elif self.task == "ectopic":
            names, splits = [protocol], [layouts.index(self.folder, "wfdb", SPLITS[protocol])]
        else:
            names, splits = [f"{protocol}-{self.task}"], [layouts.index(self.folder, "wfdb", self.task)]
        lacking = set(self.lacking())
        sided = [
            [[r for r in records if r.split == side and r.path.stem not in lacking] for side in ("train", "test")]
            for records in splits
        ]
        return [Part(f"{name}-{self.named()}", *sides) for name, sides in zip(names, sided, strict=True)]

    def lacking(self) -> list[str]:
        """Recordings without the leads that are asked for: neither learned from nor tested."""
        have = {path.stem: read_recording(path).leads for path in recordings_in(self.folder) if path.suffix == ".hea"}
        return sorted(name for name, leads in have.items() if not set(self.leads or ()) <= set(leads))

    def named(self) -> str:
        return "_".join(self.leads) if self.leads else "all"


class Truth:
    """Labels of test windows and of their segments, and which recording each is of."""

    def __init__(self, test: Sequence[Record], segments: int) -> None:
        self.labels = np.array([r.label for r in test])
        self.names = np.array([r.path.stem for r in test])
        if not 0 < self.labels.sum() < len(test):
            raise SystemExit(
                f"of {len(test)} tested windows {self.labels.sum()} are abnormal: there is nothing to rank"
            )
        self.places = np.zeros((len(test), segments), bool)
        self.marked = any(r.mask is not None for r in test)
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
        """Pooled AUROC and the mean within recordings, with intervals by bootstrap over recordings."""
        rng = np.random.default_rng(0)
        each = self.within(scores)
        within: Figures = {"recordings": len(each)}
        if len(each):
            low, high = np.quantile(rng.choice(each, (REPLICAS, len(each))).mean(1), [0.025, 0.975])
            within |= {"value": float(each.mean()), "low": float(low), "high": float(high)}
        return {"auroc": pooled(self.labels, scores, self.names), "within": within}

    def segments(self, places: NDArray[Any]) -> Figures:
        """AUROC of segments of all test windows, with an interval by bootstrap over recordings."""
        if not self.marked:
            return {}
        names = np.repeat(self.names, self.places.shape[1])
        return pooled(self.places.ravel(), places.ravel(), names)

    def all(self, places: NDArray[Any]) -> Figures:
        """Everything, of errors (windows, segments)."""
        rules = {name: self.windows(rule(places)) for name, rule in RULES.items()}
        return {"rules": rules, "segment": self.segments(places)}


def pooled(labels: NDArray[Any], scores: NDArray[Any], names: NDArray[Any]) -> Figures:
    """AUROC with its percentile interval over recordings, which are drawn whole.

    All that a draw needs is how often each recording's positives exceed each recording's negatives.
    """
    each = np.unique(names)
    ups = [scores[(names == name) & (labels == 1)] for name in each]
    downs = [np.sort(scores[(names == name) & (labels == 0)]) for name in each]
    wins = np.array(
        [[(np.searchsorted(d, u, "left") + np.searchsorted(d, u, "right")).sum() / 2 for d in downs] for u in ups]
    )
    up, down = np.array([len(u) for u in ups]), np.array([len(d) for d in downs])
    drawn = np.random.default_rng(0).multinomial(len(each), np.full(len(each), 1 / len(each)), REPLICAS)
    pairs = (drawn @ up) * (drawn @ down)
    values = np.einsum("ri,ij,rj->r", drawn, wins, drawn)[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": float(wins.sum() / (up.sum() * down.sum())), "low": float(low), "high": float(high)}


def stacked(kind: Signals, records: Sequence[Record]) -> torch.Tensor:
    """(n, K, L)."""
    source = WindowSource(kind, FeatureCache())
    return torch.from_numpy(np.stack([x for _, x in source.stream(records)]))


def learned(part: Part, leads: tuple[str, ...] | None, seed: int, variant: str, more: dict[str, Any]) -> Path:
    """The model of a part, learned where it is not there yet."""
    place = OUT / f"{title(part.name, variant, seed, more)}.blemish"
    if not place.is_dir():
        options = {**VARIANTS[variant], **more}
        if leads:
            options["leads"] = leads
        fresh = Detector(METHOD, seed=seed, calibration="split", false_alarm_rate=RATE, **options)
        fresh.fit(part.good, track=track).save(place)
    return place


def tested(part: Part, place: Path, arrays: Path, variant: str) -> Figures:
    """Figures of one model; the errors of each window and segment are written to `arrays`."""
    model = Detector.load(place).model
    _, method = restore(model)
    labels = np.array([r.label for r in part.test])
    x = stacked(everything(model), part.test)
    scores, maps, milliseconds = deployed(model, x)
    found = {"scores": scores, "places": maps.reshape(len(x), method.total, -1).mean(2)}
    for name, options in WAYS.items() if variant == "default" else [(PLAIN, WAYS[PLAIN])]:
        found[name] = errors(other(method, **options, standard=False), x)
    file = BytesIO()
    np.savez(file, **{name: np.asarray(values, np.float32) for name, values in found.items()})
    write_whole(arrays, file.getvalue())
    calibrator = model.calibrators["f32"]
    over = scores > calibrator.threshold
    return {
        "learned_from": model.meta.data.learned_from,
        "held_out": calibrator.n,
        "steps": sum(p.steps for p in model.meta.training),
        "loss": [p.last for p in model.meta.training],
        "parameters": sum(p.numel() for p in method.network.parameters()),
        "fit_seconds": model.meta.fit_seconds,
        "milliseconds": milliseconds,
        "alarms": [int(over[labels == 0].sum()), int((labels == 0).sum())],
        "found": [int(over[labels == 1].sum()), int((labels == 1).sum())],
        "masked": masked(method, x[torch.from_numpy(labels == 0)]),
    }


def measured(
    setting: Setting, protocol: str, seed: int, variant: str, more: dict[str, Any], collect: bool
) -> Figures | None:
    """A protocol's models together, in every way of inspecting; None where `collect` finds one that is not finished."""
    each, arrays = [], []
    parts = setting.parts(protocol)
    for part in parts:
        path = OUT / f"{setting.task}-{title(part.name, variant, seed, more)}.json"
        if collect and not path.is_file():
            return None

        def figures(part: Part = part, path: Path = path) -> Figures:
            place = learned(part, setting.leads, seed, variant, more)
            return tested(part, place, path.with_suffix(".npz"), variant)

        each.append(kept(path, figures))
        with np.load(path.with_suffix(".npz")) as file:
            arrays.append(dict(file))
    joined = {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
    scores, places = joined.pop("scores"), joined.pop("places")
    truth = Truth([r for part in parts for r in part.test], places.shape[1])
    alarms, found = (np.sum([one[name] for one in each], 0).tolist() for name in ("alarms", "found"))
    squares, count = np.sum([one["masked"] for one in each], 0)
    return {
        "task": setting.task,
        "protocol": protocol,
        "seed": seed,
        "variant": variant,
        "learned_from": [one["learned_from"] for one in each],
        "held_out": [one["held_out"] for one in each],
        "steps": each[0]["steps"],
        "parameters": each[0]["parameters"],
        "milliseconds": float(np.median([one["milliseconds"] for one in each])),
        "deployed": {"window": truth.windows(scores), "segment": truth.segments(places)},
        "alarms": [*alarms, *wilson(*alarms)],
        "found": [*found, *wilson(*found)],
        "masked_error": squares / count,
        "ways": {name: truth.all(levels) for name, levels in joined.items()},
    }


def adapted(setting: Setting, seed: int) -> Figures:
    """The model of protocol A, adapted to one patient after another (`blemish adapt`), and what it finds in each.

    Patients with windows of both kinds later, and a normal half of their first ten minutes.
    """
    (known,), (part,) = setting.parts("A"), setting.parts("B")
    whole = learned(known, setting.leads, seed, "default", {})
    rows = {}
    for name in sorted({r.path.stem for r in part.test}):
        good_beats, later = ([r for r in records if r.path.stem == name] for records in (part.good, part.test))
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


def title(part: str, variant: str, seed: int, more: dict[str, Any]) -> str:
    """Of a run, by all that it depends on."""
    changed_options = "".join(f"-{k}{v}" for k, v in more.items())
    return f"{part}-{variant.replace(' ', '_')}-seed{seed}{changed_options}"


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
def masked(method: Any, x: torch.Tensor) -> list[float]:
    """Sum and number of squared errors of normalised hidden samples of the whole signal (of the run, where there is no
    other)."""
    total, count = 0.0, 0
    for block in x.split(64):
        for at in method.groups:
            wanted = at.inner if method.config.scales == "local" else ~at.inner
            found = method.errors(method.segments(block), at)[:, wanted]
            total, count = total + float(found.sum()), count + found.numel()
    return [total, count]


def baselines(setting: Setting, protocol: str) -> Figures:
    """What needs no learning, or learns a mean alone."""
    kind = Signals.from_json({**PLAN, "leads": list(setting.leads or PLAN["leads"])})
    parts = setting.parts(protocol)
    test = [r for part in parts for r in part.test]
    method = _segmenter(len(kind.preprocess.leads))
    truth = Truth(test, method.total)
    found = [guesses(method, stacked(kind, part.good), stacked(kind, part.test)) for part in parts]
    x = stacked(kind, test)
    segments = method.segments(x)
    wanted = method.targets(segments)
    normals = torch.from_numpy(truth.labels == 0)
    windows = {
        "RR intervals' variation (uses annotations)": np.array([variation(r) for r in test]),
        "width of beats (uses annotations)": np.array([width(r, one) for r, one in zip(test, x.numpy(), strict=True)]),
        "slow spectrum": -middle_frequency(x),
        "mean normal spectrum": np.concatenate([spectrum for _, spectrum in found]),
    }
    out: Figures = {"task": setting.task, "protocol": protocol, "lacking": setting.lacking()}
    out["recordings"] = sorted(set(truth.names.tolist()))
    out["both"] = [str(name) for name in truth.both]
    out["windows"] = {name: truth.windows(scores) for name, scores in windows.items()}
    before, behind = wanted[:, [1, *range(method.total - 1)]], wanted[:, [*range(1, method.total), -2]]
    constant = torch.cat([mean for mean, _ in found])[:, None]
    guessed = {"neighbours": (before + behind) / 2, "mean segment": constant.expand_as(wanted)}
    out["guesses"] = {}
    for name, guess in guessed.items():
        plain = (guess - wanted).square()
        scales = {}
        for scale in ("weighted", "normalised", "raw"):
            weights = other(method, scale=scale).weights(segments)
            scales[scale] = truth.all((plain * weights).mean((2, 3)).numpy())
        out["guesses"][name] = {"masked_error": float(plain[normals].mean()), "scales": scales}
    return out


def guesses(method: Any, good: torch.Tensor, test: torch.Tensor) -> tuple[torch.Tensor, NDArray[Any]]:
    """The mean normal segment for each of the test windows (n, K, S), and how far their spectra are from the mean."""
    mean = method.targets(method.segments(good)).mean((0, 1))
    normal = bands(good)
    distance = ((bands(test) - normal.mean(0)) / normal.std(0)).square().mean(1)
    return mean.expand(len(test), *mean.shape), distance.numpy()


def power(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, F) of the first lead, and the frequencies (F,) from 0.5 to 40 Hz."""
    lead = x[:, 0] * torch.hann_window(x.shape[2])
    frequencies = torch.fft.rfftfreq(x.shape[2], 1 / PLAN["rate"])
    inside = (frequencies >= PLAN["band"][0]) & (frequencies <= PLAN["band"][1])
    return torch.fft.rfft(lead).abs().square()[:, inside], frequencies[inside]


def middle_frequency(x: torch.Tensor) -> NDArray[Any]:
    """(n,) in Hz: the mean frequency of a window's power. Wide beats are slow ones."""
    values, frequencies = power(x)
    return ((values * frequencies).sum(1) / values.sum(1).clamp_min(1e-9)).numpy()


def bands(x: torch.Tensor) -> torch.Tensor:
    """(n, BANDS): logarithms of the power in bands of one width."""
    values, _ = power(x)
    return torch.stack([part.mean(1) for part in values.tensor_split(BANDS, 1)], 1).clamp_min(1e-9).log()


def width(record: Record, x: NDArray[Any]) -> float:
    """Of a window (K, L): the median over its annotated beats of the spread, in seconds, of where the first lead is
    steep around the R peak."""
    assert record.span is not None
    rate, reach = PLAN["rate"], round(REACH * PLAN["rate"])
    samples, _ = beats_in(record.path.with_suffix(".atr"), *record.span)
    steep = np.diff(x[0].astype(np.float64), append=x[0, -1]) ** 2
    at = np.round((samples - record.span[0]) * (rate / (extent(record.path).rate or rate))).astype(int)
    found = []
    for peak in at[(at >= reach) & (at < len(steep) - reach)]:
        weights = steep[peak - reach : peak + reach + 1] + 1e-12
        offsets = np.arange(-reach, reach + 1) / rate
        middle = np.average(offsets, weights=weights)
        found.append(np.sqrt(np.average((offsets - middle) ** 2, weights=weights)))
    return float(np.median(found)) if found else 0.0


PLAN: dict[str, Any] = {
    "leads": ["MLII", None], "rate": 125.0, "window": 9.6, "band": [0.5, 40.0], "file_rate": None, "size": [1200],
}  # fmt: skip


def _segmenter(leads: int) -> Any:
    """The method for its segments and targets; its network is not used."""
    from blemish import methods
    from blemish.types import FeatureSpec

    cls = methods.get(METHOD)
    method = cls(cls.Config(), FeatureSpec((), (), (), inputs=leads), (1200,))
    method.middle, method.spread = torch.zeros(method.total), torch.ones(method.total)
    return method


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
    parser.add_argument("--task", nargs="+", choices=TASKS, default=["ectopic"])
    parser.add_argument("--leads", nargs="+", default=[LEAD], help="by name, or: all")
    parser.add_argument("--folds", type=int, help="their number: all recordings, each tested once")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--protocols", nargs="+", choices=list(SPLITS), help="both, where no folds are asked for")
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
    leads = None if arguments.leads == ["all"] else tuple(arguments.leads)
    protocols = [*(["folds"] if arguments.folds else []), *(arguments.protocols or ([] if arguments.folds else SPLITS))]
    bases, runs, missing = [], [], 0
    for task in arguments.task:
        setting = Setting(arguments.data, task, leads, arguments.folds)
        asked = [p for p in protocols if task == "ectopic" or p != "B"]
        for protocol in asked:
            name = protocol if protocol != "folds" else f"{arguments.folds}folds"
            path = OUT / f"baselines-{task}-{name}-{setting.named()}.json"
            bases.append(kept(path, lambda s=setting, p=protocol: baselines(s, p)))
            for variant in arguments.variants if protocol == asked[-1] else ["default"]:
                for seed in arguments.seeds:
                    run = measured(setting, protocol, seed, variant, more, arguments.collect)
                    runs += [run] if run else []
                    missing += run is None
    rows = {}
    path = OUT / f"adapted-{'_'.join(arguments.leads)}.json"
    if arguments.adapt and not (arguments.collect and not path.is_file()):
        setting = Setting(arguments.data, "ectopic", leads, None)
        rows = kept(path, lambda: adapted(setting, arguments.seeds[0]))
    given = [word for word in sys.argv[1:] if word != "--collect"]
    text = page(bases, runs, rows, shlex.join(["python", "benchmarks/heartbeats.py", *given]))
    text += f"\n{missing} of the runs of that command are not finished.\n" if missing else ""
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
