"""Time and memory of learning: coresets at two grids, and how fit grows. Writes docs/results/growth.md.

    python benchmarks/growth.py [--data ../shared/data/mtd]

Each row is a process of its own, so that its peak memory is its own. Features come from the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from blemish.learning.sources.image import plan_geometry

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def coreset(data: Path, level: int, count: int) -> dict[str, Any]:
    """Greedy k-centre on all patches of mtd's good training images, `count` picks or a tenth."""
    import numpy as np

    from blemish.detector import as_records
    from blemish.learning.backbones.cache import FeatureCache
    from blemish.learning.options import FitOptions
    from blemish.learning.plan import load_backbone
    from blemish.learning.sources.features import FeatureSource
    from blemish.learning.splits import good_training_records
    from blemish.ops.coreset import greedy_k_centre
    from blemish.ops.patches import grid_of, patch_descriptors

    good = good_training_records(as_records(data))
    backbone = load_backbone(FitOptions())
    assert backbone is not None
    source = FeatureSource(backbone, plan_geometry(good, "256", backbone.stride), FeatureCache())
    grid = grid_of(source.spec, level)
    patches = np.empty((len(good) * grid[0] * grid[1], sum(source.spec.channels)), np.float32)
    at = 0
    for batch in source.batches(good):
        assert batch.pyramid is not None
        part = patch_descriptors(batch.pyramid.maps, source.spec, grid).reshape(-1, patches.shape[1])
        patches[at : at + len(part)] = part
        at += len(part)
    start, cpu = time.perf_counter(), time.process_time()
    picks, radius = greedy_k_centre(patches, count or len(patches) // 10)
    return {
        "what": f"coreset, {grid[1]} x {grid[0]} grid, {len(patches):,} patches -> {len(picks):,}",
        "wall": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "note": f"covering radius {radius:.2f}",
    }


def fit(data: Path, method: str, images: int) -> dict[str, Any]:
    """Fit on some of the good training images."""
    from blemish import Detector
    from blemish.detector import as_records
    from blemish.learning.splits import good_training_records

    good = good_training_records(as_records(data))[:images]
    start, cpu = time.perf_counter(), time.process_time()
    Detector(method, calibration="none").fit(good)
    return {
        "what": f"fit {method}, {len(good)} images",
        "wall": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "note": "graph and certificate included",
    }


def main() -> None:
    """Run every row in its own process and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mtd"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/growth.md"))
    parser.add_argument("--job", default="")
    arguments = parser.parse_args()
    if arguments.job:
        kind, *job_arguments = arguments.job.split(",")
        row = (
            coreset(arguments.data, *map(int, job_arguments))
            if kind == "coreset"
            else fit(arguments.data, job_arguments[0], int(job_arguments[1]))
        )
        row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(row))
        return
    jobs = ["fit,padim,762", "coreset,-1,0", "coreset,0,20000"]
    jobs += [f"fit,{method},{n}" for method in ("padim", "patchcore") for n in (100, 200, 400, 762)]
    rows = []
    for job in jobs:  # the first one fills the cache and is measured again below
        command = [sys.executable, __file__, "--data", str(arguments.data), "--job", job]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    lines = [
        "# Time and memory of learning",
        "",
        "Made by `python benchmarks/growth.py` on the 762 good training images of `mtd`, features from the cache, all",
        "cores; each row a process of its own.",
        "",
        "| what | wall s | CPU s | peak MB of the process | |",
        "|---|---|---|---|---|",
        *(f"| {r['what']} | {r['wall']:.1f} | {r['cpu']:.1f} | {r['peak_mb']:.0f} | {r['note']} |" for r in rows[1:]),
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
