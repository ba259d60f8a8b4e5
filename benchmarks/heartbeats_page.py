"""The page of `benchmarks/heartbeats.py`: figures of all runs -> Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Figures = dict[str, Any]
PLAIN = "paired, weighted"  # the way of inspecting that variants are compared in


FEWEST = 5  # recordings with both kinds of windows that an interval is given for


def cell(metric: Figures) -> str:
    """A value with its interval, which a mean over few recordings has none of."""
    if "value" not in metric:
        return ""
    if metric.get("recordings", FEWEST) < FEWEST:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def mean(metrics: Sequence[Figures]) -> str:
    """One run with its interval; of several the mean and the seeds' spread."""
    if len(metrics) == 1 or "value" not in metrics[0]:
        return cell(metrics[0])
    values = [m["value"] for m in metrics]
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def row(name: str, runs: Sequence[Figures]) -> str:
    """A line of the table: each rule's pooled AUROC, the mean within recordings by the best rule, segments."""
    rules = runs[0]["rules"]
    pooled = [mean([r["rules"][rule]["auroc"] for r in runs]) for rule in rules]
    best = max(rules, key=lambda rule: np.mean([r["rules"][rule]["within"].get("value", 0) for r in runs]))
    within = mean([r["rules"][best]["within"] for r in runs])
    return f"| {name} | {' | '.join(pooled)} | {within}{f' ({best})' if within else ''} | {mean([r['segment'] for r in runs])} |"


HEAD = "| | window AUROC: mean | max | top 10 % | within recordings (best rule) | segment AUROC |\n|---|---|---|---|---|---|"


PROTOCOLS = {
    "folds": (
        "Folds",
        "Each recording is tested once, by a model that has not seen the person; all scores are pooled as they are.",
    ),
    "A": ("Protocol A", "Inter-patient: learned from DS1, tested on DS2."),
    "B": (
        "Protocol B",
        "Patient-calibrated: good windows of the first ten minutes of each tested recording are learned from too.",
    ),
}
TASKS = {
    "ectopic": [
        "Abnormal windows hold a beat that is none of the usual rhythm (any but N, L, R, e and j); windows of bundle branch",
        "or escape beats alone are left out, and so are the paced recordings.",
    ],
    "morphology": [
        "Abnormal windows hold beats of bundle branch block (L, R) or of a pacemaker (/, f) and no others but normal ones (N);",
        "windows with any other beat are left out. Recordings of a pacemaker are tested and never learned from.",
    ],
}


def page(bases: Sequence[Figures], runs: Sequence[Figures], rows: Figures, command: str) -> str:
    """The page of all that is there."""
    lacking = bases[0]["lacking"]
    out = [
        "# Heartbeats",
        "",
        f"Made by `{command}`. MIT-BIH Arrhythmia Database (Moody and Mark 2001), windows of 9.6 s, 125 Hz;",
        "`mmae_ecg` learns from windows of normal beats (N) alone.",
        "",
        "Window AUROC is pooled over recordings: it mixes how patients differ with how beats do. So the mean AUROC within",
        "recordings that have both kinds of windows stands beside it, and the AUROC of segments of 192 ms (marked where half",
        "of one lies within -0.25 to +0.35 s of an ectopic beat). Intervals are a bootstrap over recordings, 95 %; of several",
        "seeds the mean and the standard deviation are given. Rules: the mean over a window's segments, the highest, the",
        "highest tenth. Errors: normalised by the segment's deviation, as in the loss; weighted by v / (v + 0.1), v its",
        "variance; raw, times v.",
        *([f"Left out, since they have no such lead: {', '.join(lacking)}."] if lacking else []),
        "",
    ]
    for task in dict.fromkeys(base["task"] for base in bases):
        out += [f"## {'Ectopic beats' if task == 'ectopic' else 'Morphology of beats'}", "", *TASKS[task], ""]
        for base in (one for one in bases if one["task"] == task):
            out += section(base, [r for r in runs if (r["task"], r["protocol"]) == (task, base["protocol"])])
    return "\n".join([*out, *(patients(rows) if rows else [])])


