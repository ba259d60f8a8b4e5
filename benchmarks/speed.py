"""Speed of the whole line, as ratios from one interleaved run on one thread: writes docs/results/speed.md.

    python benchmarks/speed.py [--images 200] [--rounds 3]

Solar cells (300 x 300 PNG) at 256 px. Every image goes through each contender before the next image is touched, so that
a change of the machine's pace meets all of them alike. Figures are processor time of this process, medians over images.
Start-up figures are user + system time of whole processes.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import torch
from PIL import Image

from blemish import Detector
from blemish.data.image.decode import read_image
from blemish.data.layouts import Query, elpv
from blemish.inspection.engines import best_precision, open_engine
from blemish.learning.backbones import loading, timm_net
from blemish.types import Record

Contender = Callable[[Path], Any]


def usual_pipeline(bank: torch.Tensor) -> Contender:
    """What most projects run: Pillow, eager PyTorch, interpolation, torch.cdist, a 33-tap blur."""
    backbone = timm_net.load("efficientnet_lite0")
    torch.set_num_threads(1)

    def run(path: Path) -> float:
        image = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        maps = backbone.pyramid(torch.from_numpy(np.asarray(image).copy()[None])).maps
        pooled = [torch.nn.functional.avg_pool2d(m, 3, 1, 1) for m in maps]
        fine = torch.nn.functional.interpolate(pooled[0], size=pooled[1].shape[-2:], mode="bilinear")
        x = torch.cat([fine, pooled[1]], 1).flatten(2).transpose(1, 2)[0]
        distance = torch.cdist(x, bank).topk(9, largest=False).values[:, 0]
        up = torch.nn.functional.interpolate(distance.view(1, 1, *fine.shape[-2:]), size=(256, 256), mode="bilinear")
        cv2.GaussianBlur(up[0, 0].numpy(), (33, 33), 4)
        return float(distance.max())

    return run


def contenders(records: list[Record]) -> dict[str, Contender]:
    """By name; the first is what the others are measured against."""
    out: dict[str, Contender] = {}
    bank = torch.zeros(0)
    precision = best_precision()
    lines = {}
    for method in ("padim", "patchcore"):
        detector = Detector(method).fit(records)
        lines[method] = (detector, detector.inspector(threads=1))
        if method == "patchcore":
            from safetensors.numpy import load as arrays

            state = arrays(detector.model.tensors)
            bank = torch.from_numpy(state["memory"] + state["centre"])
    line = lines["padim"][1]
    bare = open_engine(loading.load("efficientnet_lite0").graph(line.preprocess.size), precision=precision)
    out[f"decode + bare backbone ({precision})"] = lambda path: bare(line.preprocess(read_image(path))[None])
    for method, (detector, inspector) in lines.items():
        name = f"inspect, {method}"
        out[name + (f" (bank {len(bank):,})" if method == "patchcore" else "")] = inspector.inspect
        if method == "patchcore":
            out[f"{name}, ONNX Runtime float32"] = detector.inspector("onnxruntime", threads=1).inspect
    means = bank[:, bank.shape[1] // 2 :]  # over 3 x 3 alone: places alone, the first half, are ours
    out["usual PyTorch pipeline, same bank"] = usual_pipeline(means)
    return out


def interleaved(found: dict[str, Contender], paths: list[Path], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of processor time, image by image."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for run in found.values():
        run(paths[0])
    for _ in range(rounds):
        for path in paths:
            for name, run in found.items():
                start = time.process_time()
                run(path)
                times[name].append(1000 * (time.process_time() - start))
    return times


def start_up(model: Path, image: Path) -> dict[str, float]:
    """Seconds of processor time of whole processes, median of five."""
    blemish = [sys.executable, "-c", "from blemish.cli import main; main()"]
    commands = {
        "`import blemish`": [sys.executable, "-c", "import blemish"],
        "bare interpreter": [sys.executable, "-c", "pass"],
        "`blemish --help`": [*blemish, "--help"],
        "`blemish inspect` of one image (padim)": [*blemish, "inspect", str(model), str(image)],
    }
    out = {}
    for name, command in commands.items():
        runs = []
        for _ in range(6):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            runs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        out[name] = median(runs[1:])
    return out


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results/speed.md"))
    arguments = parser.parse_args()
    records = elpv.index(elpv.locate(), Query())
    paths = [r.path for r in records if r.split == "test"][:: max(1, 1425 // arguments.images)]
    times = interleaved(contenders(records), paths, arguments.rounds)
    base = next(iter(times.values()))
    lines = [
        "# Speed",
        "",
        "Made by `python benchmarks/speed.py`: one process, one thread, contenders interleaved image by image,",
        f"{len(paths)} solar cells × {arguments.rounds} rounds. Ratios are medians of the ratio on the same image.",
        "",
        "| from file to result | CPU ms an image | ratio to the first row |",
        "|---|---|---|",
    ]
    for name, values in times.items():
        ratio = median(v / b for v, b in zip(values, base, strict=True))
        lines.append(f"| {name} | {median(values):.2f} | {ratio:.2f} |")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        Detector("padim").fit(records).save(model)
        started = start_up(model, paths[0])
    lines += ["", "| process | CPU s |", "|---|---|", *(f"| {k} | {v:.2f} |" for k, v in started.items())]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
