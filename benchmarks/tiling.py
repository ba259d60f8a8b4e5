"""What a larger input and what tiles find of small defects in large pictures, and what they cost.

    python benchmarks/tiling.py [--methods padim,patchcore] [--page docs/results/tiling.md]

Magnetic tiles and printed circuits at their full size, and drawn textures of 2048 x 2048 pixels, half of those to judge
with scratches of 4 pixels. Each way learns from the good training pictures; then every test picture goes through all
ways before the next one is touched, so that a change of the machine's pace meets all of them alike: times are ratios of
medians to the input of 256. Nothing is chosen by a test picture.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish import Detector
from blemish.data import layouts
from blemish.data.image.preprocess import image_size_of
from blemish.evaluation.metrics.intervals import delong
from blemish.files import write_whole
from blemish.types import Record

DATA = Path("../shared/data")
SIZES = ("256", "384", "512")
SIDES = {"mtd": (64, 128), "deeppcb_s": (128, 256), "drawn": (256, 512)}  # source pixels of tiles, each seen at 256
TITLES = {"mtd": "Magnetic tiles (`mtd`)", "deeppcb_s": "Printed circuits (`deeppcb_s`)", "drawn": "Drawn textures"}
SIDE = 2048  # pixels of a drawn picture
DRAWN = 24  # good pictures to learn from, and of each label to judge
WIDTH, LENGTH, SCRATCHES = 4, 80, 2  # pixels of a scratch; how many in a picture
DEPTH = 20  # grey levels that a scratch is darker: about one deviation of the grain


def texture(seed: int, side: int, *, scratched: bool) -> NDArray[np.uint8]:
    """(side, side): grain along one axis, as of rolled metal, that lies anywhere."""
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), sigmaX=12, sigmaY=1)
    coarse = cv2.resize(rng.normal(0, 1, (side // 32, side // 32)).astype(np.float32), (side, side))
    image = 130 + 18 * fine / fine.std() + 8 * coarse
    for _ in range(SCRATCHES if scratched else 0):
        x, y = rng.integers(LENGTH, side - LENGTH, 2)
        angle = rng.uniform(0, np.pi)
        far = round(x + LENGTH * np.cos(angle)), round(y + LENGTH * np.sin(angle))
        cut = cv2.line(np.zeros((side, side), np.uint8), (int(x), int(y)), far, 1, WIDTH)
        image = image - DEPTH * cut
    return np.clip(image, 0, 255).astype(np.uint8)


def drawn(folder: Path, count: int, side: int) -> list[Record]:
    """Good pictures to learn from, good and scratched ones to judge."""
    out = []
    for number in range(3 * count):
        label, path = int(number >= 2 * count), folder / f"{number:03}.png"
        cv2.imwrite(str(path), texture(number, side, scratched=bool(label)))
        out.append(Record(id=path.name, path=path, split="train" if number < count else "test", label=label))
    return out


def limited(records: Sequence[Record], count: int | None) -> list[Record]:
    """So many pictures to learn from, and of each label to judge, spread over the set; all without a count."""
    parts = [
        [r for r in records if r.split == "train" and r.label == 0],
        *([r for r in records if r.split == "test" and r.label == label] for label in (0, 1)),
    ]
    return [r for part in parts for r in (part if count is None else part[:: max(1, len(part) // count)][:count])]


def ways(name: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Options of each way; no tiles that are larger than a picture."""
    smallest = min(min(image_size_of(r.path)) for r in records)
    tiled = [{"image_size": "256sq", "tiles": str(side)} for side in SIDES[name] if side <= smallest]
    return [*({"image_size": size} for size in SIZES), *tiled]


def measured(method: str, asked: Sequence[dict[str, Any]], records: Sequence[Record]) -> list[dict[str, Any]]:
    """AUROC, seconds of a fit, milliseconds an image, and heads of each way."""
    train, test = ([r for r in records if r.split == split] for split in ("train", "test"))
    lines, seconds, heads = [], [], []
    for options in asked:
        start = perf_counter()
        detector = Detector(method, calibration="none", cache=False, **options).fit(train)
        seconds.append(perf_counter() - start)
        heads.append(len(detector.model.heads))
        lines.append(detector.inspector(threads=1))
    scores: list[list[float]] = [[] for _ in asked]
    times: list[list[float]] = [[] for _ in asked]
    for line in lines:
        line.inspect(test[0].path)  # what is made at the first call
    for record in test:
        for k, line in enumerate(lines):
            start = perf_counter()
            scores[k].append(line.inspect(record.path).score)
            times[k].append(perf_counter() - start)
    labels = np.array([r.label for r in test])
    return [
        {"auroc": delong(labels, np.array(s)), "fit": f, "time": median(t), "heads": h}
        for s, t, f, h in zip(scores, times, seconds, heads, strict=True)
    ]


def table(methods: Sequence[str], name: str, records: Sequence[Record]) -> list[str]:
    """One set's rows."""
    asked = ways(name, records)
    counts = [sum(r.split == s and r.label == k for r in records) for s, k in (("train", 0), ("test", 0), ("test", 1))]
    sizes = [image_size_of(r.path) for r in records]
    wide, high = (round(median(size[k] for size in sizes)) for k in (0, 1))
    lines = [
        f"## {TITLES[name]}",
        "",
        f"{counts[0]} good pictures to learn from; {counts[1]} good and {counts[2]} defective ones to judge; "
        f"{wide} x {high} pixels in the middle.",
        "",
        "| | input | tiles | heads | image AUROC | time, to 256 | fit, to 256 |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        found = measured(method, asked, records)
        for options, each in zip(asked, found, strict=True):
            area = each["auroc"]
            lines.append(
                f"| `{method}` | {options['image_size'].removesuffix('sq')} | {options.get('tiles', '')} | "
                f"{each['heads'] or ''} | {area.value:.3f} [{area.low:.3f}, {area.high:.3f}] | "
                f"{each['time'] / found[0]['time']:.1f} | {each['fit'] / found[0]['fit']:.1f} |"
            )
    return [*lines, ""]


def page(args: argparse.Namespace, folder: Path) -> str:
    """All sets."""
    methods, names = args.methods.split(","), args.sets.split(",")
    command = f"python benchmarks/tiling.py --methods {args.methods} --sets {args.sets}"
    if args.images is not None:
        command += f" --images {args.images}"
    if args.side != SIDE:
        command += f" --side {args.side}"
    lines = [
        "# Larger inputs and tiles",
        "",
        f"Made by `{command}`: image AUROC with its 95 % interval (DeLong), seed 0, on one thread. Tiles are squares of so",
        "many source pixels, each seen at 256 x 256; heads are those of tiles that know their places (`--tile-places auto`).",
        f"Drawn textures have {args.side} x {args.side} pixels, and scratches {WIDTH} pixels wide and {LENGTH} long.",
        "",
    ]
    if args.images is not None:
        lines += [f"**A trial on at most {args.images} pictures of each kind: these figures say nothing.**", ""]
    for name in names:
        if name == "drawn":
            records = drawn(folder, args.images or DRAWN, args.side)
        else:
            records = limited(layouts.index(args.data / name), args.images)
        lines += table(methods, name, records)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="padim,patchcore")
    parser.add_argument("--sets", default="mtd,deeppcb_s,drawn")
    parser.add_argument("--images", type=int, help="so many pictures of each kind: a trial")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels of a drawn picture")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with TemporaryDirectory() as folder:
        text = page(args, Path(folder))
    write_whole(args.page, text.encode()) if args.page else print(text)


if __name__ == "__main__":
    main()