def section(base: Figures, runs: Sequence[Figures]) -> list[str]:
    """Of one task and protocol."""
    both = base["both"]
    heading, text = PROTOCOLS[base["protocol"]]
    named = f" ({', '.join(both)})" if len(both) < FEWEST else ""
    out = [
        f"### {heading}",
        "",
        f"{text} {len(base['recordings'])} recordings, {len(both)} of them with windows of both kinds{named}.",
        "",
        HEAD,
    ]
    for name, metrics in base["windows"].items():
        out.append(f"| {name} | {cell(metrics['auroc'])} | | | {cell(metrics['within'])} | |")
    for name, guess in base["guesses"].items():
        out += [row(f"{name}, {scale}", [metrics]) for scale, metrics in guess["scales"].items()]
    plain = [r for r in runs if r["variant"] == "default"]
    if plain:
        out += [row(f"`mmae_ecg`, {way}", [r["ways"][way] for r in plain]) for way in plain[0]["ways"]]
        out += ["", *details(plain, base)]
    others = [name for name in dict.fromkeys(r["variant"] for r in runs) if name != "default"]
    if others:
        # a seed decides which recordings are held out: only runs of the same seeds are compared
        shared = set.intersection(*({r["seed"] for r in runs if r["variant"] == name} for name in others))
        seeds = ", ".join(map(str, sorted(shared)))
        out += ["", f"Learned without a part, or with another ({PLAIN}; seeds {seeds}):", "", HEAD]
        by_seed = {(r["variant"], r["seed"]): r["ways"][PLAIN] for r in runs}
        for name in ["default", *others]:
            figures = [by_seed[name, seed] for seed in sorted(shared) if (name, seed) in by_seed]
            if figures:
                out.append(row(name, figures))
        if all(("default", seed) in by_seed for seed in shared):
            out += ["", *apart(by_seed, others, sorted(shared))]
    return [*out, ""]


def apart(by_seed: dict[tuple[str, int], Figures], names: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """What a variant has more than the default under the same seed: the patients who are held out are the same."""

    def more(name: str, seed: int) -> tuple[float, float]:
        this, plain = by_seed[name, seed], by_seed["default", seed]
        window = [f["rules"]["mean"]["auroc"]["value"] for f in (this, plain)]
        segment = [f["segment"].get("value", math.nan) for f in (this, plain)]
        return window[0] - window[1], segment[0] - segment[1]

    lines = [
        "More than the default under the same seed, by seed:",
        "",
        "| | window AUROC: mean | segment AUROC |",
        "|---|---|---|",
    ]
    for name in names:
        pairs = zip(*(more(name, seed) for seed in seeds), strict=True)
        shown = [", ".join(f"{v:+.3f}" for v in values if not math.isnan(v)) for values in pairs]
        lines.append(f"| {name} | {' | '.join(shown)} |")
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


def details(runs: Sequence[Figures], base: Figures) -> list[str]:
    """What else there is to say of the default's runs."""
    errors = [r["masked_error"] for r in runs]
    guesses = base["guesses"]
    models = len(runs[0]["learned_from"])
    lines = [
        f"Mean squared error on hidden segments of normal test windows: {np.mean(errors):.3f}; of the neighbours "
        f"{guesses['neighbours']['masked_error']:.3f}, of the mean segment {guesses['mean segment']['masked_error']:.3f}. "
        f"{runs[0]['parameters']:,} parameters, {runs[0]['steps']:,} steps, "
        f"{np.median([r['milliseconds'] for r in runs]):.1f} ms a window"
        f"{'' if models == 1 else f'; {models} models a seed'}{'' if len(runs) > 1 else '; one seed'}.",
        "",
        "| seed | learned from | held out | deployed score: window AUROC | false alarms, promised 5 % | abnormal windows found |",
        "|---|---|---|---|---|---|",
    ]
    for r in runs:
        alarms, found = ([f"{100 * v:.1f} %" for v in r[key][2:]] for key in ("alarms", "found"))
        learned, held = (", ".join(f"{n:,}" for n in r[key]) for key in ("learned_from", "held_out"))
        lines.append(
            f"| {r['seed']} | {learned} | {held} | {cell(r['deployed']['window']['auroc'])} | "
            f"{alarms[0]} [{alarms[1]}, {alarms[2]}] | {found[0]} [{found[1]}, {found[2]}] |"
        )
    return lines
