"""The ledger's cells on a local Ray cluster of two workers, against the same cells run one by one.

    python benchmarks/same_cells.py [--suite benchmarks/ledger.toml] [--local .bench/ledger] [--seed 0] [--methods a,b]

Writes docs/results/same_cells.md. Every figure and every image's score is compared, to the last bit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from blemish.evaluation.bench import run, store, suite
from blemish.evaluation.bench.on_ray import engine


def main() -> None:
    """Run what is missing on either side, compare, write the page; exit 1 where anything differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", type=Path, default=Path("benchmarks/ledger.toml"))
    parser.add_argument("--local", type=Path, default=Path(".bench/ledger"))
    parser.add_argument("--ray", type=Path, default=Path(".bench/same_cells"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--methods", default="padim,patchcore,rd", help="of the suite; rd stands for those that are trained"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results/same_cells.md"))
    arguments = parser.parse_args()
    chosen = suite.read(arguments.suite, arguments.methods.split(","), [arguments.seed])
    local = run.run(chosen, arguments.local)
    start = time.perf_counter()
    remote = run.run(chosen, arguments.ray, engine=engine(None, workers=2))
    wall = time.perf_counter() - start
    pairs = list(zip(local.jobs, remote.jobs, strict=True))
    differing = [a.cell.title for a, b in pairs if run.compare(a.folder, b.folder) is not None]
    scores = sum(len(store.images(a.folder)["score"]) for a, _ in pairs)
    one_by_one = sum(store.record(a.folder)["wall_seconds"] for a, _ in pairs)
    lines = [
        "# The same cells on a cluster",
        "",
        f"Made by `python benchmarks/same_cells.py`: the cells of {arguments.methods.replace(',', ', ')} and seed {arguments.seed} of `{arguments.suite}`,",
        "once one by one and once as tasks on a local Ray cluster of two workers. Compared are all figures and every image's score, bit for bit.",
        "",
        "| | |",
        "|---|---|",
        f"| cells | {len(pairs)} |",
        f"| scores compared | {scores:,} |",
        f"| cells in which anything differs | {len(differing)} |",
        f"| cells that failed | {len(local.failed) + len(remote.failed)} |",
    ]
    if remote.ran == len(pairs):
        lines.append(
            f"| wall seconds one by one; on two workers of the same two cores | {one_by_one:.0f}; {wall:.0f} |"
        )
    arguments.out.write_text(
        "\n".join([*lines, *(f"\n- differs: {title}" for title in differing)]) + "\n", encoding="utf-8"
    )
    print("\n".join(lines))
    raise SystemExit(int(bool(differing or local.failed or remote.failed)))


if __name__ == "__main__":
    main()
