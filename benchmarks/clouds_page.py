"""The page of `benchmarks/clouds.py`: figures of all runs -> Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blemish.evaluation.metrics.intervals import wilson

DETECTORS = ("bank", "network", "both")
FAMILIES = ("hole", "cut", "sphere")


def mean(runs: Sequence[dict[str, Any]], *path: str) -> str:
    """Mean over runs, and the lowest and highest of the meshes' own means."""
    by_mesh: dict[str, list[float]] = {}
    for run in runs:
        value: Any = run
        for key in path:
            value = value[key]
        by_mesh.setdefault(run["mesh"], []).append(float(value))
    means = [float(np.mean(v)) for v in by_mesh.values()]
    return f"{np.mean(means):.3f} ({min(means):.3f} to {max(means):.3f})"


def page(runs: Sequence[dict[str, Any]], options: dict[str, Any]) -> str:
    """The page."""
    meshes, seeds = sorted({r["mesh"] for r in runs}), sorted({r["seed"] for r in runs})
    cells = [(f"{d:g}", f"{s:g}") for d in options["depths"] for s in options["sizes"]]
    lines = [
        "# Point clouds: which defects are found",
        "",
        f"Made by `python benchmarks/clouds.py --page docs/results/clouds.md`. All of it is synthetic: scans are "
        f"{options['points']:,} points taken anew from a mesh ({', '.join(meshes)}), with noise of {options['noise']:g} of "
        f"the diagonal, turned and shifted at random; defects are made. {len(seeds)} seeds; {options['learn']} normal scans "
        f"are learned from, {options['held']} give the threshold, {options['good']} are tested. Figures are means over "
        "meshes, with the lowest and highest mesh in brackets. Sizes are relative: depth to the diagonal, the radius of "
        "the defect's window to the part's longer side.",
        "",
        "## Defects by Perlin noise, by depth and size",
        "",
        f"Method `fpfh`, at its defaults. Rejected: at the threshold for {options['rate']:g} false alarms.",
        "",
        "| depth | radius | points moved | point AUROC | object AUROC | rejected |",
        "|---|---|---|---|---|---|",
    ]
    for depth, size in cells:
        key = f"{depth} {size}"
        hit = sum(r["perlin"][key]["bank"]["rejected"] for r in runs)
        of = sum(r["perlin"][key]["scans"] for r in runs)
        share = np.mean([r["perlin"][key]["share"] for r in runs])
        lines.append(
            f"| {depth} | {size} | {share:.1%} | {mean(runs, 'perlin', key, 'bank', 'point')} "
            f"| {mean(runs, 'perlin', key, 'bank', 'object')} | {hit} of {of} |"
        )
    lines += ["", "## Normal scans", "", "| | bank | network | both |", "|---|---|---|---|"]
    total = options["good"] * len(runs)
    alarms = []
    for n in DETECTORS:
        count = sum(r["false_alarms"][n] for r in runs)
        low, high = wilson(count, total)[1:]
        alarms.append(f"{count / total:.3f} [{low:.3f}, {high:.3f}]")
    lines.append(f"| rejected of {total} normal scans, promised at most {options['rate']:g} | {' | '.join(alarms)} |")
    null = [f"{np.mean([r['null'][n]['object'] for r in runs]):.3f}" for n in DETECTORS]
    lines.append(f"| object AUROC of defects of strength 0: nothing to find | {' | '.join(null)} |")
    lines += [
        "",
        "## Learning from synthetic defects",
        "",
        f"A network 33-64-1 on the same features of points, learned from the {options['learn']} normal scans against "
        f"{options['negatives']} of them with defects by Perlin noise (preset `random`); both = the sum of the two, each "
        "standardised on the held-out normal scans. The first row is of the kind that it has learned from; the others are "
        "not, and only those say anything.",
        "",
        "| defects | bank: object, point AUROC | network | both |",
        "|---|---|---|---|",
    ]
    pooled = [{**r, "all": {n: _mean_cell(r, n) for n in DETECTORS}} for r in runs]
    rows = [("Perlin noise, all depths and sizes", ("all",)), *((f, ("others", f)) for f in FAMILIES)]
    for name, path in rows:
        figures = [f"{mean(pooled, *path, n, 'object')}, {mean(pooled, *path, n, 'point')}" for n in DETECTORS]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    lines += ["", *_comparison(pooled), ""]
    looked, voxel = np.mean([r["looked"] for r in runs]), np.mean([r["voxel"] for r in runs])
    lines.append(
        f"A scan is inspected by {looked:.0f} points, {voxel:.3f} of the diagonal apart; the bank holds "
        f"{np.mean([r['bank'] for r in runs]):.0f}. All runs took {sum(r['seconds'] for r in runs) / 60:.0f} minutes of "
        "processor time. Holes are labelled at their rims, 0.02 of the diagonal wide: what is missing cannot be."
    )
    return "\n".join(lines) + "\n"


def _mean_cell(run: dict[str, Any], detector: str) -> dict[str, float]:
    cells = [cell[detector] for cell in run["perlin"].values()]
    return {what: float(np.mean([c[what] for c in cells])) for what in ("object", "point")}


def _comparison(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What comes of learning from synthetic defects, on the families that were not made so: wins and losses, run by run."""
    out = []
    for what in ("object", "point"):
        gains = []
        for family in FAMILIES:
            for n in ("network", "both"):
                gain = np.array([r["others"][family][n][what] - r["others"][family]["bank"][what] for r in runs])
                gains.append(f"{family}, {n}: {gain.mean():+.3f}, better in {(gain > 0).sum()} of {len(gain)} runs")
        out.append(f"Against the bank alone, {what} AUROC: {'; '.join(gains)}.")
        out.append("")
    return out[:-1]
