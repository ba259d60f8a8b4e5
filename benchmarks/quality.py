"""Image and pixel metrics of every method on real data: writes docs/results/quality.md.

    python benchmarks/quality.py [--data ../shared/data] [--seeds 3] [--methods padim,patchcore]

Each cell is kept in `.bench/quality.jsonl` and not run again. Methods learn from all good training images (no threshold
is made), last state, raw scores; nothing is chosen on the test images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from blemish import Detector, methods
from blemish.data import layouts
from blemish.data.layouts import elpv
from blemish.detector import as_records
from blemish.types import Record

STORE = Path(".bench/quality.jsonl")
Cell = dict[str, Any]


def sets(data: Path, seed: int) -> Iterator[tuple[str, list[Record]]]:
    """(name, records); a seed draws ELPV's split anew, the other splits are published."""
    root = elpv.locate()
    for split, label in ((None, "blocks"), ("random", "random split")):
        records = elpv.index(root, split=split, seed=seed)
        yield f"ELPV both, {label}", [replace(r, group=None) for r in records]
        for group in ("mono", "poly"):
            yield f"ELPV {group}, {label}", [r for r in records if r.group == group]
    if data.is_dir():
        yield "mtd, by tile", as_records(data / "mtd")
        yield "mtd, published random split (leaks)", layouts.index(data / "mtd", split="random80")


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore, finest grid (`level=0`)": ("patchcore", {"level": 0}),
    "patchcore, mean of three (`top=3`)": ("patchcore", {"top": 3}),
    "patchcore, re-weighted (`neighbours=9`)": ("patchcore", {"neighbours": 9}),
    "patchcore, `--image-size 256sq`": ("patchcore", {"image_size": "256sq"}),
    "padim, `--image-size 256sq`": ("padim", {"image_size": "256sq"}),
    "padim, `channels=100`": ("padim", {"channels": 100}),
}
"""Methods with other options than their defaults, run with seed 0 on the sets that have masks."""


def run(method: str, records: list[Record], seed: int, **options: Any) -> Cell:
    """Fit on all good training images and measure."""
    detector = Detector(method, seed=seed, calibration="none", **options).fit(records)
    evaluation = detector.evaluate(records)
    return {
        "learned_from": detector.model.meta["data"]["learned_from"],
        "input": evaluation.setting["network_input"],
        "backbone": detector.model.meta["backbone"]["identity"],
        "fit_seconds": detector.model.meta["fit_seconds"],
        "overall": evaluation.overall,
        "by_defect": evaluation.by_defect,
    }


def cells(arguments: argparse.Namespace) -> list[Cell]:
    """Every cell, from the store or run now."""
    STORE.parent.mkdir(exist_ok=True)
    done: dict[str, Cell] = {}
    if STORE.is_file():
        done = {c["key"]: c for c in map(json.loads, STORE.read_text().splitlines())}
    out = []
    for seed in range(arguments.seeds):
        for name, records in sets(arguments.data, seed):
            jobs = [
                (method, method, {"precision": precision})
                for method in arguments.methods.split(",")
                for precision in (("auto", "f32") if seed == 0 else ("auto",))
            ]
            if seed == 0 and any(r.mask for r in records):
                jobs += [(label, method, {"precision": "auto", **o}) for label, (method, o) in VARIANTS.items()]
            for label, method, options in jobs:
                key = f"{name}|{label}|{seed}|{options['precision']}"
                if key not in done:
                    cell = run(method, records, seed, **options)
                    head = {"key": key, "set": name, "method": label, "seed": seed, "precision": options["precision"]}
                    done[key] = head | cell
                    with STORE.open("a") as file:
                        file.write(json.dumps(done[key]) + "\n")
                    print(key, cell["overall"]["image"]["auroc"], flush=True)
                out.append(done[key])
    return out


def figure(found: list[Cell], *path: str) -> str:
    """Mean over seeds, spread of the seeds, and the interval of the first seed."""
    try:
        values = [_at(c["overall"], path) for c in found]
    except KeyError:
        return ""
    spread = max(v["value"] for v in values) - min(v["value"] for v in values)
    text = f"{mean(v['value'] for v in values):.3f}"
    if len(values) > 1:
        text += f" ± {spread / 2:.3f}"
    return text + (f" [{values[0]['low']:.3f}, {values[0]['high']:.3f}]" if "low" in values[0] else "")


def first_seed(found: list[Cell]) -> str:
    """I-AUROC of seed 0, to four digits."""
    return f"{found[0]['overall']['image']['auroc']['value']:.4f}"


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def table(all_cells: list[Cell]) -> str:
    """The page."""
    lines = [
        "# Quality on real data",
        "",
        "Made by `python benchmarks/quality.py`. Single-class, backbone EfficientNet-Lite0 (ImageNet, strides 8 and 16),",
        "256² pixels with the aspect kept, raw scores, pixel metrics in source pixels. Mean over three seeds ± half their range;",
        "brackets: 95 % interval of seed 0 (DeLong for I-AUROC, bootstrap over images else). PaDiM draws nothing with its",
        "default options: its seeds differ by the split alone. A seed draws ELPV's split anew; the others are published.",
        "",
        "| set | method | good learned | I-AUROC | bf16 → float32, seed 0 | I-AP | P-AUROC | AUPRO@0.3 | AUPRO@0.05 | fit s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(c["set"] for c in all_cells):
        for method in dict.fromkeys(c["method"] for c in all_cells):
            found = [c for c in all_cells if (c["set"], c["method"], c["precision"]) == (name, method, "auto")]
            full = [c for c in all_cells if (c["set"], c["method"], c["precision"]) == (name, method, "f32")]
            if not found:
                continue
            lines.append(
                f"| {name} | {method} | {found[0]['learned_from']} | {figure(found, 'image', 'auroc')} "
                f"| {' → '.join(first_seed(c) for c in (found, full) if c)} "
                f"| {figure(found, 'image', 'ap')} | {figure(found, 'pixel', 'auroc')} "
                f"| {figure(found, 'pixel', 'aupro_0.3')} | {figure(found, 'pixel', 'aupro_0.05')} "
                f"| {mean(c['fit_seconds'] for c in found):.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(methods()))
    parser.add_argument("--out", type=Path, default=Path("docs/results/quality.md"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(table(cells(arguments)), encoding="utf-8")


if __name__ == "__main__":
    main()
