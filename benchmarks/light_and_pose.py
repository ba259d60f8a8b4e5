"""What changed light and pose do to methods: hetnet's claim, beside others. Writes docs/results/light_and_pose.md.

    python benchmarks/light_and_pose.py [--sets mtd,aws_aliens] [--methods hetnet,rd,padim,patchcore] [--page PAGE]

Each method learns from the good training images as they are. Then every test image is judged as it is, and under each
change: darker and brighter, a shadow across, turned, shifted, nearer. Good images tell how many false alarms a change
makes at a threshold that 5 % of unchanged good images exceed; AUROC among changed images tells whether defects are
still told apart where the threshold is set anew. What is finished lies in `.bench/light_and_pose/`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
from kept import kept
from numpy.typing import NDArray
from ranks import DATA, SETS, split

from blemish import Detector
from blemish.data.image.decode import read_image
from blemish.evaluation.metrics.ranking import auroc
from blemish.files import write_whole
from blemish.types import Record

Image = NDArray[np.uint8]
OUT = Path(".bench/light_and_pose")
RATE = 0.05  # of unchanged good images above the threshold
METHODS = ("hetnet", "rd", "padim", "patchcore")
SHOWN = ("mtd", "aws_aliens")


def gain(factor: float) -> Callable[[Image], Image]:
    """All values times a factor, cut at white."""
    return lambda x: np.clip(x.astype(np.float32) * factor, 0, 255).astype(np.uint8)


def shadow(x: Image) -> Image:
    """From 70 % of the light at the left to all of it at the right."""
    ramp = np.linspace(0.7, 1.0, x.shape[1], dtype=np.float32)
    return (x.astype(np.float32) * ramp.reshape(1, -1, *[1] * (x.ndim - 2))).astype(np.uint8)


def posed(degrees: float = 0.0, shift: float = 0.0, scale: float = 1.0) -> Callable[[Image], Image]:
    """Turned about the middle, shifted by a share of the width, nearer by a factor; what comes in is mirrored."""

    def change(x: Image) -> Image:
        high, wide = x.shape[:2]
        matrix = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), degrees, scale)
        matrix[0, 2] += shift * wide
        return np.asarray(cv2.warpAffine(x, matrix, (wide, high), borderMode=cv2.BORDER_REFLECT_101), np.uint8)

    return change


CHANGES: dict[str, Callable[[Image], Image]] = {
    "as it is": lambda x: x,
    "20 % darker": gain(0.8),
    "20 % brighter": gain(1.2),
    "a shadow across": shadow,
    "turned by 3 degrees": posed(degrees=3),
    "shifted by 4 %": posed(shift=0.04),
    "5 % nearer": posed(scale=1.05),
}


def scores(detector: Detector, test: list[Record], change: Callable[[Image], Image]) -> list[float]:
    """Of each test image under a change."""

    def images() -> Iterator[Image]:
        for record in test:
            yield np.ascontiguousarray(change(read_image(record.path)))

    return [float(result.score) for result in detector.inspect_many(images())]


def measured(name: str, method: str, data: Path) -> dict[str, Any]:
    """False alarms and AUROC of a method on a set, by change."""
    parts = split(name, 0, data)
    detector = Detector(method, calibration="none").fit([*parts.learn, *parts.held])
    labels = np.array([record.label for record in parts.test])
    found: dict[str, Any] = {}
    threshold = np.inf
    for title, change in CHANGES.items():
        s = np.array(scores(detector, parts.test, change))
        if title == "as it is":
            threshold = float(np.quantile(s[labels == 0], 1 - RATE, method="higher"))
        found[title] = {"alarms": float((s[labels == 0] > threshold).mean()), "auroc": auroc(labels, s)}
    return found


def page(figures: dict[tuple[str, str], dict[str, Any]], sets: list[str], methods: list[str]) -> str:
    """Two tables a set: false alarms, and AUROC among changed images."""
    lines = [
        "# Changed light and pose",
        "",
        f"Made by `python benchmarks/light_and_pose.py --sets {','.join(sets)} --methods {','.join(methods)}`, one seed. Methods learn from good images as they are (at most 320);",
        "test images are then judged as they are and under each change, which defects and good images share.",
    ]
    for name in sets:
        for key, title in (
            ("alarms", f"false alarms at a threshold that at most {RATE:.0%} of unchanged good images exceed"),
            ("auroc", "image AUROC among images so changed"),
        ):
            lines += ["", f"## {name}: {title}", "| | " + " | ".join(f"`{m}`" for m in methods) + " |"]
            lines += ["|---" * (len(methods) + 1) + "|"]
            for change in CHANGES:
                row = [f"{figures[name, m][change][key]:.{2 if key == 'alarms' else 3}f}" for m in methods]
                lines.append(f"| {change} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SHOWN))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    sets, methods = args.sets.split(","), args.methods.split(",")
    if unknown := set(sets) - SETS.keys():
        raise SystemExit(f"no set of {sorted(SETS)}: {', '.join(sorted(unknown))}")
    figures = {
        (name, m): kept(OUT / f"{name}-{m}.json", lambda name=name, m=m: measured(name, m, args.data))  # type: ignore[misc]
        for name in sets
        for m in methods
    }
    text = page(figures, sets, methods)
    write_whole(args.page, text.encode()) if args.page else print(text)


if __name__ == "__main__":
    main()
