"""How learning and inspecting grow from 1,000 to 100,000 images: writes docs/results/scale.md and its plot.

    python benchmarks/scale.py [--data .bench/scale] [--largest 100000]

The images are ELPV's good cells, repeated and jittered (shift, mirror, brightness) so that no two are the same. Each row
is a process of its own, kept in `.bench/scale.jsonl` and not run again. No cache: features are part of the work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

STORE = Path(".bench/scale.jsonl")
SHARD = 1000  # images in one folder
METHODS = {"padim": [], "patchcore": ["bank=5000"]}
SIZES = {"128": (1_000, 10_000, 100_000), "256": (1_000, 10_000)}
MACHINES = (1, 10, 100)
Row = dict[str, Any]


def shard(job: tuple[Path, int]) -> None:
    """Write one folder of jittered images, unless it is there."""
    import cv2
    import numpy as np

    from blemish.data.image.decode import read_image
    from blemish.data.layouts import Query, elpv

    folder, first = job
    if folder.is_dir() and len(list(folder.iterdir())) == SHARD:
        return
    folder.mkdir(parents=True, exist_ok=True)
    good = [r.path for r in elpv.index(elpv.locate(), Query()) if r.split == "train"]
    for number in range(first, first + SHARD):
        rng = np.random.default_rng(number)
        image = np.roll(read_image(good[number % len(good)]), rng.integers(-8, 9, 2), (0, 1))
        image = image[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])] * rng.uniform(0.95, 1.05)
        cv2.imwrite(
            str(folder / f"{number:07d}.jpg"), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92]
        )


def images(data: Path, count: int) -> list[Path]:
    """The first `count` images, made where they are missing."""
    jobs = [(data / f"{i // SHARD:05d}", i) for i in range(0, count, SHARD)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(shard, jobs))
    return [folder / f"{i + k:07d}.jpg" for folder, i in jobs for k in range(SHARD)]


def job(data: Path, what: str, method: str, size: str, count: int) -> Row:
    """Learn from, or inspect, the first `count` images."""
    from blemish import Detector
    from blemish.config import parse_assignments

    paths = images(data, count)
    model = data / f"{method}-{size}.blemish"
    options = parse_assignments(METHODS[method])
    start, cpu = time.perf_counter(), time.process_time()
    if what == "fit":
        detector = Detector(method, image_size=size, calibration="none", cache=False, **options).fit(paths)
    else:
        detector = Detector.load(model)
        assert sum(result.score > 0 for result in detector.inspect_many(paths)) == count
    row = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    if what == "fit" and count == 1000:
        detector.save(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"what": what, "method": method, "size": size, "count": count, **row, "peak_mb": peak}


def slope(rows: list[Row], key: str) -> float:
    """Milliseconds (or KB) that one more image takes, between the two largest sets."""
    a, b = sorted(rows, key=lambda r: r["count"])[-2:]
    return 1000 * (b[key] - a[key]) / (b["count"] - a["count"])


def plot(rows: list[Row], file: Path) -> None:
    """Processor seconds and peak memory over the number of images."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "blemish", "svg.fonttype": "none"}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axis, key, name in zip(figure.subplots(1, 2), ("cpu", "peak_mb"), ("processor s", "peak MB"), strict=True):
        for series in dict.fromkeys((r["what"], r["method"], r["size"]) for r in rows):
            series_rows = sorted(
                (r for r in rows if (r["what"], r["method"], r["size"]) == series), key=lambda r: r["count"]
            )
            style = "-o" if series[0] == "fit" else "--s"
            axis.plot(
                [r["count"] for r in series_rows],
                [r[key] for r in series_rows],
                style,
                label=" ".join(series),
                markersize=4,
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("images")
        axis.set_ylabel(name)
        axis.grid(True, color="#d9dee4", linewidth=0.6)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(file, metadata={"Date": None})


def page(rows: list[Row]) -> str:
    """The page."""
    lines = [
        "# From a thousand to a hundred thousand images",
        "",
        "Made by `python benchmarks/scale.py`: ELPV's good cells, repeated and jittered, no cache, features included; two",
        "cores, each row a process of its own. `patchcore` with a bank of 5,000 rows. Up to 4,096 images are observed in",
        "one go, more in chunks that are condensed and merged.",
        "",
        "![Time and memory over the number of images](scale.svg)",
        "",
        "| | method | network input | images | wall s | processor s | ms an image | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        each = 1000 * r["cpu"] / r["count"]
        lines.append(
            f"| {r['what']} | {r['method']} | {r['size']}² | {r['count']:,} | {r['wall']:.0f} | {r['cpu']:.0f} "
            f"| {each:.2f} | {r['peak_mb']:.0f} |"
        )
    lines += ["", "## Slopes, and ten million images", ""]
    lines += [
        "Between the two largest sets of each row. Hours for ten million images: slope x 10⁷ / (2 cores x machines),"
    ]
    lines += [
        "as if every core were as busy as here and nothing were lost between machines: a floor, not a promise.",
        "",
    ]
    lines += [
        "| | method | network input | processor ms an image | KB an image | "
        + " | ".join(f"h on {n}" for n in MACHINES)
        + " |"
    ]
    lines += ["|---" * (5 + len(MACHINES)) + "|"]
    for what, method, size in dict.fromkeys((r["what"], r["method"], r["size"]) for r in rows):
        series_rows = [r for r in rows if (r["what"], r["method"], r["size"]) == (what, method, size)]
        ms = slope(series_rows, "cpu")
        hours = [ms / 1000 * 1e7 / 3600 / (2 * n) for n in MACHINES]
        cells = " | ".join(f"{h:.1f}" for h in hours)
        lines.append(f"| {what} | {method} | {size}² | {ms:.2f} | {slope(series_rows, 'peak_mb'):.1f} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(".bench/scale"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/scale.md"))
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--job", default="")
    arguments = parser.parse_args()
    if arguments.job:
        what, method, size, count = arguments.job.split(",")
        print(json.dumps(job(arguments.data, what, method, size, int(count))))
        return
    STORE.parent.mkdir(exist_ok=True)
    done = [json.loads(line) for line in STORE.read_text().splitlines()] if STORE.is_file() else []
    known = {(r["what"], r["method"], r["size"], r["count"]) for r in done}
    wanted = [
        (what, method, size, n)
        for size, counts in SIZES.items()
        for method in METHODS
        for what in ("fit", "inspect")
        for n in counts
        if n <= arguments.largest
    ]
    for key in sorted((k for k in wanted if k not in known), key=lambda k: k[3]):
        images(arguments.data, key[3])
        command = [sys.executable, __file__, "--data", str(arguments.data), "--job", ",".join(map(str, key))]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
        done.append(json.loads(out.stdout.splitlines()[-1]))
        with STORE.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(done[-1], flush=True)
    rows = sorted(
        (r for r in done if r["count"] <= arguments.largest),
        key=lambda r: (r["size"], r["what"], r["method"], r["count"]),
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(rows), encoding="utf-8")
    plot(rows, arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
