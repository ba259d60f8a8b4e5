"""Every image exactly once, though a worker dies: writes docs/results/exactly_once.md and prints its figures as JSON.

    python benchmarks/exactly_once.py [--images 20000] [--work .bench/exactly_once]

ELPV's 2,624 cells under as many names as there are to be images, a local Ray cluster of two workers, one of which gets
SIGKILL in the middle. Every row is compared with what the local engine says of the same file, all but `seconds`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

METHOD = "padim"
WORKERS = 2
KILL_AT = 0.4  # share of the images that are written when the worker dies
COMPARED = ("pred_score", "p_value", "threshold", "pred_label", "category", "regions", "map", "error")


def links(folder: Path, count: int) -> dict[str, Path]:
    """`count` names in a folder -> the cells behind them, over and over in their order.

    The names are hard links to copies: of symbolic links to one file, a folder's listing has one.
    """
    from blemish.data.layouts import Query, elpv

    cells = [record.path for record in elpv.index(elpv.locate(), Query())]
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    names = [folder / f"{i:06d}.png" for i in range(count)]
    for i, name in enumerate(names):
        if i < len(cells):
            shutil.copyfile(cells[i], name)
        else:
            os.link(names[i % len(cells)], name)
    return {str(name): cells[i % len(cells)] for i, name in enumerate(names)}


def learned(folder: Path) -> Path:
    """The model, learned in a process of its own: what it takes is not the inspection's memory."""
    if not folder.is_dir():
        code = "from blemish.cli import main; main()"
        words = ["fit", "elpv", "--multi-class", "--method", METHOD, "--out", str(folder)]
        subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=subprocess.DEVNULL)
    return folder


class Watch(threading.Thread):
    """Looks at the workers below this process four times a second: which there are, and how large they get."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.workers: dict[int, int] = {}  # pid -> peak of its resident memory, KB
        self.done = threading.Event()
        self.shared_before, self.shared = shared_memory(), 0

    def run(self) -> None:
        while not self.done.wait(0.25):
            self.look()

    def look(self) -> list[int]:
        """The workers that are alive."""
        alive = []
        for pid in below(os.getpid()):
            if command(pid).startswith("ray::MapWorker"):
                alive.append(pid)
                self.workers[pid] = max(self.workers.get(pid, 0), peak_kb(pid))
        self.shared = max(self.shared, shared_memory() - self.shared_before)
        return alive


def below(root: int) -> list[int]:
    """Processes started by this one, and by those."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    out, open_ = [], [root]
    while open_:
        children = parents.get(open_.pop(), [])
        out += children
        open_ += children
    return out


def command(pid: int) -> str:
    """What a process calls itself; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def peak_kb(pid: int) -> int:
    """Peak of a process's resident memory; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def shared_memory() -> int:
    """Bytes in use where Ray's object store lies, by whomever."""
    state = os.statvfs("/dev/shm")
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def inspect(model: Path, images: Path, out: Path) -> dict[str, Any]:
    """The run, with its accident: figures of it."""
    from blemish.inspection import modelfile
    from blemish.inspection import on_ray as cluster

    watch = Watch()
    killed: dict[str, Any] = {}

    def track(items: Any, _: str, total: int) -> Iterator[Any]:
        for done, item in enumerate(items):
            if not killed and done >= KILL_AT * total:
                pid = watch.look()[0]
                os.kill(pid, signal.SIGKILL)
                killed.update(rows=done * cluster.PART, seconds=round(time.perf_counter() - start, 1))
            yield item

    start = time.perf_counter()
    watch.start()
    summary = cluster.inspect(modelfile.load(model), [str(images)], str(out), workers=WORKERS, track=track)
    wall = time.perf_counter() - start
    watch.done.set()
    watch.join()
    return {
        "killed_after_rows": killed["rows"],
        "killed_after_seconds": killed["seconds"],
        "workers_seen": len(watch.workers),
        "restarts": len(watch.workers) - WORKERS,
        "summary": {key: summary[key] for key in ("rows", "errors", "anomalous", "parts")},
        "wall_seconds": round(wall, 1),
        "peak_mb_driver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_mb_worker": max(watch.workers.values()) // 1024,
        "peak_mb_object_store": watch.shared >> 20,
    }


def compare(model: Path, named: dict[str, Path], out: Path) -> dict[str, Any]:
    """The rows against the listing and against the local engine."""
    from blemish import Detector
    from blemish.inspection import on_ray as cluster

    rows = cluster.read(str(out)).to_pylist()
    seen = Counter(row["image_path"] for row in rows)
    cells = sorted(set(named.values()))
    line = Detector.load(model).inspector()
    local = {str(r.image_path): r.to_json() for r in line.inspect_many(map(str, cells))}
    differing = Counter(
        key for row in rows for key in COMPARED if row[key] != local[str(named[row["image_path"]])][key]
    )
    return {
        "rows": len(rows),
        "in_order": [row["image_path"] for row in rows] == list(named),
        "duplicates": sum(n - 1 for n in seen.values()),
        "missing": len(named.keys() - seen.keys()),
        "foreign": len(seen.keys() - named.keys()),
        "distinct_files": len(cells),
        "differing": {key: differing[key] for key in COMPARED},
    }


def page(found: dict[str, Any]) -> str:
    """The page."""
    scores = found["differing"]["pred_score"]
    others = sum(found["differing"].values()) - scores
    cells = [
        ("images", f"{found['images']:,} names of {found['distinct_files']:,} files"),
        ("workers", f"{WORKERS}, one core each"),
        ("one killed by SIGKILL after", f"{found['killed_after_rows']:,} rows, {found['killed_after_seconds']} s"),
        ("worker processes seen, restarts", f"{found['workers_seen']}, {found['restarts']}"),
        ("rows", f"{found['rows']:,} in {found['summary']['parts']} parts"),
        ("duplicates", found["duplicates"]),
        ("missing", found["missing"]),
        ("rows in the listing's order", "yes" if found["in_order"] else "no"),
        ("scores that differ from the local engine's", scores),
        ("other values that differ (p, threshold, verdict, regions, error)", others),
        ("wall seconds, start of the cluster included", found["wall_seconds"]),
        ("peak MB of the driver", found["peak_mb_driver"]),
        ("peak MB of a worker", found["peak_mb_worker"]),
        ("peak MB that shared memory, the object store's place, grew by", found["peak_mb_object_store"]),
    ]
    lines = [
        "# Every image exactly once",
        "",
        "Made by `python benchmarks/exactly_once.py`: solar cells (ELPV), a model of `padim` learned from half of the good",
        "ones, a Ray cluster of two workers on one machine, and an accident. Values are compared bit for bit.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in cells),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, compare, write the page; exit 1 where anything is not as promised."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--work", type=Path, default=Path(".bench/exactly_once"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/exactly_once.md"))
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    named = links(work / "images", arguments.images)
    model, out = learned(work / "model"), work / "rows"
    shutil.rmtree(out, ignore_errors=True)
    found = {"images": len(named), **inspect(model, work / "images", out), **compare(model, named, out)}
    print(json.dumps(found))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(found), encoding="utf-8")
    wrong = found["duplicates"] + found["missing"] + found["foreign"] + sum(found["differing"].values())
    raise SystemExit(int(bool(wrong) or found["rows"] != len(named) or not found["in_order"] or found["restarts"] < 1))


if __name__ == "__main__":
    main()
