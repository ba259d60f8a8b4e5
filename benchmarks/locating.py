"""What locating parts is worth where they lie at any angle, and what it costs. Writes docs/results/locating.md.

    python benchmarks/locating.py [--methods padim,patchcore,rd] [--page docs/results/locating.md]

Parts: the toy figures of `aws_aliens`, each turned about its middle by an angle drawn from its number, and shifted, on a
larger picture in the colour of its border. Methods learn from the good training images and judge the test images, with
`locate=off` and `locate=on`; the pictures as they were taken, where parts lie nearly alike, stand beside.
"""

from __future__ import annotations

import argparse
import os
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
from blemish.data.image.decode import read_image
from blemish.data.image.preprocess import Preprocess
from blemish.evaluation.metrics.intervals import delong
from blemish.files import write_whole
from blemish.types import Record

DATA = Path("../shared/data")
SIDE = 760  # pixels of a turned picture
SHIFT = 60  # pixels that a part may lie off its middle
ROUNDS = 9  # of timing, each after the other


def turned(image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3): at an angle and a place drawn from the number."""
    rng = np.random.default_rng(number)
    high, wide = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), float(rng.uniform(0, 360)), 1.0)
    matrix[:, 2] += (SIDE - wide) / 2, (SIDE - high) / 2
    matrix[:, 2] += rng.uniform(-SHIFT, SHIFT, 2)
    border = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]), 0)
    found = cv2.warpAffine(image, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_CONSTANT, borderValue=border.tolist())
    return np.asarray(found, np.uint8)


def written(folder: Path, records: list[Record]) -> list[Record]:
    """The same records of turned pictures."""
    out = []
    for number, record in enumerate(records):
        path = folder / f"{number:04}.png"
        cv2.imwrite(str(path), cv2.cvtColor(turned(read_image(record.path), number), cv2.COLOR_RGB2BGR))
        out.append(Record(id=record.id, path=path, split=record.split, label=record.label))
    return out


def measured(records: list[Record], method: str, locate: str) -> dict[str, Any]:
    """Image AUROC with its interval, and how many parts were not found."""
    detector = Detector(method, calibration="none", locate=locate).fit([r for r in records if r.split == "train"])
    test = [r for r in records if r.split == "test"]
    results = list(detector.inspect_many([r.path for r in test]))
    area = delong(np.array([r.label for r in test]), np.array([r.score for r in results]))
    lost = [r.label for r, result in zip(test, results, strict=True) if result.alarm]
    return {"auroc": area, "lost": (lost.count(0), lost.count(1)), "model": detector.model}


def cost(preprocess: dict[str, Any], records: list[Record]) -> tuple[float, float]:
    """Milliseconds a picture of one megapixel takes to be located and cropped, and as a share of its decoding from PNG."""
    plan = Preprocess.from_json(preprocess)
    assert plan.locate is not None
    pictures = [
        np.asarray(cv2.copyMakeBorder(read_image(r.path), *4 * [132], cv2.BORDER_REPLICATE)) for r in records[:8]
    ]
    coded = [cv2.imencode(".png", picture)[1] for picture in pictures]
    found, decoded = [], []
    for _ in range(ROUNDS):
        for picture, code in zip(pictures, coded, strict=True):
            start = perf_counter()
            plan.locate.crop(picture, plan.locate.find(picture), plan.size)
            middle = perf_counter()
            cv2.imdecode(code, cv2.IMREAD_COLOR)
            found.append(middle - start)
            decoded.append(perf_counter() - middle)
    return 1e3 * median(found), median(found) / median(decoded)


def page(methods: list[str], data: Path) -> str:
    """The tables."""
    records = [r for r in layouts.index(data / "aws_aliens") if r.split in ("train", "test")]
    lines = [
        "# Parts that lie anywhere",
        "",
        f"Made by `python benchmarks/locating.py --methods {','.join(methods)}`: image AUROC with its 95 % interval (DeLong), seed 0,",
        "`aws_aliens` as it was taken, and with each part turned by an angle and shifted by a place drawn at random.",
        "",
        "| | as taken | as taken, located | turned | turned, located |",
        "|---|---|---|---|---|",
    ]
    with TemporaryDirectory() as folder:
        sets = {"as taken": records, "turned": written(Path(folder), records)}
        last: dict[str, Any] = {}
        for method in methods:
            cells = []
            for each in sets.values():
                for locate in ("off", "on"):
                    last = measured(each, method, locate)
                    area = last["auroc"]
                    cells.append(f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]")
            lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
        milliseconds, share = cost(last["model"].meta.preprocess, sets["turned"])
    good, bad = last["lost"]
    narrowed = last["model"].meta.preprocess["locate"]["narrowed"]
    lines += [
        "",
        f"Turned, {good} of the good and {bad} of the defective parts are not found, which is an alarm. Locating leaves "
        f"{narrowed:.0%} of the spread of good pictures.",
        f"It takes {milliseconds:.1f} ms for a picture of one megapixel on one core of this machine, {share:.2f} of decoding it from PNG.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="padim,patchcore,rd")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    text = page(args.methods.split(","), args.data)
    write_whole(args.page, text.encode()) if args.page else print(text)


if __name__ == "__main__":
    main()
