"""The page of `benchmarks/heartbeats.py`: figures of all runs -> Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Figures = dict[str, Any]
PLAIN = "paired, normalised"  # the way of inspecting that variants are compared in


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
    rules = runs[0]["rules"]
    pooled = [mean([r["rules"][rule]["auroc"] for r in runs]) for rule in rules]
    best = max(rules, key=lambda rule: np.mean([r["rules"][rule]["within"]["value"] for r in runs]))
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
        protocol_runs = [r for r in runs if r["protocol"] == protocol]
        out += [f"## Protocol {protocol}", "", HEAD]
        rr = base["rr"]
        out.append(f"| RR intervals' variation (uses annotations) | {cell(rr['auroc'])} | | | {cell(rr['within'])} | |")
        for name in ("neighbours", "mean segment"):
            out += [row(f"{name}, {scale}", [base[name][scale]]) for scale in ("normalised", "raw")]
        plain = [r for r in protocol_runs if r["variant"] == "default"]
        if plain:
            out += [row(f"`mmae_ecg`, {way}", [r["ways"][way] for r in plain]) for way in plain[0]["ways"]]
            out += ["", *details(plain, base)]
        others = [name for name in dict.fromkeys(r["variant"] for r in protocol_runs) if name != "default"]
        if others:
            # a seed decides which recordings are held out: only runs of the same seeds are compared
            shared = set.intersection(*({r["seed"] for r in protocol_runs if r["variant"] == name} for name in others))
            seeds = ", ".join(map(str, sorted(shared)))
            out += ["", f"Learned without a part, or with another ({PLAIN}; seeds {seeds}):", "", HEAD]
            by_seed = {(r["variant"], r["seed"]): r["ways"][PLAIN] for r in protocol_runs}
            for name in ["default", *others]:
                figures = [by_seed[name, seed] for seed in sorted(shared) if (name, seed) in by_seed]
                if figures:
                    out.append(row(name, figures))
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


def details(runs: Sequence[Figures], base: Figures) -> list[str]:
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
