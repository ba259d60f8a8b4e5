"""20,000 images on a local cluster of two workers, one of them killed on the way: writes docs/results/exactly_once.md.

    python benchmarks/exactly_once.py [--images 20000] [--work .bench/once]

The images are ELPV's 2,624 real cells under 20,000 names. Afterwards every name has to be in the result exactly once,
with the score and p-value that the local engine gives for the same cell, to the last bit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def names(work: Path, cells: list[Path], count: int) -> Path:
    """A folder of `count` links to the cells."""
    folder = work / "images"
    shutil.rmtree(work, ignore_errors=True)
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i:05d}.png").symlink_to(cells[i % len(cells)])
    return folder


def processes(pattern: str) -> list[int]:
    """Process ids by their name."""
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def memory(pid: int) -> float:
    """Largest resident MB of a process so far."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


class Watch:
    """Follows the parts, kills a worker on the way, and remembers the largest memory of each kind of process."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.killed = 0
        self.workers: set[int] = set()
        self.peaks: dict[str, float] = {}

    def __call__(self, parts: Any, *_: Any) -> Iterator[Any]:
        for i, part in enumerate(parts):
            alive = processes("^ray::.*_Fetching")
            self.workers |= set(alive)
            for kind, pids in (("driver", [os.getpid()]), ("worker", alive)):
                for pid in pids:
                    if Path(f"/proc/{pid}").exists():
                        self.peaks[kind] = max(self.peaks.get(kind, 0.0), memory(pid))
            if i == self.kill_at:
                self.killed = alive[0]
                os.kill(self.killed, signal.SIGKILL)
            yield part


def main() -> None:
    """Run, check and write the page; an assertion fails where an image is missing, double or has another score."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--work", type=Path, default=Path(".bench/once"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/exactly_once.md"))
    arguments = parser.parse_args()

    from blemish import Detector
    from blemish.cluster import inspect as cluster
    from blemish.data import layouts
    from blemish.data.layouts import elpv

    cells = sorted((elpv.locate() / "images").glob("*.png"))
    folder = names(arguments.work, cells, arguments.images)
    detector = Detector("padim").fit(layouts.index("elpv"))
    start = time.perf_counter()
    expected = {c.name: (r.score, r.p_value) for c, r in zip(cells, detector.inspect_many(cells), strict=True)}
    local = (time.perf_counter() - start) / len(cells)

    watch = Watch(kill_at=arguments.images // cluster.PART // 3)
    out = str(arguments.work / "result")
    start = time.perf_counter()
    summary = cluster.inspect(detector.model, [str(folder)], out, workers=2, track=watch)
    wall = time.perf_counter() - start

    rows = cluster.read(out).to_pylist()
    count = Counter(Path(row["image_path"]).name for row in rows)
    double = sum(n - 1 for n in count.values())
    missing = arguments.images - len(count)
    found = {Path(row["image_path"]).name: (row["pred_score"], row["p_value"]) for row in rows}
    other = sum(expected[cells[int(Path(name).stem) % len(cells)].name] != pair for name, pair in found.items())
    lines = [
        "# Every image exactly once",
        "",
        f"Made by `python benchmarks/exactly_once.py`: ELPV's {len(cells):,} cells under {arguments.images:,} names, `padim`,",
        "`cluster.inspect` on a local Ray cluster of two workers; one worker gets SIGKILL after a third of the parts.",
        "",
        "| | |",
        "|---|---|",
        f"| images asked for | {arguments.images:,} |",
        f"| rows | {summary['rows']:,} in {summary['parts']} parts |",
        f"| missing | {missing} |",
        f"| double | {double} |",
        f"| with another score or p-value than the local engine's | {other} |",
        f"| worker processes seen | {len(watch.workers)} (two, and one for the killed one) |",
        f"| wall seconds, cluster and all | {wall:.0f} |",
        f"| the local engine would take, from {len(cells):,} images | {local * arguments.images:.0f} |",
        f"| peak memory: driver, largest worker | {watch.peaks['driver']:.0f} MB, {watch.peaks['worker']:.0f} MB |",
    ]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    assert watch.killed
    assert (missing, double, other, summary["errors"]) == (0, 0, 0, 0)


if __name__ == "__main__":
    main()
